//! Every fault at every step: no acknowledged record is missing, and none is stored twice.
//!
//! The server speaks real HTTP. A checker that shares no code with the sink reads its objects
//! directly from memory.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Ledger, batch, bucket_on, read_server};
use audit_core::testing::SeededRandom;
use audit_core::{AuditSink, HealthState, Outcome, Random};
use audit_sink_s3::{OpenErrorKind, S3Sink, Settings};
use futures::future::join_all;
use futures::{StreamExt, stream};
use http::Method;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

fn faults() -> Vec<Fault> {
    let answers = [
        ErrorAnswer::SLOW_DOWN,
        ErrorAnswer::SERVICE_UNAVAILABLE,
        ErrorAnswer::INTERNAL_ERROR,
        ErrorAnswer::TOO_MANY_REQUESTS,
        ErrorAnswer::REQUEST_TIMEOUT,
        ErrorAnswer::ACCESS_DENIED,
        ErrorAnswer::REQUEST_TIME_TOO_SKEWED,
        ErrorAnswer::EXPIRED_TOKEN,
        ErrorAnswer::EXPIRED_TOKEN_403,
        ErrorAnswer::NO_SUCH_BUCKET,
        ErrorAnswer::CONDITIONAL_REQUEST_CONFLICT,
        ErrorAnswer::PRECONDITION_FAILED,
        ErrorAnswer::new(418, "NobodyKnows"),
        ErrorAnswer::new(501, "NotImplemented"),
    ];
    let mut faults = vec![
        Fault::CutInBody,
        Fault::StoredThenCut,
        Fault::CutInResponse { after_bytes: 0 },
        Fault::CutInResponse { after_bytes: 20 },
        Fault::CutInResponse { after_bytes: 1 << 20 },
        Fault::Hung,
        Fault::StoredThenHung,
        Fault::Slow { delay: Duration::from_millis(5) },
        Fault::Slow { delay: Duration::from_secs(3600) },
        Fault::Early412,
    ];
    faults.extend(answers.map(Fault::Refused));
    faults.extend(answers.map(Fault::StoredThenError));
    faults
}

/// Responses with the status of a success, an `ETag` and a body, which no store gives to a PUT. In
/// response to a HEAD they would say that another object has the key, as a store may.
fn pretended() -> Vec<Fault> {
    let answers = [ErrorAnswer::new(200, "InternalError"), ErrorAnswer::new(202, "Accepted")];
    answers.map(Fault::Refused).into_iter().chain(answers.map(Fault::StoredThenError)).collect()
}

/// Whether the fault is a response that needs an operator, with which a sink does not open.
fn blocks(fault: Fault) -> bool {
    let (Fault::Refused(answer) | Fault::StoredThenError(answer)) = fault else { return false };
    matches!(answer.status(), 403 | 404 | 418 | 501) || answer.code() == "ExpiredToken"
}

/// Retries until success. Timeouts are short only for faults that hang: on a busy machine responses
/// may be slow.
fn settings(fault: Fault) -> Settings {
    let hangs = matches!(fault, Fault::Hung | Fault::StoredThenHung)
        || matches!(fault, Fault::Slow { delay } if delay > Duration::from_secs(1));
    Settings {
        linger_ms: 0,
        put_timeout_ms: if hangs { 100 } else { 30_000 },
        persist_timeout_ms: 60_000,
        retry_base_ms: 1,
        retry_cap_ms: 4,
        blocked_retry_cap_ms: 4,
        ..Settings::default()
    }
}

/// A sink that has probed the server. A probe has five seconds, and on a busy machine that may be
/// too short.
async fn open(server: &S3TestServer, fault: Fault) -> Arc<S3Sink> {
    for _ in 0..20 {
        let builder = S3Sink::builder(bucket_on(server, "logs")).with_settings(settings(fault));
        let sink = builder.with_random(Arc::new(SeededRandom::new(1))).open().await.unwrap();
        if sink.health().create_only.is_some() {
            return Arc::new(sink);
        }
    }
    panic!("no probe of the server ends in time");
}

/// Persists `count` batches, one object each if nothing else is in flight, and checks that each is
/// stored once.
async fn persist_and_check(server: &S3TestServer, sink: &Arc<S3Sink>, count: u32, what: &str) {
    let batches: Vec<_> = (0..count).map(|n| batch(&format!("batch-{n}"), 1 + n)).collect();
    let receipts = join_all(batches.iter().map(|batch| sink.persist(batch.clone()))).await;
    let mut ledger = Ledger::default();
    for (batch, receipt) in batches.iter().zip(receipts) {
        ledger.acknowledged(batch, &receipt.unwrap_or_else(|error| panic!("{what}: {error}")));
    }
    // Acknowledged records are stored before anything else happens.
    ledger.check("logs/", &read_server(server)).unwrap_or_else(|error| panic!("{what}: {error}"));
    server.faults().none();
    sink.flush().await.unwrap();
    sink.close().await.unwrap();
    ledger
        .check("logs/", &read_server(server))
        .unwrap_or_else(|error| panic!("{what}, at the end: {error}"));
    let health = sink.health();
    assert_eq!(
        (health.state, health.conflicts, health.pending_batches),
        (HealthState::Ok, 0, 0),
        "{what}"
    );
}

/// Runs one step for each fault on servers of S3 and of GCS, several at a time, each on a server of
/// its own.
async fn for_each_fault<F: Future<Output = ()>>(step: impl Fn(S3TestServer, Fault) -> F) {
    for_each_fault_of(12, step).await;
}

async fn for_each_fault_of<F: Future<Output = ()>>(
    at_once: usize,
    step: impl Fn(S3TestServer, Fault) -> F,
) {
    let faults = || faults().into_iter().chain(pretended());
    let all = faults().map(|fault| (true, fault)).chain(faults().map(|fault| (false, fault)));
    let run = async |(is_s3, fault): (bool, Fault)| {
        let server =
            if is_s3 { S3TestServer::start().await } else { S3TestServer::start_gcs().await };
        step(server, fault).await;
    };
    stream::iter(all).map(run).buffer_unordered(at_once).collect::<()>().await;
}

#[tokio::test]
async fn faults_at_the_first_put() {
    for_each_fault(|server, fault| async move {
        let sink = open(&server, fault).await;
        server.faults().next_puts([fault]);
        persist_and_check(&server, &sink, 1, &format!("{fault:?}")).await;
        assert_eq!(server.faults().fired(), [fault]);
    })
    .await;
}

#[tokio::test]
async fn faults_at_the_retry_of_an_unstored_put() {
    for_each_fault(|server, fault| async move {
        let sink = open(&server, fault).await;
        let first = Fault::Refused(ErrorAnswer::SLOW_DOWN);
        server.faults().next_puts([first, fault]);
        persist_and_check(&server, &sink, 1, &format!("{fault:?}")).await;
        assert_eq!(server.faults().fired(), [first, fault]);
    })
    .await;
}

#[tokio::test]
async fn faults_at_the_retry_of_a_stored_put() {
    for_each_fault(|server, fault| async move {
        let sink = open(&server, fault).await;
        server.faults().next_puts([Fault::StoredThenCut, fault]);
        persist_and_check(&server, &sink, 1, &format!("{fault:?}")).await;
        assert_eq!(server.faults().fired(), [Fault::StoredThenCut, fault]);
    })
    .await;
}

#[tokio::test]
async fn faults_at_the_head_that_compares_objects() {
    for_each_fault(|server, fault| async move {
        if pretended().contains(&fault) {
            return;
        }
        let sink = open(&server, fault).await;
        let mut heads = 0;
        server.faults().plan(move |request| {
            heads += u32::from(request.method == Method::HEAD);
            if request.method == Method::HEAD && heads == 1 { fault } else { Fault::None }
        });
        server.faults().next_puts([Fault::StoredThenCut]);
        persist_and_check(&server, &sink, 1, &format!("{fault:?}")).await;
        assert_eq!(server.faults().fired(), [Fault::StoredThenCut, fault]);
    })
    .await;
}

#[tokio::test]
async fn faults_with_several_objects_in_flight() {
    for_each_fault(|server, fault| async move {
        // Each batch is too large to share an object.
        let small = Settings { max_object_bytes: 1, ..settings(fault) };
        let sink =
            S3Sink::builder(bucket_on(&server, "logs")).with_settings(small).open().await.unwrap();
        // Every other PUT.
        server.faults().next_puts([fault, Fault::None].repeat(4));
        persist_and_check(&server, &Arc::new(sink), 8, &format!("{fault:?}")).await;
        assert_eq!(server.faults().fired(), [fault; 4]);
    })
    .await;
}

/// Few at once: a probe has five seconds, however busy the machine is.
async fn at_the_probe(server: S3TestServer, before: &[Fault], fault: Fault) {
    server.faults().next_puts(before.iter().copied().chain([fault]));
    let what = format!("{before:?} {fault:?}");
    let opened =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(settings(fault)).open().await;
    let sink = match opened {
        Ok(sink) if !blocks(fault) => sink,
        Ok(_) => panic!("{what}: opened in spite of it"),
        Err(error) => {
            assert!(blocks(fault), "{what}: {error}");
            assert_eq!(error.kind(), OpenErrorKind::Blocked, "{what}");
            S3Sink::builder(bucket_on(&server, "logs"))
                .with_settings(settings(fault))
                .open()
                .await
                .unwrap()
        }
    };
    assert_eq!(server.faults().fired().len(), 1, "{what}");
    assert_eq!(sink.health().create_only, Some(true), "{what}");
    persist_and_check(&server, &Arc::new(sink), 1, &what).await;
}

#[tokio::test]
async fn faults_at_the_first_put_of_the_probe() {
    for_each_fault_of(3, |server, fault| at_the_probe(server, &[], fault)).await;
}

#[tokio::test]
async fn faults_at_the_second_put_of_the_probe() {
    for_each_fault_of(3, |server, fault| at_the_probe(server, &[Fault::None], fault)).await;
}

#[tokio::test]
async fn faults_on_a_store_that_overwrites() {
    for_each_fault(|server, fault| async move {
        server.ignore_if_none_match(true);
        let sink = open(&server, fault).await;
        assert_eq!(sink.health().create_only, Some(false));
        server.faults().next_puts([fault, Fault::StoredThenCut]);
        persist_and_check(&server, &sink, 3, &format!("{fault:?}")).await;
    })
    .await;
}

/// Two of three requests fail with a fault drawn from the seed, callers give up early, and several
/// write concurrently.
async fn storm(seed: u64) {
    let is_s3 = seed.is_multiple_of(2);
    let server = if is_s3 { S3TestServer::start().await } else { S3TestServer::start_gcs().await };
    server.ignore_if_none_match(seed % 8 >= 6);
    let impatient = Settings {
        put_timeout_ms: 40,
        persist_timeout_ms: 300,
        max_object_bytes: 200,
        ..settings(Fault::Hung)
    };
    let sink =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(impatient).open().await.unwrap();
    let (sink, random) = (Arc::new(sink), SeededRandom::new(seed));
    let all = faults();
    server.faults().plan(move |_| {
        let bits = random.next_u64();
        if bits % 3 == 0 {
            Fault::None
        } else {
            all[usize::try_from(bits >> 32).unwrap() % all.len()]
        }
    });
    let mut ledger = Ledger::default();
    for round in 0..4 {
        let batches: Vec<_> = (0..6).map(|n| batch(&format!("{round}-{n}"), 1 + n)).collect();
        let outcomes = join_all(batches.iter().map(|batch| sink.persist(batch.clone()))).await;
        for (batch, outcome) in batches.into_iter().zip(outcomes) {
            match outcome.map_err(|error| error.outcome()) {
                Ok(receipt) => ledger.acknowledged(&batch, &receipt),
                Err(Outcome::Indeterminate) => ledger.perhaps(batch),
                Err(Outcome::NotPersisted) => {}
            }
        }
        ledger
            .check("logs/", &read_server(&server))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    server.faults().none();
    sink.close().await.unwrap();
    ledger
        .check("logs/", &read_server(&server))
        .unwrap_or_else(|error| panic!("seed {seed}, at the end: {error}"));
    assert_eq!(sink.health().conflicts, 0, "seed {seed}");
}

#[tokio::test]
async fn storms_of_faults_lose_nothing() {
    stream::iter(0..24).map(storm).buffer_unordered(8).collect::<()>().await;
}
