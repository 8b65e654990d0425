//! C5, C6: whatever the host does with the execution of an attempt, its logs are durable before the
//! response, and nothing sealed by another execution commits.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, resume_unwind};

use audit_runtime::{
    AuditError, AuditedTransaction, Execution, Mutation, MutationError, RetryPolicy, body,
};
use futures::FutureExt;
use futures::future::join;
use serde_json::{Value, json};
use tokio::task::yield_now;

use crate::database::Step::*;
use crate::database::{DbError, Tx};
use crate::host::*;

type Sealed = Result<AuditedTransaction<Tx, ()>, DbError>;

fn host() -> Host {
    Host::with(|settings| {
        settings.with_retry_policy(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() })
    })
}

fn log(execution: &Execution<Mutation>, n: i32) {
    execution.log().audit(&body!({ "n": n })).unwrap();
}

fn logged(host: &Host) -> Vec<Value> {
    let mut logged = host.members("n");
    logged.sort_by_key(Value::as_i64);
    logged
}

fn assert_foreign<T: std::fmt::Debug>(answer: Result<T, MutationError<DbError>>) {
    assert!(matches!(answer, Err(MutationError::ForeignExecution)), "{answer:?}");
}

/// What a host may do with the given execution before it seals one of its own.
const FATES: [fn(Execution<Mutation>, &Kept); 6] = [
    |execution, _| drop(execution),
    |execution, _| drop(execution.seal("value")),
    |execution, kept| drop(execution.seal_transaction(kept.begin(), Ok::<_, DbError>(()))),
    |execution, kept| kept.executions.borrow_mut().push(execution),
    |execution, _| std::mem::forget(execution),
    |execution, _| {
        Box::leak(Box::new(execution));
    },
];

struct Kept<'h> {
    host: &'h Host,
    executions: RefCell<Vec<Execution<Mutation>>>,
}

impl Kept<'_> {
    fn begin(&self) -> Tx {
        self.host.database.begin()
    }
}

#[tokio::test]
async fn a_seal_by_another_execution_is_rolled_back() {
    for fate in FATES {
        for logs_to_the_other in [false, true] {
            let host = host();
            let kept = Kept { host: &host, executions: RefCell::default() };
            let attempt = async |execution: Execution<Mutation>| -> Sealed {
                log(&execution, 1);
                fate(execution, &kept);
                let mut tx = host.database.begin();
                tx.add(1);
                let other = host.runtime.mutation("f", bob());
                if logs_to_the_other {
                    log(&other, 2);
                }
                Ok(other.seal_transaction(tx, Ok::<_, DbError>(())))
            };
            assert_foreign(host.runtime.run_mutation("f", &alice(), attempt).await);
            let expected =
                if logs_to_the_other { vec![json!(1), json!(2)] } else { vec![json!(1)] };
            assert_eq!((logged(&host), host.database.value()), (expected, 0));
            assert!(!host.database.steps().contains(&Committed));
            assert_eq!(host.database.steps().last(), Some(&RolledBack));
        }
    }
}

#[tokio::test]
async fn an_unsealed_execution_is_logged() {
    for fate in FATES {
        for panics in [false, true] {
            let host = host();
            let kept = Kept { host: &host, executions: RefCell::default() };
            let attempt = async |execution: Execution<Mutation>| -> Sealed {
                log(&execution, 1);
                fate(execution, &kept);
                if panics {
                    resume_unwind(Box::new("boom"));
                }
                Err(DbError::Function)
            };
            let request = alice();
            let run = host.runtime.run_mutation("f", &request, attempt);
            match AssertUnwindSafe(run).catch_unwind().await {
                Ok(answer) => assert!(matches!(answer, Err(MutationError::Function(_)))),
                Err(_) => assert!(panics),
            }
            assert_eq!(logged(&host), [1]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ended_execution_accepts_no_logs_or_seals() {
    for caught in [false, true] {
        let host = host();
        let first: RefCell<Option<Execution<Mutation>>> = RefCell::default();
        let attempt = async |execution: Execution<Mutation>| -> Sealed {
            log(&execution, 1);
            let Some(earlier) = first.take() else {
                first.replace(Some(execution));
                return Err(DbError::Conflict);
            };
            if caught {
                let refused = earlier.log().audit(&body!({ "n": 2 }));
                assert!(matches!(refused, Err(AuditError::Body(_))), "{refused:?}");
            }
            Ok(earlier.seal_transaction(host.database.begin(), Ok::<_, DbError>(())))
        };
        assert_foreign(host.runtime.run_mutation("f", &alice(), attempt).await);
        assert_eq!(logged(&host), [1, 1]);
        assert_eq!(host.database.steps(), [Began, RolledBack]);
    }
}

/// An attempt ends once, whatever the host does with its execution later.
#[tokio::test]
async fn an_execution_after_its_attempt_commits_nothing() {
    let host = host();
    let kept: RefCell<Vec<Execution<Mutation>>> = RefCell::default();
    for _ in 0..2 {
        let attempt = async |execution: Execution<Mutation>| -> Sealed {
            log(&execution, 1);
            kept.borrow_mut().push(execution);
            Err(DbError::Function)
        };
        host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    }
    let [a, b] = kept.take().try_into().unwrap();
    assert_foreign(a.seal_transaction(host.database.begin(), Ok::<_, DbError>(())).settle().await);
    b.log().audit(&body!({ "n": 2 })).unwrap_err();
    let settled = b.seal_transaction(host.database.begin(), Ok::<_, DbError>(())).settle().await;
    assert!(matches!(settled, Err(MutationError::Release(_))), "{settled:?}");
    assert_eq!(host.database.steps(), [Began, RolledBack, Began, RolledBack]);
}

#[tokio::test]
async fn calls_that_swap_executions_commit_nothing() {
    let host = host();
    let place: [Cell<Option<Execution<Mutation>>>; 2] = Default::default();
    let call = |own: usize| {
        let (host, place) = (&host, &place);
        async move {
            let attempt = async |execution: Execution<Mutation>| -> Sealed {
                log(&execution, own as i32);
                place[own].set(Some(execution));
                loop {
                    if let Some(other) = place[1 - own].take() {
                        return Ok(
                            other.seal_transaction(host.database.begin(), Ok::<_, DbError>(()))
                        );
                    }
                    yield_now().await;
                }
            };
            host.runtime.run_mutation("f", &alice(), attempt).await
        }
    };
    let (a, b) = join(call(0), call(1)).await;
    assert_foreign(a);
    assert_foreign(b);
    assert_eq!(logged(&host), [0, 1]);
    assert_eq!(host.database.value(), 0);
    assert!(!host.database.steps().contains(&Committed));
}

#[tokio::test]
async fn logs_that_an_attempt_made_durable_are_not_repeated() {
    let host = host();
    let attempt = async |execution: Execution<Mutation>| -> Sealed {
        log(&execution, 1);
        execution.seal(()).release(&alice()).await.unwrap();
        Err(DbError::Function)
    };
    host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    let attempt = async |execution: Execution<Mutation>| -> Sealed {
        log(&execution, 2);
        execution
            .seal_transaction(host.database.begin(), Ok::<_, DbError>(()))
            .settle()
            .await
            .unwrap();
        Err(DbError::Function)
    };
    host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
    assert_eq!(logged(&host), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_execution_is_reported_after_durable_logs() {
    for fault in FAULTS {
        for faults_before in [0, 1] {
            let host = host();
            let none = audit_core::testing::MemoryFault::None;
            host.sink.script(std::iter::repeat_n(none, faults_before).chain([fault]));
            let attempt = async |execution: Execution<Mutation>| -> Sealed {
                log(&execution, 1);
                let other = host.runtime.mutation("f", bob());
                log(&other, 2);
                Ok(other.seal_transaction(host.database.begin(), Ok::<_, DbError>(())))
            };
            let error = host.runtime.run_mutation("f", &alice(), attempt).await.unwrap_err();
            let MutationError::Release(error) = error else { panic!("{error:?}") };
            not_durable(error);
            assert_eq!(host.database.steps(), [Began, RolledBack]);
        }
    }
}
