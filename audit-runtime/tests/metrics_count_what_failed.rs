//! The counters of a runtime: functions that failed because of their logs, and releases that failed
//! because of the sink.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/no_database.rs"]
mod no_database;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use audit_core::AuditSink;
use audit_core::testing::{MemoryFault, MemorySink};
use audit_runtime::{AuditRuntime, body};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

use self::no_database::NoDatabase;

fn counters(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let counter = |(key, _, _, value): (metrics_util::CompositeKey, _, _, DebugValue)| {
        let (_, key) = key.into_parts();
        let labels: Vec<&str> = key.labels().map(|label| label.value()).collect();
        let DebugValue::Counter(count) = value else { panic!("{key} is no counter") };
        (format!("{} {}", key.name(), labels.join(",")), count)
    };
    snapshotter.snapshot().into_vec().into_iter().map(counter).collect()
}

#[test]
fn failures_are_counted_by_reason() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let sink = Arc::new(MemorySink::new());
    let runtime =
        metrics::with_local_recorder(&recorder, || AuditRuntime::new(Arc::clone(&sink) as _));
    let counted = || {
        let all = counters(&snapshotter);
        let of = |reason: &str| all[&format!("audit_functions_refused_total {reason}")];
        let failed = |outcome: &str| all[&format!("audit_persists_failed_total {outcome}")];
        let refused = [of("body"), of("limit"), of("not_durable")];
        (refused, [failed("not_persisted"), failed("indeterminate")])
    };
    // Counters exist from the start, so that rates work.
    assert_eq!(counted(), ([0; 3], [0; 2]));

    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio.block_on(async {
        let request = runtime.new_request();
        let query = runtime.query("q");
        for _ in 0..3 {
            query.log().audit(&[1]).unwrap_err();
        }
        query.seal(()).release(&request).await.unwrap_err();
        let query = runtime.query("q");
        query.log().audit(&body!({ "large": "x".repeat(1_000_000) })).unwrap_err();
        query.seal(()).release(&request).await.unwrap_err();
        let query = runtime.query("q");
        query.log().audit(&body!({})).unwrap();
        let sealed = query.seal(());
        sink.script([MemoryFault::FailBefore, MemoryFault::FailAfter, MemoryFault::FailAfter]);
        for _ in 0..3 {
            sealed.release(&request).await.unwrap_err();
        }
        sealed.release(&request).await.unwrap();
    });
    assert_eq!(counted(), ([1, 1, 3], [1, 2]));
}

#[test]
fn lost_outcomes_are_counted_by_reason() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let sink = Arc::new(MemorySink::new());
    let build = || AuditRuntime::builder(Arc::clone(&sink) as _).with_outcomes(true).build();
    let runtime = metrics::with_local_recorder(&recorder, build);
    let counted = || {
        let all = counters(&snapshotter);
        ["full", "closed", "indeterminate"]
            .map(|reason| all[&format!("audit_outcomes_lost_total {reason}")])
    };
    assert_eq!(counted(), [0; 3]);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio.block_on(async {
        let mutate = async || {
            let execution = runtime.mutation("f", runtime.new_request());
            execution.log().audit(&body!({})).unwrap();
            execution
                .seal_transaction(NoDatabase::Commits, Ok::<_, fmt::Error>(()))
                .settle()
                .await
                .unwrap();
        };
        sink.script([MemoryFault::None, MemoryFault::FailAfter]);
        mutate().await;
        runtime.drain_outcomes().await;
        assert_eq!(counted(), [0, 0, 1]);
        mutate().await;
        mutate().await;
        sink.close().await.unwrap();
        runtime.drain_outcomes().await;
        assert_eq!(counted(), [0, 2, 0]);
    });
}
