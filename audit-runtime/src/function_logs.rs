//! The logs of a function while it runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Budget, UniqueId};
use audit_vars::{BodyError, Template};

use crate::audited::Audited;
use crate::context::Context;
use crate::error::{AuditError, Refusal};
use crate::provenance::{FunctionKind, FunctionName, Identity, Origin};
use crate::sealed_logs::{Emission, SealedLogs};

/// The logs of one function with everything that it calls. Nothing here depends on the kind.
pub(crate) struct FunctionLogs {
    pub(crate) context: Context,
    pub(crate) function: FunctionName,
    pub(crate) now_ms: i64,
    kind: FunctionKind,
    state: Mutex<State>,
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

pub(crate) struct State {
    /// Made when it is first needed, unless the call has one already.
    pub(crate) execution: Option<UniqueId>,
    pub(crate) attempt: u32,
    budget: Budget,
    /// The first refusal of a log, and the function that emitted the log. The execution has failed
    /// for good.
    refused: Option<Box<(Refusal, Origin)>>,
    pub(crate) emissions: Vec<Emission>,
    /// The functions that were called by this one and emitted something.
    nested: Vec<Origin>,
    /// What was emitted, since it was sealed first.
    sealed: Option<Arc<SealedLogs>>,
    /// Its logs were taken, to be released.
    pub(crate) ended: bool,
}

impl State {
    fn check_unrefused(&self) -> Result<(), AuditError> {
        match self.refused.as_deref() {
            Some((refusal, _)) => Err(refusal.clone().into()),
            None => Ok(()),
        }
    }
}

impl FunctionLogs {
    pub(crate) fn new(
        context: Context,
        kind: FunctionKind,
        function: FunctionName,
    ) -> FunctionLogs {
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
        FunctionLogs { context, function, now_ms, kind, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> Origin {
        Origin { kind: self.kind, function: self.function.clone() }
    }

    /// Compiles and keeps one log. Compiling is outside the lock: nested calls may run side by
    /// side.
    pub(crate) fn audit(
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

    pub(crate) fn execution_id(&self, state: &mut State) -> UniqueId {
        *state.execution.get_or_insert_with(|| self.context.new_id())
    }

    pub(crate) fn seal<T>(&self, state: &mut State, value: T) -> Audited<T> {
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
    inner: &'a FunctionLogs,
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

impl Drop for FunctionLogs {
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

/// The logs of one attempt at a mutation, for the loop that runs the attempts: they are released
/// whether the attempt sealed its execution, dropped it, kept it or leaked it. They also tell which
/// execution sealed a transaction.
#[derive(Clone)]
pub(crate) struct AttemptLogs(pub(crate) Arc<FunctionLogs>);

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
