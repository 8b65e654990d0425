//! What can go wrong between a function and its effects.

use std::fmt;

use audit_core::{LimitExceeded, SinkError, SinkErrorKind};
use audit_vars::BodyError;

/// `audit` refused a log. The function has failed, even if it catches this error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The body was refused.
    #[error("{0}")]
    Body(BodyError),
    /// The execution emitted more than it may.
    #[error("{0}")]
    Limit(LimitExceeded),
    /// `audit` was called in an action. In Rust that does not compile; hosts for other languages
    /// return this.
    #[error("audit logging is not supported in actions")]
    InAction,
}

impl AuditError {
    /// Whether the same call may succeed later: never, because the same log is refused again.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// The suggested HTTP status: 400 for a body, which often contains client input; 500 otherwise.
    pub fn http_status(&self) -> u16 {
        match self {
            AuditError::Body(_) => 400,
            AuditError::Limit(_) | AuditError::InAction => 500,
        }
    }
}

/// The refusal of a log. The execution fails even if its function catches the error.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    Body(BodyError),
    Limit(LimitExceeded),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Body(error) => fmt::Display::fmt(error, f),
            Refusal::Limit(exceeded) => fmt::Display::fmt(exceeded, f),
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Refusal {
        match error.limit_exceeded() {
            Some(exceeded) => Refusal::Limit(exceeded),
            None => Refusal::Body(error),
        }
    }
}

impl From<Refusal> for AuditError {
    fn from(refusal: Refusal) -> AuditError {
        match refusal {
            Refusal::Body(error) => AuditError::Body(error),
            Refusal::Limit(exceeded) => AuditError::Limit(exceeded),
        }
    }
}

impl From<Refusal> for ReleaseError {
    fn from(refusal: Refusal) -> ReleaseError {
        match refusal {
            Refusal::Body(error) => ReleaseError::Body(error),
            Refusal::Limit(exceeded) => ReleaseError::Limit(exceeded),
        }
    }
}

/// A result was not released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A log of the function had an invalid body, so the function failed, even if it caught the
    /// error. What it had emitted before is durable.
    #[error("{0}")]
    Body(BodyError),
    /// The function exceeded a limit, so it failed. What it had emitted within the limits is
    /// durable.
    #[error("{0}")]
    Limit(LimitExceeded),
    /// The function's logs are not durable, or it is unknown whether they are.
    #[error("the audit logs of the function could not be made durable")]
    NotDurable(#[source] SinkError),
}

impl ReleaseError {
    /// Whether the same call may succeed later without an operator: the sink is unavailable. After
    /// an [indeterminate](audit_core::Outcome::Indeterminate) failure, a second call may persist
    /// the same logs a second time.
    pub fn is_retryable(&self) -> bool {
        match self {
            ReleaseError::Body(_) | ReleaseError::Limit(_) => false,
            ReleaseError::NotDurable(error) => error.kind() == SinkErrorKind::Unavailable,
        }
    }

    /// The suggested HTTP status: 503 if the logs are not durable, otherwise as
    /// [`AuditError::http_status`].
    pub fn http_status(&self) -> u16 {
        match self {
            ReleaseError::Body(_) => 400,
            ReleaseError::Limit(_) => 500,
            ReleaseError::NotDurable(_) => 503,
        }
    }
}

/// A mutation failed. Nothing was committed, except where [`Commit`](Self::Commit) leaves that
/// open. `E` is the function's error, which contains the database's error if the database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MutationError<E> {
    /// The function failed, or its transaction could not begin. It was rolled back; its logs are
    /// durable.
    #[error("the function failed")]
    Function(#[source] E),
    /// The function's logs are not durable, or one of them was refused. The transaction was rolled
    /// back.
    #[error(transparent)]
    Release(ReleaseError),
    /// Every attempt met a write conflict. All were rolled back; the logs of each are durable.
    #[error("every attempt ran into a write conflict, {attempts} in all")]
    Conflict {
        /// The number of attempts.
        attempts: u32,
        /// The conflict of the last attempt.
        source: E,
    },
    /// A bug in the host: the attempt returned a transaction sealed by another execution, or had
    /// already ended. The transaction was rolled back, and the logs of the attempt are durable.
    #[error("the attempt returned a transaction that another execution sealed: rolled back")]
    ForeignExecution,
    /// The logs are durable, but storing the receipt or committing failed. Only the database's
    /// error can say whether the commit took effect.
    #[error("the commit failed")]
    Commit(#[source] E),
}

impl<E> MutationError<E> {
    /// Whether the same call may succeed later: after too many write conflicts, and if
    /// [`ReleaseError::is_retryable`] says so. False for the function's own error and for a failed
    /// commit, where it depends on `E`.
    pub fn is_retryable(&self) -> bool {
        match self {
            MutationError::Conflict { .. } => true,
            MutationError::Release(error) => error.is_retryable(),
            MutationError::Function(_)
            | MutationError::ForeignExecution
            | MutationError::Commit(_) => false,
        }
    }

    /// The suggested HTTP status, unless the function's own error maps to another: 503 after too
    /// many write conflicts, [`ReleaseError::http_status`] for a release, 500 otherwise.
    pub fn http_status(&self) -> u16 {
        match self {
            MutationError::Conflict { .. } => 503,
            MutationError::Release(error) => error.http_status(),
            MutationError::Function(_)
            | MutationError::ForeignExecution
            | MutationError::Commit(_) => 500,
        }
    }
}

#[cfg(test)]
mod tests {
    use audit_core::Limits;

    use super::*;

    #[test]
    fn errors_have_a_retry_hint_and_an_http_status() {
        let limit = || LimitExceeded::log_bytes(2_000_000, &Limits::default());
        let not_durable =
            |kind| ReleaseError::NotDurable(SinkError::not_persisted(kind, "not persisted"));
        let body = || BodyError::refused("no body");
        let releases = [
            (ReleaseError::Body(body()), false, 400),
            (ReleaseError::Limit(limit()), false, 500),
            (not_durable(SinkErrorKind::Unavailable), true, 503),
            (not_durable(SinkErrorKind::Blocked), false, 503),
            (not_durable(SinkErrorKind::Closed), false, 503),
        ];
        for (error, is_retryable, status) in releases {
            assert_eq!((error.is_retryable(), error.http_status()), (is_retryable, status));
            let error = MutationError::<fmt::Error>::Release(error);
            assert_eq!((error.is_retryable(), error.http_status()), (is_retryable, status));
        }
        for (error, is_retryable, status) in [
            (MutationError::Function(fmt::Error), false, 500),
            (MutationError::Commit(fmt::Error), false, 500),
            (MutationError::ForeignExecution, false, 500),
            (MutationError::Conflict { attempts: 3, source: fmt::Error }, true, 503),
        ] {
            assert_eq!((error.is_retryable(), error.http_status()), (is_retryable, status));
        }
        let audits = [
            (AuditError::Body(body()), 400),
            (AuditError::Limit(limit()), 500),
            (AuditError::InAction, 500),
        ];
        for (error, status) in audits {
            assert_eq!((error.is_retryable(), error.http_status()), (false, status));
        }
    }
}
