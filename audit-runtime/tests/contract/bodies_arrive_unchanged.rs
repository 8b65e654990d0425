//! C1: the sink gets the body as JSON with variables replaced and nothing else changed. C2: the
//! values of variables. C3: data never becomes a variable. C10: without a client, its address and
//! User-Agent are null.

use std::panic::AssertUnwindSafe;

use audit_runtime::{AuditError, HostValue, Var, Vars, body};
use futures::FutureExt;
use serde::Serialize;
use serde_json::json;

use crate::host::*;

#[derive(Serialize)]
struct Viewed<'a> {
    document: &'a str,
    #[serde(rename = "sharedWith")]
    shared_with: Vec<Option<f64>>,
    by: (Var, Var),
    request: Var,
    at: [Var; 2],
}

#[tokio::test]
async fn a_body_of_any_shape_arrives_as_serde_writes_it() {
    let host = Host::new();
    let query = host.runtime.query("view");
    let document = "Über\n\"all\" \u{2028}";
    let viewed = Viewed {
        document,
        shared_with: vec![None, Some(0.1), Some(1e300)],
        by: (Var::USER_AGENT, Var::IP),
        request: Var::REQUEST_ID,
        at: [Var::NOW; 2],
    };
    query.log().audit(&viewed).unwrap();
    query.log().audit(&body!({})).unwrap();
    query.seal(()).release(&bob()).await.unwrap();
    // Characters that end a line for some readers are escaped: the same string in JSON.
    let document = serde_json::to_string(document).unwrap().replace('\u{2028}', r"\u2028");
    let expected = format!(
        r#"{{"document":{document},"sharedWith":[null,0.1,1e+300],"by":["Bob \"2\"","2001:db8::b"],"request":"b","at":[{RAN_AT},{RAN_AT}]}}"#
    );
    assert_eq!(host.sink.lines(), [expected, "{}".into()]);
}

#[tokio::test]
async fn json_text_keeps_its_spelling() {
    let host = Host::new();
    let query = host.runtime.query("view");
    query
        .log()
        .audit_json(r#" { "n" : 1.50e+2, "s": "\u00fc", "who": [{"$var":"ip"}] } "#)
        .unwrap();
    query.seal(()).release(&alice()).await.unwrap();
    assert_eq!(host.sink.lines(), [r#"{"n":1.50e+2,"s":"\u00fc","who":["192.0.2.7"]}"#]);
}

#[tokio::test]
async fn now_is_the_time_of_execution_or_replay() {
    let host = Host::new();
    let query = host.runtime.query("view");
    for _ in 0..2 {
        host.clock.advance(10);
        query.log().audit(&everyone()).unwrap();
    }
    host.clock.advance(80);
    let result = query.seal(());
    result.release(&alice()).await.unwrap();
    result.release(&alice()).await.unwrap();
    host.clock.advance(-300);
    result.release(&alice()).await.unwrap();
    assert_eq!(host.members("now"), [0, 0, 100, 100, -200, -200].map(|ms| json!(RAN_AT + ms)));
    let times: Vec<i64> =
        host.sink.batches().iter().map(|batch| batch.time_ms() - RAN_AT).collect();
    assert_eq!(times, [0, 100, -200], "a sink files records under their own time");
}

#[tokio::test]
async fn a_function_without_client_has_no_address_or_user_agent() {
    let host = Host::new();
    let cron = host.runtime.new_request();
    host.view(()).release(&cron).await.unwrap();
    let mutation = host.runtime.mutation("sweep", cron.clone());
    mutation.log().audit(&everyone()).unwrap();
    mutation.seal(()).release(&cron).await.unwrap();
    let id = cron.request_id().as_str();
    let expected = json!({ "ip": null, "userAgent": null, "requestId": id, "now": RAN_AT });
    assert_eq!(host.logs(), [expected.clone(), expected]);
}

#[tokio::test]
async fn host_variables_have_the_requests_value_or_null() {
    let mut vars = Vars::new();
    let actor = vars.register("actor", 64).unwrap();
    let trace = vars.register("trace", 64).unwrap();
    let host = Host::with(|settings| settings.with_vars(vars));
    let query = host.runtime.query("view");
    query.log().audit(&body!({ "actor": actor, "trace": trace })).unwrap();
    let result = query.seal(());
    let is = |value: serde_json::Value| HostValue::new(actor, &value).unwrap();
    result.release(&alice()).await.unwrap();
    result.release(&alice().with_host_value(is(json!({ "id": 7 })))).await.unwrap();
    let replaced = alice().with_host_value(is(json!(1))).with_host_value(is(json!(2)));
    assert_eq!(
        replaced,
        alice().with_host_value(is(json!(2))),
        "nothing is left of the earlier value"
    );
    result.release(&replaced).await.unwrap();
    let other = HostValue::new(trace, "t1").unwrap();
    result.release(&alice().with_host_value(is(json!("x"))).with_host_value(other)).await.unwrap();
    assert_eq!(host.members("actor"), [json!(null), json!({ "id": 7 }), json!(2), json!("x")]);
    assert_eq!(host.members("trace"), [json!(null), json!(null), json!(null), json!("t1")]);
    assert!(
        HostValue::new(actor, &"x".repeat(63)).is_err(),
        "63 and two quotes are more than was declared"
    );
}

/// Two tables may use one slot for different variables. A value for a variable of one table must
/// not be rendered for a variable of the other.
#[tokio::test]
async fn values_of_another_runtime_stop_the_release() {
    let mut vars = Vars::new();
    let actor = vars.register("actor", 64).unwrap();
    let host = Host::with(|settings| settings.with_vars(vars));
    let query = host.runtime.query("view");
    query.log().audit(&body!({ "actor": actor })).unwrap();

    let mut others = Vars::new();
    let secret = others.register("secret", 64).unwrap();
    let error = host.runtime.query("view").log().audit(&body!({ "actor": secret })).unwrap_err();
    assert_eq!(error.to_string(), "unknown audit variable \"secret\" at /actor");

    let result = query.seal(());
    let stranger = alice().with_host_value(HostValue::new(secret, "s").unwrap());
    let release = AssertUnwindSafe(result.release(&stranger)).catch_unwind().await;
    let message = *release.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "Var(secret) is not in the table of this runtime");
    assert!(host.sink.lines().is_empty());
}

#[tokio::test]
async fn data_like_a_variable_is_rejected_or_text() {
    let host = Host::new();
    let query = host.runtime.query("view");
    let sent = json!({ "comment": [{ "$var": "ip" }] });
    let error = query.log().audit(&sent).unwrap_err();
    assert!(matches!(error, AuditError::Body(_)));
    assert_eq!(
        error.to_string(),
        "audit log body keys must not start with \"$\": \"$var\" at /comment/0/$var"
    );
    let query = host.runtime.query("view");
    query.log().audit(&body!({ "refused": sent.to_string() })).unwrap();
    query.seal(()).release(&alice()).await.unwrap();
    assert_eq!(host.logs(), [json!({ "refused": r#"{"comment":[{"$var":"ip"}]}"# })]);
}
