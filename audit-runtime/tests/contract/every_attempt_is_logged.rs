//! C5: a mutation's logs are emitted on success and on failure, and on every attempt that a write
//! conflict makes it retry. C9: a nested mutation that rolls back keeps its logs.

use std::future::ready;
use std::panic::{AssertUnwindSafe, resume_unwind};

use audit_runtime::{
    Attempt, AuditedTransaction, Execution, Mutation, MutationError, RetryPolicy, Var, body,
};
use futures::FutureExt;
use serde_json::json;

use crate::database::Step::*;
use crate::database::{Commits, DbError, Tx};
use crate::host::*;

type Sealed<T> = Result<AuditedTransaction<Tx, T>, DbError>;

/// A host that makes three attempts.
fn host() -> Host {
    let retry_policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
    Host::with(|settings| settings.with_provenance(true).with_retry_policy(retry_policy))
}

/// The attempts whose logs are in the sink.
fn attempts_logged(host: &Host) -> Vec<i64> {
    host.members("$audit").iter().map(|origin| origin["attempt"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_mutation_that_succeeds_is_logged_once() {
    let host = host();
    assert_eq!(host.increment().await.unwrap(), 1);
    assert_eq!((host.database.value(), attempts_logged(&host)), (1, vec![1]));
    assert_eq!(host.members("ip"), ["192.0.2.7"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_logged_with_number_and_time() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = host.database.begin();
        execution.log().audit(&body!({ "now": Var::NOW }))?;
        let value = tx.add(1);
        host.clock.advance(50);
        match host.database.attempts() {
            // First the commit meets a conflict, then the function; the third attempt succeeds.
            1 => host.database.interfere(),
            2 => return Ok(execution.seal_transaction(tx, Err(DbError::Conflict))),
            _ => {}
        }
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(value)))
    };
    assert_eq!(host.runtime.run_mutation("f", &alice(), attempt).await.unwrap(), 1);
    assert_eq!(attempts_logged(&host), [1, 2, 3]);
    let ids: Vec<_> =
        host.members("$audit").iter().map(|origin| origin["execution"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "all are attempts at one call: {ids:?}");
    assert_eq!(host.members("now"), [0, 50, 100].map(|ms| json!(RAN_AT + ms)));
    let history =
        [(Began, 0), (Conflicted, 1), (Began, 1), (RolledBack, 1), (Began, 2), (Committed, 3)];
    assert_eq!(host.database.history(), history);
}

#[tokio::test(start_paused = true)]
async fn the_last_conflict_is_returned_uncommitted() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = host.database.begin();
        execution.log().audit(&body!({}))?;
        tx.add(1);
        host.database.interfere();
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
    };
    let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    assert!(
        matches!(error, MutationError::Conflict { attempts: 3, source: DbError::Conflict }),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "every attempt ran into a write conflict, 3 in all");
    assert_eq!((host.database.value(), attempts_logged(&host)), (0, vec![1, 2, 3]));
}

#[tokio::test]
async fn a_policy_of_zero_attempts_makes_one() {
    let none = RetryPolicy { max_attempts: 0, ..RetryPolicy::default() };
    let host = Host::with(|settings| settings.with_retry_policy(none));
    assert_eq!(host.increment().await.unwrap(), 1);
}

#[tokio::test]
async fn failed_functions_are_logged_and_not_retried() {
    for rollback_fails in [false, true] {
        let host = host();
        host.database.let_rollbacks_fail(rollback_fails);
        let attempt = async |execution: Execution<Mutation>| {
            let mut tx = host.database.begin();
            execution.log().audit(&body!({}))?;
            tx.add(1);
            Ok(execution.seal_transaction(tx, Err::<(), _>(DbError::Function)))
        };
        let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
        assert!(matches!(error, MutationError::Function(DbError::Function)), "{error:?}");
        assert_eq!(
            (host.database.steps(), attempts_logged(&host)),
            (vec![Began, RolledBack], vec![1])
        );
    }
}

#[tokio::test]
async fn commits_are_retried_only_after_conflicts() {
    let host = host();
    host.database.let_commits(Commits::Fail);
    let error = host.increment().await.unwrap_err();
    assert!(matches!(error, MutationError::Commit(DbError::Disk)), "{error:?}");
    assert_eq!(host.database.history(), [(Began, 0), (CommitFailed, 1)]);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_return_unsealed_are_logged() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| -> Sealed<()> {
        let _tx = host.database.begin();
        execution.log().audit(&body!({}))?;
        Err(if host.database.attempts() == 1 { DbError::Conflict } else { DbError::Function })
    };
    let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    assert!(matches!(error, MutationError::Function(DbError::Function)), "{error:?}");
    assert_eq!(attempts_logged(&host), [1, 2]);
    assert_eq!(host.database.history(), [(Began, 0), (Dropped, 0), (Began, 1), (Dropped, 1)]);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_after_sealing_are_logged_once() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| -> Sealed<()> {
        execution.log().audit(&body!({}))?;
        let _sealed = execution.seal_transaction(host.database.begin(), Ok::<_, DbError>(()));
        if host.database.attempts() == 1 {
            return Err(DbError::Conflict);
        }
        resume_unwind(Box::new("boom"))
    };
    let (runtime, request) = (&host.runtime, alice());
    let panic = AssertUnwindSafe(runtime.run_mutation("f", &request, attempt))
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"boom"));
    assert_eq!(attempts_logged(&host), [1, 2]);
    assert_eq!(host.database.steps(), [Began, Dropped, Began, Dropped]);
}

#[tokio::test]
async fn a_transaction_that_cannot_begin_skips_the_sink() {
    let host = host();
    let attempt = async |_: Execution<Mutation>| -> Sealed<()> { Err(DbError::Disk) };
    let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    assert!(matches!(error, MutationError::Function(DbError::Disk)), "{error:?}");
    assert_eq!(host.slow.most_at_once(), 0);
}

#[tokio::test]
async fn panicking_attempts_are_logged_and_still_panic() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| -> Sealed<()> {
        let _tx = host.database.begin();
        execution.log().audit(&body!({}))?;
        resume_unwind(Box::new("boom"))
    };
    let (runtime, request) = (&host.runtime, alice());
    let panic = AssertUnwindSafe(runtime.run_mutation("f", &request, attempt))
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"boom"));
    assert_eq!((host.database.steps(), attempts_logged(&host)), (vec![Began, Dropped], vec![1]));
}

/// An attempt need not be an `async` closure: what the closure does before it returns its future is
/// part of the attempt.
#[tokio::test]
async fn a_panic_before_the_future_is_logged() {
    let host = host();
    let attempt = |execution: Execution<Mutation>| {
        execution.log().audit(&body!({})).unwrap();
        if host.database.attempts() == 0 {
            resume_unwind(Box::new("boom"));
        }
        ready(Ok(execution.seal_transaction(host.database.begin(), Ok::<_, DbError>(()))))
    };
    let (runtime, request) = (&host.runtime, alice());
    let panic = AssertUnwindSafe(runtime.run_mutation("f", &request, attempt))
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"boom"));
    assert_eq!(attempts_logged(&host), [1]);
}

#[tokio::test]
async fn a_nested_mutation_that_is_rolled_back_keeps_its_logs() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| {
        let mut tx = host.database.begin();
        let log = execution.log();
        log.audit(&body!({ "step": 1 }))?;
        tx.add(1);
        // As in a host with savepoints: the nested function's writes are undone, its logs stay.
        let nested = log.nested_mutation("nested");
        nested.audit(&body!({ "step": 2, "id": Var::REQUEST_ID }))?;
        assert_eq!(nested.request(), &alice());
        tx.add(10);
        tx.add(-10);
        log.audit(&body!({ "step": 3 }))?;
        Ok(execution.seal_transaction(tx, Ok::<_, DbError>(())))
    };
    host.runtime.run_mutation("f", &alice(), attempt).await.unwrap();
    assert_eq!(
        (host.database.value(), host.members("step")),
        (1, vec![json!(1), json!(2), json!(3)])
    );
    assert_eq!(host.members("id")[1], "a");
}

#[tokio::test]
async fn a_hosts_own_retry_loop_logs_the_same() {
    let host = host();
    let mut conflicts = 0;
    let call = host.runtime.new_id();
    for number in 1.. {
        let execution = host.runtime.mutation("f", alice()).with_attempt(call, number);
        let mut tx = host.database.begin();
        execution.log().audit(&body!({})).unwrap();
        tx.add(1);
        if number < 3 {
            host.database.interfere();
        }
        match execution.seal_transaction(tx, Ok::<_, DbError>(number)).settle().await.unwrap() {
            Attempt::Committed(value) => {
                assert_eq!((value, conflicts), (3, 2));
                break;
            }
            Attempt::Conflict(error) => {
                assert_eq!(error, DbError::Conflict);
                conflicts += 1;
            }
        }
    }
    assert_eq!((host.database.value(), attempts_logged(&host)), (1, vec![1, 2, 3]));
    assert!(host.members("$audit").iter().all(|origin| origin["execution"] == call.to_string()));
}
