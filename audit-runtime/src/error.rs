//! What can go wrong between a function and its effects.

use std::error::Error;
use std::fmt;

use audit_core::{LimitExceeded, SinkError};
use audit_vars::BodyError;

/// `audit` did not take a log. The function has failed, even if it catches this.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuditError {
    /// The body was refused.
    Body(BodyError),
    /// The execution emitted more than it may.
    Limit(LimitExceeded),
    /// `audit` was called in an action. Rust hosts cannot write that; a host for another language
    /// answers with this.
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

/// The message is that of what lies beneath, so nothing is left for a source to say.
impl Error for AuditError {}

/// Why an execution has failed whatever its function does: `audit` refused a log.
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

/// A result is not handed out.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A log of the function was refused for its body, so the function failed, whether it caught
    /// that or not. What it had emitted before is durable.
    Body(BodyError),
    /// The function emitted more than it may, so it failed. What it had emitted within the limits
    /// is durable.
    Limit(LimitExceeded),
    /// Its logs could not be made durable, or nobody knows whether they are.
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
    /// The attempt returned a transaction that an execution other than its own had sealed: a fault
    /// of the host. It was rolled back, and the logs of the attempt are durable.
    ForeignExecution,
    /// The logs are durable, and the commit failed with this. Whether it took effect is for the
    /// database's error to say.
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
