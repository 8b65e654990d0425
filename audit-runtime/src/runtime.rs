//! What executions share: the sink, the limits, the variables, the clock.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::{
    AuditSink, BufferPool, Clock, Limits, Random, SystemClock, SystemRandom, UniqueId, Usage,
};
use audit_vars::{RequestId, Vars};

use crate::execution::{Action, Execution, Mutation, Query};
use crate::metrics::Metrics;
use crate::provenance::FunctionName;
use crate::sealed_logs::batch_buffers;
use crate::{RequestContext, RetryPolicy};

/// Runs functions whose effects are held back until their logs are in the sink. One for each sink;
/// cheap to clone.
#[derive(Clone)]
pub struct AuditRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    sink: Arc<dyn AuditSink>,
    limits: Limits,
    vars: Vars,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    persist_timeout: Duration,
    retry_policy: RetryPolicy,
    provenance: bool,
    usage: Mutex<Usage>,
    metrics: Metrics,
    batch_buffers: BufferPool,
}

/// How long a function waits for its logs to become durable, unless a host sets another time: long
/// enough for a bucket that answers slowly, short enough that a caller still hears of it.
const DEFAULT_PERSIST_TIMEOUT: Duration = Duration::from_secs(30);

impl AuditRuntime {
    /// A runtime with all defaults.
    pub fn new(sink: Arc<dyn AuditSink>) -> AuditRuntime {
        AuditRuntime::builder(sink).build()
    }

    /// A runtime to be set up.
    pub fn builder(sink: Arc<dyn AuditSink>) -> AuditRuntimeBuilder {
        AuditRuntimeBuilder(Inner {
            sink,
            limits: Limits::default(),
            vars: Vars::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            persist_timeout: DEFAULT_PERSIST_TIMEOUT,
            retry_policy: RetryPolicy::default(),
            provenance: false,
            usage: Mutex::default(),
            metrics: Metrics::new(),
            batch_buffers: batch_buffers(),
        })
    }

    /// Begins a query. It ends with [`Execution::seal`].
    pub fn query(&self, function: impl Into<FunctionName>) -> Execution<Query> {
        Execution::begin(self.clone(), Query::new(), function.into())
    }

    /// Begins one attempt at a mutation. It ends with [`Execution::seal_transaction`], or with
    /// [`Execution::seal`] if there is no transaction. [`run_mutation`](Self::run_mutation) does
    /// all of it.
    pub fn mutation(
        &self,
        function: impl Into<FunctionName>,
        request: RequestContext,
    ) -> Execution<Mutation> {
        Execution::begin(self.clone(), Mutation::new(request), function.into())
    }

    /// Begins an action: something that can read its request, and that has no audit log.
    pub fn action(&self, request: RequestContext) -> Action {
        Action::new(request)
    }

    /// A context with a new request id and nobody behind it: for crons, scheduled functions, and as
    /// the beginning of the context of a request that came without an id.
    pub fn new_request(&self) -> RequestContext {
        RequestContext::new(RequestId::generate(self.clock(), self.random()))
    }

    /// A new identifier, for a call of a function whose attempts are to share one. See
    /// [`Execution::with_attempt`].
    pub fn new_id(&self) -> UniqueId {
        UniqueId::generate(self.clock(), self.random())
    }

    /// What was made durable through this runtime so far.
    pub fn usage(&self) -> Usage {
        *self.inner.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sink.
    pub fn sink(&self) -> &Arc<dyn AuditSink> {
        &self.inner.sink
    }

    /// What one execution may emit.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The variables that bodies may use.
    pub fn vars(&self) -> &Vars {
        &self.inner.vars
    }

    /// Where the time comes from.
    pub fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// The source of random bits that identifiers are made from.
    pub fn random(&self) -> &dyn Random {
        &*self.inner.random
    }

    pub(crate) fn persist_timeout(&self) -> Duration {
        self.inner.persist_timeout
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        self.inner.retry_policy
    }

    pub(crate) fn has_provenance(&self) -> bool {
        self.inner.provenance
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn batch_buffers(&self) -> &BufferPool {
        &self.inner.batch_buffers
    }

    pub(crate) fn meter(&self, usage: Usage) {
        *self.inner.usage.lock().unwrap_or_else(PoisonError::into_inner) += usage;
    }
}

impl fmt::Debug for AuditRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditRuntime").field("sink", &self.inner.sink).finish_non_exhaustive()
    }
}

/// Sets up an [`AuditRuntime`].
pub struct AuditRuntimeBuilder(Inner);

impl AuditRuntimeBuilder {
    /// What one execution may emit. The default is that of [`Limits`].
    pub fn with_limits(mut self, limits: Limits) -> AuditRuntimeBuilder {
        self.0.limits = limits;
        self
    }

    /// The variables that bodies may use. The default is the four built-in ones.
    pub fn with_vars(mut self, vars: Vars) -> AuditRuntimeBuilder {
        self.0.vars = vars;
        self
    }

    /// Where the time comes from. The default is the system's clock.
    pub fn with_clock(mut self, clock: impl Clock) -> AuditRuntimeBuilder {
        self.0.clock = Arc::new(clock);
        self
    }

    /// Where random bits come from. The default is the operating system.
    pub fn with_random(mut self, random: impl Random) -> AuditRuntimeBuilder {
        self.0.random = Arc::new(random);
        self
    }

    /// How long a function waits for its logs to become durable before it fails. The default is 30
    /// seconds. A sink that has a shorter limit of its own can say better what it waited for.
    pub fn with_persist_timeout(mut self, timeout: Duration) -> AuditRuntimeBuilder {
        self.0.persist_timeout = timeout;
        self
    }

    /// How [`run_mutation`](AuditRuntime::run_mutation) meets write conflicts.
    pub fn with_retry_policy(mut self, policy: RetryPolicy) -> AuditRuntimeBuilder {
        self.0.retry_policy = policy;
        self
    }

    /// Whether each log says where it comes from, in a last member that no body can write:
    /// `"$audit":{"execution":"<id>","attempt":1,"function":"<name>","kind":"query","replay":false}`.
    /// The id is that of the call: all attempts at a mutation have it, and all releases of a
    /// result. It does not count towards limits or usage. The default is no: a log is the body and
    /// nothing else.
    pub fn with_provenance(mut self, provenance: bool) -> AuditRuntimeBuilder {
        self.0.provenance = provenance;
        self
    }

    /// The runtime.
    pub fn build(self) -> AuditRuntime {
        AuditRuntime { inner: Arc::new(self.0) }
    }
}

impl fmt::Debug for AuditRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditRuntimeBuilder").field("sink", &self.0.sink).finish_non_exhaustive()
    }
}
