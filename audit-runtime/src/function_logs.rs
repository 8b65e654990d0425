//! The logs of a running function.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::UniqueId;

use crate::audited::Audited;
use crate::context::Context;
use crate::emitted::Emitted;
use crate::error::Refusal;
use crate::provenance::{FunctionKind, FunctionName, Identity, Origin};
use crate::sealed_logs::SealedLogs;

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
    pub(crate) emitted: Emitted,
    /// The sealed logs, once the execution was first sealed.
    sealed: Option<Arc<SealedLogs>>,
    /// Whether the logs were taken for release.
    pub(crate) ended: bool,
}

impl FunctionLogs {
    pub(crate) fn new(
        context: Context,
        kind: FunctionKind,
        function: FunctionName,
    ) -> FunctionLogs {
        let now_ms = context.clock().now_ms();
        let emitted = Emitted::new(*context.limits());
        let state =
            Mutex::new(State { execution: None, attempt: 1, emitted, sealed: None, ended: false });
        FunctionLogs { context, function, now_ms, kind, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function that was called.
    pub(crate) fn root(&self) -> Origin {
        Origin { kind: self.kind, function: self.function.clone() }
    }

    pub(crate) fn execution_id(&self, state: &mut State) -> UniqueId {
        *state.execution.get_or_insert_with(|| self.context.new_id())
    }

    pub(crate) fn seal<T>(&self, state: &mut State, value: T) -> Audited<T> {
        let seals = state.sealed.is_none() && state.emitted.records() > 0;
        // Only the receipts of mutations and provenance show the id.
        let has_id = self.kind == FunctionKind::Mutation || self.context.has_provenance();
        let identity = seals.then(|| {
            let none = UniqueId::from_bits(0);
            let execution = if has_id { self.execution_id(state) } else { none };
            Identity { execution, attempt: state.attempt }
        });
        if let Some(identity) = identity {
            let (emissions, nested) = state.emitted.take();
            let origins: Vec<Origin> = [self.root()].into_iter().chain(nested).collect();
            state.sealed = Some(Arc::new(SealedLogs::new(
                self.context.clone(),
                emissions,
                &origins,
                state.emitted.refused(),
                identity,
                self.now_ms,
            )));
        }
        let value = match state.emitted.refused() {
            Some((refusal, _)) => Err(refusal.clone()),
            None => Ok(value),
        };
        Audited::new(value, state.sealed.clone())
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
            None => state.emitted.records(),
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
