//! The checker of these tests catches each way in which a bucket can be wrong.

use std::sync::Arc;

use crate::support::{Ledger, Objects, batch, bucket_in, read_store};
use audit_core::AuditSink;
use audit_sink_s3::{S3Sink, Settings};
use object_store::memory::InMemory;

/// Two objects of three records each, and their ledger.
async fn good() -> (Objects, Ledger) {
    let store: Arc<InMemory> = Arc::default();
    let settings = Settings {
        compression: audit_sink_s3::Compression::None,
        linger_ms: 0,
        ..Settings::default()
    };
    let sink =
        S3Sink::builder(bucket_in(&store, "logs")).with_settings(settings).open().await.unwrap();
    let mut ledger = Ledger::default();
    for tag in ["a", "b"] {
        let batch = batch(tag, 3);
        let receipt = sink.persist(batch.clone()).await.unwrap();
        ledger.acknowledged(&batch, &receipt);
    }
    (read_store(&*store).await, ledger)
}

#[tokio::test(start_paused = true)]
async fn the_checker_catches_faults_of_a_bucket() {
    let (objects, ledger) = good().await;
    ledger.check("logs/", &objects).unwrap();
    let last = objects.keys().next_back().unwrap().clone();

    let caught = |objects: &Objects, what: &str| {
        let error = ledger.check("logs/", objects).unwrap_err();
        assert!(error.contains(what), "{error}");
    };
    let mut missing = objects.clone();
    missing.remove(&last);
    caught(&missing, "acknowledged and missing");

    let mut again = objects.clone();
    again.insert(last.replace("hour=22", "hour=23"), objects[&last].clone());
    caught(&again, "stands there twice");

    let mut elsewhere = objects.clone();
    elsewhere.insert(last.replace("-000000000003", "-000000000006"), objects[&last].clone());
    caught(&elsewhere, "the metadata say");
    elsewhere.values_mut().for_each(|object| object.metadata = None);
    caught(&elsewhere, "nobody handed in, or twice");

    let mut changed = objects.clone();
    changed.get_mut(&last).unwrap().bytes = "{\"t\":\"b\",\"i\":7}\n".repeat(3).into();
    caught(&changed, "the metadata say");

    let mut cut = objects.clone();
    let bytes = &mut cut.get_mut(&last).unwrap().bytes;
    *bytes = bytes.slice(..bytes.len() - 1);
    caught(&cut, "must end with a line feed");
}

#[tokio::test(start_paused = true)]
async fn the_checker_catches_faults_of_abandoned_batches() {
    let (objects, _) = good().await;
    let mut ledger = Ledger::default();
    ledger.perhaps(batch("a", 3));
    ledger.perhaps(batch("b", 3));
    ledger.perhaps(batch("absent", 1));
    ledger.check("logs/", &objects).unwrap();
    let mut ledger = Ledger::default();
    ledger.perhaps(batch("a", 4));
    ledger.perhaps(batch("b", 3));
    assert!(ledger.check("logs/", &objects).unwrap_err().contains("in part or twice"));
}
