//! A running function.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use audit_core::UniqueId;

use crate::audit_log::AuditLog;
use crate::audited::Audited;
use crate::context::Context;
use crate::function_logs::{AttemptLogs, FunctionLogs};
use crate::kinds::{Audits, Mutation};
use crate::provenance::FunctionName;
use crate::request::RequestContext;

/// A running query or mutation, with everything that it calls.
///
/// The function writes to [`log`](Self::log); [`seal`](Self::seal) ends the execution. An execution
/// dropped unsealed, because the function panicked or its caller is gone, has no effect, and its
/// logs are dropped with a warning. An execution that logs nothing does no I/O and allocates
/// nothing, including the release of its result.
#[must_use = "a function's logs are held until the execution is sealed and released"]
pub struct Execution<K: Audits> {
    logs: Held,
    kind: K,
}

#[allow(clippy::large_enum_variant, reason = "an execution that logs nothing allocates nothing")]
enum Held {
    Alone(FunctionLogs),
    /// Shared with the retry loop, so that the logs outlive the execution.
    Attended(Arc<FunctionLogs>),
}

impl Deref for Held {
    type Target = FunctionLogs;

    fn deref(&self) -> &FunctionLogs {
        match self {
            Held::Alone(logs) => logs,
            Held::Attended(logs) => logs,
        }
    }
}

impl<K: Audits> Execution<K> {
    pub(crate) fn begin(context: Context, kind: K, function: FunctionName) -> Execution<K> {
        let logs = FunctionLogs::new(context, K::KIND, function);
        Execution { logs: Held::Alone(logs), kind }
    }

    /// Sets the id of the call and the number of this attempt at it, counted from 1, for
    /// provenance. All attempts at a call share the id, which
    /// [`AuditRuntime::new_id`](crate::AuditRuntime::new_id) makes.
    pub fn with_attempt(self, call: UniqueId, attempt: u32) -> Execution<K> {
        self.with_attempt_of(Some(call), attempt)
    }

    /// As [`with_attempt`](Self::with_attempt), for a call that may have no id yet.
    pub(crate) fn with_attempt_of(self, call: Option<UniqueId>, attempt: u32) -> Execution<K> {
        let mut state = self.logs.state();
        (state.execution, state.attempt) = (call, attempt);
        drop(state);
        self
    }

    /// When the function runs, in milliseconds since the Unix epoch: the value of the variable
    /// `now` in the logs of its first release. A host whose functions can read a clock gives them
    /// this time.
    pub fn now_ms(&self) -> i64 {
        self.logs.now_ms
    }

    /// The audit log that the function writes to.
    pub fn log(&self) -> AuditLog<'_, K> {
        AuditLog { logs: &self.logs, kind: &self.kind, origin: None }
    }

    /// Ends the function with its result, a value or an error, which is inaccessible until its logs
    /// are durable.
    ///
    /// If a log of the function was refused, for its body or a limit, the value is dropped here,
    /// and each release fails.
    pub fn seal<T>(self, value: T) -> Audited<T> {
        let mut state = self.logs.state();
        // From here on the host, or the retry loop, releases the logs.
        state.ended |= matches!(self.logs, Held::Alone(_));
        self.logs.seal(&mut state, value)
    }
}

impl Execution<Mutation> {
    /// The request that called the mutation.
    pub fn request(&self) -> &RequestContext {
        &self.kind.request
    }

    /// The call's id, as [`AuditLog::execution_id`].
    pub fn execution_id(&self) -> UniqueId {
        self.logs.execution_id(&mut self.logs.state())
    }

    /// For the retry loop: the execution, and a second handle on its logs.
    pub(crate) fn attended(self) -> (Execution<Mutation>, AttemptLogs) {
        let Execution { logs, kind } = self;
        let logs = match logs {
            Held::Alone(logs) => Arc::new(logs),
            Held::Attended(logs) => logs,
        };
        let attempt = AttemptLogs(Arc::clone(&logs));
        (Execution { logs: Held::Attended(logs), kind }, attempt)
    }

    /// The attempt that this execution belongs to, if it runs in the retry loop.
    pub(crate) fn attempt(&self) -> Option<AttemptLogs> {
        match &self.logs {
            Held::Alone(_) => None,
            Held::Attended(logs) => Some(AttemptLogs(Arc::clone(logs))),
        }
    }
}

impl<K: Audits + fmt::Debug> fmt::Debug for Execution<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("function", &self.logs.function)
            .field("kind", &self.kind)
            .field("attempt", &self.logs.state().attempt)
            .field("logs", &self.logs.state().emitted.logs())
            .finish_non_exhaustive()
    }
}
