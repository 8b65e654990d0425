//! The cache returns what the function would return now, and only to callers it may go to.

use std::sync::Arc;

use functions_calls::{Caller, Identity};
use serde_json::{Value as Json, json};

use crate::support::{Host, document, program, value};

const WHO: &str = r#"
    import { log } from "convex/server";
    import { query } from "./_generated/server";
    export const me = query(async (ctx) => {
      const identity = await ctx.auth.getUserIdentity();
      await log.audit({ action: "me", subject: identity?.subject ?? null, ip: log.vars.ip });
      return identity?.subject ?? null;
    });
    export const chance = query(async () => {
      await log.audit({ action: "chance", ip: log.vars.ip });
      return Math.random();
    });"#;

fn identified(host: &Host, subject: &str) -> Caller {
    let claims =
        json!({ "subject": subject, "issuer": "https://example.com", "tokenIdentifier": subject });
    Caller {
        identity: Some(Arc::new(Identity::new(claims, "token".to_owned()))),
        ..host.caller("192.0.2.9")
    }
}

async fn call(host: &Host, path: &str, caller: &Caller) -> Json {
    value(&host.functions.query(path, &json!({}), caller).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_depend_on_the_caller_are_private() {
    let host = Host::with_modules(&[("who.ts", WHO)]).await;
    let (ada, bob, nobody) =
        (identified(&host, "ada"), identified(&host, "bob"), host.caller("192.0.2.1"));
    for _ in 0..2 {
        assert_eq!(call(&host, "who:me", &ada).await, "ada");
        assert_eq!(call(&host, "who:me", &bob).await, "bob");
        assert_eq!(call(&host, "who:me", &nobody).await, Json::Null);
    }
    let logs = host.logs("me");
    assert_eq!(logs.len(), 6);
    assert!(logs.iter().filter(|log| log["subject"] == "ada").count() == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_results_are_shared() {
    let host = Host::with_modules(&[("who.ts", WHO)]).await;
    let first = call(&host, "who:chance", &host.caller("192.0.2.1")).await;
    assert_eq!(call(&host, "who:chance", &identified(&host, "ada")).await, first);
    assert_eq!(call(&host, "who:chance", &host.caller("192.0.2.2")).await, first);
    assert_eq!(host.logs("chance").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_calls_see_changes() {
    let host = Host::demo().await;
    let id = document(&host).await;
    let view = json!({ "documentId": id });
    for revision in 2..6 {
        host.query("documents:view", view.clone()).await.unwrap();
        let change = json!({ "documentId": id, "text": format!("{revision}"), "userId": "ada" });
        let updated = host.mutation("documents:update", change).await.unwrap();
        assert_eq!(value(&updated.answered), f64::from(revision));
        assert_eq!(
            value(&host.query("documents:view", view.clone()).await.unwrap())["revision"],
            f64::from(revision)
        );
    }
    // A change to data that the query did not read leaves the result cached: the same text, from
    // the same run.
    let before = host.functions.latest();
    let key = host.functions.query_key("documents:view", &view, &host.caller("192.0.2.1")).unwrap();
    let kept = host.functions.sealed_at(&before, &key, None).await;
    host.mutation("counters:add", json!({ "name": "else" })).await.unwrap();
    assert_eq!(kept.watch().invalid_since(), None);
    host.mutation("documents:update", json!({ "documentId": id, "text": "", "userId": "ada" }))
        .await
        .unwrap();
    assert!(kept.watch().invalid_since().is_some());
    // An earlier result can still be requested by its time.
    let then = host
        .functions
        .query_at(&before, "documents:view", &view, &host.caller("192.0.2.1"))
        .await
        .unwrap();
    assert_eq!(value(&then)["revision"], 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployed_programs_serve_immediately() {
    let one =
        "import { query } from './_generated/server'; export const get = query(async () => 1);";
    let host = Host::with_modules(&[("number.ts", one)]).await;
    let caller = host.caller("192.0.2.1");
    let key = host.functions.query_key("number:get", &json!({}), &caller).unwrap();
    let followed = host.functions.sealed_at(&host.functions.latest(), &key, None).await;
    assert_eq!(call(&host, "number:get", &caller).await, 1.0);
    host.functions.deploy(program(&[("number.ts", &one.replace('1', "2"))])).await.unwrap();
    assert_eq!(call(&host, "number:get", &caller).await, 2.0);
    assert!(followed.watch().invalid_since().is_some(), "who follows it is told");

    // A program whose schema the documents violate is refused, and the previous one keeps serving.
    host.functions.deploy(program(&[("number.ts", one), ("store.ts", STORE)])).await.unwrap();
    host.mutation("store:put", json!({ "text": "a text" })).await.unwrap();
    let broken = host
        .functions
        .deploy(program(&[("number.ts", &one.replace('1', "3")), ("schema.ts", SCHEMA)]))
        .await;
    let broken = broken.unwrap_err().to_string();
    assert!(broken.contains("texts"), "{broken}");
    assert_eq!(call(&host, "number:get", &caller).await, 1.0);
}

const STORE: &str = r#"
    import { v } from "convex/values";
    import { mutation } from "./_generated/server";
    export const put = mutation({
      args: { text: v.string() },
      handler: async (ctx, args) => await ctx.db.insert("texts", args),
    });"#;

const SCHEMA: &str = r#"
    import { defineSchema, defineTable } from "convex/server";
    import { v } from "convex/values";
    export default defineSchema({ texts: defineTable({ text: v.number() }) });"#;
