//! Each of the audit log's guarantees, for functions in JavaScript.

use serde_json::json;

use crate::support::{Host, document, failure, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_results_are_logged_for_each_caller() {
    let host = Host::demo().await;
    let id = document(&host).await;
    let args = json!({ "documentId": id });
    for ip in ["192.0.2.10", "192.0.2.11", "2001:db8::1"] {
        let answered =
            host.functions.query("documents:view", &args, &host.caller(ip)).await.unwrap();
        assert_eq!(value(&answered)["title"], "Plan");
    }
    let views = host.logs("document.viewed");
    let seen: Vec<_> = views.iter().map(|log| log["source"]["ip"].as_str().unwrap()).collect();
    assert_eq!(seen, ["192.0.2.10", "192.0.2.11", "2001:db8::1"]);
    let times: Vec<_> = views.iter().map(|log| log["at"].as_i64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_queries_emit_their_logs() {
    let host = Host::with_modules(&[(
        "late.ts",
        r#"
        import { log } from "convex/server";
        import { query } from "./_generated/server";
        export const regret = query(async () => {
          await log.audit({ action: "regretted", ip: log.vars.ip });
          throw new Error("too late");
        });"#,
    )])
    .await;
    for ip in ["192.0.2.10", "192.0.2.11"] {
        let answered =
            host.functions.query("late:regret", &json!({}), &host.caller(ip)).await.unwrap();
        assert!(failure(&answered).contains("too late"), "{}", failure(&answered));
        assert_eq!(host.logs("regretted").last().unwrap()["ip"], ip);
    }
    assert_eq!(host.logs("regretted").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_mutations_emit_their_logs_and_write_nothing() {
    let host = Host::demo().await;
    let refused = host.mutation("documents:refuse", json!({ "title": "x" })).await.unwrap();
    assert!(
        failure(&refused.answered).contains("this is refused"),
        "{}",
        failure(&refused.answered)
    );
    assert_eq!(refused.committed, None);
    assert_eq!(host.logs("document.refused").len(), 1);
    let titles = host.query("documents:list", json!({ "orgId": "refused" })).await.unwrap();
    assert_eq!(value(&titles), json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_calls_of_actions_have_logs() {
    let host = Host::demo().await;
    let id = document(&host).await;
    let made =
        host.action("reports:make", json!({ "documentId": id, "name": "reports" })).await.unwrap();
    assert_eq!(value(&made), "Plan, report 1");
    assert_eq!(host.logs("document.viewed").len(), 1);
    assert_eq!(host.logs("document.viewed")[0]["source"]["ip"], "192.0.2.3");
    assert_eq!(host.logs("counter.added").len(), 1);
    let confessed = host.action("reports:confess", json!({})).await.unwrap();
    assert!(
        failure(&confessed).contains("audit logging is not supported in actions"),
        "{}",
        failure(&confessed)
    );
}
