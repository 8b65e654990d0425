//! A sink that panics fails the calls whose logs it was given, and no later ones.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_core::{Batch, Receipt, SinkError, async_trait};
use audit_runtime::{AuditRuntime, AuditSink};
use serde_json::json;

use super::super::{CallError, FunctionSettings};
use super::Host;

const MODULE: &str = r#"
import { log } from "convex/server";
import { mutation, query } from "./_generated/server";
export const get = query(async () => { await log.audit({ mark: "got" }); return 7; });
export const set = mutation(async (ctx) => {
  await log.audit({ mark: "set" });
  await ctx.db.insert("things", {});
});
export const count = query(async (ctx) => (await ctx.db.query("things").collect()).length);
"#;

/// A sink that panics once each time it is told to.
#[derive(Debug)]
struct Panics {
    sink: Arc<dyn AuditSink>,
    next: Arc<AtomicBool>,
}

impl fmt::Display for Panics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Panics")
    }
}

#[async_trait]
impl AuditSink for Panics {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        assert!(!self.next.swap(false, Ordering::Relaxed), "as tests do");
        self.sink.persist(batch).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.sink.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.sink.close().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_ends_and_later_ones_work() {
    let modules = tempfile::tempdir().unwrap();
    std::fs::write(modules.path().join("app.ts"), MODULE).unwrap();
    let next = Arc::new(AtomicBool::new(false));
    let runtime =
        |sink| AuditRuntime::builder(Arc::new(Panics { sink, next: Arc::clone(&next) }) as Arc<_>);
    let host = Host::with_runtime(modules.path(), FunctionSettings::default(), runtime).await;
    let (functions, caller, args) = (&host.functions, host.caller(), json!({}));
    for round in 1..3 {
        next.store(true, Ordering::Relaxed);
        let failed = functions.query("app:get", &args, &caller).await;
        assert!(matches!(failed, Err(CallError::Internal(_))), "{failed:?}");
        // The same result, from the cache.
        functions.query("app:get", &args, &caller).await.unwrap();
        assert_eq!(host.logs("got"), round);

        next.store(true, Ordering::Relaxed);
        functions.mutation("app:set", &args, &caller).await.unwrap_err();
        functions.mutation("app:set", &args, &caller).await.unwrap();
        assert_eq!(host.logs("set"), round);
        let count = functions.query("app:count", &args, &caller).await.unwrap();
        let count: f64 = serde_json::from_str(count.result.as_ref().unwrap()).unwrap();
        assert_eq!(count, f64::from(u8::try_from(round).unwrap()));
    }
}
