//! A host for the tests: a runtime with its sink, clock and database, and its callers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit_core::testing::{ManualClock, MemoryFault, MemorySink};
use audit_core::{Batch, Receipt, async_trait};
use audit_runtime::{
    AuditRuntime, AuditRuntimeBuilder, AuditSink, Audited, Execution, Mutation, MutationError,
    ReleaseError, RequestContext, RequestId, SinkError, Var, body,
};
use serde_json::Value;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::database::{Database, DbError};

/// The time at which functions run, unless a test moves the clock.
pub(crate) const RAN_AT: i64 = 1_700_000_000_000;

/// Every fault in which a sink returns no receipt.
pub(crate) const FAULTS: [MemoryFault; 4] = [
    MemoryFault::FailBefore,
    MemoryFault::FailAfter,
    MemoryFault::HangBefore,
    MemoryFault::HangAfter,
];

pub(crate) struct Host {
    pub(crate) sink: Arc<MemorySink>,
    pub(crate) slow: Arc<SlowSink>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) database: Database,
    pub(crate) runtime: AuditRuntime,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host::with(|settings| settings)
    }

    pub(crate) fn with(settings: impl FnOnce(AuditRuntimeBuilder) -> AuditRuntimeBuilder) -> Host {
        let sink = Arc::new(MemorySink::new());
        let slow = Arc::new(SlowSink { sink: Arc::clone(&sink), now: 0.into(), most: 0.into() });
        let clock = Arc::new(ManualClock::at(RAN_AT));
        let builder = AuditRuntime::builder(Arc::clone(&slow) as _).with_clock(Arc::clone(&clock));
        let database = Database::watching(&sink);
        Host { sink, slow, clock, database, runtime: settings(builder).build() }
    }

    /// The records in the sink, as JSON.
    pub(crate) fn logs(&self) -> Vec<Value> {
        self.sink.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// One member of every log.
    pub(crate) fn members(&self, name: &str) -> Vec<Value> {
        self.logs().into_iter().map(|mut log| log[name].take()).collect()
    }

    /// A sealed query with the result `value`, which has logged one body with all variables.
    pub(crate) fn view<T>(&self, value: T) -> Audited<T> {
        let query = self.runtime.query("view");
        query.log().audit(&everyone()).unwrap();
        query.seal(value)
    }

    /// A mutation for Alice that logs once and adds 1 to the database's number.
    pub(crate) async fn increment(&self) -> Result<i64, MutationError<DbError>> {
        let attempt = async |execution: Execution<Mutation>| {
            let mut tx = self.database.begin();
            execution.log().audit(&everyone())?;
            yield_now().await;
            let value = tx.add(1);
            Ok(execution.seal_transaction(tx, Ok(value)))
        };
        self.runtime.run_mutation("increment", &alice(), attempt).await
    }
}

/// A body with all variables.
pub(crate) fn everyone() -> impl serde::Serialize {
    body!({ "ip": Var::IP, "userAgent": Var::USER_AGENT, "requestId": Var::REQUEST_ID, "now": Var::NOW })
}

pub(crate) fn alice() -> RequestContext {
    request("a").with_ip([192, 0, 2, 7].into()).with_user_agent("Alice/1.0".into())
}

pub(crate) fn bob() -> RequestContext {
    request("b").with_ip("2001:db8::b".parse().unwrap()).with_user_agent("Bob \"2\"".into())
}

pub(crate) fn request(id: &str) -> RequestContext {
    RequestContext::new(RequestId::new(id).unwrap())
}

/// The sink's error that held a result back.
pub(crate) fn not_durable(error: ReleaseError) -> SinkError {
    let ReleaseError::NotDurable(error) = error else { panic!("{error}") };
    error
}

/// Yields before it stores and before it returns, so that callers can be dropped there, as with
/// real sinks. Counts concurrent batches.
#[derive(Debug)]
pub(crate) struct SlowSink {
    sink: Arc<MemorySink>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl SlowSink {
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl AuditSink for SlowSink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let now = 1 + self.now.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(now, Ordering::Relaxed);
        yield_now().await;
        let persisted = timeout(Duration::from_secs(3_600), self.sink.persist(batch)).await;
        let result = persisted.expect("the runtime waits for a sink no longer than its deadline");
        yield_now().await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.sink.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.sink.close().await
    }
}

impl fmt::Display for SlowSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowSink({})", self.sink)
    }
}
