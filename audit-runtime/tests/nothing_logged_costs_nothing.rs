//! An execution that logged nothing costs nothing: no allocation, no call to the sink. Also pins
//! the cost of replaying one log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/no_database.rs"]
mod no_database;

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use audit_core::{Batch, Receipt, async_trait};
use audit_runtime::{
    AuditRuntime, AuditSink, Execution, Mutation, RequestContext, SinkError, Var, body,
};
use audit_sink_null::NullSink;
use futures::FutureExt;

use self::no_database::NoDatabase;

/// A sink that must not be called.
#[derive(Debug)]
struct NoSink;

#[async_trait]
impl AuditSink for NoSink {
    async fn persist(&self, _: Batch) -> Result<Receipt, SinkError> {
        panic!("nothing was logged")
    }

    async fn flush(&self) -> Result<(), SinkError> {
        panic!("nobody asked for it")
    }

    async fn close(&self) -> Result<(), SinkError> {
        panic!("nobody asked for it")
    }
}

impl fmt::Display for NoSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoSink")
    }
}

/// A runtime whose sink must not be called, and a request. Without an executor: nothing here may
/// wait.
fn host() -> (AuditRuntime, RequestContext) {
    let runtime = AuditRuntime::new(Arc::new(NoSink));
    let request =
        runtime.new_request().with_ip([192, 0, 2, 7].into()).with_user_agent("Alice/1.0".into());
    (runtime, request)
}

/// The allocations of a run, after a first run that may initialize lasting state.
fn cost(run: impl Fn()) -> AllocationInfo {
    run();
    measure(run)
}

#[test]
fn an_unlogged_query_allocates_nothing() {
    let (runtime, request) = host();
    let requests = [request.clone(), request.clone()];
    let cost = cost(|| {
        let query = runtime.query("view");
        black_box(query.log());
        black_box(query.log().nested_query("nested"));
        let page = query.seal(7);
        assert_eq!(page.release(&request).now_or_never().unwrap().unwrap(), &7);
        assert_eq!(page.release_all(&requests).now_or_never().unwrap().unwrap(), Some(&7));
        assert_eq!(page.clone().release_into(&request).now_or_never().unwrap().unwrap(), 7);
    });
    assert_eq!(cost.count_total, 0);
}

#[test]
fn an_unlogged_mutation_allocates_nothing() {
    let (runtime, request) = host();
    let cost = cost(|| {
        let execution = runtime.mutation("rename", request.clone());
        black_box(execution.log().nested_mutation("nested"));
        execution
            .seal_transaction(NoDatabase::Commits, Ok::<_, fmt::Error>(7))
            .settle()
            .now_or_never()
            .unwrap()
            .unwrap();
    });
    assert_eq!(cost.count_total, 0);
}

/// Each attempt makes one small allocation, for state that keeps its logs if it panics.
#[test]
fn an_unlogged_attempt_allocates_once() {
    let (runtime, request) = host();
    let cost = cost(|| {
        let attempt = async |execution: Execution<Mutation>| {
            Ok(execution.seal_transaction(NoDatabase::Commits, Ok::<_, fmt::Error>(7)))
        };
        let run = runtime.run_mutation("rename", &request, attempt);
        assert_eq!(run.now_or_never().unwrap().unwrap(), 7);
    });
    assert_eq!(cost.count_total, 1);
    assert!(cost.bytes_total <= 256, "{cost:?}");
}

/// Allocated are the bytes of the batch, their reference count, and the boxed future of the sink.
#[test]
fn replaying_one_log_allocates_little() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = tokio.enter();
    let runtime = AuditRuntime::new(Arc::new(NullSink::new()));
    let request =
        runtime.new_request().with_ip([192, 0, 2, 7].into()).with_user_agent("Alice/1.0".into());
    let query = runtime.query("view");
    query
        .log()
        .audit(&body!({ "ip": Var::IP, "userAgent": Var::USER_AGENT, "at": Var::NOW }))
        .unwrap();
    let page = query.seal(7);
    let cost = cost(|| assert_eq!(page.release(&request).now_or_never().unwrap().unwrap(), &7));
    assert_eq!(cost.count_total, 3);
    assert_eq!(cost.count_current, 0);
}
