//! A deployment that fails, panics, is cancelled or killed at any step leaves either the previous
//! program with its schema, crons and results, or the new one with its own.

use std::path::Path;
use std::sync::{Arc, mpsc};

use audit_core::testing::MemorySink;
use audit_runtime::AuditRuntime;
use functions_program::{Env, Program};
use functions_store::Store;
use functions_value::ComponentPath;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, oneshot};

use super::super::faults::Fault;
use super::super::jobs;
use super::super::{CallError, Caller, FunctionSettings, Functions};

const MODULE: &str = r#"
import { mutation, query } from "./_generated/server";
export const version = query(async () => VERSION);
// The other program's schema does not have this index.
export const indexed = query(async (ctx) => {
  await ctx.db.query("docs").withIndex("byVERSION", (q) => q.eq("nVERSION", 1)).collect();
  return VERSION;
});
// Nor this field.
export const write = mutation(async (ctx) => {
  await ctx.db.delete(await ctx.db.insert("docs", { nVERSION: 1 }));
  const document = await ctx.db.query("docs").first();
  await ctx.db.patch(document._id, { kept: document.kept + 1 });
  return VERSION;
});
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
const docs = defineTable({ kept: v.optional(v.number()), nVERSION: v.optional(v.number()) });
export default defineSchema({ docs: docs.index("byVERSION", ["nVERSION"]) });
"#;

/// The points at which a test interrupts the second program's deployment.
const POINTS: [&str; 2] = ["deployment begins", "deployment ends"];

fn program(version: u32, schema: &str) -> Program {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("docs.ts", MODULE), ("crons.ts", CRONS), ("schema.ts", schema)] {
        let text = text.replace("VERSION", &version.to_string());
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    Program::load(directory.path(), &Env::default()).unwrap()
}

async fn start(directory: &Path, version: u32) -> Functions {
    let store = Store::open(directory).unwrap();
    store.set_reserve(0);
    let runtime = AuditRuntime::builder(Arc::new(MemorySink::new())).build();
    let (program, settings) = (program(version, SCHEMA), FunctionSettings::default());
    Functions::start(runtime, store, program, settings).await.unwrap()
}

/// A host that serves the first program, has cached its results, and has a document.
async fn first() -> (tempfile::TempDir, Functions) {
    let root = tempfile::tempdir().unwrap();
    let functions = start(&root.path().join("store"), 1).await;
    let document = functions_value::Value::from_json(json!({ "kept": 1.0 })).unwrap();
    let insert = |tx: &mut functions_store::Tx| {
        tx.as_host(|tx| tx.insert(&ComponentPath::root(), "docs", document.clone()))
    };
    functions.inner.write(insert).unwrap();
    assert_served(&functions, 1).await;
    (root, functions)
}

fn caller(functions: &Functions) -> Caller {
    Caller::anonymous(functions.runtime().new_request())
}

async fn query(functions: &Functions, path: &str, args: &Json) -> Json {
    let answered = functions.query(path, args, &caller(functions)).await.unwrap();
    let result = answered.result.as_ref().unwrap_or_else(|failed| panic!("{}", failed.message));
    serde_json::from_str(result).unwrap()
}

async fn write(functions: &Functions) -> Result<Json, CallError> {
    let mutated = functions.mutation("docs:write", &json!({}), &caller(functions)).await?;
    let result = mutated.answered.result.unwrap_or_else(|failed| panic!("{}", failed.message));
    Ok(serde_json::from_str(&result).unwrap())
}

/// Asserts that queries, cached or not, have this program and its schema.
async fn assert_queried(functions: &Functions, version: u32) {
    let new = functions.latest().ts();
    for args in [json!({}), json!({ "n": new })] {
        for path in ["docs:version", "docs:indexed"] {
            assert_eq!(query(functions, path, &args).await, f64::from(version), "{path} {args}");
        }
    }
}

/// Asserts that this program is served with its schema and its crons.
async fn assert_served(functions: &Functions, version: u32) {
    assert_queried(functions, version).await;
    assert_eq!(write(functions).await.unwrap(), f64::from(version));
    let names = functions.inner.write(|tx| {
        let crons = jobs::crons(tx, &ComponentPath::root())?;
        Ok(crons.into_iter().map(|cron| cron.name).collect::<Vec<_>>())
    });
    assert_eq!(names.unwrap(), [format!("tidy {version}")]);
}

/// Asserts that a host which is started on a copy of this directory, as a killed process would
/// leave it, serves either program with everything of its own.
async fn assert_restarts(directory: &Path) {
    for version in [1, 2] {
        let copied = tempfile::tempdir().unwrap();
        copy(directory, copied.path());
        assert_served(&start(copied.path(), version).await, version).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).unwrap(),
        }
    }
}

/// Makes a thread wait at a point. Returns once it is there; it continues when the returned sender
/// is dropped.
fn hang(functions: &Functions, at: &str) -> (oneshot::Receiver<()>, mpsc::Sender<()>) {
    let ((reached, is_reached), (held, hold)) = (oneshot::channel(), mpsc::channel());
    functions.inner.faults.script(at, Fault::Hang { reached, hold });
    (is_reached, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_step_leaves_the_previous_program() {
    let (root, functions) = first().await;
    let strict = SCHEMA.replace("v.optional(v.number())", "v.number()");
    let refused = functions.deploy(program(2, &strict)).await.unwrap_err().to_string();
    assert!(refused.contains("Schema validation failed"), "{refused}");
    assert_served(&functions, 1).await;
    for point in POINTS {
        for fault in [Fault::Store("an I/O error"), Fault::Panic] {
            functions.inner.faults.script(point, fault);
            let failed = functions.deploy(program(2, SCHEMA)).await.unwrap_err().to_string();
            assert!(failed.contains("an I/O error") || failed.contains("panic"), "{failed}");
            assert_served(&functions, 1).await;
        }
        // Another process fills the disk after the check for room.
        let (is_reached, held) = hang(&functions, point);
        let (deploying, store) = (functions.clone(), functions.store().clone());
        let deployed = tokio::spawn(async move { deploying.deploy(program(2, SCHEMA)).await });
        is_reached.await.unwrap();
        store.set_reserve(u64::MAX);
        assert_restarts(&root.path().join("store")).await;
        drop(held);
        let failed = deployed.await.unwrap().unwrap_err().to_string();
        assert!(failed.contains("make room"), "{failed}");
        assert_queried(&functions, 1).await;
        store.set_reserve(0);
        assert_served(&functions, 1).await;
        assert_restarts(&root.path().join("store")).await;
    }
    functions.deploy(program(2, SCHEMA)).await.unwrap();
    assert_served(&functions, 2).await;
    assert_restarts(&root.path().join("store")).await;
}

/// The store stops before or after the commit reached the disk: only a restart can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stops_leaves_the_previous_program_until_a_restart() {
    for point in POINTS {
        let (root, functions) = first().await;
        let [place, moved] = ["store", "moved"].map(|name| root.path().join(name));
        let (is_reached, held) = hang(&functions, point);
        let deploying = functions.clone();
        let deployed = tokio::spawn(async move { deploying.deploy(program(2, SCHEMA)).await });
        is_reached.await.unwrap();
        std::fs::rename(&place, &moved).unwrap();
        drop(held);
        deployed.await.unwrap().unwrap_err();
        assert_queried(&functions, 1).await;
        assert!(matches!(write(&functions).await, Err(CallError::NotStored(_))));
        assert_restarts(&moved).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_deployment_completes() {
    let (root, functions) = first().await;
    let key = functions.query_key("docs:version", &json!({}), &caller(&functions)).unwrap();
    let sealed = functions.sealed_at(&functions.latest(), &key, None).await;
    let replaced = Arc::new(Notify::new());
    sealed.watch().on_invalid(&replaced);
    let (is_reached, held) = hang(&functions, POINTS[1]);
    let deploying = functions.clone();
    let deployed = tokio::spawn(async move { deploying.deploy(program(2, SCHEMA)).await });
    is_reached.await.unwrap();
    deployed.abort();
    assert!(deployed.await.unwrap_err().is_cancelled());
    assert_queried(&functions, 1).await;
    drop(held);
    replaced.notified().await;
    assert_served(&functions, 2).await;
    assert_restarts(&root.path().join("store")).await;
}

/// A call that has begun on a snapshot from before a deployment would not find its indexes there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_read_with_the_program_of_its_time() {
    let (_root, functions) = first().await;
    for (before, after) in [(1, 2), (2, 1)] {
        let (is_reached, held) = hang(&functions, "begin");
        let querying = functions.clone();
        let uncached = json!({ "before": after });
        let queried =
            tokio::spawn(async move { query(&querying, "docs:indexed", &uncached).await });
        is_reached.await.unwrap();
        functions.deploy(program(after, SCHEMA)).await.unwrap();
        drop(held);
        assert_eq!(queried.await.unwrap(), f64::from(before));
        assert_served(&functions, after).await;

        let (is_reached, held) = hang(&functions, "begin");
        let writing = functions.clone();
        let written = tokio::spawn(async move { write(&writing).await.unwrap() });
        is_reached.await.unwrap();
        functions.deploy(program(before, SCHEMA)).await.unwrap();
        functions.deploy(program(after, SCHEMA)).await.unwrap();
        drop(held);
        assert_eq!(written.await.unwrap(), f64::from(after));
    }
}
