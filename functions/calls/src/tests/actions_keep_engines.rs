//! Actions run on threads that keep their engines, as queries and mutations do.

use std::time::Duration;

use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

const MODULE: &str = r#"
import { action, query } from "./_generated/server";
import { api } from "./_generated/api";
let calls = 0;
export const count = action(async () => {
  setTimeout(() => { calls += 100; }, 1e6);
  return ++calls;
});
export const wait = action(async (ctx) => {
  await new Promise((done) => setTimeout(done, 5));
  return await ctx.runQuery(api.kept.one);
});
export const one = query(async () => 1);
"#;

async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_finds_an_engine_that_is_ready_and_as_new() {
    let host = Host::with_module("kept.js", MODULE, FunctionSettings::default()).await;
    let (functions, threads) = (&host.functions, &host.functions.inner.action_threads);
    for _ in 0..10 {
        let ran = functions.action("kept:count", &json!({}), &host.caller()).await.unwrap();
        assert_eq!(ran.result.as_deref(), Ok("1"));
        // One thread is enough for actions that run one after the other.
        until(|| threads.idle() == 1).await;
        assert!(threads.kept_bytes() > 0);
    }
    functions.drop_kept_engines();
    until(|| threads.kept_bytes() == 0).await;
    assert_eq!(threads.idle(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_that_run_at_once_have_threads_of_their_own() {
    let host = Host::with_module("kept.js", MODULE, FunctionSettings::default()).await;
    let (functions, threads) = (&host.functions, &host.functions.inner.action_threads);
    for _ in 0..3 {
        let (args, caller) = (json!({}), host.caller());
        let calls = (0..16).map(|_| functions.action("kept:wait", &args, &caller));
        for ran in futures::future::join_all(calls).await {
            assert_eq!(ran.unwrap().result.as_deref(), Ok("1"));
        }
        // The other threads end.
        until(|| threads.idle() > 0).await;
        assert!(threads.idle() <= threads.max_idle(), "{}", threads.idle());
    }
}
