//! Scheduled functions and crons run once each, across restarts, without a caller.

use std::sync::Arc;
use std::time::Duration;

use audit_core::testing::{MemoryFault, MemorySink};
use functions_calls::{Caller, FunctionSettings, Functions};
use functions_program::Program;
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::support::{Host, logs, program, start_on, value};

const LATER: &str = r#"
    import { log } from "convex/server";
    import { v } from "convex/values";
    import { internal } from "./_generated/api";
    import { action, internalAction, internalMutation, mutation, query } from "./_generated/server";

    export const schedule = mutation({
      args: { tag: v.string(), delayMs: v.number(), what: v.string() },
      handler: async (ctx, { tag, delayMs, what }) => {
        const target = { run: internal.later.run, fail: internal.later.fail, act: internal.later.act }[what]!;
        return await ctx.scheduler.runAfter(delayMs, target, { tag });
      },
    });
    export const fromAction = action({
      args: { tag: v.string() },
      handler: async (ctx, { tag }) => await ctx.scheduler.runAfter(0, internal.later.run, { tag }),
    });
    export const cancel = mutation({
      args: { id: v.id("_scheduled_functions") },
      handler: async (ctx, { id }) => await ctx.scheduler.cancel(id),
    });
    export const run = internalMutation({
      args: { tag: v.string() },
      handler: async (ctx, { tag }) => {
        const metadata = await ctx.meta.getRequestMetadata();
        await ctx.db.insert("ran", { tag });
        await log.audit({ action: "ran", tag, ip: log.vars.ip, userAgent: log.vars.userAgent, id: metadata.scheduledFunctionId });
      },
    });
    export const fail = internalMutation({
      args: { tag: v.string() },
      handler: async (ctx, { tag }) => {
        await ctx.db.insert("ran", { tag });
        await log.audit({ action: "failed", tag });
        throw new Error("on purpose");
      },
    });
    export const act = internalAction({
      args: { tag: v.string() },
      handler: async (ctx, { tag }) => {
        await ctx.runMutation(internal.later.run, { tag });
      },
    });
    export const ran = query(async (ctx) => (await ctx.db.query("ran").collect()).map(({ tag }) => tag));
    export const job = query({
      args: { id: v.id("_scheduled_functions") },
      handler: async (ctx, { id }) => {
        const job = await ctx.db.system.get(id);
        return job && { name: job.name, args: job.args, state: job.state, completed: job.completedTime !== undefined };
      },
    });"#;

fn later() -> Program {
    program(&[("later.ts", LATER)])
}

fn caller(functions: &Functions) -> Caller {
    Caller::anonymous(functions.runtime().new_request().with_ip([192, 0, 2, 1].into()))
}

async fn schedule(functions: &Functions, tag: &str, delay_ms: u64, what: &str) -> String {
    let args = json!({ "tag": tag, "delayMs": delay_ms, "what": what });
    let id = functions.mutation("later:schedule", &args, &caller(functions)).await.unwrap();
    value(&id.answered).as_str().unwrap().to_owned()
}

async fn ask(functions: &Functions, path: &str, args: Json) -> Json {
    value(&functions.query(path, &args, &caller(functions)).await.unwrap())
}

/// Waits for a job to reach a state, and returns it. The query is repeated whenever its result
/// changes.
async fn in_state(functions: &Functions, id: &str, state: &str) -> Json {
    let (args, caller) = (json!({ "id": id }), caller(functions));
    let waiting = async {
        loop {
            let key = functions.query_key("later:job", &args, &caller).unwrap();
            let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
            let job = value(&sealed.release(&caller).await.unwrap());
            if job["state"]["kind"] == state {
                return job;
            }
            let changed = Arc::new(tokio::sync::Notify::new());
            sealed.watch().on_invalid(&changed);
            changed.notified().await;
        }
    };
    timeout(Duration::from_secs(600), waiting)
        .await
        .unwrap_or_else(|_| panic!("{id} did not become {state}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_functions_run_once_and_show_their_state() {
    let host = Host::start(later(), FunctionSettings::default()).await;
    let functions = &host.functions;
    let ran = schedule(functions, "ran", 0, "run").await;
    let failed = schedule(functions, "failed", 0, "fail").await;
    let acted = schedule(functions, "acted", 0, "act").await;
    let job = in_state(functions, &ran, "success").await;
    assert_eq!(
        job,
        json!({ "name": "later.js:run", "args": [{ "tag": "ran" }], "state": { "kind": "success" }, "completed": true })
    );
    let job = in_state(functions, &failed, "failed").await;
    assert!(job["state"]["error"].as_str().unwrap().contains("on purpose"), "{job}");
    in_state(functions, &acted, "success").await;
    let made = host.action("later:fromAction", json!({ "tag": "from an action" })).await.unwrap();
    in_state(functions, value(&made).as_str().unwrap(), "success").await;

    let mut tags: Vec<String> =
        serde_json::from_value(ask(functions, "later:ran", json!({})).await).unwrap();
    tags.sort();
    assert_eq!(tags, ["acted", "from an action", "ran"]);
    let logged = host.logs("ran");
    assert_eq!(logged.len(), 3);
    for log in &logged {
        assert_eq!((&log["ip"], &log["userAgent"]), (&Json::Null, &Json::Null));
    }
    let by_tag = |tag: &str| logged.iter().find(|log| log["tag"] == tag).unwrap()["id"].clone();
    assert_eq!(by_tag("ran"), json!(ran));
    assert_eq!(
        by_tag("acted"),
        json!(acted),
        "what a scheduled action calls knows what scheduled it"
    );
    // A failed mutation is logged like any other, and its writes are rolled back.
    assert_eq!(host.logs("failed").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_functions_do_not_run() {
    let host = Host::start(later(), FunctionSettings::default()).await;
    let functions = &host.functions;
    let id = schedule(functions, "never", 3_600_000, "run").await;
    host.mutation("later:cancel", json!({ "id": id })).await.unwrap();
    in_state(functions, &id, "canceled").await;
    let after = schedule(functions, "after", 0, "run").await;
    in_state(functions, &after, "success").await;
    assert_eq!(ask(functions, "later:ran", json!({})).await, json!(["after"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_mutations_wait_for_durable_logs() {
    let host = Host::start(later(), FunctionSettings::default()).await;
    let functions = &host.functions;
    host.sink.script([MemoryFault::FailBefore]);
    let id = schedule(functions, "late", 0, "run").await;
    in_state(functions, &id, "success").await;
    assert_eq!(ask(functions, "later:ran", json!({})).await, json!(["late"]));
    assert_eq!(host.logs("ran").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_scheduled_before_a_restart_run_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let sink = Arc::new(MemorySink::new());
    let settings = FunctionSettings::default();
    let functions = start_on(directory.path(), Arc::clone(&sink), later(), settings.clone()).await;
    let id = schedule(&functions, "across", 1_500, "run").await;
    functions.stop_scheduler().await;
    drop(functions);
    assert_eq!(logs(&sink, "ran").len(), 0, "it ended before that was due");

    let functions = start_on(directory.path(), Arc::clone(&sink), later(), settings).await;
    in_state(&functions, &id, "success").await;
    assert_eq!(ask(&functions, "later:ran", json!({})).await, json!(["across"]));
    assert_eq!(logs(&sink, "ran").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crons_keep_their_interval_and_follow_the_program() {
    let crons = r#"
        import { cronJobs } from "convex/server";
        import { internal } from "./_generated/api";
        const crons = cronJobs();
        crons.interval("beat", { seconds: 1 }, internal.later.run, { tag: "beat" });
        crons.cron("rare", "0 0 29 2 *", internal.later.fail, { tag: "rare" });
        export default crons;"#;
    let host = Host::start(
        program(&[("later.ts", LATER), ("crons.ts", crons)]),
        FunctionSettings::default(),
    )
    .await;
    let functions = &host.functions;
    ran_at_least(functions, "beat", 2).await;
    // The scheduler starts a run only after the one before has committed, so the logs and the
    // documents agree.
    functions.deploy(later()).await.unwrap();
    let after = schedule(functions, "after", 0, "run").await;
    in_state(functions, &after, "success").await;
    let documents = ask(functions, "later:ran", json!({})).await.as_array().unwrap().len();
    let committed = host.logs("ran").len();
    assert_eq!(documents, committed);
    assert_eq!(host.logs("failed").len(), 0, "the 29th of February is rare");
    assert!(host.logs("ran").iter().all(|log| log["ip"].is_null()));

    let unknown = crons.replace("later.run", "later.gone");
    let error = functions
        .deploy(program(&[("later.ts", LATER), ("crons.ts", &unknown)]))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("beat") && error.to_string().contains("later:gone"),
        "{error}"
    );
}

/// The functions of a module with `"use node"` are unknown until one of them is to run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_for_node_fail_by_name_when_they_are_due() {
    let node = "'use node'; import { internalAction } from './_generated/server';
        export const render = internalAction(async () => null);";
    let plan = r#"
        import { internal } from "./_generated/api";
        import { mutation } from "./_generated/server";
        export const both = mutation(async (ctx) => {
          const node = await ctx.scheduler.runAfter(0, internal.node.render, { tag: "node" });
          return [node, await ctx.scheduler.runAfter(0, internal.later.run, { tag: "other" })];
        });"#;
    let crons = r#"
        import { cronJobs } from "convex/server";
        import { internal } from "./_generated/api";
        const crons = cronJobs();
        crons.interval("node", { seconds: 1 }, internal.node.render);
        crons.interval("beat", { seconds: 1 }, internal.later.run, { tag: "beat" });
        export default crons;"#;
    let modules = [("later.ts", LATER), ("node.ts", node), ("plan.ts", plan), ("crons.ts", crons)];
    let host = Host::start(program(&modules), FunctionSettings::default()).await;
    let functions = &host.functions;
    let planned = host.mutation("plan:both", json!({})).await.unwrap();
    let ids = value(&planned.answered);
    let job = in_state(functions, ids[0].as_str().unwrap(), "failed").await;
    let error = job["state"]["error"].as_str().unwrap();
    assert!(error.contains("\"node:render\"") && error.contains("\"use node\""), "{error}");
    in_state(functions, ids[1].as_str().unwrap(), "success").await;
    // The other cron keeps its interval. The one for Node.js was due as often, and delays no other.
    ran_at_least(functions, "beat", 2).await;
    // Functions that the app schedules later run as well.
    let after = schedule(functions, "after", 0, "run").await;
    in_state(functions, &after, "success").await;
}

/// Waits until functions with this tag have run at least this many times.
async fn ran_at_least(functions: &Functions, tag: &str, times: usize) {
    let caller = caller(functions);
    let key = functions.query_key("later:ran", &json!({}), &caller).unwrap();
    let waiting = async {
        loop {
            let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
            let ran = value(&sealed.release(&caller).await.unwrap());
            let count = ran.as_array().unwrap().iter().filter(|ran| **ran == json!(tag)).count();
            if count >= times {
                return;
            }
            let changed = Arc::new(tokio::sync::Notify::new());
            sealed.watch().on_invalid(&changed);
            changed.notified().await;
        }
    };
    timeout(Duration::from_secs(600), waiting).await.unwrap();
}
