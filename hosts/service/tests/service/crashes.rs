//! Killed under load and started again: what was answered is in the bucket, and so is whatever
//! committed.

use std::collections::BTreeSet;

use futures::future::join_all;
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
        let mut service = start(&directory, &[], &[]);
        // Each client changes its own document until its connection breaks; the kill comes after a
        // number of answers that differs from round to round.
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
    // Whatever was on its way arrives before the process ends.
    service.stop();
    let logs: BTreeSet<(String, i64)> = records_after_crash(&directory)
        .values()
        .filter(|log| log["outcome"] == "to be committed")
        .map(|log| (log["document"].as_str().unwrap().to_owned(), log["to"].as_i64().unwrap()))
        .collect();
    assert!(answered.len() > ROUNDS * 20);
    assert!(answered.is_subset(&committed), "an answered change is there");
    assert!(
        committed.is_subset(&logs),
        "a committed change has its log: {:?}",
        committed.difference(&logs)
    );
}
