//! A scheduled function that cannot succeed fails once, and does not hold up others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit_core::SystemRandom;
use audit_core::testing::{ManualClock, MemoryFault};
use audit_runtime::AuditRuntime;
use functions_value::ComponentPath;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use super::super::FunctionSettings;
use super::super::faults::Fault;
use super::super::jobs::{self, Job};
use super::Host;

const MODULE: &str = r#"
import { anyApi, log } from "convex/server";
import { action, mutation, query } from "./_generated/server";

export const later = mutation(async (ctx, { fn, args, ms }) =>
  ctx.scheduler.runAfter(ms ?? 0, anyApi.jobs[fn], args ?? {}));
export const cancel = mutation(async (ctx, { id }) => ctx.scheduler.cancel(id));
export const state = query(async (ctx, { id }) => (await ctx.db.system.get(id)).state);

export const healthy = mutation(async () => 1);
export const throws = mutation(async () => { throw new Error("as asked"); });
export const logs = mutation(async () => log.audit({ mark: "job" }));
export const replaces = mutation(async (ctx) => ctx.db.replace(await ctx.db.insert("docs", {}), {}));
export const acts = action(async () => 1);
export const actFails = action(async () => { throw new Error("as asked"); });

// Writes as many bytes as a mutation may, but for less than the smallest document has.
export const fills = mutation(async (ctx) => {
  for (const size of [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1]) {
    const text = "x".repeat(size);
    try {
      while (true) await ctx.db.insert("docs", { text });
    } catch {}
  }
});

// Reads as often as a mutation may.
export const reads = mutation(async (ctx) => {
  try {
    while (true) await ctx.db.query("docs").first();
  } catch {}
});
"#;

async fn start() -> Host {
    let mut settings = FunctionSettings::default();
    // Filling up a transaction takes long.
    settings.limits.time = Duration::from_secs(60);
    Host::with_module("jobs.ts", MODULE, settings).await
}

impl Host {
    async fn later(&self, args: Json) -> Result<String, String> {
        let mutated = self.functions.mutation("jobs:later", &args, &self.caller()).await.unwrap();
        let id = mutated.answered.result.map_err(|failed| failed.message)?;
        Ok(serde_json::from_str(&id).unwrap())
    }

    async fn state(&self, id: &str) -> Json {
        let args = json!({ "id": id });
        let state = self.functions.query("jobs:state", &args, &self.caller()).await.unwrap();
        serde_json::from_str(state.result.as_ref().unwrap()).unwrap()
    }

    /// Waits until a job has ended. Returns its state.
    async fn end(&self, id: &str) -> Json {
        let (functions, caller, changed) =
            (&self.functions, self.caller(), Arc::new(Notify::new()));
        loop {
            let key = functions.query_key("jobs:state", &json!({ "id": id }), &caller).unwrap();
            let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
            let state = self.state(id).await;
            if state["kind"] != "pending" && state["kind"] != "inProgress" {
                return state;
            }
            sealed.watch().on_invalid(&changed);
            changed.notified().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_at_its_limits_still_ends() {
    let host = start().await;
    for (name, kind) in [
        ("fills", "success"),
        ("reads", "success"),
        ("healthy", "success"),
        ("throws", "failed"),
        ("acts", "success"),
        ("actFails", "failed"),
    ] {
        let id = host.later(json!({ "fn": name })).await.unwrap();
        assert_eq!(host.end(&id).await["kind"], kind, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_with_the_largest_arguments_still_end() {
    let host = start().await;
    let inner = &host.functions.inner;
    let schedule = |text: usize, name: &str, at_ms: f64| {
        let function = format!("jobs:{name}");
        let args = json!({ "text": "x".repeat(text) });
        let job = Job { component: ComponentPath::root(), function, args, at_ms };
        inner.write(|tx| jobs::schedule(tx, &ComponentPath::root(), &job))
    };
    let (now, never) = (1.0, 1e13);
    // More are due than one function's transaction could read.
    for _ in 0..17 {
        schedule(1_000_000, "healthy", now).unwrap();
    }
    // Finds the largest accepted text by bisection.
    let (mut fits, mut too_much) = ((1 << 20) - (1 << 10), 1 << 20);
    while too_much - fits > 1 {
        let middle = (fits + too_much) / 2;
        match schedule(middle, "healthy", never) {
            Ok(_) => fits = middle,
            Err(_) => too_much = middle,
        }
    }
    for (name, kind) in
        [("healthy", "success"), ("throws", "failed"), ("acts", "success"), ("actFails", "failed")]
    {
        // The names differ in length.
        let id = schedule(fits - 8, name, now).unwrap();
        assert_eq!(host.end(&id).await["kind"], kind, "{name}");
    }
    let id = schedule(fits, "healthy", never).unwrap();
    let (args, caller) = (json!({ "id": id }), host.caller());
    let cancelled = host.functions.mutation("jobs:cancel", &args, &caller);
    assert!(cancelled.await.unwrap().answered.result.is_ok());
    assert_eq!(host.state(&id).await["kind"], "canceled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_the_host_cannot_run_hold_up_no_others() {
    let host = start().await;
    // From now on no log becomes durable, however often it is retried.
    host.sink.script([MemoryFault::FailBefore; 10_000]);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(host.later(json!({ "fn": "logs" })).await.unwrap());
    }
    for name in ["healthy", "acts"] {
        let id = host.later(json!({ "fn": name })).await.unwrap();
        assert_eq!(host.end(&id).await["kind"], "success", "{name}");
    }
    for id in waiting {
        assert_eq!(host.state(&id).await["kind"], "pending");
    }
    assert_eq!(host.logs("job"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_makes_the_host_panic_fails_once() {
    let host = start().await;
    host.functions.inner.faults.script("1.0/replace", Fault::Panic);
    let id = host.later(json!({ "fn": "replaces" })).await.unwrap();
    let end = host.end(&id).await;
    assert_eq!(end["kind"], "failed");
    assert!(end["error"].as_str().unwrap().starts_with("the host failed"), "{end}");
    let next = host.later(json!({ "fn": "replaces" })).await.unwrap();
    assert_eq!(host.end(&next).await["kind"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_while_the_store_fails_and_then_runs() {
    let host = start().await;
    for fault in [Fault::Store("gone for a while"), Fault::Panic] {
        host.functions.inner.faults.script("look", fault);
        let id = host.later(json!({ "fn": "healthy" })).await.unwrap();
        assert_eq!(host.end(&id).await["kind"], "success");
    }
    host.functions.inner.faults.script("1.0/replace", Fault::Store("gone for a while"));
    let id = host.later(json!({ "fn": "replaces" })).await.unwrap();
    assert_eq!(host.end(&id).await["kind"], "success");
    assert!(host.functions.inner.faults.is_over());
}

/// Counts the warnings that a scheduled function failed.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "functions_calls::scheduler"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text += &format!("{value:?} ");
        });
        if text.contains("a scheduled function failed") && text.contains("node:render") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Single-threaded, since the subscriber is that of this thread.
#[tokio::test]
async fn a_missing_function_of_a_cron_is_reported_once() {
    let warned = Arc::new(AtomicUsize::new(0));
    // A global subscriber is needed too: otherwise a test on another thread that reaches a log line
    // first would mark the line as of no interest to any subscriber.
    let _ = tracing::subscriber::set_global_default(Warnings(Arc::default()));
    let _heard = tracing::subscriber::set_default(Warnings(Arc::clone(&warned)));
    let modules = tempfile::tempdir().unwrap();
    let files = [
        ("jobs.ts", MODULE),
        ("node.ts", "'use node'; export const render = 1;"),
        (
            "crons.ts",
            "import { anyApi, cronJobs } from 'convex/server'; const crons = cronJobs();
             crons.interval('node', { seconds: 1 }, anyApi.node.render);
             crons.interval('beat', { seconds: 1 }, anyApi.beat.add); export default crons;",
        ),
        (
            "beat.ts",
            "import { mutation, query } from './_generated/server';
             export const add = mutation(async (ctx) => { await ctx.db.insert('beats', {}); });
             export const count = query(async (ctx) => (await ctx.db.query('beats').collect()).length);",
        ),
    ];
    for (name, text) in files {
        std::fs::write(modules.path().join(name), text).unwrap();
    }
    let settings = FunctionSettings::default();
    let host = Host::with_program(modules.path(), settings, SystemRandom).await;
    let (caller, changed) = (host.caller(), Arc::new(Notify::new()));
    let key = host.functions.query_key("beat:count", &json!({}), &caller).unwrap();
    // Both crons are due at the same times.
    loop {
        let sealed = host.functions.sealed_at(&host.functions.latest(), &key, None).await;
        let count = sealed.release(&caller).await.unwrap().result.clone().unwrap();
        if serde_json::from_str::<f64>(&count).unwrap() >= 3.0 {
            break;
        }
        sealed.watch().on_invalid(&changed);
        changed.notified().await;
    }
    assert_eq!(warned.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crons_go_on_after_the_clock_is_set_back() {
    const NOW_MS: i64 = 1_795_729_549_445;
    const AHEAD_MS: i64 = 20 * 365 * 86_400_000;
    const HOUR_MS: i64 = 3_600_000;
    let modules = tempfile::tempdir().unwrap();
    std::fs::write(modules.path().join("jobs.ts"), MODULE).unwrap();
    let crons = "import { anyApi, cronJobs } from 'convex/server'; const crons = cronJobs();
                 crons.interval('beat', { hours: 1 }, anyApi.jobs.logs); export default crons;";
    std::fs::write(modules.path().join("crons.ts"), crons).unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS + AHEAD_MS));
    let runtime = {
        let clock = Arc::clone(&clock);
        |sink| AuditRuntime::builder(sink).with_clock(clock)
    };
    let host = Host::with_runtime(modules.path(), FunctionSettings::default(), runtime).await;
    let inner = &host.functions.inner;
    let due_after = async |than: i64| -> i64 {
        loop {
            let at = inner.store.latest();
            let mut tx = inner.store.begin(&at, 0);
            let next = jobs::crons(&mut tx, &ComponentPath::root()).unwrap()[0].next_ms as i64;
            if (than + 1..=than + HOUR_MS).contains(&next) {
                return next;
            }
            let (watch, changed) =
                (inner.store.watch(Arc::new(tx.take_reads()), at.ts()), Arc::new(Notify::new()));
            watch.on_invalid(&changed);
            changed.notified().await;
        }
    };
    // The cron runs when it is new, and then each hour.
    due_after(NOW_MS + AHEAD_MS).await;
    clock.advance(-AHEAD_MS);
    inner.rescheduled.notify_one();
    let next = due_after(NOW_MS).await;
    assert_eq!(host.logs("job"), 1);
    clock.advance(next - NOW_MS);
    inner.rescheduled.notify_one();
    due_after(next).await;
    assert_eq!(host.logs("job"), 2);
}
