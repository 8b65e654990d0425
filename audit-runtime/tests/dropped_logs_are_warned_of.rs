//! A function dropped before its end has no effect, and its logs are dropped. A caller can cause
//! this by disconnecting, so it is logged as a warning.
//!
//! A separate test binary: `tracing` caches the interest in each callsite for the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/no_database.rs"]
mod no_database;

use std::fmt;
use std::sync::{Arc, Mutex};

use audit_core::testing::MemorySink;
use audit_runtime::{AuditRuntime, AuditedTransaction, Execution, Mutation, RetryPolicy, body};
use futures::FutureExt;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use self::no_database::NoDatabase;

#[tokio::test]
async fn only_dropped_logs_cause_a_warning() {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(warnings.clone()).unwrap();
    let said = |function: &str, kind: &str| {
        let warning = warnings.0.lock().unwrap().pop();
        assert_eq!(warning, Some(json!({ "function": function, "kind": kind, "logs": "1" })));
    };
    let sink = Arc::new(MemorySink::new());
    let retry_policy = RetryPolicy { max_attempts: 2, base_backoff_ms: 0, max_backoff_ms: 0 };
    let runtime =
        AuditRuntime::builder(Arc::clone(&sink) as _).with_retry_policy(retry_policy).build();
    let request = runtime.new_request();

    drop(runtime.query("logged nothing"));
    let query = runtime.query("dropped");
    query.log().audit(&body!({})).unwrap();
    drop(query);
    said("dropped", "query");

    // A mutation whose caller disconnects before its end, then after it was sealed.
    let abandoned =
        async |execution: Execution<Mutation>| -> Result<AuditedTransaction<NoDatabase, ()>, _> {
            execution.log().audit(&body!({})).unwrap();
            std::future::pending().await
        };
    assert!(runtime.run_mutation("abandoned", &request, abandoned).now_or_never().is_none());
    said("abandoned", "mutation");
    let abandoned =
        async |execution: Execution<Mutation>| -> Result<AuditedTransaction<NoDatabase, ()>, _> {
            execution.log().audit(&body!({})).unwrap();
            let _sealed =
                execution.seal_transaction(NoDatabase::Conflicts, Ok::<_, fmt::Error>(()));
            std::future::pending().await
        };
    assert!(runtime.run_mutation("sealed", &request, abandoned).now_or_never().is_none());
    said("sealed", "mutation");
    assert!(sink.lines().is_empty());

    // Released logs are not lost, however the function ended.
    let conflict = async |execution: Execution<Mutation>| {
        execution.log().audit(&body!({})).unwrap();
        Ok(execution.seal_transaction(NoDatabase::Conflicts, Ok::<_, fmt::Error>(())))
    };
    runtime.run_mutation("conflict", &request, conflict).await.unwrap_err();
    let early =
        async |execution: Execution<Mutation>| -> Result<AuditedTransaction<NoDatabase, ()>, _> {
            execution.log().audit(&body!({})).unwrap();
            Err(fmt::Error)
        };
    runtime.run_mutation("early", &request, early).await.unwrap_err();
    assert_eq!(sink.lines().len(), 4);
    assert_eq!(*warnings.0.lock().unwrap(), [] as [Value; 0]);
}

/// The fields of each warning, except for its message.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<Value>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(json!({}));
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Fields(Value);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0[field.name()] = format!("{value:?}").into();
        }
    }
}
