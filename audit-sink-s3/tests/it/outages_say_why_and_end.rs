//! While a bucket is unreachable or refuses, callers and operators learn why; afterwards everything
//! is delivered.

use crate::support::{Ledger, TIME_MS, batch, bucket_on, check, read_server};
use audit_core::{AuditSink, Commits, HealthState, Outcome, SinkErrorKind};
use audit_sink_s3::layout::ObjectKey;
use audit_sink_s3::{S3Sink, Settings};
use futures::future::join_all;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer, StoredObject};

fn settings() -> Settings {
    Settings {
        linger_ms: 0,
        put_timeout_ms: 500,
        persist_timeout_ms: 1_200,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        ..Settings::default()
    }
}

async fn open(server: &S3TestServer) -> S3Sink {
    S3Sink::builder(bucket_on(server, "logs")).with_settings(settings()).open().await.unwrap()
}

#[tokio::test]
async fn unreachable_buckets_time_out_and_recover() {
    let server = S3TestServer::start().await;
    let sink = open(&server).await;
    server.pause().await;
    let batch = batch("outage", 3);
    let error = sink.persist(batch.clone()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (SinkErrorKind::Unavailable, Outcome::Indeterminate)
    );
    let message = error.to_string();
    assert!(
        message
            .starts_with("delivery of the audit batch not certain after 1200 ms; last response: ")
    );
    assert!(message.contains("Connection refused"), "{message}");
    let HealthState::Retrying { reason } = sink.health().state else {
        panic!("{:?}", sink.health())
    };
    assert!(reason.contains("Connection refused"), "{reason}");
    assert_eq!(sink.health().commits, Commits::Refused { reason }, "it has no journal");

    server.resume().await;
    sink.flush().await.unwrap();
    assert_eq!(sink.health().state, HealthState::Ok);
    assert_eq!(sink.health().commits, Commits::Accepted);
    let mut ledger = Ledger::default();
    ledger.perhaps(batch);
    ledger.check("logs/", &read_server(&server)).unwrap();
    assert_eq!(
        check("logs/", &read_server(&server)).unwrap().len(),
        3,
        "given up by its caller, and yet delivered"
    );
}

#[tokio::test]
async fn refusing_buckets_block_with_a_remedy() {
    let cases = [
        (ErrorAnswer::EXPIRED_TOKEN, "status 400 ExpiredToken", "renew or correct the credentials"),
        (ErrorAnswer::ACCESS_DENIED, "status 403 AccessDenied", "s3:PutObject"),
        (ErrorAnswer::NO_SUCH_BUCKET, "status 404 NoSuchBucket", "create the bucket"),
        (
            ErrorAnswer::REQUEST_TIME_TOO_SKEWED,
            "status 403 RequestTimeTooSkewed",
            "set this host's clock",
        ),
    ];
    join_all(cases.map(|(answer, said, advice)| async move {
        let server = S3TestServer::start().await;
        let sink = open(&server).await;
        server.faults().always(Fault::Refused(answer));
        let error = sink.persist(batch("blocked", 2)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (SinkErrorKind::Blocked, Outcome::Indeterminate)
        );
        assert!(error.to_string().contains(said) && error.to_string().contains(advice), "{error}");
        let health = sink.health();
        let HealthState::Blocked { reason } = health.state else { panic!("{health:?}") };
        assert!(reason.contains(said) && reason.contains(advice), "{reason}");
        assert_eq!(health.last_error, Some(reason));
        assert!(health.retries > 1 && health.pending_batches == 1);

        server.faults().none();
        sink.persist(batch("after", 1)).await.unwrap();
        sink.flush().await.unwrap();
        assert_eq!(sink.health().state, HealthState::Ok);
        assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 3);
    }))
    .await;
}

#[tokio::test]
async fn a_hanging_bucket_fails_persist_in_time() {
    let server = S3TestServer::start().await;
    let sink = open(&server).await;
    server.faults().always(Fault::Hung);
    let error = sink.persist(batch("hung", 1)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (SinkErrorKind::Unavailable, Outcome::Indeterminate)
    );
    assert!(error.to_string().ends_with("last response: no answer within 500 ms"), "{error}");
    server.faults().none();
    sink.close().await.unwrap();
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 1);
}

#[tokio::test]
async fn conflicting_objects_are_reported_and_skipped() {
    let plain = StoredObject { bytes: "somebody else's".into(), ..StoredObject::default() };
    // A foreign object, as another writer of this layout would leave it.
    let metadata =
        [("format", "1"), ("count", "2"), ("lastsequence", "1"), ("sha256", &*"0f".repeat(32))];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let similar = StoredObject { metadata: metadata.into(), ..plain.clone() };
    for foreign in [plain, similar] {
        let server = S3TestServer::start().await;
        let sink = open(&server).await;
        let key =
            format!("logs/{}", ObjectKey::new(TIME_MS, sink.stream(), 0, settings().compression));
        server.put_object(&key, foreign.clone());

        let error = sink.persist(batch("in-the-way", 2)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (SinkErrorKind::Blocked, Outcome::NotPersisted)
        );
        assert_eq!(
            error.to_string(),
            format!("another object has the key of the audit batch: {key}")
        );
        let health = sink.health();
        assert_eq!((health.conflicts, health.state), (1, HealthState::Ok));
        assert_eq!(health.last_error, Some(format!("another object has the key {key}")));

        let later = batch("later", 1);
        let receipt = sink.persist(later.clone()).await.unwrap();
        assert_eq!(
            receipt.place.unwrap().first_sequence,
            2,
            "the numbers of what failed are not used again"
        );
        sink.close().await.unwrap();
        assert_eq!(server.delete_object(&key), Some(foreign), "left as it was");
        let mut ledger = Ledger::default();
        ledger.acknowledged(&later, &receipt);
        ledger.check("logs/", &read_server(&server)).unwrap();
    }
}

#[tokio::test]
async fn objects_without_metadata_are_recognized_by_their_bytes() {
    let server = S3TestServer::start().await;
    let sink = open(&server).await;
    // An intermediary strips headers: the first PUT is stored without metadata, and its response is
    // lost.
    server.faults().next_puts([Fault::StoredThenHung]);
    let batch = batch("stripped", 1);
    let (receipt, ()) = tokio::join!(sink.persist(batch), async {
        server.faults().wait_fired(1).await;
        let (key, object) = server.objects().pop_last().unwrap();
        server.put_object(&key, StoredObject { metadata: Default::default(), ..object });
    });
    receipt.unwrap();
    assert_eq!(sink.health().conflicts, 0);
}
