//! Callers and the outcomes of their calls.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use audit_core::with_sources;
use audit_host::Lane;
use audit_runtime::{LogLimit, ReleaseError, RequestContext};
use functions_store::{StoreError, Timestamp};
use functions_value::Value;
use serde_json::Value as Json;

use super::workers::Broken;

/// The caller of a function.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The request, which provides the values of variables in logs.
    pub request: RequestContext,
    /// The verified identity, if there is one.
    pub identity: Option<Arc<Identity>>,
    /// The lane in which the caller's calls wait for worker threads.
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

    /// The same caller with a verified identity.
    pub fn with_identity(self, identity: Option<Arc<Identity>>) -> Caller {
        Caller { identity, ..self }
    }

    /// The same caller in another lane, such as that of its connection.
    pub fn with_lane(self, lane: Lane) -> Caller {
        Caller { lane, ..self }
    }
}

/// A verified identity: the claims of a token, and the token.
pub struct Identity {
    claims: Json,
    token: String,
    /// The claims as text: functions cannot tell apart two identities with the same claims.
    key: String,
}

impl Identity {
    /// An identity with the result of `ctx.auth.getUserIdentity()`, and the token it came from.
    pub fn new(claims: Json, token: String) -> Identity {
        let key = claims.to_string();
        Identity { claims, token, key }
    }

    /// The result of `ctx.auth.getUserIdentity()`.
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

/// Shows neither the token nor the claims, which are personal data.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The outcome of a function whose logs are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The function's value, as JSON in Convex's encoding, or its failure.
    pub result: Result<Arc<str>, Failed>,
    /// The lines that it wrote to the console.
    pub log_lines: Vec<String>,
}

impl Answered {
    /// The size of its texts, in bytes.
    pub fn bytes(&self) -> usize {
        let result = match &self.result {
            Ok(value) => value.len(),
            Err(Failed { message, data }) => {
                message.len() + data.as_ref().map_or(0, |data| data.len())
            }
        };
        let line = |line: &String| line.len() + size_of::<String>();
        result + self.log_lines.iter().map(line).sum::<usize>()
    }

    /// The outcome of a mutation once it has committed, with the commit time in place of
    /// `db.vars.commitTs`. No function has seen that time.
    pub(super) fn committed_at(mut self, at: Option<Timestamp>) -> Answered {
        if let (Ok(text), Some(at)) = (&self.result, at)
            && text.contains("\"$commitTs\"")
            && let Ok(json) = serde_json::from_str(text)
            && let Ok(mut value) = Value::from_json_of_mutation(json)
        {
            value.set_commit_ts(at.cast_signed());
            self.result = Ok(value.to_json().to_string().into());
        }
        self
    }

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
    /// The message.
    pub message: String,
    /// The data of a `ConvexError`, as JSON in Convex's encoding.
    pub data: Option<String>,
}

/// The outcome of a mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutated {
    /// The mutation's value or failure.
    pub answered: Answered,
    /// The time of the commit, if there was one. Reads at this time or later see its writes.
    pub committed: Option<Timestamp>,
}

/// A call that has no result. Nothing was handed out, and nothing was committed, unless the variant
/// says otherwise.
///
/// The message is safe to send to clients.
#[derive(Debug, Clone)]
pub enum CallError {
    /// The function does not exist, or this caller cannot call it.
    NotFound(String),
    /// The call is malformed: its arguments are not an object, or its path is invalid.
    Invalid(String),
    /// The audit logs could not be made durable.
    NotDurable(Internal),
    /// The store accepts no changes now, so the mutation has no effect. Its logs are durable.
    NotStored(Internal),
    /// Every attempt conflicted with other mutations.
    Conflict(String),
    /// Too many calls are in progress.
    Overloaded(String),
    /// The host failed: its store, or one of its threads.
    Internal(Internal),
    /// The store failed during the commit, so it is unknown whether the mutation took effect. Its
    /// logs are durable.
    Unknown(Internal),
}

impl CallError {
    /// A failure of the host, whose reason only the operator may read. Logs the reason.
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

    /// A failure of the host that the function caused. A retry would fail too.
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

impl Broken {
    /// The outcome of a function without a result.
    pub(super) fn outcome(self) -> Result<Answered, CallError> {
        match self {
            Broken::NotBegun => Err(CallError::Overloaded(self.to_string())),
            Broken::Panicked(_) => Err(CallError::of_function(self)),
            // As if the engine had stopped it. The host's log has the watchdog's error.
            Broken::Overran(limit) => Ok(Answered::failed(format!(
                "Function execution timed out (maximum duration: {limit:?} on its thread)"
            ))),
        }
    }
}

/// The cause of a failure, which only the operator may read. `Display` and `Debug` show only the id
/// under which it is logged, so that the cause cannot reach a client by accident.
#[derive(Clone)]
pub struct Internal {
    id: Arc<str>,
    reason: Arc<str>,
    may_pass: bool,
}

impl Internal {
    fn new(reason: String) -> Internal {
        // The id only needs to be unique.
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

/// The outcome of a failed release: the function's failure if a log was refused, otherwise an error
/// because the logs were not made durable.
pub(super) fn unreleased(error: &ReleaseError) -> Result<Answered, CallError> {
    match error {
        ReleaseError::Limit(_) | ReleaseError::Body(_) => Ok(Answered::failed(error.to_string())),
        ReleaseError::NotDurable(_) | _ => Err(not_durable(with_sources(error))),
    }
}

/// Logs a failure that every call meets while its cause lasts.
fn limited(limit: &LogLimit, message: &'static str, reason: String) -> Internal {
    let internal = Internal::new(reason);
    if let Some(others) = limit.case() {
        tracing::warn!(failure = %internal.id, reason = internal.reason(), others, "{message}");
    }
    internal
}

fn not_durable(reason: String) -> CallError {
    static LIMIT: LogLimit = LogLimit::new();
    let message = "a call failed: its audit logs are not durable";
    CallError::NotDurable(limited(&LIMIT, message, reason))
}

/// The error of a mutation whose commit was refused before anything was written.
pub(super) fn not_stored(reason: String) -> CallError {
    static LIMIT: LogLimit = LogLimit::new();
    let message = "a mutation failed: the store takes no changes";
    CallError::NotStored(limited(&LIMIT, message, reason))
}
