//! The runtime, which begins executions.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{AuditSink, Clock, Limits, Random, SystemClock, SystemRandom, UniqueId, Usage};
use audit_vars::{RequestId, Vars};

use crate::context::{Context, DEFAULT_PERSIST_TIMEOUT, Shared};
use crate::error::MutationError;
use crate::execution::Execution;
use crate::kinds::{Action, Mutation, Query};
use crate::metrics::Metrics;
use crate::mutation;
use crate::outcomes::Outcomes;
use crate::provenance::FunctionName;
use crate::rendering::batch_buffers;
use crate::request::RequestContext;
use crate::retry_policy::RetryPolicy;
use crate::transaction::{AuditedTransaction, FunctionError, Transaction};

/// Runs functions whose effects are held back until their logs are durable in the sink. A host has
/// one for each sink. Cheap to clone.
#[derive(Clone)]
pub struct AuditRuntime {
    context: Context,
}

impl AuditRuntime {
    /// A runtime with all defaults.
    pub fn new(sink: Arc<dyn AuditSink>) -> AuditRuntime {
        AuditRuntime::builder(sink).build()
    }

    /// A builder, for settings other than the defaults.
    pub fn builder(sink: Arc<dyn AuditSink>) -> AuditRuntimeBuilder {
        let shared = Shared {
            sink,
            limits: Limits::default(),
            vars: Vars::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            persist_timeout: DEFAULT_PERSIST_TIMEOUT,
            retry_policy: RetryPolicy::default(),
            provenance: false,
            outcomes: None,
            usage: Mutex::default(),
            metrics: Metrics::new(),
            batch_buffers: batch_buffers(),
        };
        AuditRuntimeBuilder { shared, outcomes: false }
    }

    /// Begins a query. It ends with [`Execution::seal`].
    pub fn query(&self, function: impl Into<FunctionName>) -> Execution<Query> {
        Execution::begin(self.context.clone(), Query::new(), function.into())
    }

    /// Begins one attempt at a mutation. It ends with [`Execution::seal_transaction`], or with
    /// [`Execution::seal`] if there is no transaction. [`run_mutation`](Self::run_mutation) does
    /// all of this.
    pub fn mutation(
        &self,
        function: impl Into<FunctionName>,
        request: RequestContext,
    ) -> Execution<Mutation> {
        Execution::begin(self.context.clone(), Mutation::new(request), function.into())
    }

    /// Begins an action, which can read its request and has no audit log.
    pub fn action(&self, request: RequestContext) -> Action {
        Action::new(request)
    }

    /// Runs a mutation until it commits, fails, or meets too many write conflicts.
    ///
    /// `attempt` is called once for each attempt, with an execution whose log is empty. It begins a
    /// transaction, runs the function, and seals both:
    ///
    /// ```
    /// # use audit_runtime::{AuditLog, AuditRuntime, Execution, Mutation, MutationError, RequestContext, Transaction, Var, body};
    /// # struct Database;
    /// # struct Tx;
    /// # type Error = std::io::Error;
    /// # impl Database { async fn begin(&self) -> Result<Tx, Error> { Ok(Tx) } }
    /// # impl Transaction for Tx {
    /// #     type Error = Error;
    /// #     async fn commit(self) -> Result<(), Error> { Ok(()) }
    /// #     async fn rollback(self) -> Result<(), Error> { Ok(()) }
    /// #     fn is_conflict(_: &Error) -> bool { false }
    /// # }
    /// async fn rename(log: &AuditLog<'_, Mutation>, tx: &mut Tx, name: &str) -> Result<usize, Error> {
    ///     log.audit(&body!({ "action": "rename", "to": name, "ip": Var::IP })).map_err(Error::other)?;
    ///     // … writes through `tx` …
    ///     Ok(name.len())
    /// }
    ///
    /// # async fn host(runtime: AuditRuntime, database: Database, request: RequestContext, name: String)
    /// # -> Result<usize, MutationError<Error>> {
    /// runtime
    ///     .run_mutation("documents:rename", &request, async |execution| {
    ///         let mut tx = database.begin().await?;
    ///         let result = rename(&execution.log(), &mut tx, &name).await;
    ///         Ok(execution.seal_transaction(tx, result))
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// The logs of an attempt become durable before its commit. If the attempt fails, conflicts,
    /// returns early or panics, its logs become durable before this method returns.
    ///
    /// `attempt` must seal the execution that it was given. A transaction sealed by another
    /// execution, even that of an earlier attempt, is rolled back, since the function may have
    /// logged to this one. An execution that outlives its attempt accepts no more logs.
    ///
    /// # Errors
    ///
    /// [`MutationError`]. Nothing is committed, except that [`MutationError::Commit`] leaves this
    /// open.
    ///
    /// The `async` closure is called several times, so it cannot mutate its captures: use a `Cell`
    /// or an atomic.
    ///
    /// # Panics
    ///
    /// If `attempt` panics: the transaction is dropped, the logs are made durable, and the panic
    /// continues.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the attempt as dropping [`AuditedTransaction::settle`] does, and no
    /// further attempt is made.
    pub async fn run_mutation<Tx, T, E, F, Fut>(
        &self,
        function: impl Into<FunctionName>,
        request: &RequestContext,
        attempt: F,
    ) -> Result<T, MutationError<E>>
    where
        Tx: Transaction,
        E: FunctionError<Tx::Error>,
        F: FnMut(Execution<Mutation>) -> Fut,
        Fut: Future<Output = Result<AuditedTransaction<Tx, T, E>, E>>,
    {
        mutation::run(&self.context, function.into(), request, attempt).await
    }

    /// A context with a new request id and no client: for crons, scheduled functions, and requests
    /// that arrive without an id.
    pub fn new_request(&self) -> RequestContext {
        RequestContext::new(RequestId::generate(self.clock(), self.random()))
    }

    /// A new identifier for a call, shared by its attempts: see [`Execution::with_attempt`].
    pub fn new_id(&self) -> UniqueId {
        self.context.new_id()
    }

    /// Waits until all [outcomes](AuditRuntimeBuilder::with_outcomes) of mutations are durable or
    /// lost, including those of commits in progress. Returns at once if outcomes are off. A host
    /// calls it after its last mutation and before it closes the sink.
    ///
    /// It has no deadline: it waits while the sink fails, so the caller sets one.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn drain_outcomes(&self) {
        if let Some(outcomes) = self.context.outcomes() {
            outcomes.drain().await;
        }
    }

    /// The usage of the logs that this runtime has made durable.
    pub fn usage(&self) -> Usage {
        self.context.usage()
    }

    /// The sink.
    pub fn sink(&self) -> &Arc<dyn AuditSink> {
        self.context.sink()
    }

    /// The limits of one execution.
    pub fn limits(&self) -> &Limits {
        self.context.limits()
    }

    /// The variables that bodies may use.
    pub fn vars(&self) -> &Vars {
        self.context.vars()
    }

    /// The source of time.
    pub fn clock(&self) -> &dyn Clock {
        self.context.clock()
    }

    /// The source of random bits for identifiers.
    pub fn random(&self) -> &dyn Random {
        self.context.random()
    }
}

impl fmt::Debug for AuditRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditRuntime").field("sink", self.sink()).finish_non_exhaustive()
    }
}

/// Sets up an [`AuditRuntime`].
pub struct AuditRuntimeBuilder {
    shared: Shared,
    outcomes: bool,
}

impl AuditRuntimeBuilder {
    /// The limits of one execution. The default is that of [`Limits`].
    pub fn with_limits(mut self, limits: Limits) -> AuditRuntimeBuilder {
        self.shared.limits = limits;
        self
    }

    /// The variables that bodies may use. The default is the four built-in ones.
    pub fn with_vars(mut self, vars: Vars) -> AuditRuntimeBuilder {
        self.shared.vars = vars;
        self
    }

    /// The source of time. The default is the system's clock.
    pub fn with_clock(mut self, clock: impl Clock) -> AuditRuntimeBuilder {
        self.shared.clock = Arc::new(clock);
        self
    }

    /// The source of random bits. The default is the operating system.
    pub fn with_random(mut self, random: impl Random) -> AuditRuntimeBuilder {
        self.shared.random = Arc::new(random);
        self
    }

    /// How long a function waits for its logs to become durable before it fails. The default is 30
    /// seconds. A sink with a shorter limit of its own says more precisely what it waited for.
    pub fn with_persist_timeout(mut self, timeout: Duration) -> AuditRuntimeBuilder {
        self.shared.persist_timeout = timeout;
        self
    }

    /// How [`run_mutation`](AuditRuntime::run_mutation) retries after write conflicts.
    pub fn with_retry_policy(mut self, policy: RetryPolicy) -> AuditRuntimeBuilder {
        self.shared.retry_policy = policy;
        self
    }

    /// Whether each log has its origin as its last member, which no function can write:
    /// `"$audit":{"execution":"<id>","attempt":1,"function":"<name>","kind":"query","replay":false}`.
    /// The id is that of the call, shared by all attempts at a mutation and all releases of a
    /// result. The member does not count towards limits or usage. By default a log is the body and
    /// nothing else.
    pub fn with_provenance(mut self, provenance: bool) -> AuditRuntimeBuilder {
        self.shared.provenance = provenance;
        self
    }

    /// Whether a record is emitted with the outcome of each attempt at a mutation that logged
    /// something: `{"$audit":{"execution":"<id>","attempt":1,"outcome":"committed"}}`, or `"rolled
    /// back"`, `"conflict"`, `"failed"`. Switches provenance on, which identifies the attempt in
    /// its logs.
    ///
    /// The record follows the effect, together with others of the same second, and no caller waits
    /// for it. It is lost if the process dies first, so a missing record means *unknown*, never
    /// *rolled back*. No record is written if the database does not say whether it committed (see
    /// [`Transaction::is_rolled_back`](crate::Transaction::is_rolled_back)), and none for a
    /// mutation that is sealed without a transaction. At most 65,536 outcomes wait for the sink (2
    /// MiB). Those beyond that, and those whose persistence is indeterminate, are counted in
    /// `audit_outcomes_lost_total`. Before it exits, a host calls
    /// [`drain_outcomes`](AuditRuntime::drain_outcomes).
    ///
    /// If a caller goes away during its commit, the commit continues in a new task, so that its
    /// outcome is recorded. Outcomes count towards neither limits nor usage. Off by default.
    pub fn with_outcomes(mut self, outcomes: bool) -> AuditRuntimeBuilder {
        self.outcomes = outcomes;
        self
    }

    /// The runtime.
    pub fn build(self) -> AuditRuntime {
        let AuditRuntimeBuilder { mut shared, outcomes } = self;
        if outcomes {
            shared.provenance = true;
            shared.outcomes = Some(Outcomes::new(
                Arc::clone(&shared.sink),
                Arc::clone(&shared.clock),
                Arc::clone(&shared.random),
                shared.metrics.clone(),
            ));
        }
        AuditRuntime { context: Context::new(shared) }
    }
}

impl fmt::Debug for AuditRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditRuntimeBuilder")
            .field("sink", &self.shared.sink)
            .finish_non_exhaustive()
    }
}
