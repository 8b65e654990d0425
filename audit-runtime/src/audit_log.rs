//! The audit log that a function writes to.

use std::fmt;

use audit_core::UniqueId;
use audit_vars::{BodyError, Template};
use serde::Serialize;

use crate::error::{AuditError, Refusal};
use crate::function_logs::{FunctionLogs, State};
use crate::kinds::{Audits, Mutation, Query};
use crate::provenance::{FunctionName, Origin};
use crate::request::RequestContext;

/// The audit log of a function. Cheap to clone; usable from several tasks at once.
#[derive(Clone)]
pub struct AuditLog<'e, K: Audits> {
    pub(crate) logs: &'e FunctionLogs,
    pub(crate) kind: &'e K,
    /// `None` for the function that was called from outside.
    pub(crate) origin: Option<Origin>,
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
        let context = &self.logs.context;
        emit(self.logs, self.origin.as_ref(), || {
            Template::compile(context.vars(), context.limits(), body)
        })
    }

    /// Emits one log that another language serialized: see [`Template::from_json`].
    ///
    /// # Errors
    ///
    /// As [`audit`](Self::audit).
    pub fn audit_json(&self, text: &str) -> Result<(), AuditError> {
        let context = &self.logs.context;
        emit(self.logs, self.origin.as_ref(), || {
            Template::from_json(context.vars(), context.limits(), text)
        })
    }

    /// Fails the function because a host for another language cannot convert its log to JSON, as
    /// [`audit`](Self::audit) does for an invalid body. `reason` tells the function's author what
    /// is wrong and where. Returns the function's error: that of its first refused log.
    pub fn refuse(&self, reason: impl Into<String>) -> AuditError {
        let refused = || Err(BodyError::refused(reason));
        match emit(self.logs, self.origin.as_ref(), refused) {
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
        AuditLog { logs: self.logs, kind, origin: Some(Origin { kind: N::KIND, function }) }
    }
}

impl<'e> AuditLog<'e, Mutation> {
    /// The log of a mutation that this one calls in a sub-transaction of the host. It counts
    /// towards this function's limits and is sealed with it: rolling back the sub-transaction
    /// undoes its writes and keeps its logs.
    pub fn nested_mutation(&self, function: impl Into<FunctionName>) -> AuditLog<'e, Mutation> {
        self.nested(self.kind, function.into())
    }

    /// The id of this call, shared by all its attempts and shown in provenance. A row that stores
    /// it can be matched with the records of its change.
    pub fn execution_id(&self) -> UniqueId {
        self.logs.execution_id(&mut self.logs.state())
    }

    /// The request that called the mutation.
    pub fn request(&self) -> &'e RequestContext {
        &self.kind.request
    }
}

/// Compiles one log and adds it to what the function has emitted. Compiles outside the lock, so
/// that nested calls can run in parallel.
fn emit(
    logs: &FunctionLogs,
    origin: Option<&Origin>,
    compile: impl FnOnce() -> Result<Template, BodyError>,
) -> Result<(), AuditError> {
    // After a refusal, further logs must cost nothing, so they are not compiled.
    logs.state().emitted.check_unrefused()?;
    let panicking = RefusesPanics { logs, origin };
    let compiled = compile();
    std::mem::forget(panicking);
    let mut state = logs.state();
    state.emitted.check_unrefused()?;
    let pushed = compiled.map_err(Refusal::from).and_then(|template| {
        if state.ended {
            return Err(Refusal::Body(BodyError::refused(
                "the attempt at the mutation has ended: its audit log is closed",
            )));
        }
        state.emitted.push(template, origin)
    });
    pushed.map_err(|refusal| {
        record_refusal(logs, &mut state, refusal.clone(), origin);
        refusal.into()
    })
}

#[cold]
fn record_refusal(
    logs: &FunctionLogs,
    state: &mut State,
    refusal: Refusal,
    origin: Option<&Origin>,
) {
    let origin = origin.cloned().unwrap_or_else(|| logs.root());
    state.emitted.refuse(refusal, origin, logs.context.metrics());
}

/// Armed while a body is compiled: a panic of its `Serialize` implementation counts as a refusal,
/// since the function may catch it.
struct RefusesPanics<'a> {
    logs: &'a FunctionLogs,
    origin: Option<&'a Origin>,
}

impl Drop for RefusesPanics<'_> {
    fn drop(&mut self) {
        let error =
            BodyError::refused("the Serialize implementation of an audit log body panicked");
        let mut state = self.logs.state();
        if state.emitted.refused().is_none() {
            record_refusal(self.logs, &mut state, Refusal::Body(error), self.origin);
        }
    }
}

impl<K: Audits> fmt::Debug for AuditLog<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.origin.as_ref().map_or(&self.logs.function, |origin| &origin.function);
        f.debug_struct("AuditLog")
            .field("function", function)
            .field("kind", &K::KIND)
            .finish_non_exhaustive()
    }
}
