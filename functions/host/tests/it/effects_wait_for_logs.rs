//! No answer is sent and no write commits before its logs are durable.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::testing::MemoryFault;
use functions_calls::CallError;
use futures::future::join_all;
use serde_json::json;

use crate::support::{Host, document, failure, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undurable_logs_block_commits_and_answers() {
    let host = Host::demo().await;
    // A cron would consume a fault that is meant for another call.
    host.functions.stop_scheduler().await;
    let id = document(&host).await;
    let view = json!({ "documentId": id });
    host.query("documents:view", view.clone()).await.unwrap();
    for fault in [MemoryFault::FailBefore, MemoryFault::FailAfter] {
        host.sink.script([fault]);
        let new = json!({ "title": "Lost", "text": "", "orgId": "acme" });
        let error = host.mutation("documents:create", new).await.unwrap_err();
        assert!(matches!(error, CallError::NotDurable(_)), "{error:?}");
        // From the cache.
        host.sink.script([fault]);
        let error = host.query("documents:view", view.clone()).await.unwrap_err();
        assert!(matches!(error, CallError::NotDurable(_)), "{error:?}");
        // An action fails if a function that it calls fails and it does not catch the error.
        host.sink.script([fault]);
        let made =
            host.action("reports:make", json!({ "documentId": id, "name": "lost" })).await.unwrap();
        assert!(failure(&made).contains("could not be made durable"), "{}", failure(&made));
    }
    let titles = host.query("documents:list", json!({ "orgId": "acme" })).await.unwrap();
    assert_eq!(value(&titles), json!(["Plan"]));
    let count = host.query("counters:get", json!({ "name": "lost" })).await.unwrap();
    assert_eq!(value(&count), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_mutations_but_not_queries() {
    let host = Host::demo().await;
    let id = document(&host).await;
    let store = host.functions.store();
    store.set_reserve(u64::MAX);
    for _ in 0..3 {
        let error = host.mutation("counters:add", json!({ "name": "full" })).await.unwrap_err();
        assert!(matches!(error, CallError::NotStored(_)), "{error:?}");
        assert!(error.to_string().contains("takes no changes now"), "{error}");
        host.query("documents:view", json!({ "documentId": id })).await.unwrap();
    }
    // The log of each attempt became durable before the commit was refused.
    assert_eq!(host.logs("counter.added").len(), 3);
    store.set_reserve(0);
    let mutated = host.mutation("counters:add", json!({ "name": "full" })).await.unwrap();
    assert_eq!(value(&mutated.answered), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_mutations_commit_once_and_log_each_attempt() {
    let host = Host::demo().await;
    let calls = (0..12).map(|_| host.mutation("counters:add", json!({ "name": "contended" })));
    let mut values = Vec::new();
    for mutated in join_all(calls).await {
        let mutated = mutated.unwrap();
        assert!(mutated.committed.is_some());
        values.push(value(&mutated.answered).as_f64().unwrap());
    }
    values.sort_by(f64::total_cmp);
    assert_eq!(values, (1..=12).map(f64::from).collect::<Vec<_>>());
    // A conflicting attempt is repeated on data that another mutation has changed, so each attempt
    // of a request logs a greater value than the one before, and the last logs what it committed.
    let logs = host.logs("counter.added");
    let mut last_of: BTreeMap<&str, f64> = BTreeMap::new();
    let mut attempts = BTreeSet::new();
    for log in &logs {
        let (request, value) = (log["requestId"].as_str().unwrap(), log["value"].as_f64().unwrap());
        assert!(attempts.insert((request, value as u64)), "an attempt is logged twice: {log}");
        let last = last_of.entry(request).or_insert(value);
        *last = last.max(value);
    }
    let mut committed: Vec<f64> = last_of.into_values().collect();
    committed.sort_by(f64::total_cmp);
    assert_eq!(committed, values, "each commit is logged, as the last attempt of its request");
    let total = host.query("counters:get", json!({ "name": "contended" })).await.unwrap();
    assert_eq!(value(&total), 12.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_are_each_logged_once() {
    let host = Host::demo().await;
    let id = document(&host).await;
    let args = json!({ "documentId": id });
    let callers: Vec<_> = (0..200).map(|n| host.caller(&format!("198.51.100.{n}"))).collect();
    let calls = callers.iter().map(|caller| host.functions.query("documents:view", &args, caller));
    for answered in join_all(calls).await {
        assert_eq!(value(&answered.unwrap())["title"], "Plan");
    }
    let views = host.logs("document.viewed");
    let mut seen: Vec<_> =
        views.iter().map(|log| log["source"]["ip"].as_str().unwrap().to_owned()).collect();
    seen.sort();
    let mut expected: Vec<_> = (0..200).map(|n| format!("198.51.100.{n}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_beyond_the_limit_fail_and_keep_their_logs() {
    let host = Host::with_modules(&[(
        "loud.ts",
        r#"
        import { log } from "convex/server";
        import { query } from "./_generated/server";
        export const shout = query(async () => {
          await log.audit({ action: "deed", ip: log.vars.ip });
          try {
            for (let i = 0; i < 600; i++) await log.audit({ action: "noise", i });
          } catch {}
          return "as if nothing had happened";
        });"#,
    )])
    .await;
    for hand_outs in 1..=2 {
        let answered = host.query("loud:shout", json!({})).await.unwrap();
        assert_eq!(failure(&answered), "audit logs in one execution exceed limit of 500 logs");
        assert_eq!(host.logs("deed").len(), hand_outs);
        assert_eq!(host.logs("noise").len(), 499 * hand_outs);
    }
}
