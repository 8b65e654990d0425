//! Batches share objects, which end by time, size, flush or close, but never within a batch.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Ledger, batch, bucket_in, check, large_batch, read_store};
use audit_core::AuditSink;
use audit_sink_s3::{S3Sink, Settings};
use object_store::memory::InMemory;
use tokio::time::Instant;

async fn open(store: &Arc<InMemory>, settings: Settings) -> Arc<S3Sink> {
    Arc::new(S3Sink::builder(bucket_in(store, "")).with_settings(settings).open().await.unwrap())
}

/// The number of objects, except the probe.
async fn count_objects(store: &InMemory) -> usize {
    read_store(store).await.keys().filter(|key| key.starts_with("dt=")).count()
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_object() {
    let store = Arc::default();
    let sink = open(&store, Settings::default()).await;
    let calls: Vec<_> = (0..64)
        .map(|n| {
            let (sink, batch) = (Arc::clone(&sink), batch(&format!("{n}"), 3));
            tokio::spawn(async move { (sink.persist(batch.clone()).await.unwrap(), batch) })
        })
        .collect();
    let mut ledger = Ledger::default();
    for call in calls {
        let (receipt, batch) = call.await.unwrap();
        ledger.acknowledged(&batch, &receipt);
    }
    assert_eq!(count_objects(&store).await, 1);
    ledger.check("", &read_store(&*store).await).unwrap();
    assert_eq!(sink.health().records_delivered, 192);
}

#[tokio::test(start_paused = true)]
async fn the_linger_ends_without_new_data() {
    let store = Arc::default();
    let sink = open(&store, Settings { linger_ms: 700, ..Settings::default() }).await;
    let begin = Instant::now();
    sink.persist(batch("alone", 1)).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_millis(700));
}

#[tokio::test(start_paused = true)]
async fn without_linger_nothing_waits() {
    let store = Arc::default();
    let sink = open(&store, Settings { linger_ms: 0, ..Settings::default() }).await;
    let begin = Instant::now();
    sink.persist(batch("alone", 1)).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn flush_and_close_end_the_linger() {
    let store = Arc::default();
    let sink = open(&store, Settings { linger_ms: 15_000, ..Settings::default() }).await;
    let begin = Instant::now();
    let (persisted, flushed) = tokio::join!(sink.persist(batch("flushed", 1)), async {
        tokio::task::yield_now().await;
        sink.flush().await
    });
    persisted.unwrap();
    flushed.unwrap();
    let (persisted, closed) = tokio::join!(sink.persist(batch("closed", 1)), async {
        tokio::task::yield_now().await;
        sink.close().await
    });
    persisted.unwrap();
    closed.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(check("", &read_store(&*store).await).unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn flush_with_nothing_to_do_returns() {
    let store = Arc::default();
    let sink = open(&store, Settings::default()).await;
    sink.flush().await.unwrap();
    sink.persist(batch("one", 1)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(count_objects(&store).await, 1);
}

#[tokio::test(start_paused = true)]
async fn full_objects_do_not_linger() {
    let store = Arc::default();
    let settings = Settings { linger_ms: 15_000, max_object_bytes: 1_000, ..Settings::default() };
    let sink = open(&store, settings).await;
    let begin = Instant::now();
    // 400 + 400 fit, the third does not; 2,000 is its own object; the last ones wait for the
    // linger.
    let sizes = [400, 400, 400, 2_000, 300, 300];
    let calls: Vec<_> = (0..)
        .zip(sizes)
        .map(|(n, bytes)| {
            let (sink, batch) = (Arc::clone(&sink), large_batch(&format!("{n}"), bytes));
            tokio::spawn(
                async move { sink.persist(batch).await.unwrap().place.unwrap().first_sequence },
            )
        })
        .collect();
    let mut sequences = Vec::new();
    for call in calls {
        sequences.push(call.await.unwrap());
    }
    assert_eq!(sequences, [0, 1, 2, 3, 4, 5], "in the order of their calls");
    assert_eq!(begin.elapsed(), Duration::from_secs(15), "only the last two lingered");
    let objects = read_store(&*store).await;
    let firsts: Vec<_> = objects
        .keys()
        .filter_map(|key| key.strip_suffix(".ndjson.zst")?.split('-').next_back())
        .collect();
    assert_eq!(firsts, ["000000000000", "000000000002", "000000000003", "000000000004"]);
    check("", &objects).unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_sink_delivers_what_it_accepted() {
    let store = Arc::default();
    let sink = open(&store, Settings { linger_ms: 15_000, ..Settings::default() }).await;
    let mut persist = Box::pin(sink.persist(batch("dropped", 4)));
    assert!(futures::poll!(&mut persist).is_pending());
    drop(persist);
    drop(sink);
    let begin = Instant::now();
    while count_objects(&store).await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "without waiting for the linger");
    assert_eq!(check("", &read_store(&*store).await).unwrap().len(), 4, "the batch is whole");
}
