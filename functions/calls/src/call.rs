//! Callers and the outcomes of their calls.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::with_sources;
use audit_runtime::{ReleaseError, RequestContext};
use functions_store::{StoreError, Timestamp};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::turns::Lane;
use super::workers::Broken;

/// The caller of a function.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The request that gives the variables of its logs their values.
    pub request: RequestContext,
    /// The verified identity, if there is one.
    pub identity: Option<Arc<Identity>>,
    /// The lane in which its calls wait for worker threads.
    pub lane: Lane,
}

impl Caller {
    /// A caller without an identity, in the lane of its address.
    pub fn anonymous(request: RequestContext) -> Caller {
        Caller { lane: Lane::of(&request), request, identity: None }
    }

    /// The caller of scheduled functions and crons: the host itself.
    pub(super) fn host(request: RequestContext) -> Caller {
        Caller { request, identity: None, lane: Lane::HOST }
    }

    /// The same, with a verified identity.
    pub fn with_identity(self, identity: Option<Arc<Identity>>) -> Caller {
        Caller { identity, ..self }
    }

    /// The same, in a lane of its own, such as that of a connection.
    pub fn with_lane(self, lane: Lane) -> Caller {
        Caller { lane, ..self }
    }
}

/// A verified identity: the claims of a token, and the token.
pub struct Identity {
    claims: Json,
    token: String,
    /// Functions cannot tell two identities with the same claims apart.
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

/// Neither token nor claims are shown: they are personal data.
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

/// A failure of the function itself, for its author and its caller.
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
    /// When it committed, if it did. Reads at this time or later see its writes.
    pub committed: Option<Timestamp>,
}

/// A call without a result: nothing was handed out, and nothing committed unless it says so.
///
/// Its `Display` is safe to send to clients.
#[derive(Debug, Clone)]
pub enum CallError {
    /// There is no such function for this caller.
    NotFound(String),
    /// The call is malformed: its arguments are not an object, or its path is invalid.
    Invalid(String),
    /// The audit logs could not be made durable.
    NotDurable(Internal),
    /// The store takes no changes now, so the mutation has no effect. Its logs are durable.
    NotStored(Internal),
    /// Every attempt conflicted with other mutations.
    Conflict(String),
    /// Too many calls are in progress.
    Overloaded(String),
    /// The host failed: its store, or a thread of its own.
    Internal(Internal),
    /// The store failed while the mutation was committed: whether it took effect is unknown. Its
    /// logs are durable.
    Unknown(Internal),
}

impl CallError {
    /// A failure of the host that only its operator may read. It is logged here, once.
    pub fn internal(reason: impl fmt::Display) -> CallError {
        CallError::Internal(Internal::logged(reason))
    }

    pub(super) fn of_store(error: &StoreError) -> CallError {
        match error {
            StoreError::Failed(_) => CallError::internal(with_sources(error)),
            // The store rejected an operation of the host itself. Retrying would not help.
            StoreError::User(_) => CallError::of_function(with_sources(error)),
        }
    }

    /// A failure that the function caused in the host. It would recur.
    pub(super) fn of_function(reason: impl fmt::Display) -> CallError {
        CallError::Internal(Internal { may_pass: false, ..Internal::logged(reason) })
    }

    /// Whether the same call may succeed later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            CallError::NotFound(_) | CallError::Invalid(_) => false,
            CallError::NotDurable(_)
            | CallError::NotStored(_)
            | CallError::Conflict(_)
            | CallError::Overloaded(_) => true,
            CallError::Internal(internal) | CallError::Unknown(internal) => internal.may_pass,
        }
    }
}

impl From<Broken> for CallError {
    fn from(broken: Broken) -> CallError {
        match broken {
            Broken::NotBegun => CallError::Overloaded(broken.to_string()),
            Broken::Panicked(_) | Broken::Overran(_) => CallError::of_function(broken),
        }
    }
}

/// The cause of a failure, for the operator alone. Neither `Display` nor `Debug` shows it, so that
/// it cannot reach a client by accident; they show the number under which it is logged.
#[derive(Clone)]
pub struct Internal {
    id: Arc<str>,
    reason: Arc<str>,
    may_pass: bool,
}

impl Internal {
    fn new(reason: String) -> Internal {
        // It must be unique, and nothing else.
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
        Internal { id: id.into(), reason: reason.into(), may_pass: true }
    }

    pub(super) fn logged(reason: impl fmt::Display) -> Internal {
        let internal = Internal::new(reason.to_string());
        tracing::error!(failure = %internal.id, reason = internal.reason(), "a call failed");
        internal
    }

    /// The cause, for the operator's log.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Internal({})", self.id)
    }
}

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host's log says why, under {}", self.id)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotFound(message)
            | CallError::Invalid(message)
            | CallError::Conflict(message)
            | CallError::Overloaded(message) => f.write_str(message),
            CallError::NotDurable(internal) => write!(
                f,
                "the audit logs of the function could not be made durable, so it has no effect and \
                 no result; {internal}"
            ),
            CallError::NotStored(internal) => {
                write!(
                    f,
                    "the store takes no changes now, so the mutation has no effect; {internal}"
                )
            }
            CallError::Internal(internal) => write!(f, "the host failed; {internal}"),
            CallError::Unknown(internal) => write!(
                f,
                "the commit failed, and whether the mutation took effect is unknown; {internal}"
            ),
        }
    }
}

impl Error for CallError {}

/// A failed release. For a refused log it is the function's failure; otherwise the logs were not
/// made durable.
pub(super) fn unreleased(error: &ReleaseError) -> Result<Answered, CallError> {
    match error {
        ReleaseError::Limit(_) | ReleaseError::Body(_) => Ok(Answered::failed(error.to_string())),
        ReleaseError::NotDurable(_) | _ => Err(not_durable(with_sources(error))),
    }
}

/// An error whose cause is said once a second: while it lasts, every call fails.
struct Limited {
    message: &'static str,
    told: Mutex<Option<(Instant, u64)>>,
}

impl Limited {
    const fn new(message: &'static str) -> Limited {
        Limited { message, told: Mutex::new(None) }
    }

    fn log(&self, reason: String) -> Internal {
        let internal = Internal::new(reason);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *told {
            Some((at, untold)) if at.elapsed() < Duration::from_secs(1) => *untold += 1,
            told => {
                let others = told.replace((Instant::now(), 0)).map_or(0, |(_, untold)| untold);
                tracing::warn!(
                    failure = %internal.id,
                    reason = internal.reason(),
                    others,
                    "{}",
                    self.message
                );
            }
        }
        internal
    }
}

fn not_durable(reason: String) -> CallError {
    static TOLD: Limited = Limited::new("a call failed: its audit logs are not durable");
    CallError::NotDurable(TOLD.log(reason))
}

/// The commit of a mutation was refused before anything was written.
pub(super) fn not_stored(reason: String) -> CallError {
    static TOLD: Limited = Limited::new("a mutation failed: the store takes no changes");
    CallError::NotStored(TOLD.log(reason))
}
