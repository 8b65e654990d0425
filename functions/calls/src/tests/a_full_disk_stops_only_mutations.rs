//! A start on a full disk serves queries, and a program is deployed whole or not at all.

use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::AuditRuntime;
use functions_program::{Env, Program};
use functions_store::Store;
use functions_value::ComponentPath;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use super::super::jobs::{self, Due, Job};
use super::super::{CallError, Caller, FunctionSettings, Functions};

const MODULE: &str = r#"
import { log } from "convex/server";
import { action, mutation, query } from "./_generated/server";
export const version = query(async () => {
  await log.audit({ mark: "read" });
  return VERSION;
});
export const write = mutation(async (ctx) => void (await ctx.db.insert("docs", {})));
export const acts = action(async () => null);
export const state = query(async (ctx, { id }) => (await ctx.db.system.get(id)).state.kind);
"#;

const CRONS: &str = r#"
import { anyApi, cronJobs } from "convex/server";
const crons = cronJobs();
crons.monthly("tidy VERSION", { day: 1, hourUTC: 0, minuteUTC: 0 }, anyApi.docs.write);
export default crons;
"#;

const SCHEMA: &str = r#"
import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";
export default defineSchema({ docs: defineTable({ a: v.optional(v.number()) }).index("a", ["a"]) });
"#;

fn program(version: u32) -> Program {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("docs.ts", MODULE), ("crons.ts", CRONS), ("schema.ts", SCHEMA)] {
        let text = text.replace("VERSION", &version.to_string());
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    Program::load(directory.path(), &Env::default()).unwrap()
}

async fn start(store: &Store, version: u32) -> Functions {
    let runtime = AuditRuntime::builder(Arc::new(MemorySink::new())).build();
    let settings = FunctionSettings::default();
    Functions::start(runtime, store.clone(), program(version), settings).await.unwrap()
}

fn caller(functions: &Functions) -> Caller {
    Caller::anonymous(functions.runtime().new_request())
}

async fn query(functions: &Functions, path: &str, args: &Json) -> Json {
    let answered = functions.query(path, args, &caller(functions)).await.unwrap();
    serde_json::from_str(answered.result.as_ref().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_only_mutations() {
    let root = ComponentPath::root();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.set_reserve(0);
    let earlier = start(&store, 1).await;
    earlier.stop_scheduler().await;
    // As a process leaves it that is killed while an action runs.
    let job = Job {
        component: root.clone(),
        function: "docs:acts".to_owned(),
        args: json!({}),
        at_ms: 1.0,
    };
    let id = earlier.inner.write(|tx| jobs::schedule(tx, &root, &job)).unwrap();
    let due = Due::Scheduled { component: root.clone(), id: id.clone() };
    earlier.inner.write(|tx| due.begins(tx)).unwrap();
    drop(earlier);

    store.set_reserve(u64::MAX);
    // The program's crons have changed.
    let functions = start(&store, 2).await;
    let id = json!({ "id": id });
    assert_eq!(query(&functions, "docs:version", &json!({})).await, 2.0);
    assert_eq!(query(&functions, "docs:state", &id).await, "inProgress");
    let error = functions.mutation("docs:write", &json!({}), &caller(&functions)).await;
    assert!(matches!(error, Err(CallError::NotStored(_))), "{error:?}");
    let error = functions.deploy(program(3)).await.unwrap_err().to_string();
    assert!(error.contains("make room"), "{error}");
    for cached_or_not in [json!({}), json!({ "n": 1 })] {
        assert_eq!(query(&functions, "docs:version", &cached_or_not).await, 2.0);
    }

    let key = functions.query_key("docs:state", &id, &caller(&functions)).unwrap();
    let changed = Arc::new(Notify::new());
    let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
    sealed.watch().on_invalid(&changed);
    store.set_reserve(0);
    changed.notified().await;
    assert_eq!(query(&functions, "docs:state", &id).await, "failed");
    functions.deploy(program(3)).await.unwrap();
    for once_cached in [json!({}), json!({ "n": 1 })] {
        assert_eq!(query(&functions, "docs:version", &once_cached).await, 3.0);
    }
    let crons = functions
        .inner
        .write(|tx| {
            Ok(jobs::crons(tx, &root)?.into_iter().map(|cron| cron.name).collect::<Vec<_>>())
        })
        .unwrap();
    assert_eq!(crons, ["tidy 3"]);
}
