//! What can go wrong between a function and its effects.

use std::error::Error;
use std::fmt;

use audit_core::{LimitExceeded, SinkError, SinkErrorKind};
use audit_vars::BodyError;

/// `audit` refused a log. The function has failed, even if it catches this error.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuditError {
    /// The body was refused.
    Body(BodyError),
    /// The execution emitted more than it may.
    Limit(LimitExceeded),
    /// `audit` was called in an action. In Rust that does not compile; hosts for other languages
    /// return this.
    InAction,
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuditError::Body(error) => fmt::Display::fmt(error, f),
            AuditError::Limit(exceeded) => fmt::Display::fmt(exceeded, f),
            AuditError::InAction => f.write_str("audit logging is not supported in actions"),
        }
    }
}

/// The message is that of the inner error, so there is no source.
impl Error for AuditError {}

impl AuditError {
    /// Whether the same call may succeed later: no, the same function refuses the same log.
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// The status with which an HTTP host may answer: 400 for a body, which often holds what the
    /// client sent; 500 otherwise.
    pub fn http_status(&self) -> u16 {
        match self {
            AuditError::Body(_) => 400,
            AuditError::Limit(_) | AuditError::InAction => 500,
        }
    }
}

/// The refusal of a log, which makes the execution fail whatever its function does.
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
#[derive(Debug)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A log of the function was refused for its body, so the function failed, whether it caught
    /// that or not. What it had emitted before is durable.
    Body(BodyError),
    /// The function emitted more than it may, so it failed. What it had emitted within the limits
    /// is durable.
    Limit(LimitExceeded),
    /// Its logs could not be made durable, or it is unknown whether they are.
    NotDurable(SinkError),
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReleaseError::Body(error) => fmt::Display::fmt(error, f),
            ReleaseError::Limit(exceeded) => fmt::Display::fmt(exceeded, f),
            ReleaseError::NotDurable(_) => {
                f.write_str("the audit logs of the function could not be made durable")
            }
        }
    }
}

impl Error for ReleaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReleaseError::Body(_) | ReleaseError::Limit(_) => None,
            ReleaseError::NotDurable(error) => Some(error),
        }
    }
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

    /// The status with which an HTTP host may answer: 503 where the logs are not durable, otherwise
    /// as [`AuditError::http_status`].
    pub fn http_status(&self) -> u16 {
        match self {
            ReleaseError::Body(_) => 400,
            ReleaseError::Limit(_) => 500,
            ReleaseError::NotDurable(_) => 503,
        }
    }
}

/// A mutation committed nothing, unless it says so itself. `E` is the function's error, which holds
/// the database's where that is what failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum MutationError<E> {
    /// The function, or the beginning of its transaction, failed with this. It was rolled back, its
    /// logs are durable.
    Function(E),
    /// The function's logs are not durable, or one of them was refused. It was rolled back.
    Release(ReleaseError),
    /// Every attempt ran into a write conflict; all were rolled back, the logs of each are durable.
    Conflict {
        /// How many attempts there were.
        attempts: u32,
        /// What the last one ran into.
        source: E,
    },
    /// The attempt returned a transaction that an execution other than its own had sealed, or the
    /// attempt had ended before: a fault of the host. It was rolled back, and the logs of the
    /// attempt are durable.
    ForeignExecution,
    /// The logs are durable, and the commit failed with this, or keeping the receipt before it.
    /// Whether it took effect is for the database's error to say.
    Commit(E),
}

impl<E> fmt::Display for MutationError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MutationError::Function(_) => f.write_str("the function failed"),
            MutationError::Release(error) => fmt::Display::fmt(error, f),
            MutationError::Conflict { attempts, source: _ } => {
                write!(f, "each of {attempts} attempts ran into a write conflict")
            }
            MutationError::ForeignExecution => f.write_str(
                "the attempt returned a transaction that another execution sealed: rolled back",
            ),
            MutationError::Commit(_) => f.write_str("the commit failed"),
        }
    }
}

impl<E: Error + 'static> Error for MutationError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            MutationError::Function(error)
            | MutationError::Commit(error)
            | MutationError::Conflict { source: error, .. } => Some(error),
            MutationError::Release(error) => error.source(),
            MutationError::ForeignExecution => None,
        }
    }
}

impl<E> MutationError<E> {
    /// Whether the same call may succeed later: after too many write conflicts, and where
    /// [`ReleaseError::is_retryable`] says so. Of the function's own error and of a failed commit
    /// only `E` can tell; for them it is false.
    pub fn is_retryable(&self) -> bool {
        match self {
            MutationError::Conflict { .. } => true,
            MutationError::Release(error) => error.is_retryable(),
            MutationError::Function(_)
            | MutationError::ForeignExecution
            | MutationError::Commit(_) => false,
        }
    }

    /// The status with which an HTTP host may answer, where the function's own error does not say
    /// another: 503 after too many write conflicts, that of [`ReleaseError::http_status`], 500
    /// otherwise.
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
    fn errors_say_whether_a_retry_helps_and_their_status() {
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
