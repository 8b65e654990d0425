//! The watchdog abandons an action that is stuck in the engine's native code.

use std::time::Duration;

use functions_engine::Limits;
use serde_json::json;

use super::super::FunctionSettings;
use super::Host;

/// The engine checks the clock every 10,000 jumps of a function, but not during arithmetic.
const MODULE: &str = r#"
import { action } from "./_generated/server";
export const stuck = action(async (_ctx, { times }) => {
  const large = 3n ** 200_000n;
  for (let n = 0; n < times; n++) large.toString();
});
export const fine = action(async () => "fine");
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_stuck_in_native_code_is_abandoned() {
    let time = Duration::from_millis(100);
    let action_limits = Limits { time, wall: time, ..Limits::default() };
    let settings = FunctionSettings { action_limits, ..FunctionSettings::default() };
    let host = Host::with_module("actions.js", MODULE, settings).await;
    let (functions, workers) = (&host.functions, &host.functions.inner.workers);
    // On a busy machine, the action may reach its time limit before the loop begins. On a fast one,
    // the loop may end too soon. The test then tries again with a longer loop.
    let mut times = 8;
    let abandoned = loop {
        let args = json!({ "times": times });
        match functions.action("actions:stuck", &args, &host.caller()).await {
            Ok(ran) => match ran.result {
                Err(failed) if failed.message.ends_with("on its thread)") => break failed.message,
                Ok(_) | Err(_) => times = (2 * times).min(5_000),
            },
            Err(error) => panic!("{error}"),
        }
    };
    let limit = "Function execution timed out (maximum duration: 2s on its thread)";
    assert_eq!(abandoned, limit);
    assert_eq!(workers.stuck(), 1);
    // Other actions still run.
    while functions
        .action("actions:fine", &json!({}), &host.caller())
        .await
        .is_ok_and(|ran| ran.result.is_err())
    {}
    // A thread that returns after all is no longer counted.
    while workers.stuck() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
