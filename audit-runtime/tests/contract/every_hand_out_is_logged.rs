//! C4: a query's logs are emitted every time its result is handed to a subscriber, cache hits
//! included, each time with that subscriber's values and a fresh `now`.

use std::sync::Arc;

use audit_core::testing::MemoryFault;
use audit_runtime::{Limits, RequestContext, SinkErrorKind, Var, body};
use serde_json::json;

use crate::host::*;

#[tokio::test]
async fn each_release_logs_its_subscriber_and_time() {
    let host = Host::new();
    let cached = host.view("page");
    let mut released = Vec::new();
    for subscriber in [alice(), bob(), request("c")] {
        released.push(*cached.clone().release(&subscriber).await.unwrap());
        host.clock.advance(1_000);
    }
    released.push(cached.release_into(&alice()).await.unwrap());
    assert_eq!(released, ["page"; 4]);
    let log = |ip: Option<&str>, user_agent: Option<&str>, id: &str, after_ms: i64| json!({ "ip": ip, "userAgent": user_agent, "requestId": id, "now": RAN_AT + after_ms });
    let expected = [
        log(Some("192.0.2.7"), Some("Alice/1.0"), "a", 0),
        log(Some("2001:db8::b"), Some("Bob \"2\""), "b", 1_000),
        log(None, None, "c", 2_000),
        log(Some("192.0.2.7"), Some("Alice/1.0"), "a", 3_000),
    ];
    assert_eq!(host.logs(), expected);
}

#[tokio::test]
async fn failed_queries_emit_their_logs() {
    let host = Host::new();
    let failed = host.view(Err::<(), _>("no such page"));
    for subscriber in [alice(), bob()] {
        assert_eq!(failed.release(&subscriber).await.unwrap(), &Err("no such page"));
    }
    assert_eq!(host.members("requestId"), ["a", "b"]);
}

#[tokio::test]
async fn a_result_without_logs_is_released_without_the_sink() {
    let host = Host::new();
    host.sink.script(FAULTS);
    let result = host.runtime.query("view").seal(7);
    assert_eq!(result.release(&alice()).await.unwrap(), &7);
    assert_eq!(result.release_all(&[alice(), bob()]).await.unwrap(), Some(&7));
    assert_eq!(result.release_into(&alice()).await.unwrap(), 7);
    assert_eq!(host.slow.most_at_once(), 0);
}

/// The first release may have been persisted even if its caller got an error.
#[tokio::test]
async fn releases_after_a_failed_one_are_replays() {
    let host = Host::with(|settings| settings.with_provenance(true));
    for fault in [MemoryFault::FailBefore, MemoryFault::FailAfter] {
        host.sink.script([fault]);
        let result = host.view(());
        host.clock.advance(5);
        result.release(&alice()).await.unwrap_err();
        result.release(&alice()).await.unwrap();
    }
    let replays: Vec<bool> =
        host.members("$audit").iter().map(|origin| origin["replay"].as_bool().unwrap()).collect();
    assert_eq!(replays, [true, false, true]);
    assert_eq!(host.members("now"), [5, 5, 10].map(|ms| json!(RAN_AT + ms)));
}

#[tokio::test]
async fn releases_without_requests_emit_nothing() {
    let host = Host::with(|settings| settings.with_provenance(true));
    let result = host.view(());
    assert_eq!(
        result.release_all(&[]).await.unwrap(),
        None,
        "there is no request to release it to"
    );
    assert!(host.sink.lines().is_empty());
    host.clock.advance(5);
    result.release(&alice()).await.unwrap();
    assert_eq!(host.members("now"), [RAN_AT]);
    assert_eq!(host.members("$audit")[0]["replay"], false);
}

fn subscribers(count: usize) -> Vec<RequestContext> {
    (0..count).map(|n| request(&n.to_string())).collect()
}

/// The size of the batches into which `release_all` packs the logs of its requests, in bytes.
const BATCH_BYTES: usize = 1 << 20;

#[tokio::test]
async fn ten_thousand_releases_use_bounded_batches() {
    let host = Host::new();
    let query = host.runtime.query("view");
    let pad = "x".repeat(3_000);
    query.log().audit(&body!({ "to": Var::REQUEST_ID, "at": Var::NOW, "pad": pad })).unwrap();
    query.log().audit(&body!({ "also": Var::REQUEST_ID })).unwrap();
    let result = query.seal(Arc::new("page"));
    host.clock.advance(5);
    assert_eq!(**result.release_all(&subscribers(10_000)).await.unwrap().unwrap(), "page");

    let mut batches = host.sink.batches();
    // Concurrent batches may be stored in any order; subscribers keep their order within each.
    let first = |batch: &audit_core::Batch| {
        let log: serde_json::Value =
            serde_json::from_slice(&batch.records().next().unwrap()).unwrap();
        log["to"].as_str().unwrap().parse::<u32>().unwrap()
    };
    batches.sort_by_key(first);
    let lines: Vec<_> =
        batches.iter().flat_map(|batch| batch.records().collect::<Vec<_>>()).collect();
    let expected = (0..10_000).flat_map(|n| {
        let now = if n == 0 { RAN_AT } else { RAN_AT + 5 };
        [format!(r#"{{"to":"{n}","at":{now},"pad":"{pad}"}}"#), format!(r#"{{"also":"{n}"}}"#)]
    });
    assert!(
        lines.into_iter().eq(expected.map(bytes_of)),
        "one set for each, in order, `now` fresh from the second on"
    );

    assert!(batches.iter().all(|batch| batch.lines().len() <= BATCH_BYTES));
    assert!((29..36).contains(&batches.len()), "{} batches", batches.len());
    assert!(
        host.slow.most_at_once() <= 8,
        "{} batches in memory at once",
        host.slow.most_at_once()
    );
}

fn bytes_of(line: String) -> Vec<u8> {
    line.into_bytes()
}

#[tokio::test]
async fn a_set_larger_than_a_batch_is_its_own_batch() {
    let host =
        Host::with(|settings| settings.with_limits(Limits::new(10, 8_000_000, 1_000_000).unwrap()));
    let query = host.runtime.query("view");
    let pad = "x".repeat(999_000);
    for _ in 0..5 {
        query.log().audit(&body!({ "to": Var::REQUEST_ID, "pad": pad })).unwrap();
    }
    query.seal(()).release_all(&subscribers(3)).await.unwrap();
    let counts: Vec<u32> = host.sink.batches().iter().map(|batch| batch.count()).collect();
    assert_eq!(counts, [5, 5, 5]);
}

#[tokio::test]
async fn a_release_to_many_hands_out_all_or_nothing() {
    let pad = "x".repeat(500_000);
    for failing in 0..4 {
        let host = Host::new();
        let query = host.runtime.query("view");
        query.log().audit(&body!({ "to": Var::REQUEST_ID, "pad": pad })).unwrap();
        let result = query.seal("page");
        host.sink.script(
            (0..4).map(|n| if n == failing { MemoryFault::FailBefore } else { MemoryFault::None }),
        );
        // The logs of two subscribers fit into a batch.
        let error = result.release_all(&subscribers(30)).await.unwrap_err();
        assert_eq!(not_durable(error).kind(), SinkErrorKind::Unavailable);
        let stored = host.sink.lines().len() as u64;
        assert!(stored < 30, "the failed batch is not stored");
        assert!(host.runtime.usage().logs() <= stored);
        result.release_all(&subscribers(30)).await.unwrap();
        assert_eq!(host.sink.lines().len() as u64, stored + 30);
    }
}
