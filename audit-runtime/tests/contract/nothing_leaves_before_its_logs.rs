//! C6: no mutation commits and no result leaves before its logs are durable. If they cannot be made
//! durable, the function fails and nothing commits.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use audit_core::testing::MemoryFault;
use audit_runtime::{
    AuditSink, Execution, Mutation, MutationError, Outcome, ReleaseError, SinkError, SinkErrorKind,
    body,
};
use futures::FutureExt;
use tokio::time::Instant;

use crate::database::Step::*;
use crate::database::{Commits, DbError};
use crate::host::*;

const PERSIST_TIMEOUT: Duration = Duration::from_secs(3);

fn host() -> Host {
    Host::with(|settings| settings.with_persist_timeout(PERSIST_TIMEOUT))
}

/// Asserts that the error is the one for this fault, and that it came in time.
fn assert_is_of(fault: MemoryFault, error: &SinkError, asked_at: Instant) {
    let (outcome, took) = match fault {
        MemoryFault::None => panic!("no fault"),
        MemoryFault::FailBefore => (Outcome::NotPersisted, Duration::ZERO),
        MemoryFault::FailAfter => (Outcome::Indeterminate, Duration::ZERO),
        MemoryFault::HangBefore | MemoryFault::HangAfter => {
            (Outcome::Indeterminate, PERSIST_TIMEOUT)
        }
    };
    assert_eq!((error.outcome(), error.kind()), (outcome, SinkErrorKind::Unavailable), "{fault:?}");
    assert_eq!(asked_at.elapsed().as_secs(), took.as_secs(), "{fault:?}");
    if took == PERSIST_TIMEOUT {
        assert_eq!(error.to_string(), "the sink did not answer within 3000 ms");
    }
}

#[tokio::test]
async fn records_are_in_the_sink_at_commit() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = host.database.begin();
        for n in 0..3 {
            execution.log().audit(&body!({ "n": n }))?;
        }
        tx.add(1);
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
    };
    host.runtime.run_mutation("f", &alice(), attempt).await.unwrap();
    assert_eq!(host.database.history(), [(Began, 0), (Committed, 3)]);
}

#[tokio::test(start_paused = true)]
async fn mutations_without_durable_logs_roll_back() {
    for fault in FAULTS {
        let host = host();
        host.sink.script([fault]);
        let asked_at = Instant::now();
        let error = host.increment().await.unwrap_err();
        let MutationError::Release(error) = error else { panic!("{error:?}") };
        assert_is_of(fault, &not_durable(error), asked_at);
        assert_eq!(
            (host.database.value(), host.database.steps()),
            (0, vec![Began, RolledBack]),
            "{fault:?}"
        );
        assert_eq!(host.increment().await.unwrap(), 1, "and the next one is not affected");
    }
}

#[tokio::test(start_paused = true)]
async fn no_release_returns_without_durable_logs() {
    for fault in FAULTS {
        let host = host();
        let result = host.view("page");
        host.sink.script([fault; 4]);
        let asked_at = Instant::now();
        assert_is_of(fault, &not_durable(result.release(&alice()).await.unwrap_err()), asked_at);
        let asked_at = Instant::now();
        assert_is_of(
            fault,
            &not_durable(result.release_all(&[alice(), bob()]).await.unwrap_err()),
            asked_at,
        );
        let asked_at = Instant::now();
        assert_is_of(
            fault,
            &not_durable(result.clone().release_into(&alice()).await.unwrap_err()),
            asked_at,
        );
        let asked_at = Instant::now();
        let failed = host.view(Err::<(), _>("an error is a result too"));
        assert_is_of(fault, &not_durable(failed.release(&alice()).await.unwrap_err()), asked_at);
        assert_eq!(
            result.release(&alice()).await.unwrap(),
            &"page",
            "and the next one is not affected"
        );
    }
}

#[tokio::test]
async fn a_closed_sink_releases_nothing() {
    let host = host();
    host.sink.close().await.unwrap();
    let error = not_durable(host.view(()).release(&alice()).await.unwrap_err());
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Closed, Outcome::NotPersisted));
    assert!(matches!(
        host.increment().await,
        Err(MutationError::Release(ReleaseError::NotDurable(_)))
    ));
    assert_eq!(host.database.value(), 0);
}

/// The ways in which a mutation can fail.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Function,
    BeforeItIsSealed,
    Limit,
    Panic,
}

#[tokio::test(start_paused = true)]
async fn failures_roll_back_then_log_then_return() {
    for failure in [Failure::Function, Failure::BeforeItIsSealed, Failure::Limit, Failure::Panic] {
        for fault in [MemoryFault::HangBefore, MemoryFault::HangAfter] {
            let host = host();
            host.sink.script([fault]);
            let attempt = async |execution: Execution<Mutation>| {
                let mut tx = host.database.begin();
                execution.log().audit(&body!({}))?;
                tx.add(1);
                match failure {
                    Failure::Function => {
                        Ok(execution.seal_transaction(tx, Err::<(), _>(DbError::Function)))
                    }
                    Failure::BeforeItIsSealed => Err(DbError::Function),
                    Failure::Limit => {
                        execution
                            .log()
                            .audit(&body!({ "pad": "x".repeat(1_000_000) }))
                            .unwrap_err();
                        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
                    }
                    Failure::Panic => resume_unwind(Box::new("boom")),
                }
            };
            let request = alice();
            let mut run = Box::pin(host.runtime.run_mutation("f", &request, attempt).boxed_local());
            tokio::select! {
                biased;
                _ = &mut run => panic!("{failure:?}: answered without its logs"),
                () = host.sink.hanging(1) => {}
            }
            assert_eq!(host.database.attempts(), 1);
            assert_ne!(
                host.database.steps(),
                [Began],
                "{failure:?}: rolled back while the sink works"
            );
            let answer = AssertUnwindSafe(run).catch_unwind().await;
            match (failure, answer) {
                (Failure::Panic, Err(panic)) => assert_eq!(panic.downcast_ref(), Some(&"boom")),
                (_, Ok(Err(MutationError::Release(error)))) => {
                    assert_eq!(not_durable(error).outcome(), Outcome::Indeterminate);
                }
                (_, answer) => panic!("{failure:?}: {answer:?}"),
            }
            assert_eq!(host.database.value(), 0);
        }
    }
}

#[tokio::test]
async fn reported_failures_have_durable_logs() {
    let host = host();
    host.database.let_commits(Commits::Fail);
    assert!(matches!(host.increment().await, Err(MutationError::Commit(DbError::Disk))));
    let attempt = async |execution: Execution<Mutation>| {
        execution.log().audit(&body!({}))?;
        Ok(execution.seal_transaction(host.database.begin(), Err::<(), _>(DbError::Function)))
    };
    let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    assert!(matches!(error, MutationError::Function(DbError::Function)));
    assert_eq!(host.sink.lines().len(), 2);
}

#[test]
fn debug_shows_no_sealed_value() {
    assert_eq!(format!("{:?}", host().view("page")), "Audited { logs: 1, .. }");
}
