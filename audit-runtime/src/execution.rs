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

/// A query: it reads, and its result may be cached. It knows no request, since the result serves
/// many.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Query;

/// A mutation: it writes, for one request that it can look at.
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

/// The kinds of function that have an audit log.
pub trait Audits: sealed::Sealed + Send + Sync + 'static {
    /// The kind, as provenance shows it.
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

    /// The request that called it, to read and to hand to the queries and mutations it calls.
    pub fn request(&self) -> &RequestContext {
        &self.request
    }
}

/// A query or mutation while it runs, with everything that it calls.
///
/// [`log`](Self::log) is what the function writes to; [`seal`](Self::seal) ends it. One that is
/// dropped instead, because it panicked or its caller went away, had no effect, and its logs reach
/// nobody; that is said in a warning. Creating one, sealing it and releasing the result does no I/O
/// and no allocation as long as nothing is logged.
#[must_use = "a function's logs are held until the execution is sealed and released"]
pub struct Execution<K: Audits> {
    inner: Held,
    kind: K,
}

/// What does not depend on the kind.
struct Inner {
    context: Context,
    kind: FunctionKind,
    function: FunctionName,
    now_ms: i64,
    state: Mutex<State>,
}

/// Who has it.
#[allow(clippy::large_enum_variant, reason = "an execution that logs nothing allocates nothing")]
enum Held {
    Alone(Inner),
    /// The one who runs the attempts has it too, so that nothing that becomes of the execution
    /// takes its logs away.
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

/// The logs of one attempt at a mutation, for the one who runs the attempts: they are released
/// whatever the attempt did with its execution, be it sealed, dropped, kept for later or lost. It
/// also tells whose execution sealed a transaction.
#[derive(Clone)]
pub(crate) struct AttemptLogs(Arc<Inner>);

impl AttemptLogs {
    /// Ends the attempt: its execution takes no more logs. Gives what it had emitted, and why it
    /// has failed if a log of it was refused.
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
    /// The first refusal of a log, and whose. The execution has failed for good.
    refused: Option<Box<(Refusal, Origin)>>,
    emissions: Vec<Emission>,
    /// The functions that were called by this one and emitted something.
    nested: Vec<Origin>,
    /// What was emitted, since it was sealed first.
    sealed: Option<Arc<SealedLogs>>,
    /// Somebody has taken its logs, to release them.
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
        // A function that goes on after a refusal must not cost more than that.
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

    /// The first log that is refused. The actual size is told here and nowhere else: whoever hears
    /// it can measure data that he may not see.
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

/// While a body is compiled: one whose `Serialize` implementation panics is refused too, since the
/// function may catch the panic.
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
            // One whose first log was refused owes one record.
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

    /// Says that this is the attempt of this number, counted from 1, at one call of a function: all
    /// attempts at it have the same id, which [`AuditRuntime::new_id`](crate::AuditRuntime::new_id)
    /// makes. Provenance shows both.
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

    /// When the function runs, in milliseconds since the Unix epoch: what the variable `now` stands
    /// for in the logs of its first hand-out. A host whose functions see a clock shows them this
    /// one.
    pub fn now_ms(&self) -> i64 {
        self.inner.now_ms
    }

    /// What the function writes its audit log to.
    pub fn log(&self) -> AuditLog<'_, K> {
        AuditLog { inner: &self.inner, kind: &self.kind, origin: None }
    }

    /// Ends the function with its result, be it a value or an error: nobody gets it before its logs
    /// are durable.
    ///
    /// If a log of the function was refused, for its body or a limit, the value is dropped here,
    /// and releasing what is left fails.
    pub fn seal<T>(self, value: T) -> Audited<T> {
        let mut state = self.inner.state();
        // From here on its logs are for the host to release, unless someone runs the attempts.
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

    /// For the one who runs the attempts: the execution, and its logs, whatever becomes of it.
    pub(crate) fn attended(self) -> (Execution<Mutation>, AttemptLogs) {
        let Execution { inner, kind } = self;
        let inner = match inner {
            Held::Alone(inner) => Arc::new(inner),
            Held::Attended(inner) => inner,
        };
        let logs = AttemptLogs(Arc::clone(&inner));
        (Execution { inner: Held::Attended(inner), kind }, logs)
    }

    /// The attempt that it belongs to, if someone runs the attempts.
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

/// What a function writes its audit log to. Cheap to clone; usable from several tasks at once.
#[derive(Clone)]
pub struct AuditLog<'e, K: Audits> {
    inner: &'e Inner,
    kind: &'e K,
    /// The function that was called by the one that the execution began with, if it is one.
    origin: Option<Origin>,
}

impl<'e, K: Audits> AuditLog<'e, K> {
    /// Emits one log: any JSON-serializable object, with [`Var`](crate::Var)s in it or not. See
    /// [`body!`](crate::body).
    ///
    /// It is held in memory until the function's result is released. What reaches the bucket is the
    /// body as JSON, variables replaced, nothing else changed.
    ///
    /// # Errors
    ///
    /// [`AuditError::Body`] says what is wrong with the body and where, [`AuditError::Limit`] which
    /// limit it exceeds. Either way the function has failed, even if it catches this: sealing it
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

    /// Refuses a log that a host for another language could not even write as JSON, just as
    /// [`audit`](Self::audit) refuses a body: the function has failed. `reason` says what is wrong
    /// and where, to the function's author. Gives back the error that the function has failed
    /// with, which is that of its first log that was refused.
    pub fn refuse(&self, reason: impl Into<String>) -> AuditError {
        let refused = || Err(BodyError::refused(reason));
        match self.inner.audit(self.origin.as_ref(), refused) {
            Err(error) => error,
            Ok(()) => unreachable!("there is no template"),
        }
    }

    /// The log of a query that this function calls. It counts towards the limits of this one and is
    /// sealed with it.
    pub fn nested_query(&self, function: impl Into<FunctionName>) -> AuditLog<'e, Query> {
        self.nested(&Query, function.into())
    }

    fn nested<N: Audits>(&self, kind: &'e N, function: FunctionName) -> AuditLog<'e, N> {
        AuditLog { inner: self.inner, kind, origin: Some(Origin { kind: N::KIND, function }) }
    }
}

impl<'e> AuditLog<'e, Mutation> {
    /// The log of a mutation that this one calls, in a sub-transaction of the host. It counts
    /// towards the limits of this one and is sealed with it: rolling back the sub-transaction takes
    /// back its writes and not its logs.
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
