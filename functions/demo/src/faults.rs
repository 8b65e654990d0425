//! Hosts that are killed, and a bucket that is unavailable.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::clients::{Client, PATIENCE};
use super::stage::{LOOK_INTERVAL, Played, Proof, Stage, expect, first_line};

/// The number of times a host is killed, and of acknowledged changes before each.
const KILLS: usize = 4;
const CHANGES_BEFORE_A_KILL: usize = 60;

/// Kills a host while clients change documents. Returns the titles whose changes were acknowledged.
async fn changed_until_killed(stage: &Stage, data: &str, round: usize) -> Played<Vec<String>> {
    let host = stage.host(data, &[]).await?;
    let done = Arc::new(AtomicUsize::new(0));
    let clients = (0..8).map(|number| {
        let client = Client::new(&host, format!("192.0.2.{number}"), "load");
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut titles = Vec::new();
            for n in 0.. {
                let title = format!("{round}-{number}-{n}");
                let new = json!({ "title": title, "text": "", "orgId": "load" });
                match client.mutation("documents:create", new).await {
                    Ok(answer) if answer.is_success() => titles.push(title),
                    // Refused without effect, while the host runs.
                    Ok(_) => continue,
                    // The host was killed, so the change may or may not have committed.
                    Err(_) => break,
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            titles
        })
    });
    let clients: Vec<_> = clients.collect();
    let waiting = Instant::now();
    while done.load(Ordering::Relaxed) < CHANGES_BEFORE_A_KILL {
        let all_ended = clients.iter().all(tokio::task::JoinHandle::is_finished);
        if all_ended || waiting.elapsed() > PATIENCE {
            let acknowledged = done.load(Ordering::Relaxed);
            return Err(format!("no more than {acknowledged} changes were acknowledged").into());
        }
        sleep(LOOK_INTERVAL).await;
    }
    host.kill().await?;
    let titles: Result<Vec<_>, _> = join_all(clients).await.into_iter().collect();
    Ok(titles?.concat())
}

/// Clients change documents while their host is killed. Each acknowledged change must have its log
/// and its document.
pub(super) async fn killed_under_load(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "killed";
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        acknowledged.extend(changed_until_killed(stage, DATA, round).await?);
    }
    let host = stage.host(DATA, &[]).await?;
    let client = Client::new(&host, "192.0.2.200", "checker");
    let titles = client.query("documents:list", json!({ "orgId": "load" })).await?;
    let committed: Vec<String> = serde_json::from_value(titles.value()?.clone())?;
    host.stop().await?;
    // Reading fails if the bucket contains a record twice.
    let logs = stage.logs(DATA)?;
    let mut logged = BTreeMap::<&str, usize>::new();
    for log in logs.find("document.created", &[]) {
        *logged.entry(log.json["title"].as_str().unwrap_or_default()).or_default() += 1;
    }
    let check = || -> Proof {
        for title in &acknowledged {
            let times = logged.get(title.as_str()).copied().unwrap_or_default();
            expect(times == 1, || format!("{title} was acknowledged and logged {times} times"))?;
            expect(committed.contains(title), || {
                format!("{title} was acknowledged and is not there")
            })?;
        }
        for title in &committed {
            expect(logged.contains_key(title.as_str()), || {
                format!("{title} was committed without a log")
            })?;
        }
        Ok(vec![
            format!(
                "{KILLS} times kill -9 under load: {} changes acknowledged, {} committed, each logged once",
                acknowledged.len(),
                committed.len()
            ),
            format!(
                "{} logs of attempts that were cut short before their commit",
                logged.len() - committed.len()
            ),
        ])
    };
    Ok(check())
}

/// A host in direct mode, while its bucket is unavailable.
pub(super) async fn effects_wait_for_logs(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "withheld";
    let options = ["--journal", "none", "--persist-timeout-ms", "2000"];
    let host = stage.host(DATA, &options).await?;
    let client = Client::new(&host, "192.0.2.1", "patient");
    let new = |title: &str| json!({ "title": title, "text": "", "orgId": "withheld" });
    // On a busy machine, a log may be late. The change then had no effect, and the client retries.
    let create = async |title: &str| {
        let waiting = Instant::now();
        loop {
            let answer = client.mutation("documents:create", new(title)).await?;
            if answer.is_success() || waiting.elapsed() > PATIENCE {
                return Ok::<_, Box<dyn Error>>(answer);
            }
        }
    };
    let first = create("before").await?;
    let document = first.value()?.clone();
    let args = json!({ "documentId": document });
    while !client.query("documents:view", args.clone()).await?.is_success() {
        sleep(LOOK_INTERVAL).await;
    }
    // A file in place of the directory makes writes fail.
    let (bucket, aside) =
        (stage.directory.join(DATA).join("bucket"), stage.directory.join(DATA).join("aside"));
    fs::rename(&bucket, &aside)?;
    fs::write(&bucket, "not a directory")?;
    let mutation = client.mutation("documents:create", new("during")).await?;
    let query = client.query("documents:view", args).await?;
    fs::remove_file(&bucket)?;
    fs::rename(&aside, &bucket)?;
    let after = create("after").await?;
    let titles = client.query("documents:list", json!({ "orgId": "withheld" })).await?;
    let titles = titles.value()?.clone();
    host.stop().await?;
    let check = || -> Proof {
        expect(!mutation.is_success() && !query.is_success(), || {
            format!("{} {}", mutation.body, query.body)
        })?;
        expect(query.body.get("value").is_none(), || format!("a result left: {}", query.body))?;
        expect(after.is_success(), || format!("it did not recover: {}", after.body))?;
        expect(titles == json!(["before", "after"]), || format!("the documents are {titles}"))?;
        Ok(vec![
            format!(
                "without its bucket: a change {} \"{}\"",
                mutation.status,
                first_line(mutation.error())
            ),
            format!("a result from the cache {} \"{}\"", query.status, first_line(query.error())),
            format!("with its bucket again: {titles}, and \"during\" is not among them"),
        ])
    };
    Ok(check())
}
