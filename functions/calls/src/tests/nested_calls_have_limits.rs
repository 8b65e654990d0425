//! `transactionLimits` limit what a nested call uses of its own, `useStaleSnapshot` reads the
//! snapshot, and writes that were rolled back count nowhere.

use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { mutation, query } from "./_generated/server";
const used = async (ctx) =>
  Object.entries(await ctx.meta.getTransactionMetrics()).map(([name, { used }]) => [name, used]);
export const uses = mutation(async (ctx, { times }) => {
  for (let n = 0; n < times; n++) {
    await ctx.db.get(await ctx.db.insert("t", { text: "x".repeat(100) }));
    await ctx.scheduler.runAfter(1e9, anyApi.nested.uses, { times: 0 });
  }
  return Object.fromEntries(await used(ctx));
});
export const limited = mutation(async (ctx, { limits }) => {
  const before = await ctx.runMutation(anyApi.nested.uses, { times: 2 });
  let failed = null;
  try {
    await ctx.runMutation(anyApi.nested.uses, { times: 3 }, { transactionLimits: limits });
  } catch (error) {
    failed = error.message;
  }
  const after = await used(ctx);
  // The limits are those of the nested call alone.
  await ctx.runMutation(anyApi.nested.uses, { times: 4 });
  const count = await ctx.runQuery(anyApi.nested.count, {});
  return { failed, count, used: Object.fromEntries(after.map(([name, n]) => [name, n - before[name]])) };
});
export const rolledBack = mutation(async (ctx, { times }) => {
  const before = Object.fromEntries(await used(ctx));
  for (let n = 0; n < times; n++) {
    try {
      await ctx.runMutation(anyApi.nested.fails, {});
    } catch {}
  }
  return (await used(ctx)).filter(([name, n]) => n > before[name]).map(([name]) => name).sort();
});
export const fails = mutation(async (ctx) => {
  await ctx.runMutation(anyApi.nested.uses, { times: 600 });
  throw new Error("no");
});
export const count = query(async (ctx) => (await ctx.db.query("t").collect()).length);
export const stale = mutation(async (ctx) => {
  await ctx.db.insert("t", { text: "own" });
  const [fresh, old] = [undefined, { useStaleSnapshot: true }];
  return [await ctx.runQuery(anyApi.nested.count, {}, fresh), await ctx.runQuery(anyApi.nested.count, {}, old)];
});
"#;

async fn run(host: &Host, name: &str, args: Json) -> Json {
    let ran = host.functions.mutation(&format!("nested:{name}"), &args, &host.caller()).await;
    serde_json::from_str(&ran.unwrap().answered.result.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_is_that_of_the_nested_call() {
    let host = Host::with_module("nested.js", MODULE, FunctionSettings::default()).await;
    let free = run(&host, "limited", json!({ "limits": {} })).await;
    assert_eq!((&free["failed"], &free["count"]), (&Json::Null, &json!(9)));
    let used: Vec<(&String, f64)> = free["used"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, used)| (name, used.as_f64().unwrap()))
        .filter(|(_, used)| *used > 0.0)
        .collect();
    assert_eq!(used.len(), 7, "{used:?}");
    let mut count = 9;
    for (name, used) in used {
        let enough = run(&host, "limited", json!({ "limits": { name: used } })).await;
        count += 9;
        assert_eq!((&enough["failed"], &enough["count"]), (&Json::Null, &json!(count)), "{name}");
        let too_few = run(&host, "limited", json!({ "limits": { name: used - 1.0 } })).await;
        count += 6;
        assert!(too_few["failed"].is_string(), "{name}: {too_few}");
        assert_eq!(too_few["count"], count, "{name}");
    }
    let invalid = run(&host, "limited", json!({ "limits": { "bytesRead": -1 } })).await;
    let failed = invalid["failed"].as_str().unwrap();
    assert!(failed.contains("transactionLimits.bytesRead must be a number from 0"), "{failed}");
    let most = run(&host, "limited", json!({ "limits": { "documentsRead": 1e300 } })).await;
    assert_eq!(most["failed"], Json::Null);
}

/// The writes of a nested call that failed do not count for its caller. Those of two such calls
/// would exceed the limit of functions scheduled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_reads_of_rolled_back_calls_count() {
    let host = Host::with_module("nested.js", MODULE, FunctionSettings::default()).await;
    let used = run(&host, "rolledBack", json!({ "times": 2 })).await;
    assert_eq!(used, json!(["bytesRead", "databaseQueries", "documentsRead"]));
    assert_eq!(run(&host, "rolledBack", json!({ "times": 0 })).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_snapshot_has_no_writes_of_its_caller() {
    let host = Host::with_module("nested.js", MODULE, FunctionSettings::default()).await;
    assert_eq!(run(&host, "stale", json!({})).await, json!([1, 0]));
    assert_eq!(run(&host, "stale", json!({})).await, json!([2, 1]));
}
