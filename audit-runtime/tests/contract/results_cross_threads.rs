//! Results and their futures cross threads, and concurrent releases are allowed.

use std::collections::BTreeSet;
use std::sync::Arc;

use audit_runtime::{
    AuditError, AuditLog, AuditRuntime, Audited, AuditedTransaction, Execution, Mutation,
    MutationError, Query, ReleaseError, RequestContext,
};
use serde_json::Value;

use crate::database::{DbError, Tx};
use crate::host::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_many_releases_is_not_a_replay() {
    let host = Host::with(|settings| settings.with_provenance(true));
    for round in 0..50 {
        let result = host.view(round);
        host.clock.advance(1);
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let result = result.clone();
                tokio::spawn(async move {
                    let request = request(&n.to_string());
                    match n % 3 {
                        0 => *result.release(&request).await.unwrap(),
                        1 => *result.release_all(&[request]).await.unwrap().unwrap(),
                        _ => result.release_into(&request).await.unwrap(),
                    }
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), round);
        }
    }
    let logs = host.logs();
    for (round, logs) in logs.chunks(16).enumerate() {
        let subscribers: BTreeSet<_> =
            logs.iter().map(|log| log["requestId"].to_string()).collect();
        assert_eq!(subscribers.len(), 16, "one set for each");
        let first: Vec<&Value> =
            logs.iter().filter(|log| log["$audit"]["replay"] == false).collect();
        assert_eq!(first.len(), 1);
        assert_eq!(
            first[0]["now"],
            RAN_AT + round as i64,
            "the first, and only it, has the time of the execution"
        );
        let replayed_at = RAN_AT + round as i64 + 1;
        assert_eq!(logs.iter().filter(|log| log["now"] == replayed_at).count(), 15);
    }
}

/// Concurrent optimistic transactions: each commits once, and each attempt is logged once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_mutations_commit_once_each() {
    let retry_policy = audit_runtime::RetryPolicy { max_attempts: 1_000, ..Default::default() };
    let host = Arc::new(Host::with(|settings| settings.with_retry_policy(retry_policy)));
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let host = Arc::clone(&host);
            tokio::spawn(async move { host.increment().await.unwrap() })
        })
        .collect();
    let mut values = BTreeSet::new();
    for task in tasks {
        values.insert(task.await.unwrap());
    }
    assert!(values.into_iter().eq(1..=16));
    assert_eq!(host.sink.lines().len(), host.database.attempts());
}

#[test]
fn public_types_are_send_and_sync() {
    fn crosses<T: Send + Sync>() {}
    crosses::<AuditRuntime>();
    crosses::<RequestContext>();
    crosses::<Audited<String>>();
    crosses::<Audited<Result<(), DbError>>>();
    crosses::<AuditedTransaction<Tx, ()>>();
    crosses::<Execution<Query>>();
    crosses::<Execution<Mutation>>();
    crosses::<AuditLog<'static, Query>>();
    crosses::<AuditLog<'static, Mutation>>();
    crosses::<AuditError>();
    crosses::<MutationError<DbError>>();
}

/// Errors returned by value stay small, and so does the overhead of a cached result.
#[test]
fn sizes_are_small() {
    assert!(size_of::<AuditError>() <= 24);
    assert!(size_of::<ReleaseError>() <= 24);
    assert!(size_of::<MutationError<Box<DbError>>>() <= 24);
    assert!(size_of::<Audited<Arc<()>>>() <= 40);
}

/// A sealed stream, for example, is sent to another thread but never shared.
#[test]
fn release_into_does_not_require_sync() {
    fn sends<T: Send>(value: T) -> T {
        value
    }
    let host = Host::new();
    let request = alice();
    let sealed = host.view(std::cell::Cell::new(7));
    drop(sends(sealed.release_into(&request)));
    let execution = host.runtime.mutation("f", alice());
    let value = Ok::<_, DbError>(std::cell::Cell::new(7));
    drop(sends(execution.seal_transaction(host.database.begin(), value).settle()));
}
