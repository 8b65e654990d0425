//! C14: nothing is added to a body unless provenance is on. It is then the last member, with a key
//! that no body can have.

use audit_runtime::{AuditError, BodyProblem, body};
use serde_json::{Value, json};

use crate::host::*;

fn host() -> Host {
    Host::with(|settings| settings.with_provenance(true))
}

#[tokio::test]
async fn provenance_is_off_by_default() {
    let host = Host::new();
    host.view(()).release(&alice()).await.unwrap();
    assert!(host.members("$audit")[0].is_null());
}

#[tokio::test]
async fn provenance_follows_the_unchanged_body() {
    let host = host();
    for body in [r#"{}"#, r#"{"b":{"z":[1.0]},"a":"}"}"#] {
        let query = host.runtime.query("documents:view");
        query.log().audit_json(body).unwrap();
        query.seal(()).release(&alice()).await.unwrap();
        let line = host.sink.lines().pop().unwrap();
        let log: Value = serde_json::from_str(&line).unwrap();
        let id = log["$audit"]["execution"].as_str().unwrap();
        assert_eq!(id.len(), 26);
        let comma = if body == "{}" { "" } else { "," };
        let rest = body.strip_suffix('}').unwrap();
        assert_eq!(
            line,
            format!(
                r#"{rest}{comma}"$audit":{{"execution":"{id}","attempt":1,"function":"documents:view","kind":"query","replay":false}}}}"#
            )
        );
    }
}

#[tokio::test]
async fn all_releases_share_one_execution_id() {
    let host = host();
    let result = host.view(());
    result.release_all(&[alice(), bob()]).await.unwrap();
    result.release(&alice()).await.unwrap();
    host.view(()).release(&alice()).await.unwrap();
    let origins = host.members("$audit");
    let replays: Vec<&Value> = origins.iter().map(|origin| &origin["replay"]).collect();
    assert_eq!(replays, [false, true, true, false]);
    let ids: Vec<&Value> = origins.iter().map(|origin| &origin["execution"]).collect();
    assert!(ids[0] == ids[1] && ids[0] == ids[2] && ids[0] != ids[3], "{ids:?}");
}

#[tokio::test]
async fn each_log_names_the_function_that_emitted_it() {
    let host = host();
    let mutation = host.runtime.mutation("outer", alice()).with_attempt(host.runtime.new_id(), 7);
    let log = mutation.log();
    log.audit(&body!({})).unwrap();
    log.nested_query("inner").audit(&body!({})).unwrap();
    log.nested_mutation(String::from("inner")).audit(&body!({})).unwrap();
    log.nested_mutation("inner").nested_query("innermost").audit(&body!({})).unwrap();
    log.nested_query("inner").audit(&body!({})).unwrap();
    log.audit(&body!({})).unwrap();
    mutation.seal(()).release(&alice()).await.unwrap();
    let functions: Vec<Value> = host
        .members("$audit")
        .iter()
        .map(|origin| json!([origin["function"], origin["kind"]]))
        .collect();
    let expected = [
        json!(["outer", "mutation"]),
        json!(["inner", "query"]),
        json!(["inner", "mutation"]),
        json!(["innermost", "query"]),
        json!(["inner", "query"]),
        json!(["outer", "mutation"]),
    ];
    assert_eq!(functions, expected);
    assert!(host.members("$audit").iter().all(|origin| origin["attempt"] == 7));
}

#[tokio::test]
async fn bodies_with_this_member_are_refused() {
    let host = host();
    let query = || host.runtime.query("q");
    let forged = json!({ "execution": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "replay": false });
    let path_refused = |result: Result<(), AuditError>| {
        let Err(AuditError::Body(error)) = result else { panic!("{result:?}") };
        assert!(matches!(error.problem(), BodyProblem::ReservedKey { .. }));
        error.path()
    };
    assert_eq!(path_refused(query().log().audit(&json!({ "$audit": forged }))), "/$audit");
    assert_eq!(
        path_refused(query().log().audit(&body!({ "a": [{ "$audit": forged }] }))),
        "/a/0/$audit"
    );
    assert_eq!(path_refused(query().log().audit_json(r#"{"\u0024audit":{}}"#)), r"/\u0024audit");
}
