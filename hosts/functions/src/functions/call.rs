//! Who calls, and what they are answered.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use audit_runtime::{MutationError, ReleaseError, RequestContext};
use serde_json::Value as Json;

use super::transaction::AttemptError;
use crate::store::Timestamp;

/// Whose call it is.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What the variables of its logs stand for.
    pub request: RequestContext,
    /// Who it is, if that was verified.
    pub identity: Option<Arc<Identity>>,
}

impl Caller {
    /// Someone whose identity is not known.
    pub fn anonymous(request: RequestContext) -> Caller {
        Caller { request, identity: None }
    }
}

/// A verified identity: the claims of a token, and the token.
pub struct Identity {
    claims: Json,
    token: String,
    /// Two identities with the same claims are the same to a function.
    key: String,
}

impl Identity {
    /// `claims` is what `ctx.auth.getUserIdentity()` gives, `token` what they were read from.
    pub fn new(claims: Json, token: String) -> Identity {
        let key = claims.to_string();
        Identity { claims, token, key }
    }

    /// What `ctx.auth.getUserIdentity()` gives.
    pub fn claims(&self) -> &Json {
        &self.claims
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// Shows neither token nor claims: they are the user's.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// How a function ended, once its logs are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Its value, as JSON in Convex's encoding, or its failure.
    pub result: Result<Arc<str>, Failed>,
    /// What it wrote to the console.
    pub log_lines: Vec<String>,
}

impl Answered {
    pub(super) fn failed(message: impl Into<String>) -> Answered {
        Answered {
            result: Err(Failed { message: message.into(), data: None }),
            log_lines: Vec::new(),
        }
    }
}

/// A function that failed: for its author and its caller, not for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What is shown.
    pub message: String,
    /// The data of a `ConvexError`, as JSON in Convex's encoding.
    pub data: Option<String>,
}

/// How a mutation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutated {
    /// Its value or failure.
    pub answered: Answered,
    /// When it committed, if it did: whoever reads at this time or later sees what it wrote.
    pub committed: Option<Timestamp>,
}

/// A call that has no answer: nothing was handed out, and nothing committed unless it says so.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CallError {
    /// There is no such function for this caller.
    NotFound(String),
    /// The call is not one: its arguments are no object, its path is malformed.
    Invalid(String),
    /// The audit logs could not be made durable, for this reason.
    NotDurable(String),
    /// Write conflicts stood in the way of every attempt.
    Conflict(String),
    /// Too much is under way.
    Overloaded(String),
    /// The store failed.
    Store(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotFound(message)
            | CallError::Invalid(message)
            | CallError::NotDurable(message)
            | CallError::Conflict(message)
            | CallError::Overloaded(message)
            | CallError::Store(message) => f.write_str(message),
        }
    }
}

impl Error for CallError {}

/// An error and what lies beneath it, in one line. Many callers may share one failure, whose
/// sources cannot be cloned.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A release that failed: for a limit it is the function's failure, else nobody's.
pub(super) fn unreleased(error: &ReleaseError) -> Result<Answered, CallError> {
    match error {
        ReleaseError::Limit(exceeded) => Ok(Answered::failed(exceeded.to_string())),
        ReleaseError::NotDurable(_) | _ => Err(CallError::NotDurable(chain(error))),
    }
}

impl Mutated {
    /// A mutation that did not commit.
    pub(super) fn uncommitted(error: MutationError<AttemptError>) -> Result<Mutated, CallError> {
        let answered = match error {
            MutationError::Function(AttemptError::Failed(answered)) => *answered,
            MutationError::Release(error) => unreleased(&error)?,
            error @ MutationError::Conflict { .. } => {
                return Err(CallError::Conflict(chain(&error)));
            }
            error @ (MutationError::Function(_) | MutationError::Commit(_) | _) => {
                return Err(CallError::Store(chain(&error)));
            }
        };
        Ok(Mutated { answered, committed: None })
    }
}
