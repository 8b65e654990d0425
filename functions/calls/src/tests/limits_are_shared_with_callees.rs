//! A function and those that it calls share one limit on time and one on memory, and the error
//! names the limit.

use std::time::Duration;

use functions_engine::Limits;
use serde_json::{Value as Json, json};

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { mutation, query } from "./_generated/server";
export const busy = query(async () => {
  for (let n = 0; n < 200_000; n++) Math.sqrt(n);
});
export const caller = query(async (ctx, { times }) => {
  for (let n = 0; n < times; n++) await ctx.runQuery(anyApi.limits.busy, {});
});
export const endless = query(async () => { for (;;); });
export const endlessWrite = mutation(async () => { for (;;); });
export const catcher = mutation(async (ctx) => {
  try { await ctx.runQuery(anyApi.limits.endless, {}); } catch {}
  try { await ctx.runMutation(anyApi.limits.endlessWrite, {}); } catch {}
  return "caught";
});
// Holds so many MiB at each of so many levels.
export const holds = query(async (ctx, { mib, levels }) => {
  const held = Array.from({ length: mib }, () => new Uint8Array(1 << 20).fill(1));
  if (levels > 1) await ctx.runQuery(anyApi.limits.holds, { mib, levels: levels - 1 });
  return held.length;
});
// The host holds a query until it is read to its end.
export const asks = query(async (ctx, { queries }) => {
  const text = "x".repeat(1_000_000);
  const all = Array.from({ length: queries }, () => ctx.db.query("t").filter((q) => q.eq(q.field("a"), text)));
  for (const one of all) await one.first();
  return all.length;
});
export const twice = query(async (ctx, { queries }) => {
  for (let n = 0; n < 2; n++) await ctx.runQuery(anyApi.limits.asks, { queries });
});
export const says = query(async () => { for (let n = 0; n < 100; n++) console.log(n); });
export const saysMuch = query(async (ctx) => {
  for (let n = 0; n < 4; n++) await ctx.runQuery(anyApi.limits.says, {});
});
// The memory of one callee is free for the next.
export const oneByOne = query(async (ctx, { mib, times }) => {
  for (let n = 0; n < times; n++) await ctx.runQuery(anyApi.limits.holds, { mib, levels: 1 });
  return "held";
});
"#;

async fn host_with(time: Duration) -> Host {
    let limits = Limits { time, ..Limits::default() };
    let settings = FunctionSettings { limits, ..FunctionSettings::default() };
    Host::with_module("limits.js", MODULE, settings).await
}

/// With less time, a busy machine could take ten times as long, and the thread would be abandoned.
async fn host() -> Host {
    host_with(Duration::from_secs(1)).await
}

async fn query(host: &Host, name: &str, args: Json) -> Result<(), String> {
    let ran = host.functions.query(&format!("limits:{name}"), &args, &host.caller()).await.unwrap();
    ran.result.as_ref().map(drop).map_err(|failed| failed.message.clone())
}

const TIMED_OUT: &str = "Function execution timed out (maximum duration: 1s of JavaScript)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exceeded_limit_is_named() {
    let host = host().await;
    let failed = query(&host, "caller", json!({ "times": 10_000 })).await.unwrap_err();
    assert!(failed.contains(TIMED_OUT), "{failed}");
    let failed = query(&host, "holds", json!({ "mib": 20, "levels": 4 })).await.unwrap_err();
    assert!(failed.contains("ran out of memory (maximum memory usage: 64 MiB)"), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_lines_of_callees_count_too() {
    let host = host_with(Duration::from_secs(30)).await;
    for name in ["asks", "twice"] {
        query(&host, name, json!({ "queries": 4 })).await.unwrap();
    }
    let limit = "bytes of JSON, which exceeds limit of 8388608";
    for (name, queries) in [("asks", 9), ("twice", 5)] {
        let failed = query(&host, name, json!({ "queries": queries })).await.unwrap_err();
        assert!(failed.contains(limit), "{failed}");
    }
    let ran = host.functions.query("limits:saysMuch", &json!({}), &host.caller()).await.unwrap();
    assert_eq!(ran.log_lines.len(), 257);
    assert!(ran.log_lines[256].contains("a call can log 256 lines"), "{:?}", ran.log_lines[256]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_cannot_catch_the_end_of_its_time() {
    let host = host().await;
    let mutated = host.functions.mutation("limits:catcher", &json!({}), &host.caller()).await;
    let failed = mutated.unwrap().answered.result.unwrap_err();
    assert_eq!(failed.message, TIMED_OUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_shared_as_long_as_it_is_held() {
    let host = host_with(Duration::from_secs(60)).await;
    query(&host, "holds", json!({ "mib": 20, "levels": 2 })).await.unwrap();
    query(&host, "oneByOne", json!({ "mib": 40, "times": 8 })).await.unwrap();
}
