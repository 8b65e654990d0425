//! A function while it runs, and the log it writes to.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Budget, UniqueId};
use audit_vars::{BodyError, Template};
use serde::Serialize;

use crate::audited::{Audited, Emission, SealedLogs};
use crate::error::Refusal;
use crate::provenance::{FunctionKind, FunctionName, Identity, Origin};
use crate::{AuditError, AuditRuntime, RequestContext};

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
    inner: Inner,
    kind: K,
}

/// What does not depend on the kind.
struct Inner {
    runtime: AuditRuntime,
    kind: FunctionKind,
    function: FunctionName,
    identity: Identity,
    now_ms: i64,
    state: Mutex<State>,
    salvage: Option<Arc<Salvage>>,
}

/// Where the logs of an attempt are kept for the one who runs the attempts, in case it returns
/// early or panics, before or after it was sealed: they are released all the same.
pub(crate) struct Salvage {
    function: FunctionName,
    kept: Mutex<Option<Audited<()>>>,
}

impl Salvage {
    pub(crate) fn new(function: FunctionName) -> Salvage {
        Salvage { function, kept: Mutex::new(None) }
    }

    fn keep(&self, logs: Audited<()>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(logs);
    }

    pub(crate) fn take(&self) -> Option<Audited<()>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Salvage {
    /// The one who runs the attempts went away too, since its own caller did.
    fn drop(&mut self) {
        if let Some(kept) = self.take() {
            warn_of_loss(&self.function, FunctionKind::Mutation, kept.log_count());
        }
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
    budget: Budget,
    /// The first refusal of a log. The execution has failed for good.
    refusal: Option<Refusal>,
    emissions: Vec<Emission>,
    /// The functions that were called by this one and emitted something.
    nested: Vec<Origin>,
}

impl State {
    fn check_unrefused(&self) -> Result<(), AuditError> {
        match &self.refusal {
            Some(refusal) => Err(refusal.clone().into()),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let panicking = RefusesPanics(self);
        let compiled = compile();
        std::mem::forget(panicking);
        let mut state = self.state();
        state.check_unrefused()?;
        let charged = compiled.map_err(Refusal::from).and_then(|template| {
            let charged = state.budget.charge(template.bound_bytes().into());
            charged.map(|()| template).map_err(Refusal::Limit)
        });
        let template = match charged {
            Ok(template) => template,
            Err(refusal) => {
                state.refusal = Some(refusal.clone());
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

    fn seal<T>(&mut self, value: T) -> Audited<T> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let value = match &state.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(value),
        };
        let emissions = std::mem::take(&mut state.emissions);
        if emissions.is_empty() {
            return Audited::without_logs(value);
        }
        let root = Origin { kind: self.kind, function: self.function.clone() };
        let origins = [root].into_iter().chain(std::mem::take(&mut state.nested)).collect();
        let logs =
            SealedLogs::new(self.runtime.clone(), emissions, origins, self.identity, self.now_ms);
        Audited::with_logs(value, logs)
    }
}

/// While a body is compiled: one whose `Serialize` implementation panics is refused too, since the
/// function may catch the panic.
struct RefusesPanics<'i>(&'i Inner);

impl Drop for RefusesPanics<'_> {
    fn drop(&mut self) {
        let error =
            BodyError::refused("the Serialize implementation of an audit log body panicked");
        self.0.state().refusal.get_or_insert(Refusal::Body(error));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let logs = state.emissions.len();
        // One whose first log was refused has none, and still has to say so.
        if logs == 0 && state.refusal.is_none() {
            return;
        }
        match self.salvage.take() {
            Some(salvage) => {
                let sealed = self.seal(());
                salvage.keep(sealed);
            }
            None => warn_of_loss(&self.function, self.kind, logs),
        }
    }
}

impl<K: Audits> Execution<K> {
    pub(crate) fn begin(runtime: AuditRuntime, kind: K, function: FunctionName) -> Execution<K> {
        let now_ms = runtime.clock().now_ms();
        let budget = Budget::new(*runtime.limits());
        let state =
            Mutex::new(State { budget, refusal: None, emissions: Vec::new(), nested: Vec::new() });
        let identity = Identity { execution: None, attempt: 1 };
        Execution {
            inner: Inner {
                runtime,
                kind: K::KIND,
                function,
                identity,
                now_ms,
                state,
                salvage: None,
            },
            kind,
        }
    }

    /// Says that this is the attempt of this number, counted from 1, at one call of a function: all
    /// attempts at it have the same id, which [`AuditRuntime::new_id`] makes. Provenance shows
    /// both.
    pub fn with_attempt(mut self, call: UniqueId, attempt: u32) -> Execution<K> {
        self.inner.identity = Identity { execution: Some(call), attempt };
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
    pub fn seal<T>(mut self, value: T) -> Audited<T> {
        self.inner.salvage = None;
        self.inner.seal(value)
    }
}

impl Execution<Mutation> {
    /// The request that called the mutation.
    pub fn request(&self) -> &RequestContext {
        &self.kind.request
    }

    pub(crate) fn with_salvage(mut self, salvage: Arc<Salvage>) -> Execution<Mutation> {
        self.inner.salvage = Some(salvage);
        self
    }

    /// As [`seal`](Self::seal), for an attempt that may still return early: its logs are kept for
    /// that.
    pub(crate) fn seal_attempt<T>(mut self, value: T) -> Audited<T> {
        let salvage = self.inner.salvage.take();
        let sealed = self.inner.seal(value);
        if let Some(salvage) = salvage {
            salvage.keep(sealed.without_value());
        }
        sealed
    }
}

impl<K: Audits + fmt::Debug> fmt::Debug for Execution<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("function", &self.inner.function)
            .field("kind", &self.kind)
            .field("attempt", &self.inner.identity.attempt)
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
        let runtime = &self.inner.runtime;
        self.inner.audit(self.origin.as_ref(), || {
            Template::compile(runtime.vars(), runtime.limits(), body)
        })
    }

    /// Emits one log that another language serialized: see [`Template::from_json`].
    ///
    /// # Errors
    ///
    /// As [`audit`](Self::audit).
    pub fn audit_json(&self, text: &str) -> Result<(), AuditError> {
        let runtime = &self.inner.runtime;
        self.inner.audit(self.origin.as_ref(), || {
            Template::from_json(runtime.vars(), runtime.limits(), text)
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
