//! The scenes, and the logs that must be in the bucket after them: one function for each promise.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit_core::Usage;
use futures::future::{join_all, try_join_all};
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::bucket::{Log, Logs};
use super::clients::{Answer, Client, PATIENCE};
use super::page::Page;
use super::process::Host;

/// The interval at which a condition is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

type Played<T> = Result<T, Box<dyn Error>>;

/// The lines of proof, or why the promise does not hold.
type Proof = Result<Vec<String>, String>;

/// The directories and settings of the scenes.
pub(super) struct Stage {
    directory: PathBuf,
    functions: PathBuf,
    /// The variables of the environment that hosts are started without.
    unset: Vec<OsString>,
}

impl Stage {
    pub(super) fn new(directory: PathBuf, functions: PathBuf, unset: &[OsString]) -> Stage {
        Stage { directory, functions, unset: unset.to_vec() }
    }

    async fn host(&self, data: &str, options: &[&str]) -> Played<Host> {
        Host::start(&self.functions, &self.directory.join(data), options, &self.unset).await
    }

    fn logs(&self, data: &str) -> Played<Logs> {
        Logs::read(&self.directory.join(data).join("bucket"))
    }
}

/// Fails with a message unless the condition holds.
fn expect(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

fn count(found: &[&Log], expected: usize, what: &str) -> Result<(), String> {
    expect(found.len() == expected, || format!("{} {what}, not {expected}", found.len()))
}

/// Plays all scenes, then prints the promises. Returns whether all hold.
pub(super) async fn play(stage: &Stage, page: &mut Page) -> Played<bool> {
    page.playing("clients read, follow, change, fail, and conflict with each other");
    let host = stage.host("data", &[]).await?;
    let scene = Scene::play(&host).await?;
    host.stop().await?;
    let logs = stage.logs("data")?;

    page.playing("a host is killed again and again under load");
    let killed = killed_under_load(stage).await?;
    page.playing("the bucket goes away");
    let withheld = effects_wait_for_logs(stage).await?;
    page.playing("a host without a bucket; a host that says where logs come from");
    let without = without_a_bucket(stage).await?;
    let provenance = with_provenance(stage).await?;

    page.playing(&format!("{} logs in {} objects are read back\n", logs.all.len(), logs.objects));
    let rows: [(&str, &str, Proof); 14] = [
        (
            "C1",
            "What reaches the bucket is the body as JSON, variables replaced",
            scene.bodies(&logs),
        ),
        ("C2", "Variables stand at any depth and are each request's own", scene.variables(&logs)),
        (
            "C3",
            "Data that looks like a variable is refused, and so is an unknown one",
            scene.forgeries(&logs),
        ),
        (
            "C4",
            "Every hand-out of a query is logged, cache hits and subscribers too",
            scene.hand_outs(&logs),
        ),
        (
            "C5",
            "Every attempt at a mutation is logged, failures and conflicts too",
            scene.attempts(&logs),
        ),
        ("C6", "Nothing leaves and nothing commits before its logs are durable", withheld),
        (
            "C7",
            "What an action calls is logged call by call; an action has no log",
            scene.actions(&logs),
        ),
        ("C8", "Limits hold, and nobody silences the log by overflowing it", scene.limits(&logs)),
        ("C9", "A nested mutation that is undone keeps its logs", scene.nested(&logs)),
        (
            "C10",
            "Crons and scheduled functions have no client, and can be told of one",
            scene.scheduled(&logs),
        ),
        ("C11", "What was acknowledged is in the bucket, once, whatever is killed", killed),
        ("C12", "Without a bucket nothing is emitted, and limits hold", without),
        (
            "C13",
            "Each log is metered at its bytes rounded up to the next 5,000",
            scene.usage(&logs),
        ),
        ("C14", "Nothing is added to a body, but where provenance is asked for", provenance),
    ];
    for (name, promise, proof) in &rows {
        page.row(name, promise, proof);
    }
    Ok(rows.iter().all(|(_, _, proof)| proof.is_ok()))
}

/// The calls of clients, and their responses.
struct Scene {
    /// The call that logs a body with all kinds of values, and its client.
    body: Answer,
    body_client: Client,
    forged: Answer,
    unknown: Answer,
    document: String,
    /// The viewers, and their responses.
    views: Vec<(String, Answer)>,
    cache_hits: f64,
    /// The subscribers of the document.
    followers: Vec<String>,
    update: Answer,
    update_client: Client,
    /// Each client's call of a contended mutation.
    adds: Vec<Answer>,
    total: Json,
    refused: Answer,
    refused_titles: Json,
    report: Answer,
    confession: Answer,
    silenced: Answer,
    silenced_rows: Json,
    too_large: Answer,
    together: Answer,
    nested: Answer,
    shared: Answer,
    metered: Metered,
}

/// The host's own count of its logs.
struct Metered {
    logs: f64,
    bytes: f64,
    metered_bytes: f64,
}

/// The numbers of subscribers and of conflicting clients.
const FOLLOWERS: usize = 25;
const CONTENDERS: usize = 16;

impl Scene {
    async fn play(host: &Host) -> Played<Scene> {
        let client = |ip: &str, user_agent: &str| Client::new(host, ip, user_agent);
        let ada = client("192.0.2.10", "ada's browser");

        let long = "é".repeat(400);
        let body_client = client("2001:db8::7", &long);
        let body = body_client.mutation("bodies:everything", json!({ "tag": "body" })).await?;
        let sent = json!({ "sent": r#"{"comment":{"$var":"ip"}}"# });
        let forged = ada.mutation("bodies:forged", sent).await?;
        let unknown = ada.mutation("bodies:unknownVariable", json!({})).await?;

        let new = json!({ "title": "Plan", "text": "Start small.", "orgId": "acme" });
        let document = ada.mutation("documents:create", new).await?;
        let document = document.value()?.as_str().unwrap_or_default().to_owned();
        let hits_before = ada.metric("functions_query_cache_hits_total").await?;
        let mut views = Vec::new();
        for viewer in 1..=5 {
            let viewer = client(&format!("198.51.100.{viewer}"), &format!("browser {viewer}"));
            let answer = viewer.query("documents:view", json!({ "documentId": document })).await?;
            views.push((viewer.ip().to_owned(), answer));
        }
        let cache_hits = ada.metric("functions_query_cache_hits_total").await? - hits_before;

        let followers: Vec<_> =
            (1..=FOLLOWERS).map(|n| client(&format!("203.0.113.{n}"), "follower")).collect();
        let follow = |client: &Client| {
            let (client, args) = (client.clone(), json!({ "documentId": document }));
            async move {
                let mut follower = client.follow("documents:view", args).await?;
                let first = follower.next().await?;
                Ok::<_, Box<dyn Error>>((follower, first))
            }
        };
        let mut following = try_join_all(followers.iter().map(follow)).await?;
        let update_client = client("192.0.2.20", "bob's browser");
        let change = json!({ "documentId": document, "text": "Start smaller.", "userId": "bob" });
        let update = update_client.mutation("documents:update", change).await?;
        for (follower, first) in &mut following {
            let next = follower.next().await?;
            if next["revision"] != 2.0 || first["revision"] != 1.0 {
                return Err(format!("a follower saw {first}, then {next}").into());
            }
        }
        drop(following);

        let contenders =
            (0..CONTENDERS).map(|n| client(&format!("192.0.2.{}", 100 + n), "contender"));
        let contenders: Vec<_> = contenders.collect();
        let adds = contenders
            .iter()
            .map(|client| client.mutation("counters:add", json!({ "name": "contended" })));
        let adds = try_join_all(adds).await?;
        let total =
            ada.query("counters:get", json!({ "name": "contended" })).await?.value()?.clone();
        let refused = ada.mutation("documents:refuse", json!({ "title": "never" })).await?;
        let refused_titles =
            ada.query("documents:list", json!({ "orgId": "refused" })).await?.value()?.clone();

        let reader = client("192.0.2.30", "report maker");
        let report = reader
            .action("reports:make", json!({ "documentId": document, "name": "reports" }))
            .await?;
        let confession = reader.action("reports:confess", json!({})).await?;

        let silenced = ada.mutation("limits:silence", json!({ "tag": "silence" })).await?;
        let silenced_rows =
            ada.query("counters:get", json!({ "name": "silence" })).await?.value()?.clone();
        let too_large =
            ada.mutation("limits:tooLarge", json!({ "tag": "large", "bytes": 1_000_000 })).await?;
        let together = ada.mutation("limits:together", json!({ "tag": "together" })).await?;
        let nested = ada.mutation("nested:outer", json!({ "tag": "nested" })).await?;
        let shared =
            ada.mutation("nested:share", json!({ "document": document, "with": "eve" })).await?;

        // The function that the update scheduled, and the cron, which begins at once.
        let waiting = Instant::now();
        loop {
            let done = ada
                .query("maintenance:notices", json!({ "about": document }))
                .await?
                .value()?
                .clone();
            if done["notices"] == 1.0 && done["sweeps"] != 0.0 {
                break;
            }
            if waiting.elapsed() > PATIENCE {
                return Err(format!("what was scheduled did not run: {done}").into());
            }
            sleep(LOOK_INTERVAL).await;
        }
        let metered = Metered {
            logs: ada.metric("audit_usage_logs_total").await?,
            bytes: ada.metric("audit_usage_bytes_total").await?,
            metered_bytes: ada.metric("audit_usage_metered_bytes_total").await?,
        };
        Ok(Scene {
            body,
            body_client,
            forged,
            unknown,
            document,
            views,
            cache_hits,
            followers: followers.iter().map(|client| client.ip().to_owned()).collect(),
            update,
            update_client,
            adds,
            total,
            refused,
            refused_titles,
            report,
            confession,
            silenced,
            silenced_rows,
            too_large,
            together,
            nested,
            shared,
            metered,
        })
    }

    fn bodies(&self, logs: &Logs) -> Proof {
        let found = logs.find("bodies.everything", &[]);
        count(&found, 1, "logs of one body")?;
        let log = found[0];
        let now = &log.json["nested"]["deep"][1][0];
        // 512 bytes are 256 é.
        let user_agent = "é".repeat(256);
        let expected = format!(
            r#"{{"action":"bodies.everything","tag":"body","text":"quotes \" and \\ and {separator} and é and 😀","numbers":[0,-1,1.5,1e+21,null],"date":"1970-01-01T00:00:00.000Z","left":{{"kept":null}},"nested":{{"deep":[{{"ip":"{ip}"}},[{now},{now}]]}},"userAgent":"{user_agent}","requestId":"{id}","convexActor":null}}"#,
            // Some readers take it for the end of a line, so it is escaped.
            separator = r"\u2028",
            ip = self.body_client.ip(),
            id = self.body.request_id,
        );
        expect(log.text == expected, || {
            format!("expected {expected}\n     found    {}", log.text)
        })?;
        Ok(vec![log.text.clone()])
    }

    fn variables(&self, logs: &Logs) -> Proof {
        let found = logs.find("bodies.everything", &[]);
        count(&found, 1, "logs of one body")?;
        let log = &found[0].json;
        let user_agent = log["userAgent"].as_str().unwrap_or_default();
        expect(user_agent.len() == 512, || format!("a User-Agent of {} bytes", user_agent.len()))?;
        let times = &log["nested"]["deep"][1];
        expect(times[0].is_i64() && times[0] == times[1], || format!("now is {times}"))?;
        let by_client = logs.find("document.viewed", &[("/source/ip", json!(self.views[0].0))]);
        count(&by_client, 1, "views from one address")?;
        Ok(vec![
            format!(
                "a User-Agent of 800 bytes was cut at {} bytes, between characters",
                user_agent.len()
            ),
            format!(
                "now is {} both times, ip is {} at depth 3",
                times[0], log["nested"]["deep"][0]["ip"]
            ),
        ])
    }

    fn forgeries(&self, logs: &Logs) -> Proof {
        let said = self.forged.error();
        expect(said.contains("$var") && !self.forged.is_success(), || {
            format!("a forged variable: {}", self.forged.body)
        })?;
        expect(said.contains("comment"), || format!("it does not say where: {said}"))?;
        let unknown = self.unknown.error();
        expect(unknown.contains("Unknown audit var symbol"), || {
            format!("an unknown one: {}", self.unknown.body)
        })?;
        count(&logs.find("bodies.forged", &[]), 0, "logs with a forged variable")?;
        count(&logs.find("bodies.unknown", &[]), 0, "logs with an unknown variable")?;
        Ok(vec![first_line(said), first_line(unknown)])
    }

    fn hand_outs(&self, logs: &Logs) -> Proof {
        let mut times = BTreeSet::new();
        for (ip, answer) in &self.views {
            let found = logs.find("document.viewed", &[("/source/ip", json!(ip))]);
            count(&found, 1, &format!("views by {ip}"))?;
            let log = &found[0].json;
            expect(log["source"]["requestId"] == json!(answer.request_id), || {
                format!("another request: {log}")
            })?;
            times.insert(log["at"].as_i64());
        }
        expect(self.cache_hits >= 4.0, || format!("{} cache hits for 5 views", self.cache_hits))?;
        let mut updates = 0;
        for ip in &self.followers {
            let of_revision = |revision: u32| {
                logs.find(
                    "document.viewed",
                    &[("/source/ip", json!(ip)), ("/revision", json!(revision))],
                )
                .len()
            };
            let (first, second) = (of_revision(1), of_revision(2));
            expect((first, second) == (1, 1), || {
                format!("{ip} was logged {first} and {second} times, not once each")
            })?;
            updates += second;
        }
        let sample = logs.find("document.viewed", &[("/source/ip", json!(self.followers[0]))]);
        Ok(vec![
            format!(
                "5 views, {} of them from the cache: 5 logs, each with its own ip, requestId and time",
                self.cache_hits
            ),
            format!(
                "{} followers, one change: {updates} updates and {updates} new logs",
                self.followers.len()
            ),
            sample.last().map(|log| log.text.clone()).unwrap_or_default(),
        ])
    }

    fn attempts(&self, logs: &Logs) -> Proof {
        let succeeded = self.adds.iter().filter(|answer| answer.is_success()).count();
        expect(self.total == succeeded as f64, || {
            format!("{succeeded} additions came to {}", self.total)
        })?;
        let mut attempts = 0;
        for answer in &self.adds {
            let found = logs.find("counter.added", &[("/requestId", json!(answer.request_id))]);
            expect(!found.is_empty(), || format!("no log of request {}", answer.request_id))?;
            attempts += found.len();
        }
        expect(attempts >= succeeded, || {
            format!("{attempts} attempts logged, {succeeded} committed")
        })?;
        expect(!self.refused.is_success(), || "a mutation that throws succeeded".to_owned())?;
        count(&logs.find("document.refused", &[]), 1, "logs of a failing mutation")?;
        expect(self.refused_titles == json!([]), || {
            format!("a failing mutation wrote {}", self.refused_titles)
        })?;
        Ok(vec![
            format!(
                "{CONTENDERS} clients changed one document at once: {succeeded} commits, {attempts} attempts, {attempts} logs"
            ),
            format!(
                "a mutation that throws: \"{}\", one log, nothing written",
                first_line(self.refused.error())
            ),
        ])
    }

    fn actions(&self, logs: &Logs) -> Proof {
        let report = self.report.value().map_err(|error| error.to_string())?;
        let ip = ("/source/ip", json!("192.0.2.30"));
        let views = logs.find("document.viewed", &[ip]);
        count(&views, 1, "views by the action")?;
        let id = ("/requestId", json!(self.report.request_id));
        let adds = logs.find("counter.added", &[id]);
        expect(!adds.is_empty(), || {
            "the mutation that the action called is not logged".to_owned()
        })?;
        let said = self.confession.error();
        expect(said.contains("audit logging is not supported in actions"), || {
            format!("{}", self.confession.body)
        })?;
        count(&logs.find("report.confessed", &[]), 0, "logs of an action")?;
        Ok(vec![
            format!("{report}: its query and its mutation are logged as its caller's"),
            first_line(said),
        ])
    }

    fn limits(&self, logs: &Logs) -> Proof {
        expect(!self.silenced.is_success(), || "the log was silenced".to_owned())?;
        count(&logs.find("limits.deed", &[]), 1, "logs of the deed")?;
        count(&logs.find("limits.noise", &[]), 499, "logs of noise")?;
        expect(self.silenced_rows == 0.0, || format!("it committed: {}", self.silenced_rows))?;
        let large = self.too_large.error();
        expect(large.contains("exceeds limit of 1000000 bytes"), || {
            format!("{}", self.too_large.body)
        })?;
        count(&logs.find("limits.large", &[]), 0, "logs that are too large")?;
        let together = self.together.error();
        expect(together.contains("exceed limit of 500"), || format!("{}", self.together.body))?;
        count(&logs.find("limits.mine", &[]), 250, "logs of the caller")?;
        count(&logs.find("limits.another", &[]), 250, "logs of the one that it calls")?;
        Ok(vec![
            format!(
                "600 noisy logs behind one deed, errors caught: \"{}\"; the deed and 499 are kept, nothing is written",
                first_line(self.silenced.error())
            ),
            first_line(large),
            format!(
                "250 of a mutation's own and 251 of one that it calls: {}",
                first_line(together)
            ),
        ])
    }

    fn nested(&self, logs: &Logs) -> Proof {
        let written = self.nested.value().map_err(|error| error.to_string())?;
        expect(*written == 0.0, || format!("{written} documents were not undone"))?;
        for action in ["nested.outer", "nested.inner", "nested.caught"] {
            count(&logs.find(action, &[]), 1, &format!("logs of {action}"))?;
        }
        let shared = self.shared.value().map_err(|error| error.to_string())?;
        expect(*shared == json!(["eve"]), || format!("the component gave {shared}"))?;
        let found =
            logs.find("share.created", &[("/source/requestId", json!(self.shared.request_id))]);
        count(&found, 1, "logs of the component")?;
        Ok(vec![
            "the inner mutation wrote, logged and threw: its document is gone, its log is there"
                .to_owned(),
            format!("a component: {}", found[0].text),
        ])
    }

    fn scheduled(&self, logs: &Logs) -> Proof {
        let update = self.update.value().map_err(|error| error.to_string())?;
        let notices = logs.find("notice.sent", &[("/about", json!(self.document))]);
        count(&notices, 1, "notices")?;
        let notice = &notices[0].json;
        let nobody = json!({ "ip": null, "userAgent": null });
        expect(notice["own"] == nobody, || format!("a scheduled function has a client: {notice}"))?;
        expect(notice["onBehalfOf"]["ip"] == json!(self.update_client.ip()), || {
            format!("it was not told: {notice}")
        })?;
        let sweeps = logs.find("maintenance.swept", &[]);
        expect(!sweeps.is_empty(), || "the cron did not run".to_owned())?;
        let sweep = &sweeps[0].json;
        let has_client =
            !sweep["source"]["ip"].is_null() || !sweep["source"]["userAgent"].is_null();
        expect(!has_client && sweep["read"] == nobody, || format!("a cron has a client: {sweep}"))?;
        Ok(vec![format!("revision {update}: {}", notices[0].text), sweeps[0].text.clone()])
    }

    fn usage(&self, logs: &Logs) -> Proof {
        let by_functions = logs.all.iter().filter(|log| !log.is_of_host());
        let counted: Usage = by_functions.map(|log| Usage::of_log(log.text.len())).sum();
        let Metered { logs: said, bytes, metered_bytes } = self.metered;
        // The bucket also has the logs since the last check. The checks themselves log nothing.
        expect(said == counted.logs() as f64, || {
            format!("{said} logs metered, {} in the bucket", counted.logs())
        })?;
        expect(bytes == counted.bytes() as f64, || {
            format!("{bytes} bytes metered, {} in the bucket", counted.bytes())
        })?;
        expect(metered_bytes == counted.metered_bytes() as f64, || {
            format!("metered at {metered_bytes}, the bucket comes to {}", counted.metered_bytes())
        })?;
        Ok(vec![format!("{said} logs of {bytes} bytes, metered at {metered_bytes} bytes")])
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// How often a host is killed, and after how many acknowledged changes.
const KILLS: usize = 4;
const CHANGES_BEFORE_A_KILL: usize = 60;

/// Clients change documents while their host is killed. Each acknowledged change must have its log
/// and its document.
async fn killed_under_load(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "killed";
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        let host = stage.host(DATA, &[]).await?;
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
                        // Refused: it has no effect, and the host runs.
                        Ok(_) => continue,
                        // The host is gone: the change may have committed or not.
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
        for titles in join_all(clients).await {
            acknowledged.extend(titles?);
        }
    }
    let host = stage.host(DATA, &[]).await?;
    let client = Client::new(&host, "192.0.2.200", "checker");
    let titles = client.query("documents:list", json!({ "orgId": "load" })).await?;
    let committed: Vec<String> = serde_json::from_value(titles.value()?.clone())?;
    host.stop().await?;
    // Reading fails if a record is in the bucket twice.
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
                "{} logs tell of attempts that were cut short before their commit",
                logged.len() - committed.len()
            ),
        ])
    };
    Ok(check())
}

/// A host in direct mode, while its bucket is unavailable.
async fn effects_wait_for_logs(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "withheld";
    let options = ["--journal", "none", "--persist-timeout-ms", "2000"];
    let host = stage.host(DATA, &options).await?;
    let client = Client::new(&host, "192.0.2.1", "patient");
    let new = |title: &str| json!({ "title": title, "text": "", "orgId": "withheld" });
    // On a busy machine a log may be late: then nothing happened, and the client retries.
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
    // A file in its place, so that writes fail.
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

async fn without_a_bucket(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "without";
    let host = stage.host(DATA, &["--bucket", "none"]).await?;
    let client = Client::new(&host, "192.0.2.1", "nobody's");
    let new = json!({ "title": "Unseen", "text": "", "orgId": "none" });
    let created = client.mutation("documents:create", new).await?;
    let silenced = client.mutation("limits:silence", json!({ "tag": "none" })).await?;
    let metered = client.metric("audit_usage_logs_total").await?;
    host.stop().await?;
    let data = stage.directory.join(DATA);
    let check = || -> Proof {
        created.value().map_err(|error| error.to_string())?;
        expect(!silenced.is_success(), || "600 logs passed".to_owned())?;
        expect(metered == 0.0, || format!("{metered} logs were metered"))?;
        expect(!data.join("bucket").exists() && !data.join("journal").exists(), || {
            "something was written".to_owned()
        })?;
        Ok(vec![format!("no journal, no bucket, 0 logs metered; {}", first_line(silenced.error()))])
    };
    Ok(check())
}

async fn with_provenance(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "provenance";
    let host = stage.host(DATA, &["--provenance=true"]).await?;
    let client = Client::new(&host, "192.0.2.1", "curious");
    let new = json!({ "title": "Whence", "text": "", "orgId": "provenance" });
    let created = client.mutation("documents:create", new).await?;
    let args = json!({ "documentId": created.value()? });
    for _ in 0..2 {
        client.query("documents:view", args.clone()).await?.value()?;
    }
    let forged = client
        .mutation("bodies:forged", json!({ "sent": r#"{"$audit":{"function":"innocent"}}"# }))
        .await?;
    host.stop().await?;
    let logs = stage.logs(DATA)?;
    let plain = stage.logs("data")?;
    let check = || -> Proof {
        let is_added_to = |log: &&Log| log.text.contains("$audit") && !log.is_of_host();
        let added = plain.all.iter().filter(is_added_to).count();
        expect(added == 0, || format!("{added} bodies were added to unasked"))?;
        let views = logs.find("document.viewed", &[]);
        let replays: Vec<_> = views.iter().map(|log| &log.json["$audit"]["replay"]).collect();
        expect(replays == [&json!(false), &json!(true)], || format!("replays: {replays:?}"))?;
        expect(views[0].json["$audit"]["function"] == "documents:view", || views[0].text.clone())?;
        expect(forged.error().contains("$audit"), || format!("{}", forged.body))?;
        Ok(vec![views[1].text.clone(), first_line(forged.error())])
    };
    Ok(check())
}
