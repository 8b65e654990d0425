//! `db.vars.commitTs` and `ctx.meta.getSnapshotTs` in functions.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { v } from "convex/values";
import { action, internalMutation, mutation, query } from "./_generated/server";
export const write = mutation(async (ctx) => {
  const before = ctx.meta.getSnapshotTs();
  const id = await ctx.db.insert("events", { at: ctx.db.vars.commitTs });
  const own = await ctx.db.get(id);
  let failure;
  try { own.at + 1n; } catch (error) { failure = error.message; }
  await ctx.runMutation(anyApi.events.nested, { id, at: ctx.db.vars.commitTs });
  return { id, before, isOne: own.at === ctx.db.vars.commitTs, shown: `${own.at}`, failure };
});
export const nested = internalMutation({
  args: { id: v.id("events"), at: v.commitTs() },
  handler: (ctx, { id, at }) => ctx.db.patch(id, { again: { at } }),
});
export const read = query(async (ctx, { id, before }) => {
  const { at, again } = await ctx.db.get(id);
  return [typeof at, at === again.at, at > before, at <= ctx.meta.getSnapshotTs()];
});
export const taken = mutation({ args: { at: v.any() }, handler: () => null });
export const later = mutation((ctx) => ctx.scheduler.runAfter(0, anyApi.events.taken, { at: ctx.db.vars.commitTs }));
export const found = mutation((ctx) => ctx.db.query("events").filter((q) => q.eq(q.field("at"), ctx.db.vars.commitTs)).collect());
const handler = async (ctx) => {
  await ctx.db.insert("events", { at: ctx.db.vars.commitTs });
  return { at: ctx.db.vars.commitTs, list: ["x", { at: ctx.db.vars.commitTs }] };
};
export const returned = mutation({ handler });
export const nesting = mutation((ctx) => ctx.runMutation(anyApi.events.returned, {}));
const returns = v.object({ at: v.commitTs(), list: v.array(v.any()) });
export const validated = mutation({ returns, handler });
export const last = query(async (ctx) => (await ctx.db.query("events").order("desc").first()).at);
export const told = action(async (ctx) => {
  const { at, list } = await ctx.runMutation(anyApi.events.returned, {});
  return [typeof at, at === list[1].at && at === await ctx.runQuery(anyApi.events.last, {})];
});
export const forged = Object.assign(query(() => null), { invokeQuery: async () => '{"$commitTs":null}' });
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_have_the_time_of_their_commit() {
    let host = Host::with_module("events.js", MODULE, FunctionSettings::default()).await;
    let mutate = async |name: &str, args| {
        let mutated = host.functions.mutation(name, &args, &host.caller()).await.unwrap();
        mutated.answered.result.map(|value| serde_json::from_str(&value).unwrap())
    };
    let written: serde_json::Value = mutate("events:write", json!({})).await.unwrap();
    assert_eq!(written["isOne"], true);
    assert_eq!(written["shown"], "[unresolved commit timestamp]");
    assert!(written["failure"].as_str().unwrap().contains("before its mutation has committed"));
    let args = json!({ "id": written["id"], "before": written["before"] });
    let read = host.functions.query("events:read", &args, &host.caller()).await.unwrap();
    assert_eq!(read.result.as_ref().unwrap().to_string(), r#"["bigint",true,true,true]"#);

    // It is not accepted outside the mutation.
    for (name, args) in [
        ("events:taken", json!({ "at": { "$commitTs": null } })),
        ("events:later", json!({})),
        ("events:found", json!({})),
    ] {
        let message = mutate(name, args).await.unwrap_err().message;
        assert!(message.contains("is a value for documents"), "{name}: {message}");
    }
}

/// Convex's documentation: it is "inserted at commit time into documents or the return value".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_have_the_time_of_their_commit() {
    let host = Host::with_module("events.js", MODULE, FunctionSettings::default()).await;
    for name in ["returned", "nesting", "validated"] {
        let name = format!("events:{name}");
        let mutated = host.functions.mutation(&name, &json!({}), &host.caller()).await.unwrap();
        let result: serde_json::Value =
            serde_json::from_str(&mutated.answered.result.unwrap()).unwrap();
        let committed = mutated.committed.unwrap().to_le_bytes();
        let time = json!({ "$integer": STANDARD.encode(committed) });
        assert_eq!(result, json!({ "at": time, "list": ["x", { "at": time }] }), "{name}");
        let stored = host.functions.query("events:last", &json!({}), &host.caller()).await.unwrap();
        assert_eq!(stored.result.as_deref(), Ok(&*time.to_string()), "{name}");
    }
    let told = host.functions.action("events:told", &json!({}), &host.caller()).await.unwrap();
    assert_eq!(told.result.as_deref(), Ok(r#"["bigint",true]"#));
    // Only mutations commit.
    let forged = host.functions.query("events:forged", &json!({}), &host.caller()).await.unwrap();
    let message = &forged.result.as_ref().unwrap_err().message;
    assert!(message.contains("is a value for documents"), "{message}");
}
