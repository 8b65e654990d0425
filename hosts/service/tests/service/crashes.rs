//! The service is killed under load and restarted: the logs of all responses and all commits are in
//! the bucket. Each record of a committed change has a receipt, and no outcome contradicts it.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Service, change, new_id, records_after_crash};

const ROUNDS: usize = 4;
const CLIENTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_without_its_log_in_the_bucket() {
    no_change_is_without_its_log(Service::start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_without_its_log_in_the_journal() {
    no_change_is_without_its_log(Service::start_with_journal).await;
}

type Start = fn(&TempDir, &[&str], &[(&str, &str)]) -> Service;

async fn no_change_is_without_its_log(start: Start) {
    let directory = TempDir::new().unwrap();
    let ids: Vec<String> = (0..CLIENTS).map(|_| new_id("crash")).collect();
    let mut answered = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut service = start(&directory, &["--outcomes"], &[]);
        // Each client changes its own document until its connection breaks. The kill comes after a
        // number of responses that varies by round.
        let (answers, mut answer) = tokio::sync::mpsc::unbounded_channel();
        let service_ref = &service;
        let clients = join_all(ids.iter().map(|id| {
            let answers = answers.clone();
            async move {
                let mut done = Vec::new();
                while let Ok((200, document)) = service_ref.try_update(id, change("x"), &[]).await {
                    done.push((id.clone(), document["revision"].as_i64().unwrap()));
                    if answers.send(()).is_err() {
                        break;
                    }
                }
                done
            }
        }));
        let killer = async {
            for _ in 0..20 + 13 * round {
                answer.recv().await;
            }
            service_ref.kill();
        };
        let (done, ()) = futures::future::join(clients, killer).await;
        answered.extend(done.into_iter().flatten());
        service.wait();
    }

    let service = start(&directory, &[], &[]);
    let mut committed = BTreeSet::new();
    for id in &ids {
        let (_, document) = service.view(id, &[]).await;
        let last = document["revision"].as_i64().unwrap();
        committed.extend((1..=last).map(|revision| (id.clone(), revision)));
    }
    // Pending logs arrive before the process ends.
    service.stop();
    let records = records_after_crash(&directory);
    let logs: BTreeSet<(String, i64)> = records.values().filter_map(changed).collect();
    assert!(answered.len() > ROUNDS * 20);
    assert!(answered.is_subset(&committed), "an answered change is there");
    assert!(
        committed.is_subset(&logs),
        "a committed change has its log: {:?}",
        committed.difference(&logs)
    );

    let service = start(&directory, &[], &[]);
    let attempt = |audit: &Value| (audit["execution"].to_string(), audit["attempt"].to_string());
    let outcomes: BTreeMap<_, _> = records
        .values()
        .filter_map(|record| {
            let audit = &record["$audit"];
            Some((attempt(audit), audit["outcome"].as_str()?.to_owned()))
        })
        .collect();
    let (mut with_receipts, mut unknown) = (BTreeSet::new(), 0);
    for ((stream, sequence), record) in &records {
        let Some(change) = changed(record) else { continue };
        let receipt = service.receipt(&format!("stream={stream}&sequence={sequence}")).await;
        if let Some(receipt) = &receipt {
            assert_eq!(
                (&receipt["document"], &receipt["revision"]),
                (&record["document"], &record["to"])
            );
            assert!(with_receipts.insert(change), "one receipt for each revision");
        }
        match outcomes.get(&attempt(&record["$audit"])) {
            Some(outcome) => assert_eq!(outcome == "committed", receipt.is_some(), "{record}"),
            None => unknown += 1,
        }
    }
    assert_eq!(with_receipts, committed, "the receipts are those of what committed");
    assert!(unknown > 0, "the kills took outcomes, and the receipts tell them");
}

/// The document and revision of an attempted change.
fn changed(log: &Value) -> Option<(String, i64)> {
    (log["outcome"] == "to be committed").then_some(())?;
    Some((log["document"].as_str()?.to_owned(), log["to"].as_i64()?))
}
