//! The logs of a running function.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Budget, UniqueId};
use audit_vars::{BodyError, Template};

use crate::audited::Audited;
use crate::context::Context;
use crate::error::{AuditError, Refusal};
use crate::provenance::{FunctionKind, FunctionName, Identity, Origin};
use crate::sealed_logs::{Emission, SealedLogs};

/// The logs of one function and everything that it calls, whatever its kind.
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
            "a function was dropped before it was sealed: it had no effect, and its audit logs are dropped"
        );
    }
}

pub(crate) struct State {
    /// Generated on first use, unless the call already has one.
    pub(crate) execution: Option<UniqueId>,
    pub(crate) attempt: u32,
    budget: Budget,
    /// The first refusal, and the function whose log it was. The execution has then failed for
    /// good.
    refused: Option<Box<(Refusal, Origin)>>,
    pub(crate) emissions: Vec<Emission>,
    /// The nested functions that emitted something.
    nested: Vec<Origin>,
    /// The sealed logs, once the execution was first sealed.
    sealed: Option<Arc<SealedLogs>>,
    /// Whether the logs were taken for release.
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

    /// Compiles and stores one log. Compiles outside the lock, so that nested calls can run in
    /// parallel.
    pub(crate) fn audit(
        &self,
        origin: Option<&Origin>,
        compile: impl FnOnce() -> Result<Template, BodyError>,
    ) -> Result<(), AuditError> {
        // After a refusal, further logs must cost nothing, so they are not compiled.
        self.state().check_unrefused()?;
        let panicking = RefusesPanics { inner: self, origin };
        let compiled = compile();
        std::mem::forget(panicking);
        let mut state = self.state();
        state.check_unrefused()?;
        let charged = compiled.map_err(Refusal::from).and_then(|template| {
            if state.ended {
                return Err(Refusal::Body(BodyError::refused(
                    "the attempt at the mutation has ended: its audit log is closed",
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

    /// Records the first refusal. The actual size goes only to the operator's log: a client could
    /// infer from it the size of data it may not see.
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
        // Only the receipts of mutations and provenance show the id.
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

/// Armed while a body is compiled: a panic of its `Serialize` implementation counts as a refusal,
/// since the function may catch it.
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

/// The retry loop's handle on the logs of one attempt: they are released whether the attempt
/// sealed, dropped, kept or leaked its execution. It also identifies the execution that sealed a
/// transaction.
#[derive(Clone)]
pub(crate) struct AttemptLogs(pub(crate) Arc<FunctionLogs>);

impl AttemptLogs {
    /// Ends the attempt: its execution accepts no more logs. Returns its logs, and the refusal if
    /// there was one.
    pub(crate) fn end(&self) -> (Result<(), Refusal>, Option<Arc<SealedLogs>>) {
        let mut state = self.0.state();
        state.ended = true;
        self.0.seal(&mut state, ()).into_parts()
    }

    /// The call's id, if one was generated. The next attempt reuses it.
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
