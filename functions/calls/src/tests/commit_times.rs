//! `db.vars.commitTs` and `ctx.meta.getSnapshotTs` in functions.

use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { v } from "convex/values";
import { internalMutation, mutation, query } from "./_generated/server";
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
