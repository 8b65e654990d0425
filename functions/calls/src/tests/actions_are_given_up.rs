//! An action in native code of its engine, which no limit reaches, is given up by the watchdog.

use std::time::Duration;

use functions_engine::Limits;
use serde_json::json;

use super::super::{CallError, FunctionSettings};
use super::Host;

/// The engine looks at the clock every 10,000 jumps of a function, and not in its arithmetic.
const MODULE: &str = r#"
import { action } from "./_generated/server";
export const stuck = action(async (_ctx, { times }) => {
  const large = 3n ** 200_000n;
  for (let n = 0; n < times; n++) large.toString();
});
export const fine = action(async () => "fine");
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_no_limit_reaches_is_given_up_and_counted() {
    let time = Duration::from_millis(100);
    let action_limits = Limits { time, wall: time, ..Limits::default() };
    let settings = FunctionSettings { action_limits, ..FunctionSettings::default() };
    let host = Host::with_module("actions.js", MODULE, settings).await;
    let (functions, workers) = (&host.functions, &host.functions.inner.workers);
    // A busy machine may come no further than its start in its time, and a fast one is soon done.
    let mut times = 8;
    let given_up = loop {
        let args = json!({ "times": times });
        match functions.action("actions:stuck", &args, &host.caller()).await {
            Ok(_) => times = (2 * times).min(5_000),
            Err(error) => break error,
        }
    };
    assert!(matches!(given_up, CallError::Internal(_)), "{given_up:?}");
    assert_eq!(workers.stuck(), 1);
    // Others go on meanwhile.
    while functions
        .action("actions:fine", &json!({}), &host.caller())
        .await
        .is_ok_and(|ran| ran.result.is_err())
    {}
    // A thread that comes back after all is no longer counted.
    while workers.stuck() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
