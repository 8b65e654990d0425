//! A request slower than most gets a second one beside it, and its object is still in the bucket
//! once.

use crate::support;
use crate::support::{Ledger, batch, bucket_on};
use audit_core::AuditSink;
use audit_sink_s3::{S3Sink, Settings};
use http::Method;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_request_does_not_delay_its_object() {
    let server = S3TestServer::start().await;
    // Waiting for the request itself would take longer than the test may.
    let hour_ms = 60 * 60 * 1_000;
    let settings = Settings {
        linger_ms: 0,
        put_timeout_ms: hour_ms,
        persist_timeout_ms: hour_ms,
        ..Settings::default()
    };
    let sink =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(settings).open().await.unwrap();
    let mut ledger = Ledger::default();
    let mut persist = async |tag: &str| {
        let batch = batch(tag, 2);
        let receipt = sink.persist(batch.clone()).await.unwrap();
        ledger.acknowledged(&batch, &receipt);
    };
    // Enough responses to estimate what is slow.
    for n in 0..64 {
        persist(&format!("quick-{n}")).await;
    }
    for (n, fault) in [Fault::Hung, Fault::StoredThenHung].into_iter().enumerate() {
        let before = server.request_count(&Method::PUT);
        server.faults().next_puts([fault]);
        persist(&format!("slow-{n}")).await;
        assert!(server.request_count(&Method::PUT) >= before + 2, "there was a second request");
    }
    // A request refused at once is not slow: it is retried after the usual backoff.
    server.faults().next_puts([Fault::Refused(ErrorAnswer::SLOW_DOWN)]);
    persist("refused").await;
    sink.close().await.unwrap();
    ledger.check("logs/", &support::read_server(&server)).unwrap();
}
