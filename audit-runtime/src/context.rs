//! The state that the executions of one runtime share: the sink, the limits, the variables, the
//! clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::{AuditSink, BufferPool, Clock, Limits, Random, UniqueId, Usage};
use audit_vars::Vars;

use crate::metrics::Metrics;
use crate::outcomes::Outcomes;
use crate::retry_policy::RetryPolicy;

/// How long a function waits by default for its logs to become durable: long enough for a slow
/// bucket, but shorter than most callers wait for a response.
pub(crate) const DEFAULT_PERSIST_TIMEOUT: Duration = Duration::from_secs(30);

/// A handle on the shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) sink: Arc<dyn AuditSink>,
    pub(crate) limits: Limits,
    pub(crate) vars: Vars,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) persist_timeout: Duration,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) provenance: bool,
    pub(crate) outcomes: Option<Outcomes>,
    pub(crate) usage: Mutex<Usage>,
    pub(crate) metrics: Metrics,
    pub(crate) batch_buffers: BufferPool,
}

impl Context {
    pub(crate) fn new(shared: Shared) -> Context {
        Context(Arc::new(shared))
    }

    pub(crate) fn sink(&self) -> &Arc<dyn AuditSink> {
        &self.0.sink
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn vars(&self) -> &Vars {
        &self.0.vars
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.0.random
    }

    pub(crate) fn new_id(&self) -> UniqueId {
        UniqueId::generate(self.clock(), self.random())
    }

    pub(crate) fn persist_timeout(&self) -> Duration {
        self.0.persist_timeout
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        self.0.retry_policy
    }

    pub(crate) fn has_provenance(&self) -> bool {
        self.0.provenance
    }

    /// Where the outcomes of attempts go, if they are recorded.
    pub(crate) fn outcomes(&self) -> Option<&Outcomes> {
        self.0.outcomes.as_ref()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn batch_buffers(&self) -> &BufferPool {
        &self.0.batch_buffers
    }

    pub(crate) fn meter(&self, usage: Usage) {
        *self.0.usage.lock().unwrap_or_else(PoisonError::into_inner) += usage;
    }

    pub(crate) fn usage(&self) -> Usage {
        *self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
