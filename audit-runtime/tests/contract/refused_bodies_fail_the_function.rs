//! C15: an invalid body fails the function, whether it awaits, catches or ignores the error. Its
//! earlier logs are durable.

use std::panic::{AssertUnwindSafe, catch_unwind};

use audit_runtime::{
    AuditError, AuditLog, AuditedTransaction, Audits, Execution, Mutation, MutationError,
    ReleaseError, body,
};
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::database::Step::*;
use crate::database::{DbError, Tx};
use crate::host::*;

/// A value with a bug in its Serialize implementation.
struct Panics;

impl Serialize for Panics {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("no such document")
    }
}

/// The ways in which a body is invalid, with their errors.
const WAYS: [(Way, &str); 7] = [
    (Way::ReservedKey, "audit log body keys must not start with \"$\": \"$a\" at /$a"),
    (Way::NotAnObject, "an audit log body must be a JSON object"),
    (Way::UnknownVariable, "unknown audit variable \"a\" at /a"),
    (Way::TooDeep, "objects and arrays nest deeper than limit of 64 levels at"),
    (Way::NotJson, "invalid JSON"),
    (Way::ByTheHost, "a BigInt is not JSON at /a"),
    (Way::Panic, "the Serialize implementation of an audit log body panicked"),
];

#[derive(Debug, Clone, Copy)]
enum Way {
    ReservedKey,
    NotAnObject,
    UnknownVariable,
    TooDeep,
    NotJson,
    ByTheHost,
    Panic,
}

impl Way {
    /// Logs an invalid body and ignores the error.
    fn fail<K: Audits>(self, log: &AuditLog<'_, K>) {
        let result = match self {
            Way::ReservedKey => log.audit(&json!({ "$a": 1 })),
            Way::NotAnObject => log.audit(&[1]),
            Way::UnknownVariable => log.audit_json(r#"{"a":{"$var":"a"}}"#),
            Way::TooDeep => log.audit_json(&"[".repeat(100)),
            Way::NotJson => log.audit_json("{"),
            Way::ByTheHost => Err(log.refuse("a BigInt is not JSON at /a")),
            Way::Panic => {
                catch_unwind(AssertUnwindSafe(|| log.audit(&body!({ "a": Panics })))).unwrap_err();
                return;
            }
        };
        assert!(matches!(result, Err(AuditError::Body(_))), "{result:?}");
    }
}

fn assert_is(error: ReleaseError, message: &str) {
    assert!(matches!(&error, ReleaseError::Body(_)), "{error:?}");
    assert!(error.to_string().starts_with(message), "{error}");
}

#[tokio::test]
async fn queries_that_ignore_the_error_fail_but_keep_logs() {
    for (way, message) in WAYS {
        for nested in [false, true] {
            let host = Host::new();
            let query = host.runtime.query("q");
            query.log().audit(&body!({ "n": 1 })).unwrap();
            if nested {
                way.fail(&query.log().nested_query("n"));
            } else {
                way.fail(&query.log());
            }
            // Even a valid body fails with the first error afterwards.
            let after = query.log().audit(&body!({ "n": 2 })).unwrap_err();
            assert!(after.to_string().starts_with(message), "{after}");
            let result = query.seal("secret");
            for releases in 1..3 {
                assert_is(result.release(&alice()).await.unwrap_err(), message);
                assert_eq!(host.members("n"), vec![json!(1); releases]);
            }
            assert_is(result.release_all(&[alice(), bob()]).await.unwrap_err(), message);
            assert_is(result.release_into(&alice()).await.unwrap_err(), message);
        }
    }
}

type End = fn(Execution<Mutation>, Tx) -> Result<AuditedTransaction<Tx, ()>, DbError>;

#[tokio::test(start_paused = true)]
async fn mutations_that_ignore_the_error_roll_back() {
    let ends: [(End, _); 3] = [
        (|execution, tx| Ok(execution.seal_transaction(tx, Ok::<_, DbError>(()))), RolledBack),
        (|execution, tx| Ok(execution.seal_transaction(tx, Err(DbError::Conflict))), RolledBack),
        (|_execution, _tx| Err(DbError::Conflict), Dropped),
    ];
    for (way, message) in WAYS {
        for (end, undone) in ends {
            let host = Host::new();
            let attempt = async |execution: Execution<Mutation>| {
                let mut tx = host.database.begin();
                tx.add(1);
                execution.log().audit(&body!({ "n": 1 }))?;
                way.fail(&execution.log().nested_mutation("n"));
                end(execution, tx)
            };
            let error = host.runtime.run_mutation("m", &alice(), attempt).await.unwrap_err();
            let MutationError::Release(error) = error else { panic!("{error:?}") };
            assert_is(error, message);
            assert_eq!(host.members("n"), [1]);
            assert_eq!(host.database.history(), [(Began, 0), (undone, 0)]);
        }
    }
}

#[tokio::test]
async fn the_first_refusal_is_the_error() {
    let host = Host::new();
    let large = json!({ "large": "x".repeat(1_000_001) });
    let query = host.runtime.query("q");
    query.log().audit(&large).unwrap_err();
    assert!(matches!(query.log().audit_json("{"), Err(AuditError::Limit(_))));
    assert!(matches!(query.log().refuse("for its body"), AuditError::Limit(_)));
    assert!(matches!(query.seal(()).release(&alice()).await, Err(ReleaseError::Limit(_))));
    let query = host.runtime.query("q");
    Way::NotJson.fail(&query.log());
    assert!(matches!(query.log().audit(&large), Err(AuditError::Body(_))));
    assert!(matches!(query.seal(()).release(&alice()).await, Err(ReleaseError::Body(_))));
}
