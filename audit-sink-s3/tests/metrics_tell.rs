//! The metrics of a sink. Tested in a process of its own, since a metrics recorder is global.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use audit_core::{AuditSink, Commits};
use audit_sink_s3::{JournalSettings, S3Sink, Settings};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
use support::{batch, bucket_on};

/// The metrics since the last call, by name: sums of counters, counts of histograms.
fn reported(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let values = snapshotter.snapshot().into_vec().into_iter();
    values
        .map(|(key, _, _, value)| {
            assert!(key.key().labels().any(|label| label.key() == "bucket"));
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            (key.key().name().to_owned(), value)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_commits_deliveries_and_failures() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let server = S3TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let journal = JournalSettings { cut_after_ms: 0, ..JournalSettings::new(directory.path()) };
    let settings = Settings { journal: Some(journal), retry_base_ms: 1, ..Settings::default() };
    let sink =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(settings).open().await.unwrap();

    server.faults().next_puts([Fault::Refused(ErrorAnswer::SLOW_DOWN)]);
    sink.persist(batch("one", 3)).await.unwrap();
    sink.flush().await.unwrap();
    let first = reported(&snapshotter);
    assert_eq!(first["audit_commit_seconds"], 1.0);
    assert_eq!(first["audit_group_batches"], 1.0);
    assert_eq!(first["audit_objects_delivered_total"], 1.0);
    assert_eq!(first["audit_records_delivered_total"], 3.0);
    assert_eq!(first["audit_retries_total"], 1.0);
    assert_eq!(first["audit_blocked"], 0.0, "it is over");
    assert!(first["audit_journal_bytes"] >= f64::from(64 << 20));
    assert_eq!(first["audit_oldest_undelivered_timestamp_seconds"], 0.0);
    let health = sink.health();
    assert!(health.journal_bytes.is_some_and(|bytes| bytes >= 64 << 20));
    assert_eq!((health.oldest_undelivered_ms, health.records_delivered), (None, 3));

    server.pause().await;
    sink.persist(batch("two", 1)).await.unwrap();
    support::until(|| sink.health().oldest_undelivered_ms == Some(support::TIME_MS)).await;
    support::until(|| sink.health().retries > 2).await;
    let away = reported(&snapshotter);
    assert_eq!(away["audit_blocked"], 1.0);
    assert_eq!(sink.health().commits, Commits::Accepted, "the journal accepts batches");
    assert_eq!(
        away["audit_oldest_undelivered_timestamp_seconds"],
        support::TIME_MS as f64 / 1_000.0
    );
    server.resume().await;
    sink.close().await.unwrap();
}
