//! The log reports once when a bucket is blocked and once when it recovers, not at each retry.

use std::io;
use std::sync::{Arc, Mutex};

use crate::support::{batch, bucket_on, until};
use audit_core::AuditSink;
use audit_sink_s3::{S3Sink, Settings};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn count(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(text).count()
    }
}

#[tokio::test]
async fn each_change_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // `tracing` caches whether anybody listens to a log statement. Without a global subscriber, a
    // test on another thread that reaches it first would turn it off for all threads.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = S3TestServer::start().await;
    let settings = Settings {
        linger_ms: 0,
        persist_timeout_ms: 400,
        retry_base_ms: 1,
        blocked_retry_cap_ms: 8,
        ..Settings::default()
    };
    let sink =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(settings).open().await.unwrap();
    server.faults().always(Fault::Refused(ErrorAnswer::ACCESS_DENIED));
    let calls = (0..5).map(|n| sink.persist(batch(&format!("{n}"), 1)));
    let failed = futures::future::join_all(calls).await;
    assert!(failed.iter().all(Result::is_err));
    let requests = server.faults().fired().len();
    until(|| server.faults().fired().len() > requests + 20).await;
    server.faults().none();
    sink.flush().await.unwrap();
    // The text does not include the level, since the name of a span may stand before the target.
    let alarms =
        log.count("audit_journal::health: audit delivery is blocked until an operator acts");
    let endings = log.count("audit_journal::health: audit logs are delivered again");
    assert_eq!((alarms, endings), (1, 1), "{}", String::from_utf8_lossy(&log.0.lock().unwrap()));
}
