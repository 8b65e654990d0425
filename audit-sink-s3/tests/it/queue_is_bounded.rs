//! With a slow or hanging bucket memory is bounded, every wait ends, and errors are accurate.

use std::sync::Arc;
use std::time::Duration;

use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{Ledger, batch, bucket_of, check, large_batch, placed, read_store, until};
use audit_core::{
    AuditSink, Batch, HealthState, MAX_BATCH_BYTES, Outcome, Receipt, SinkError, SinkErrorKind,
};
use audit_sink_s3::{S3Sink, Settings};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Requests may take an hour, so there are no retries.
fn patient() -> Settings {
    Settings {
        put_timeout_ms: 3_600_000,
        max_pending_bytes: MAX_BATCH_BYTES,
        ..Settings::default()
    }
}

async fn open(store: &Arc<GatedStore>, settings: Settings) -> Arc<S3Sink> {
    Arc::new(
        S3Sink::builder(bucket_of(store, "logs")).with_settings(settings).open().await.unwrap(),
    )
}

fn persist(sink: &Arc<S3Sink>, batch: &Batch) -> JoinHandle<Result<Receipt, SinkError>> {
    let (sink, batch) = (Arc::clone(sink), batch.clone());
    tokio::spawn(async move { sink.persist(batch).await })
}

async fn stored(store: &GatedStore) -> Vec<audit_core::testing::StoredRecord> {
    check("logs/", &read_store(&**store.inner()).await).unwrap()
}

#[tokio::test(start_paused = true)]
async fn persist_without_room_waits_then_fails() {
    let store = GatedStore::new();
    let sink = open(&store, patient()).await;
    store.set(Gate::Closed);
    let all = large_batch("all", MAX_BATCH_BYTES);
    let first = persist(&sink, &all);
    store.arrived(3).await;

    let begin = Instant::now();
    let error = sink.persist(batch("late", 1)).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(20), "it waited for room");
    assert_eq!(
        (error.kind(), error.outcome()),
        (SinkErrorKind::Unavailable, Outcome::NotPersisted)
    );
    assert_eq!(
        error.to_string(),
        "no room for an audit batch of 19 bytes within 20000 ms: 33554432 of 33554432 bytes wait for the bucket; the \
         bucket has not answered yet"
    );
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (SinkErrorKind::Unavailable, Outcome::Indeterminate)
    );
    let health = sink.health();
    assert_eq!((health.pending_batches, health.pending_bytes), (1, MAX_BATCH_BYTES as u64));

    store.set(Gate::Open);
    sink.flush().await.unwrap();
    let lines: Vec<_> = stored(&store).await.into_iter().map(|record| record.line).collect();
    assert!(
        lines.iter().eq(&all.records().collect::<Vec<_>>()),
        "what was given up as unknown arrived, the other not"
    );
    let health = sink.health();
    assert_eq!((health.pending_batches, health.pending_bytes, health.objects_delivered), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn room_that_comes_in_time_is_used() {
    let store = GatedStore::new();
    let sink = open(&store, patient()).await;
    store.set(Gate::Closed);
    let first = persist(&sink, &large_batch("all", MAX_BATCH_BYTES));
    store.arrived(3).await;
    let second = persist(&sink, &batch("waits", 2));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!second.is_finished());
    store.set(Gate::Open);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(stored(&store).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn unsent_batches_are_withdrawn_as_not_persisted() {
    let store = GatedStore::new();
    let sink = open(&store, Settings { max_in_flight: 1, ..patient() }).await;
    store.set(Gate::Closed);
    let sent = persist(&sink, &batch("sent", 1));
    store.arrived(3).await;
    // More than the queue holds before a sweep.
    let waiting: Vec<_> =
        (0..3_000).map(|n| persist(&sink, &batch(&format!("waits-{n}"), 1))).collect();
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (SinkErrorKind::Unavailable, Outcome::NotPersisted)
        );
        assert!(
            error.to_string().starts_with("audit batch not sent within 20000 ms, behind 1 objects"),
            "{error}"
        );
    }
    assert_eq!(sent.await.unwrap().unwrap_err().outcome(), Outcome::Indeterminate);
    assert_eq!(sink.health().pending_batches, 1, "what was taken back holds no memory");

    store.set(Gate::Open);
    let after = batch("after", 1);
    let receipt = sink.persist(after.clone()).await.unwrap();
    assert_eq!(
        receipt.place.unwrap().first_sequence,
        1,
        "what was taken back left no gap in the numbers"
    );
    assert_eq!(stored(&store).await.len(), 2);
    assert!(stored(&store).await.contains(&placed(&after, &receipt)[0]));
}

#[tokio::test(start_paused = true)]
async fn batches_gather_while_all_slots_are_in_use() {
    let store = GatedStore::new();
    let sink = open(&store, Settings { max_in_flight: 2, linger_ms: 1, ..patient() }).await;
    store.set(Gate::Closed);
    let mut calls = vec![persist(&sink, &batch("a", 1))];
    store.arrived(3).await;
    calls.push(persist(&sink, &batch("b", 1)));
    store.arrived(4).await;
    calls.extend((0..100).map(|n| persist(&sink, &batch(&format!("c{n}"), 1))));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.puts(), 4, "no more than two at once");
    store.set(Gate::Open);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(sink.health().objects_delivered, 3, "what gathered is one object");
    assert_eq!(stored(&store).await.len(), 102);
}

#[tokio::test(start_paused = true)]
async fn close_refuses_waiting_callers_and_keeps_accepted_ones() {
    let store = GatedStore::new();
    let sink = open(&store, patient()).await;
    store.set(Gate::Closed);
    let accepted = persist(&sink, &large_batch("accepted", MAX_BATCH_BYTES));
    store.arrived(3).await;
    let waiting = persist(&sink, &batch("waiting", 1));
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let sink = Arc::clone(&sink);
        async move { sink.close().await }
    });
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Closed, Outcome::NotPersisted));
    assert!(!closing.is_finished(), "close waits for what was accepted");
    store.set(Gate::Open);
    accepted.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!(stored(&store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn flush_covers_abandoned_batches_and_no_later_ones() {
    let store = GatedStore::new();
    let sink = open(&store, Settings { linger_ms: 0, ..patient() }).await;
    store.set(Gate::Closed);
    let first = persist(&sink, &batch("first", 1));
    store.arrived(3).await;
    first.abort();
    let flush = tokio::spawn({
        let sink = Arc::clone(&sink);
        async move { sink.flush().await }
    });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!flush.is_finished());
    store.set(Gate::Open);
    flush.await.unwrap().unwrap();
    assert_eq!(stored(&store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn timed_out_requests_that_land_change_nothing() {
    let store = GatedStore::detached();
    let settings =
        Settings { put_timeout_ms: 100, persist_timeout_ms: 600_000, ..Settings::default() };
    let sink = open(&store, settings).await;
    store.set(Gate::Closed);
    let batch = batch("late", 5);
    let call = persist(&sink, &batch);
    // Several requests with these bytes are in flight; all but the last have timed out.
    store.arrived(6).await;
    let HealthState::Retrying { reason } = sink.health().state else {
        panic!("{:?}", sink.health())
    };
    assert!(reason.starts_with("no answer within "), "{reason}");
    store.set(Gate::Open);
    let receipt = call.await.unwrap().unwrap();
    // All have landed by now, since the gate released them together.
    until(|| sink.health().state == HealthState::Ok).await;
    let mut ledger = Ledger::default();
    ledger.acknowledged(&batch, &receipt);
    ledger.check("logs/", &read_store(&**store.inner()).await).unwrap();
    assert_eq!(sink.health().conflicts, 0);
}

#[tokio::test(start_paused = true)]
async fn timeouts_grow_with_each_attempt() {
    let store = GatedStore::new();
    let settings =
        Settings { put_timeout_ms: 1_000, persist_timeout_ms: 600_000, ..Settings::default() };
    let sink = open(&store, settings).await;
    store.set(Gate::Closed);
    let call = persist(&sink, &batch("slow", 1));
    // After attempts of 1, 2, 4 and 8 s, the fifth has 16 s.
    store.arrived(7).await;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(store.puts(), 7);
    store.set(Gate::Open);
    call.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(16));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_is_retried() {
    let store = GatedStore::new();
    let sink = open(&store, patient()).await;
    store.set(Gate::Panics);
    let error = sink.persist(batch("unlucky", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Blocked, Outcome::Indeterminate));
    assert!(error.to_string().contains("panicked: told to panic"), "{error}");
    let health = sink.health();
    assert!(health.panics > 1 && matches!(health.state, HealthState::Blocked { .. }), "{health:?}");
    store.set(Gate::Open);
    sink.persist(batch("lucky", 1)).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(stored(&store).await.len(), 2);
    assert_eq!(sink.health().state, HealthState::Ok);
    assert_eq!(sink.health().pending_batches, 0);
}
