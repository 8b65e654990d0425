//! C7: queries and mutations called by an action are each audited on their own; an action has no
//! audit log. C10: mutations and actions can read their request and pass it on.
//!
//! The `compile_fail` examples of the crate prove that an action cannot log and a query cannot read
//! its request.

use audit_core::testing::MemoryFault;
use audit_runtime::{AuditError, Execution, Mutation, ReleaseError, body};

use crate::database::DbError;
use crate::host::*;

#[test]
fn the_error_of_audit_in_actions_is_the_contracts() {
    assert_eq!(AuditError::InAction.to_string(), "audit logging is not supported in actions");
}

#[tokio::test]
async fn each_call_of_an_action_has_its_own_limits() {
    let host = Host::new();
    let action = host.runtime.action(alice());
    let query = |logs: usize| {
        let query = host.runtime.query("q");
        for n in 0..logs {
            let _ = query.log().audit(&body!({ "n": n }));
        }
        query.seal(logs)
    };
    // More than 500 logs in all, but each call is within its limits.
    assert_eq!(query(500).release(action.request()).await.unwrap(), &500);
    assert_eq!(host.increment().await.unwrap(), 1);
    assert!(matches!(query(501).release(action.request()).await, Err(ReleaseError::Limit(_))));
    host.sink.script([MemoryFault::FailBefore]);
    not_durable(query(1).release(action.request()).await.unwrap_err());
    // A failure affects no other call and undoes nothing.
    assert_eq!(host.increment().await.unwrap(), 2);
    assert_eq!(host.sink.lines().len(), 500 + 1 + 500 + 1);
}

#[tokio::test]
async fn mutations_and_actions_read_their_request_and_pass_it_on() {
    let host = Host::new();
    let action = host.runtime.action(bob());
    assert_eq!(action.request(), &bob());
    let seen_by_action = action.request().ip().map(|ip| ip.to_string());
    let attempt = async |execution: Execution<Mutation>| {
        let request = execution.request();
        assert_eq!(execution.log().request(), request);
        execution.log().audit(&body!({
            "ip": request.ip(),
            "userAgent": request.user_agent().map(|user_agent| user_agent.as_str()),
            "requestId": request.request_id().as_str(),
            "argument": seen_by_action,
        }))?;
        Ok::<_, DbError>(execution.seal_transaction(host.database.begin(), Ok(())))
    };
    host.runtime.run_mutation("m", action.request(), attempt).await.unwrap();
    let expected =
        r#"{"ip":"2001:db8::b","userAgent":"Bob \"2\"","requestId":"b","argument":"2001:db8::b"}"#;
    assert_eq!(host.sink.lines(), [expected]);
}
