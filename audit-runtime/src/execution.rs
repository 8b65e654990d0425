//! A function while it runs, and the log it writes to.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Budget, UniqueId};
use audit_vars::{BodyError, Template};
use serde::Serialize;

use crate::audited::Audited;
use crate::context::Context;
use crate::error::{AuditError, Refusal};
use crate::provenance::{FunctionKind, FunctionName, Identity, Origin};
use crate::request::RequestContext;
use crate::sealed_logs::{Emission, SealedLogs};

/// A query: it reads, and its result may be cached. It cannot see its request, since the result may
/// serve many.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Query;

/// A mutation: it writes, for one request, which it can read.
#[derive(Debug, Clone)]
pub struct Mutation {
    request: RequestContext,
}

/// An action: it calls queries and mutations, each of which is audited on its own, and the outside
/// world. It has no audit log: an action that fails halfway cannot take back what it did.
#[derive(Debug, Clone)]
pub struct Action {
    request: RequestContext,
}

/// A kind of function that has an audit log.
pub trait Audits: sealed::Sealed + Send + Sync + 'static {
    /// The kind, for provenance.
    const KIND: FunctionKind;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Query {}
    impl Sealed for super::Mutation {}
}

impl Audits for Query {
    const KIND: FunctionKind = FunctionKind::Query;
}

impl Audits for Mutation {
    const KIND: FunctionKind = FunctionKind::Mutation;
}

impl Query {
    pub(crate) fn new() -> Query {
        Query
    }
}

impl Mutation {
    pub(crate) fn new(request: RequestContext) -> Mutation {
        Mutation { request }
    }
}

impl Action {
    pub(crate) fn new(request: RequestContext) -> Action {
        Action { request }
    }

    /// The request that called it, which it may pass to the queries and mutations that it calls.
    pub fn request(&self) -> &RequestContext {
        &self.request
    }
}

/// A query or mutation while it runs, with everything that it calls.
///
/// [`log`](Self::log) is what the function writes to; [`seal`](Self::seal) ends it. An execution
/// that is dropped instead, because it panicked or its caller is gone, has no effect, and its logs
/// are dropped with a warning. An execution that logs nothing does no I/O and allocates nothing,
/// from its beginning to the release of its result.
#[must_use = "a function's logs are held until the execution is sealed and released"]
pub struct Execution<K: Audits> {
    inner: Held,
    kind: K,
}

/// The part that does not depend on the kind.
struct Inner {
    context: Context,
    kind: FunctionKind,
    function: FunctionName,
    now_ms: i64,
    state: Mutex<State>,
}

/// Who owns the logs.
#[allow(clippy::large_enum_variant, reason = "an execution that logs nothing allocates nothing")]
enum Held {
    Alone(Inner),
    /// Shared with the loop that runs the attempts, so that the logs survive whatever happens to
    /// the execution.
    Attended(Arc<Inner>),
}

impl Deref for Held {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        match self {
            Held::Alone(inner) => inner,
            Held::Attended(inner) => inner,
        }
    }
}

/// The logs of one attempt at a mutation, for the loop that runs the attempts: they are released
/// whether the attempt sealed its execution, dropped it, kept it or leaked it. They also tell which
/// execution sealed a transaction.
#[derive(Clone)]
pub(crate) struct AttemptLogs(Arc<Inner>);

impl AttemptLogs {
    /// Ends the attempt: its execution accepts no more logs. Returns what it had emitted, and the
    /// refusal if one of its logs was refused.
    pub(crate) fn end(&self) -> (Result<(), Refusal>, Option<Arc<SealedLogs>>) {
        let mut state = self.0.state();
        state.ended = true;
        self.0.seal(&mut state, ()).into_parts()
    }

    /// The call's id, if one was made. The next attempt has the same.
    pub(crate) fn call(&self) -> Option<UniqueId> {
        self.0.state().execution
    }
}

impl PartialEq for AttemptLogs {
    fn eq(&self, other: &AttemptLogs) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for AttemptLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttemptLogs").field(&self.0.function).finish()
    }
}

fn warn_of_loss(function: &FunctionName, kind: FunctionKind, logs: usize) {
    if logs > 0 {
        tracing::warn!(
            %function,
            %kind,
            logs,
            "a function was dropped before it was sealed: it had no effect, and its audit logs reach nobody"
        );
    }
}

struct State {
    /// Made when it is first needed, unless the call has one already.
    execution: Option<UniqueId>,
    attempt: u32,
    budget: Budget,
    /// The first refusal of a log, and the function that emitted the log. The execution has failed
    /// for good.
    refused: Option<Box<(Refusal, Origin)>>,
    emissions: Vec<Emission>,
    /// The functions that were called by this one and emitted something.
    nested: Vec<Origin>,
    /// What was emitted, since it was sealed first.
    sealed: Option<Arc<SealedLogs>>,
    /// Its logs were taken, to be released.
    ended: bool,
}

impl State {
    fn check_unrefused(&self) -> Result<(), AuditError> {
        match self.refused.as_deref() {
            Some((refusal, _)) => Err(refusal.clone().into()),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> Origin {
        Origin { kind: self.kind, function: self.function.clone() }
    }

    /// Compiles and keeps one log. Compiling is outside the lock: nested calls may run side by
    /// side.
    fn audit(
        &self,
        origin: Option<&Origin>,
        compile: impl FnOnce() -> Result<Template, BodyError>,
    ) -> Result<(), AuditError> {
        // Once a log was refused, further ones are not compiled: they must cost nothing.
        self.state().check_unrefused()?;
        let panicking = RefusesPanics { inner: self, origin };
        let compiled = compile();
        std::mem::forget(panicking);
        let mut state = self.state();
        state.check_unrefused()?;
        let charged = compiled.map_err(Refusal::from).and_then(|template| {
            if state.ended {
                return Err(Refusal::Body(BodyError::refused(
                    "the attempt at the mutation has ended: its audit log takes no more",
                )));
            }
            let charged = state.budget.charge(template.bound_bytes().into());
            charged.map(|()| template).map_err(Refusal::Limit)
        });
        let template = match charged {
            Ok(template) => template,
            Err(refusal) => {
                self.refuse(&mut state, refusal.clone(), origin);
                return Err(refusal.into());
            }
        };
        let origin = origin.map_or(0, |origin| {
            // Number 0 is the function itself.
            let known = state.nested.iter().position(|nested| nested == origin);
            1 + known.unwrap_or_else(|| {
                state.nested.push(origin.clone());
                state.nested.len() - 1
            })
        });
        state.emissions.push(Emission { template, origin });
        Ok(())
    }

    /// Reports the first log that is refused. The actual size goes to the operator's log and
    /// nowhere else: from it, a client could compute the size of data that it may not see.
    #[cold]
    fn refuse(&self, state: &mut State, refusal: Refusal, origin: Option<&Origin>) {
        let origin = origin.cloned().unwrap_or_else(|| self.root());
        self.context.metrics().refused(&refusal);
        let (function, kind) = (&origin.function, origin.kind);
        match &refusal {
            Refusal::Limit(exceeded) => {
                let (actual, max) = (exceeded.actual(), exceeded.max());
                tracing::info!(%function, %kind, %refusal, actual, max, "an audit log was refused");
            }
            Refusal::Body(error) => {
                let problem = error.problem();
                tracing::info!(%function, %kind, %refusal, ?problem, "an audit log was refused");
            }
        }
        state.refused = Some(Box::new((refusal, origin)));
    }

    fn execution_id(&self, state: &mut State) -> UniqueId {
        *state.execution.get_or_insert_with(|| self.context.new_id())
    }

    fn seal<T>(&self, state: &mut State, value: T) -> Audited<T> {
        let is_owed = !state.emissions.is_empty() || state.refused.is_some();
        let seals = state.sealed.is_none() && is_owed;
        // Receipts of mutations show the id, and provenance does. Nothing else does.
        let has_id = self.kind == FunctionKind::Mutation || self.context.has_provenance();
        let identity = seals.then(|| {
            let none = UniqueId::from_bits(0);
            let execution = if has_id { self.execution_id(state) } else { none };
            Identity { execution, attempt: state.attempt }
        });
        let refused = state.refused.as_deref();
        if let Some(identity) = identity {
            let emissions = std::mem::take(&mut state.emissions);
            let nested = std::mem::take(&mut state.nested);
            let origins: Vec<Origin> = [self.root()].into_iter().chain(nested).collect();
            state.sealed = Some(Arc::new(SealedLogs::new(
                self.context.clone(),
                emissions,
                &origins,
                refused.map(|(refusal, origin)| (refusal, origin)),
                identity,
                self.now_ms,
            )));
        }
        let value = match refused {
            Some((refusal, _)) => Err(refusal.clone()),
            None => Ok(value),
        };
        Audited::new(value, state.sealed.clone())
    }
}

/// Held while a body is compiled: a body whose `Serialize` implementation panics is refused too,
/// since the function may catch the panic.
struct RefusesPanics<'a> {
    inner: &'a Inner,
    origin: Option<&'a Origin>,
}

impl Drop for RefusesPanics<'_> {
    fn drop(&mut self) {
        let error =
            BodyError::refused("the Serialize implementation of an audit log body panicked");
        let mut state = self.inner.state();
        if state.refused.is_none() {
            self.inner.refuse(&mut state, Refusal::Body(error), self.origin);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return;
        }
        let logs = match &state.sealed {
            Some(sealed) if sealed.are_durable() => 0,
            Some(sealed) => sealed.count(),
            // A function whose first log was refused leaves one record.
            None => state.emissions.len().max(usize::from(state.refused.is_some())),
        };
        warn_of_loss(&self.function, self.kind, logs);
    }
}

impl<K: Audits> Execution<K> {
    pub(crate) fn begin(context: Context, kind: K, function: FunctionName) -> Execution<K> {
        let now_ms = context.clock().now_ms();
        let budget = Budget::new(*context.limits());
        let state = Mutex::new(State {
            execution: None,
            attempt: 1,
            budget,
            refused: None,
            emissions: Vec::new(),
            nested: Vec::new(),
            sealed: None,
            ended: false,
        });
        Execution {
            inner: Held::Alone(Inner { context, kind: K::KIND, function, now_ms, state }),
            kind,
        }
    }

    /// Sets the id of the call and the number of this attempt at it, counted from 1, for
    /// provenance. All attempts at a call share the id, which
    /// [`AuditRuntime::new_id`](crate::AuditRuntime::new_id) makes.
    pub fn with_attempt(self, call: UniqueId, attempt: u32) -> Execution<K> {
        self.with_attempt_of(Some(call), attempt)
    }

    /// The same for a call that may have no id yet.
    pub(crate) fn with_attempt_of(self, call: Option<UniqueId>, attempt: u32) -> Execution<K> {
        let mut state = self.inner.state();
        (state.execution, state.attempt) = (call, attempt);
        drop(state);
        self
    }

    /// When the function runs, in milliseconds since the Unix epoch: the value of the variable
    /// `now` in the logs of its first release. A host whose functions can read a clock gives them
    /// this time.
    pub fn now_ms(&self) -> i64 {
        self.inner.now_ms
    }

    /// The audit log that the function writes to.
    pub fn log(&self) -> AuditLog<'_, K> {
        AuditLog { inner: &self.inner, kind: &self.kind, origin: None }
    }

    /// Ends the function with its result, a value or an error, which cannot be reached before its
    /// logs are durable.
    ///
    /// If a log of the function was refused, for its body or a limit, the value is dropped here,
    /// and each release fails.
    pub fn seal<T>(self, value: T) -> Audited<T> {
        let mut state = self.inner.state();
        // From here on the host releases the logs, or the loop that runs the attempts does.
        state.ended |= matches!(self.inner, Held::Alone(_));
        self.inner.seal(&mut state, value)
    }
}

impl Execution<Mutation> {
    /// The request that called the mutation.
    pub fn request(&self) -> &RequestContext {
        &self.kind.request
    }

    /// The call's id, as [`AuditLog::execution_id`].
    pub fn execution_id(&self) -> UniqueId {
        self.inner.execution_id(&mut self.inner.state())
    }

    /// For the loop that runs the attempts: the execution, and a second handle on its logs.
    pub(crate) fn attended(self) -> (Execution<Mutation>, AttemptLogs) {
        let Execution { inner, kind } = self;
        let inner = match inner {
            Held::Alone(inner) => Arc::new(inner),
            Held::Attended(inner) => inner,
        };
        let logs = AttemptLogs(Arc::clone(&inner));
        (Execution { inner: Held::Attended(inner), kind }, logs)
    }

    /// The attempt that it belongs to, if a loop runs the attempts.
    pub(crate) fn attempt(&self) -> Option<AttemptLogs> {
        match &self.inner {
            Held::Alone(_) => None,
            Held::Attended(inner) => Some(AttemptLogs(Arc::clone(inner))),
        }
    }
}

impl<K: Audits + fmt::Debug> fmt::Debug for Execution<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("function", &self.inner.function)
            .field("kind", &self.kind)
            .field("attempt", &self.inner.state().attempt)
            .field("logs", &self.inner.state().emissions.len())
            .finish_non_exhaustive()
    }
}

/// The audit log of a function. Cheap to clone; usable from several tasks at once.
#[derive(Clone)]
pub struct AuditLog<'e, K: Audits> {
    inner: &'e Inner,
    kind: &'e K,
    /// `None` for the function that the execution began with.
    origin: Option<Origin>,
}

impl<'e, K: Audits> AuditLog<'e, K> {
    /// Emits one log: any JSON-serializable object, with [`Var`](crate::Var)s in it or not. See
    /// [`body!`](crate::body).
    ///
    /// The log is held in memory until the function's result is released. The bucket gets the body
    /// as JSON with variables replaced and nothing else changed.
    ///
    /// # Errors
    ///
    /// [`AuditError::Body`] says what is wrong with the body and where, [`AuditError::Limit`] which
    /// limit it exceeds. Either way the function has failed, even if it catches the error: sealing
    /// drops its value. What it emitted before is still made durable.
    pub fn audit<T: Serialize + ?Sized>(&self, body: &T) -> Result<(), AuditError> {
        let context = &self.inner.context;
        self.inner.audit(self.origin.as_ref(), || {
            Template::compile(context.vars(), context.limits(), body)
        })
    }

    /// Emits one log that another language serialized: see [`Template::from_json`].
    ///
    /// # Errors
    ///
    /// As [`audit`](Self::audit).
    pub fn audit_json(&self, text: &str) -> Result<(), AuditError> {
        let context = &self.inner.context;
        self.inner.audit(self.origin.as_ref(), || {
            Template::from_json(context.vars(), context.limits(), text)
        })
    }

    /// Refuses a log that a host for another language cannot write as JSON, as
    /// [`audit`](Self::audit) refuses a body: the function has failed. `reason` tells the
    /// function's author what is wrong and where. Returns the error that the function failed with:
    /// that of its first refused log.
    pub fn refuse(&self, reason: impl Into<String>) -> AuditError {
        let refused = || Err(BodyError::refused(reason));
        match self.inner.audit(self.origin.as_ref(), refused) {
            Err(error) => error,
            Ok(()) => unreachable!("there is no template"),
        }
    }

    /// The log of a query that this function calls. It counts towards this function's limits and is
    /// sealed with it.
    pub fn nested_query(&self, function: impl Into<FunctionName>) -> AuditLog<'e, Query> {
        self.nested(&Query, function.into())
    }

    fn nested<N: Audits>(&self, kind: &'e N, function: FunctionName) -> AuditLog<'e, N> {
        AuditLog { inner: self.inner, kind, origin: Some(Origin { kind: N::KIND, function }) }
    }
}

impl<'e> AuditLog<'e, Mutation> {
    /// The log of a mutation that this one calls in a sub-transaction of the host. It counts
    /// towards this function's limits and is sealed with it: rolling back the sub-transaction
    /// undoes its writes and keeps its logs.
    pub fn nested_mutation(&self, function: impl Into<FunctionName>) -> AuditLog<'e, Mutation> {
        self.nested(self.kind, function.into())
    }

    /// The id of this call: all attempts at it have the same, and provenance shows it. A row that
    /// keeps it leads to the records of its change, and these to the row.
    pub fn execution_id(&self) -> UniqueId {
        self.inner.execution_id(&mut self.inner.state())
    }

    /// The request that called the mutation.
    pub fn request(&self) -> &'e RequestContext {
        &self.kind.request
    }
}

impl<K: Audits> fmt::Debug for AuditLog<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.origin.as_ref().map_or(&self.inner.function, |origin| &origin.function);
        f.debug_struct("AuditLog")
            .field("function", function)
            .field("kind", &K::KIND)
            .finish_non_exhaustive()
    }
}
