//! The suite that every sink must pass: the contract of [`AuditSink`], property by property.
//!
//! A sink's test calls [`run`] with a [`Destination`], which opens the sink and reads what it
//! stored by other means.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;

use super::StoredRecord;
use crate::{
    AuditSink, Batch, Durability, MAX_BATCH_BYTES, Outcome, Receipt, SinkErrorKind, UniqueId,
};

/// A place that a sink under test writes to.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Opens a sink that writes to this destination. Called several times; the earlier sinks may
    /// still be open.
    async fn open(&self) -> Arc<dyn AuditSink>;

    /// Every record at the destination now, in any order. A record that is there twice is returned
    /// twice.
    async fn stored(&self) -> Vec<StoredRecord>;

    /// The durability that this sink's receipts must promise.
    fn durability(&self) -> Durability;

    /// Injects the fault of this number, counted from 0, into the next `persist` of the sink that
    /// was opened last: the write fails, is refused, or succeeds with its response lost. `persist`
    /// must still return, and the suite compares what it returns with what is stored. Returns false
    /// if there is no fault of this number; the default has none.
    async fn fault(&self, number: u32) -> bool {
        let _ = number;
        false
    }
}

/// Runs the whole suite.
///
/// # Panics
///
/// At the first property that does not hold, saying which.
pub async fn run(destination: &dyn Destination) {
    receipts_name_where_records_are(destination).await;
    concurrent_batches_stay_whole_and_in_order(destination).await;
    later_batches_come_later(destination).await;
    the_largest_batch_is_accepted(destination).await;
    a_dropped_persist_is_whole_or_absent(destination).await;
    failed_batches_match_their_outcomes(destination).await;
    nothing_is_accepted_after_close(destination).await;
    two_openings_share_no_stream(destination).await;
    pointers_forward(destination).await;
    names_show_no_content(destination).await;
}

/// A batch whose records are `{"t":"<tag>","i":0}`, `{"t":"<tag>","i":1}`, …
fn batch(tag: &str, count: u32) -> Batch {
    let lines: String = (0..count).map(|i| format!("{{\"t\":\"{tag}\",\"i\":{i}}}\n")).collect();
    Batch::from_lines(1_700_000_000_000, lines.into()).expect("lines are a batch")
}

/// The stored records of the batches whose tag begins with `tag`, by place.
async fn stored(destination: &dyn Destination, tag: &str) -> BTreeMap<(UniqueId, u64), Bytes> {
    let prefix = format!("{{\"t\":\"{tag}");
    let mut found = BTreeMap::new();
    for StoredRecord { stream, sequence, line } in destination.stored().await {
        if line.starts_with(prefix.as_bytes()) {
            let twice = found.insert((stream, sequence), line);
            assert!(twice.is_none(), "record {sequence} of stream {stream} is stored twice");
        }
    }
    found
}

/// The records of `batch`, by the places that its receipt gives them.
fn expected(batch: &Batch, receipt: &Receipt) -> BTreeMap<(UniqueId, u64), Bytes> {
    let Some(place) = receipt.place else { return BTreeMap::new() };
    assert_eq!(place.count, batch.count(), "the receipt counts the records of the batch");
    (place.first_sequence..)
        .zip(batch.records())
        .map(|(n, line)| ((place.stream, n), line))
        .collect()
}

fn check_receipt(destination: &dyn Destination, receipt: &Receipt) {
    assert_eq!(receipt.durability, destination.durability());
    assert_eq!(receipt.place.is_none(), receipt.durability == Durability::Discarded);
}

async fn receipts_name_where_records_are(destination: &dyn Destination) {
    let sink = destination.open().await;
    let batch = batch("receipt", 3);
    let receipt = sink.persist(batch.clone()).await.expect("persist");
    check_receipt(destination, &receipt);
    if receipt.durability == Durability::Delivered {
        assert_eq!(
            stored(destination, "receipt").await,
            expected(&batch, &receipt),
            "delivered before flush"
        );
    }
    sink.flush().await.expect("flush");
    assert_eq!(stored(destination, "receipt").await, expected(&batch, &receipt), "after flush");
    sink.close().await.expect("close");
}

async fn concurrent_batches_stay_whole_and_in_order(destination: &dyn Destination) {
    let sink = destination.open().await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (sink, batch) = (Arc::clone(&sink), batch(&format!("concurrent-{n}"), 1 + n % 5));
            tokio::spawn(
                async move { (sink.persist(batch.clone()).await.expect("persist"), batch) },
            )
        })
        .collect();
    let mut all = BTreeMap::new();
    for task in tasks {
        let (receipt, batch) = task.await.expect("no panic");
        check_receipt(destination, &receipt);
        for (place, line) in expected(&batch, &receipt) {
            assert!(all.insert(place, line).is_none(), "two batches were given the same place");
        }
    }
    sink.close().await.expect("close");
    let numbers: Vec<u64> = all.keys().map(|(_, sequence)| *sequence).collect();
    assert!(
        numbers.iter().copied().eq(0..numbers.len() as u64),
        "a stream is numbered from 0 without a gap"
    );
    assert_eq!(stored(destination, "concurrent-").await, all);
}

async fn later_batches_come_later(destination: &dyn Destination) {
    let sink = destination.open().await;
    let mut next = 0;
    for n in 0..5 {
        let receipt = sink.persist(batch(&format!("later-{n}"), 2)).await.expect("persist");
        if let Some(place) = receipt.place {
            assert_eq!(
                place.first_sequence, next,
                "each batch follows the one acknowledged before it"
            );
            next += u64::from(place.count);
        }
    }
    sink.close().await.expect("close");
}

async fn the_largest_batch_is_accepted(destination: &dyn Destination) {
    let sink = destination.open().await;
    let head = "{\"t\":\"largest\",\"i\":\"";
    let line = format!("{head}{}\"}}\n", "x".repeat(MAX_BATCH_BYTES - head.len() - 3));
    let batch = Batch::from_lines(1_700_000_000_000, line.into()).expect("the largest batch");
    assert_eq!(batch.lines().len(), MAX_BATCH_BYTES);
    let receipt = sink.persist(batch.clone()).await.expect("persist");
    sink.close().await.expect("close");
    assert!(
        stored(destination, "largest").await == expected(&batch, &receipt),
        "the largest batch arrives whole"
    );
}

async fn a_dropped_persist_is_whole_or_absent(destination: &dyn Destination) {
    let sink = destination.open().await;
    for polls in 0..8 {
        let mut persist = pin!(sink.persist(batch(&format!("dropped-{polls}-"), 4)));
        for _ in 0..polls {
            let done =
                poll_fn(|context| Poll::Ready(persist.as_mut().poll(context).is_ready())).await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // A later batch that is acknowledged shows that the dropped ones did not jam the sink.
    sink.persist(batch("after-drop", 1)).await.expect("persist after dropped calls");
    sink.close().await.expect("close");
    let found = stored(destination, "dropped-").await;
    for polls in 0..8 {
        is_whole_or_absent(&found, &batch(&format!("dropped-{polls}-"), 4));
    }
}

/// Whether the batch is stored. A batch of unknown outcome is stored whole and in order, or not at
/// all.
fn is_whole_or_absent(found: &BTreeMap<(UniqueId, u64), Bytes>, batch: &Batch) -> bool {
    let lines: Vec<_> = batch.records().collect();
    let places: Vec<_> = found
        .iter()
        .filter(|(_, line)| lines.contains(line))
        .map(|((_, n), line)| (*n, line.clone()))
        .collect();
    let Some((first, _)) = places.first() else { return false };
    let whole: Vec<_> = (*first..).zip(lines).collect();
    assert_eq!(places, whole, "a batch of unknown outcome is whole, in order, or absent");
    true
}

async fn failed_batches_match_their_outcomes(destination: &dyn Destination) {
    for number in 0.. {
        // A new sink for each fault: some faults end a sink for good.
        let sink = destination.open().await;
        let before = batch(&format!("before-fault-{number}-"), 2);
        let receipt = sink.persist(before.clone()).await.expect("persist before the fault");
        let mut all = expected(&before, &receipt);
        if !destination.fault(number).await {
            sink.close().await.expect("close");
            return;
        }
        let faulty = batch(&format!("fault-{number}-"), 3);
        let answer = sink.persist(faulty.clone()).await;
        let after = batch(&format!("after-fault-{number}-"), 2);
        if let Ok(receipt) = sink.persist(after.clone()).await {
            all.extend(expected(&after, &receipt));
        }
        // The fault may prevent an orderly close, which is not tested here.
        drop(sink.close().await);

        let found = stored(destination, &format!("fault-{number}-")).await;
        let is_there = is_whole_or_absent(&found, &faulty);
        match &answer {
            Ok(receipt) => assert_eq!(found, expected(&faulty, receipt), "fault {number}"),
            Err(error) if error.outcome() == Outcome::NotPersisted => {
                assert!(!is_there, "fault {number}: {error}, said to be not persisted, is there");
            }
            Err(_indeterminate) => {}
        }
        let mut others = stored(destination, &format!("before-fault-{number}-")).await;
        others.extend(stored(destination, &format!("after-fault-{number}-")).await);
        assert_eq!(others, all, "fault {number} touches no other batch that was acknowledged");
    }
}

async fn nothing_is_accepted_after_close(destination: &dyn Destination) {
    let sink = destination.open().await;
    sink.persist(batch("before-close", 1)).await.expect("persist");
    sink.close().await.expect("close");
    let error = sink.persist(batch("after-close", 1)).await.expect_err("persist after close");
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Closed, Outcome::NotPersisted));
    sink.flush().await.expect("flush after close");
    sink.close().await.expect("close again");
    assert_eq!(stored(destination, "after-close").await, BTreeMap::new());
}

async fn two_openings_share_no_stream(destination: &dyn Destination) {
    let (one, two) = (destination.open().await, destination.open().await);
    let first = one.persist(batch("opening-1", 1)).await.expect("persist");
    let second = two.persist(batch("opening-2", 1)).await.expect("persist");
    one.close().await.expect("close");
    two.close().await.expect("close");
    if let (Some(first), Some(second)) = (first.place, second.place) {
        assert_ne!(first.stream, second.stream, "each opening starts a new stream");
        assert_eq!((first.first_sequence, second.first_sequence), (0, 0), "a stream begins at 0");
    }
}

async fn pointers_forward(destination: &dyn Destination) {
    let sink: Box<dyn AuditSink> = Box::new(destination.open().await);
    let batch = batch("forward", 1);
    let receipt = sink.persist(batch.clone()).await.expect("persist through Box and Arc");
    sink.flush().await.expect("flush through Box and Arc");
    assert_eq!(stored(destination, "forward").await, expected(&batch, &receipt));
    sink.close().await.expect("close through Box and Arc");
    assert_eq!(sink.persist(batch).await.expect_err("closed").kind(), SinkErrorKind::Closed);
}

async fn names_show_no_content(destination: &dyn Destination) {
    let sink = destination.open().await;
    sink.persist(batch("needle-in-content", 1)).await.expect("persist");
    let names = format!("{sink} {sink:?}");
    assert!(!names.contains("needle-in-content"), "Display and Debug show no content: {names}");
    assert!(!sink.to_string().is_empty());
    sink.close().await.expect("close");
}
