//! An execution that logged nothing costs nothing: no allocation, no call to the sink. And what one
//! log costs when its result is replayed, so that a change of that is noticed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use audit_core::{Batch, Receipt, async_trait};
use audit_runtime::{
    AuditRuntime, AuditSink, Execution, Mutation, RequestContext, SinkError, Transaction, Var, body,
};
use audit_sink_null::NullSink;
use futures::FutureExt;

/// Nobody may call it.
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

/// A transaction without a database.
struct Tx;

impl Transaction for Tx {
    type Error = fmt::Error;

    async fn commit(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    async fn rollback(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn is_conflict(_: &fmt::Error) -> bool {
        false
    }
}

/// A runtime with nowhere to log to, a request, and no executor: nothing here may wait.
fn host() -> (AuditRuntime, RequestContext) {
    let runtime = AuditRuntime::new(Arc::new(NoSink));
    let request =
        runtime.new_request().with_ip([192, 0, 2, 7].into()).with_user_agent("Alice/1.0".into());
    (runtime, request)
}

/// What it takes of the allocator, after a first time that may set up what stays.
fn cost(run: impl Fn()) -> AllocationInfo {
    run();
    measure(run)
}

#[test]
fn a_query() {
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
fn a_mutation() {
    let (runtime, request) = host();
    let cost = cost(|| {
        let execution = runtime.mutation("rename", request.clone());
        black_box(execution.log().nested_mutation("nested"));
        execution
            .seal_transaction(Tx, Ok::<_, fmt::Error>(7))
            .settle()
            .now_or_never()
            .unwrap()
            .unwrap();
    });
    assert_eq!(cost.count_total, 0);
}

/// One small allocation for an attempt: the place where its logs are kept in case it panics.
#[test]
fn a_mutation_that_the_runtime_retries() {
    let (runtime, request) = host();
    let cost = cost(|| {
        let attempt = async |execution: Execution<Mutation>| {
            Ok(execution.seal_transaction(Tx, Ok::<_, fmt::Error>(7)))
        };
        let run = runtime.run_mutation("rename", &request, attempt);
        assert_eq!(run.now_or_never().unwrap().unwrap(), 7);
    });
    assert_eq!(cost.count_total, 1);
    assert!(cost.bytes_total <= 256, "{cost:?}");
}

/// The bytes of the batch, and what tells its owners; the future of the sink behind its trait.
#[test]
fn the_replay_of_one_cached_log() {
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
