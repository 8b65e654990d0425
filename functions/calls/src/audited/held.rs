//! An execution whose function runs on a worker thread.
//!
//! The thread only logs through it. The task that waits for the thread takes the execution and
//! seals it, whether the function succeeded, failed, panicked, or never returned.

use std::sync::{Arc, Mutex, MutexGuard};

use audit_runtime::{
    AuditError, Audited, Audits, Execution, FunctionKind, FunctionName, Mutation, Query,
};

/// An execution shared by the task that seals it and the thread that logs.
pub(super) struct Held<K: Audits>(Arc<Mutex<State<K>>>);

#[allow(clippy::large_enum_variant, reason = "one per run, in its own allocation")]
enum State<K: Audits> {
    /// The thread has not begun the function.
    Waiting,
    Running(Execution<K>),
    /// The execution was sealed or abandoned. Nothing can be logged any more.
    Ended,
}

impl<K: Audits> Held<K> {
    fn waiting() -> Held<K> {
        Held(Arc::new(Mutex::new(State::Waiting)))
    }

    pub(super) fn new(execution: Execution<K>) -> Held<K> {
        Held(Arc::new(Mutex::new(State::Running(execution))))
    }

    /// A handle for the thread that logs.
    pub(super) fn share(&self) -> Held<K> {
        Held(Arc::clone(&self.0))
    }

    /// Begins the execution, on its thread. Returns its time in milliseconds since the Unix epoch,
    /// or `None` if it was abandoned.
    pub(super) fn begin(&self, execution: impl FnOnce() -> Execution<K>) -> Option<i64> {
        let mut state = self.state();
        if !matches!(*state, State::Waiting) {
            return None;
        }
        let execution = execution();
        let now_ms = execution.now_ms();
        *state = State::Running(execution);
        Some(now_ms)
    }

    /// Takes the execution out, to end it. Nothing can be logged in it afterwards, not even by an
    /// abandoned thread.
    pub(super) fn take(&self) -> Option<Execution<K>> {
        match std::mem::replace(&mut *self.state(), State::Ended) {
            State::Running(execution) => Some(execution),
            State::Waiting | State::Ended => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        crate::lock(&self.0)
    }
}

impl<K: Audits> State<K> {
    fn execution(&self) -> Option<&Execution<K>> {
        match self {
            State::Running(execution) => Some(execution),
            State::Waiting | State::Ended => None,
        }
    }
}

/// A query's execution on its way to being sealed.
pub(super) struct Unsealed(Held<Query>);

impl Unsealed {
    pub(super) fn new() -> Unsealed {
        Unsealed(Held::waiting())
    }

    pub(super) fn held(&self) -> Held<Query> {
        self.0.share()
    }

    /// Seals the execution with its outcome. `unbegun` creates the execution of a query that did
    /// not begin, and so logged nothing.
    pub(super) fn seal<T>(
        self,
        outcome: T,
        unbegun: impl FnOnce() -> Execution<Query>,
    ) -> Audited<T> {
        self.0.take().unwrap_or_else(unbegun).seal(outcome)
    }
}

impl Drop for Unsealed {
    /// Runs if the caller went away while the query ran. Nothing is handed out, so nothing is
    /// logged.
    fn drop(&mut self) {
        if let Some(execution) = self.0.take() {
            drop(execution.seal(()));
        }
    }
}

/// The log of a function: that of the execution, or of a call nested in it.
pub(crate) struct Log {
    execution: Shared,
    /// The function, if another one of the execution called it.
    nested: Option<(FunctionKind, FunctionName)>,
}

enum Shared {
    Query(Held<Query>),
    Mutation(Held<Mutation>),
}

impl Log {
    pub(super) fn of_query(execution: Held<Query>) -> Log {
        Log { execution: Shared::Query(execution), nested: None }
    }

    pub(super) fn of_mutation(execution: Held<Mutation>) -> Log {
        Log { execution: Shared::Mutation(execution), nested: None }
    }

    pub(crate) fn kind(&self) -> FunctionKind {
        match (&self.nested, &self.execution) {
            (Some((kind, _)), _) => *kind,
            (None, Shared::Query(_)) => FunctionKind::Query,
            (None, Shared::Mutation(_)) => FunctionKind::Mutation,
        }
    }

    /// Emits a log. Returns `None` if the execution has ended, since the function was abandoned.
    pub(crate) fn audit_json(&self, text: &str) -> Option<Result<(), AuditError>> {
        match &self.execution {
            Shared::Query(held) => {
                let state = held.state();
                let log = state.execution()?.log();
                Some(match &self.nested {
                    None => log.audit_json(text),
                    Some((_, name)) => log.nested_query(name.clone()).audit_json(text),
                })
            }
            Shared::Mutation(held) => {
                let state = held.state();
                let log = state.execution()?.log();
                Some(match &self.nested {
                    None => log.audit_json(text),
                    Some((FunctionKind::Mutation, name)) => {
                        log.nested_mutation(name.clone()).audit_json(text)
                    }
                    Some((FunctionKind::Query | FunctionKind::Action, name)) => {
                        log.nested_query(name.clone()).audit_json(text)
                    }
                })
            }
        }
    }

    /// Refuses a log that cannot be written as JSON, which fails the function. Returns `None` if
    /// the execution has ended.
    pub(crate) fn refuse(&self, reason: &str) -> Option<AuditError> {
        match &self.execution {
            Shared::Query(held) => Some(held.state().execution()?.log().refuse(reason)),
            Shared::Mutation(held) => Some(held.state().execution()?.log().refuse(reason)),
        }
    }

    /// The log of a function that this one calls.
    ///
    /// # Errors
    ///
    /// This function may not call one of that kind. The message is for the function.
    pub(crate) fn nested(&self, kind: FunctionKind, name: String) -> Result<Log, String> {
        match (self.kind(), kind) {
            (FunctionKind::Query, FunctionKind::Mutation) => {
                return Err("a query cannot call a mutation".to_owned());
            }
            (_, FunctionKind::Action) => {
                return Err("a query or mutation cannot call an action: schedule it".to_owned());
            }
            (_, FunctionKind::Query | FunctionKind::Mutation) => {}
        }
        let execution = match &self.execution {
            Shared::Query(held) => Shared::Query(held.share()),
            Shared::Mutation(held) => Shared::Mutation(held.share()),
        };
        Ok(Log { execution, nested: Some((kind, name.into())) })
    }
}
