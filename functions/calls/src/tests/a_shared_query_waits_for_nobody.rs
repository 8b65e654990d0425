//! Callers of the same query share one computation, and none of them waits for the earlier jobs of
//! another.

use std::sync::{Arc, Mutex, mpsc};

use futures::future::join_all;
use serde_json::json;
use tokio::sync::oneshot;

use super::super::faults::Fault;
use super::super::pulse::Pulse;
use super::super::workers::Presence;
use super::super::{FunctionSettings, Lane};
use super::Host;

const MODULE: &str = r#"
import { log } from "convex/server";
import { query } from "./_generated/server";
export const get = query(async () => { await log.audit({ mark: "got" }); return 7; });
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_queries_run_in_the_first_lane() {
    let host = Host::with_module("shared.ts", MODULE, FunctionSettings::default()).await;
    let (functions, workers) = (&host.functions, &host.functions.inner.workers);
    // All threads are blocked, the one for prompt jobs last. One of the others is released when
    // everything waits, so that all jobs run on it one after the other.
    let mut blocked = Vec::new();
    for _ in 0..=workers.threads() {
        let (release, hold) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let functions = functions.clone();
        let task = tokio::spawn(async move {
            let work = move |_: &Pulse| {
                begin.send(()).unwrap();
                hold.recv().unwrap_err();
            };
            functions.inner.workers.run(Lane::unique(), Presence::default(), work).await
        });
        begun.await.unwrap();
        blocked.push((release, task));
    }
    let (release_first, first_task) = blocked.remove(0);

    let flooding = host.caller().with_lane(Lane::unique());
    let quiet = host.caller().with_lane(Lane::unique());
    let flooded = Arc::new(Mutex::new(0));
    let flood = (0..64).map(|_| {
        let flooded = Arc::clone(&flooded);
        workers.run(flooding.lane, Presence::default(), move |_| *flooded.lock().unwrap() += 1)
    });
    let args = json!({});
    let (reached, computes) = oneshot::channel();
    let (release, hold) = mpsc::channel();
    functions.inner.faults.script("begin", Fault::Hang { reached, hold });
    let (_, first, second, _, ()) = futures::join!(
        join_all(flood),
        functions.query("shared:get", &args, &flooding),
        functions.query("shared:get", &args, &quiet),
        async {
            computes.await.unwrap();
            assert!(*flooded.lock().unwrap() <= 1, "{flooded:?} jobs came before");
            drop(release);
        },
        async {
            while workers.waiting() < 64 + 2 {
                tokio::task::yield_now().await;
            }
            drop(release_first);
        },
    );
    assert_eq!(first.unwrap().result, second.unwrap().result);
    // There was one computation, and each caller is logged.
    assert_eq!(host.logs("got"), 2);
    first_task.await.unwrap().unwrap();
    for (release, task) in blocked {
        drop(release);
        task.await.unwrap().unwrap();
    }
}
