//! In a tee with a bucket, a record has the bucket's id.

use std::sync::Arc;

use audit_core::testing::{MemoryFault, MemorySink};
use audit_core::{AuditSink, Commits, Outcome};
use audit_runtime::Tee;
use audit_sink_http::{DeadLetter, Format, HttpSink, Settings};

use crate::receiver::{Fault, Receiver, batch};

#[tokio::test]
async fn mirrors_store_records_under_the_same_ids() {
    let (receiver, bucket) = (Receiver::start().await, Arc::new(MemorySink::new()));
    let mirror = Arc::new(HttpSink::open(receiver.settings(Format::Webhook)).await.unwrap());
    let tee = Arc::new(Tee::new(bucket.clone()).with_mirror(mirror));
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let tee = Arc::clone(&tee);
            let line = format!("{{\"n\":{n}}}");
            tokio::spawn(async move { tee.persist(batch(n, &[&line, "{}"])).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut expected = bucket.records();
    expected.sort_by_key(|record| (record.stream, record.sequence));
    assert_eq!(expected.len(), 40);
    assert_eq!(receiver.stored(), expected);
    tee.close().await.unwrap();
    assert!(tee.persist(batch(1, &["{}"])).await.is_err());
}

#[tokio::test]
async fn a_mirror_gets_nothing_that_the_first_sink_refuses() {
    let (receiver, bucket) = (Receiver::start().await, Arc::new(MemorySink::new()));
    let mirror = Arc::new(HttpSink::open(receiver.settings(Format::Webhook)).await.unwrap());
    let tee = Tee::new(bucket.clone()).with_mirror(mirror);
    bucket.script([MemoryFault::FailBefore]);
    let error = tee.persist(batch(1, &["{}"])).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotPersisted);
    assert!(receiver.requests().is_empty());
    tee.close().await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_fails_leaves_the_outcome_open() {
    let (receiver, bucket) = (Receiver::start().await, Arc::new(MemorySink::new()));
    let settings = Settings { persist_timeout_ms: 50, ..receiver.settings(Format::Webhook) };
    let mirror = Arc::new(HttpSink::open(settings).await.unwrap());
    let tee = Tee::new(bucket.clone()).with_mirror(mirror.clone());
    receiver.script([Fault::Hangs]);
    let error = tee.persist(batch(1, &["{}"])).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    assert_eq!((bucket.records().len(), receiver.stored().len()), (1, 0));
    // The caller got an indeterminate error, and the record arrives.
    receiver.release();
    mirror.flush().await.unwrap();
    assert_eq!(receiver.stored(), bucket.records());
    assert_eq!(tee.health().commits, Commits::Accepted);
    tee.close().await.unwrap();
}

/// The bucket has the record, so a log stream that rejects it for good delays nothing.
#[tokio::test]
async fn records_rejected_by_a_mirror_are_set_aside() {
    let (receiver, bucket) = (Receiver::start().await, Arc::new(MemorySink::new()));
    let directory = tempfile::tempdir().unwrap();
    let letters = directory.path().join("dead-letters");
    let settings = Settings {
        max_record_bytes: Some(2_048),
        dead_letters: Some(letters.clone()),
        ..receiver.settings(Format::Ndjson)
    };
    let mirror = Arc::new(HttpSink::open(settings).await.unwrap());
    let tee = Tee::new(bucket.clone()).with_mirror(mirror);
    receiver.poison(Some("poison"));
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(3_000));
    tee.persist(batch(1, &["{\"poison\":0}", "{}", &large])).await.unwrap();
    let told = receiver.told();
    assert_eq!((told[0].0, told[1].0, told.len()), (1, 2, 2));
    assert!(told[1].2.contains("tooLarge"));
    let letters = DeadLetter::list(&letters).unwrap().0;
    assert_eq!(letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [0]);
    tee.close().await.unwrap();
}
