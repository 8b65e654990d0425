//! The checks, errors and warnings of opening a sink.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support;
use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{
    batch, bucket_in, bucket_of, bucket_on, bucket_with_keys, check, read_server, read_store,
};
use audit_core::AuditSink;
use audit_sink_s3::{OpenError, OpenErrorKind, S3Sink, Settings};
use http::Method;
use object_store::memory::InMemory;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
use tokio::time::Instant;

async fn open(server: &S3TestServer, settings: Settings) -> Result<S3Sink, OpenError> {
    S3Sink::builder(bucket_on(server, "logs")).with_settings(settings).open().await
}

fn strict() -> Settings {
    Settings { require_create_only: true, ..Settings::default() }
}

#[tokio::test]
async fn a_protecting_store_is_known_as_such() {
    let server = S3TestServer::start().await;
    for (puts, settings) in [(2, Settings::default()), (3, strict())] {
        let sink = open(&server, settings).await.unwrap();
        assert_eq!(sink.health().create_only, Some(true));
        assert_eq!(
            server.request_count(&Method::PUT),
            puts,
            "the first sink asks twice, the second once"
        );
    }
    assert_eq!(server.objects().into_keys().collect::<Vec<_>>(), ["logs/_audit/probe"]);
    let sink = open(&server, strict()).await.unwrap();
    assert_eq!(sink.to_string(), "S3Sink(s3://audit-test/logs)");
    let shown = format!("{sink:?} {:?}", S3Sink::builder(sink.bucket().clone()));
    for secret in [server.access_key(), server.secret_key()] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn overwriting_stores_warn_unless_create_only_is_required() {
    let server = S3TestServer::start().await;
    server.ignore_if_none_match(true);
    let error = open(&server, strict()).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::NotCreateOnly);
    assert!(error.to_string().contains("allows overwriting objects"), "{error}");
    let sink = open(&server, Settings::default()).await.unwrap();
    assert_eq!(sink.health().create_only, Some(false));
    sink.persist(batch("one", 1)).await.unwrap();
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 1);
}

#[tokio::test]
async fn opening_refuses_bad_credentials_buckets_and_permissions() {
    let server = S3TestServer::start().await;
    let wrong = |access, secret| bucket_with_keys(&server, "logs", access, secret);
    for bucket in
        [wrong(server.access_key(), "not-the-secret-key"), wrong("NOBODY", server.secret_key())]
    {
        let error = S3Sink::builder(bucket).open().await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Blocked);
        assert!(error.to_string().contains("renew or correct the credentials"), "{error}");
        assert!(!format!("{error} {error:?}").contains("not-the-secret-key"));
    }

    let refused = |method: Method, answer| {
        let fault = move |request: &s3_testserver::RequestInfo| {
            if request.method == method { Fault::Refused(answer) } else { Fault::None }
        };
        server.faults().plan(fault);
        open(&server, Settings::default())
    };
    let error = refused(Method::PUT, ErrorAnswer::NO_SUCH_BUCKET).await.unwrap_err();
    assert!(error.to_string().ends_with("(create the bucket, or correct its name)"), "{error}");
    let error = refused(Method::PUT, ErrorAnswer::ACCESS_DENIED).await.unwrap_err();
    assert!(error.to_string().contains("s3:PutObject and s3:GetObject"), "{error}");
    // The permission to read is needed only after a lost response, so it is checked at opening.
    let error = refused(Method::HEAD, ErrorAnswer::ACCESS_DENIED).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Blocked);
    assert!(error.to_string().contains("s3:PutObject and s3:GetObject"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn unreachable_buckets_delay_a_start_briefly() {
    let store = GatedStore::new();
    store.set(Gate::Closed);
    let begin = Instant::now();
    let settings = Settings { linger_ms: 0, ..Settings::default() };
    let sink =
        S3Sink::builder(bucket_of(&store, "logs")).with_settings(settings).open().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!(sink.health().create_only, None);
    store.set(Gate::Open);
    sink.persist(batch("back", 1)).await.unwrap();
    assert_eq!(check("logs/", &read_store(&**store.inner()).await).unwrap().len(), 1);
}

#[tokio::test]
async fn requiring_create_only_needs_a_reachable_bucket() {
    let server = S3TestServer::start().await;
    server.pause().await;
    let error = open(&server, strict()).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Unavailable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn invalid_settings_are_refused_before_any_request() {
    let server = S3TestServer::start().await;
    let error =
        open(&server, Settings { max_in_flight: 0, ..Settings::default() }).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Configuration);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "max_in_flight is 0, and must be at least 1 and at most 1024");
    assert!(server.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn stores_without_attributes_are_supported() {
    let directory = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap();
    let bucket = bucket_in(&Arc::new(store), "logs");
    let sink = S3Sink::builder(bucket).open().await.unwrap();
    sink.persist(batch("one", 2)).await.unwrap();
    assert_eq!(check("logs/", &support::read_directory(directory.path())).unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn sinks_of_one_bucket_do_not_conflict() {
    let store: Arc<InMemory> = Arc::default();
    let mut sinks = Vec::new();
    for _ in 0..3 {
        sinks.push(S3Sink::builder(bucket_in(&store, "shared")).open().await.unwrap());
    }
    for sink in &sinks {
        sink.persist(batch("same", 1)).await.unwrap();
        assert_eq!(sink.to_string(), "S3Sink(InMemory/shared)");
    }
    assert_eq!(check("shared/", &read_store(&*store).await).unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_in_memory_needs_nothing_but_its_url() {
    let sink = S3Sink::open("memory:///logs", Settings::default()).await.unwrap();
    sink.persist(batch("one", 1)).await.unwrap();
    assert_eq!(sink.to_string(), "S3Sink(memory:///logs)");
    assert_eq!(check("logs/", &read_store(&**sink.bucket().store()).await).unwrap().len(), 1);
}

/// Run by the test below in a separate process with its own environment; otherwise does nothing.
#[tokio::test]
async fn child_with_an_environment() {
    let Ok(url) = std::env::var("AUDIT_TEST_URL") else { return };
    let sink = S3Sink::open(&url, Settings::default()).await.unwrap();
    assert_eq!(sink.to_string(), format!("S3Sink({url})"));
    sink.persist(batch("from-the-environment", 1)).await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn the_environment_configures_the_bucket() {
    let server = S3TestServer::start().await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "opening_asks_the_bucket::child_with_an_environment"])
        .env("AUDIT_TEST_URL", format!("s3://{}/from/env", server.bucket()))
        .envs(server.environment());
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(check("from/env/", &read_server(&server)).unwrap().len(), 1);
}
