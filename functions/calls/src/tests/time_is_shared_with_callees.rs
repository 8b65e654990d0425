//! A function and those that it calls share one limit on time, and the error names that limit.

use std::time::Duration;

use functions_engine::Limits;
use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { anyApi } from "convex/server";
import { query } from "./_generated/server";
export const busy = query(async () => {
  for (let n = 0; n < 200_000; n++) Math.sqrt(n);
});
export const caller = query(async (ctx, { times }) => {
  for (let n = 0; n < times; n++) await ctx.runQuery(anyApi.time.busy, {});
});
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exceeded_limit_is_named() {
    let limits = Limits { time: Duration::from_millis(300), ..Limits::default() };
    let settings = FunctionSettings { limits, ..FunctionSettings::default() };
    let host = Host::with_module("time.js", MODULE, settings).await;
    let args = json!({ "times": 10_000 });
    let ran = host.functions.query("time:caller", &args, &host.caller()).await.unwrap();
    let failed = ran.result.as_ref().unwrap_err();
    let expected = "Function execution timed out (maximum duration: 300ms of JavaScript)";
    assert!(failed.message.contains(expected), "{}", failed.message);
}
