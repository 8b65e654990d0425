//! The meaning of a bucket's response to a request that creates an object.
//!
//! `object_store` maps responses to a few kinds of error and keeps the rest as text, so some
//! details must be parsed from the text: `read` interprets an error, and `status` the HTTP response
//! in it. A test against a real server pins the format. Anything unrecognized is
//! [`Response::Unknown`]: the same bytes are sent again, which is harmless whatever the response
//! meant.

mod read;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use audit_core::{DiskFault, sources};

use self::status::Status;
#[cfg(feature = "aws")]
pub(crate) use self::status::element;
use super::blocker::Blocker;
use super::credentials::{CredentialFailure, Issuer};
use super::provider::Provider;
use crate::panic::Panicked;

/// Why a request failed, and what follows from that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) response: Response,
    /// What failed and why, in one line without credentials.
    pub(crate) detail: String,
    /// What an operator must do. Empty if nobody needs to act.
    pub(crate) advice: String,
    pub(crate) timed_out: bool,
    /// Whether a request with a new session of the same role may succeed.
    pub(crate) is_of_session: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// The key is taken, possibly by our own object from a request that seemed to fail.
    Exists,
    /// Nothing was written, because another request for the key was in flight.
    Contention,
    /// The request may or may not have taken effect, or may still do so.
    Unknown,
    /// Retries cannot succeed until somebody acts.
    Blocked(Blocker),
}

impl Refusal {
    fn new(
        response: Response,
        detail: String,
        provider: Provider,
        issuer: Option<&Issuer>,
    ) -> Refusal {
        let advice = match response {
            Response::Exists | Response::Contention | Response::Unknown => String::new(),
            Response::Blocked(blocker) => provider.advice(blocker, issuer),
        };
        Refusal { response, detail, advice, timed_out: false, is_of_session: false }
    }

    fn without_advice(response: Response, detail: String) -> Refusal {
        let advice = String::new();
        Refusal { response, detail, advice, timed_out: false, is_of_session: false }
    }

    pub(crate) fn timeout(limit: Duration) -> Refusal {
        let detail = format!("no answer within {} ms", limit.as_millis());
        let refusal = Refusal::without_advice(Response::Unknown, detail);
        Refusal { timed_out: true, ..refusal }
    }

    /// There is no object under a key that was reported to exist a moment ago.
    pub(crate) fn gone() -> Refusal {
        let detail = "the store reported that the key exists, but it has no object".to_owned();
        Refusal::without_advice(Response::Contention, detail)
    }

    pub(crate) fn panicked(Panicked(what): &Panicked, provider: Provider) -> Refusal {
        let detail = format!("a request to the {} panicked: {what}", provider.noun());
        Refusal::new(Response::Blocked(Blocker::Panic), detail, provider, None)
    }

    pub(crate) fn is_panic(&self) -> bool {
        self.response == Response::Blocked(Blocker::Panic)
    }

    /// The refusal of a request that is retried. The first that a new session may overcome blocks
    /// nothing: the retry has one. `was_of_session` says whether the previous refusal was such.
    pub(crate) fn before_retry(self, was_of_session: &mut bool) -> Refusal {
        let is_repeated = std::mem::replace(was_of_session, self.is_of_session);
        if !self.is_of_session || is_repeated {
            return self;
        }
        Refusal { response: Response::Unknown, advice: String::new(), ..self }
    }

    /// The refusal with advice for a reader, who needs other permissions.
    pub(crate) fn for_reader(self, provider: Provider) -> Refusal {
        match self.response {
            Response::Blocked(Blocker::Permission | Blocker::Disk(DiskFault::Permission)) => {
                Refusal { advice: provider.advice_to_reader().to_owned(), ..self }
            }
            Response::Exists | Response::Contention | Response::Unknown | Response::Blocked(_) => {
                self
            }
        }
    }
}

/// The HTTP status with which a store refused a request, if it did.
pub fn status(error: &object_store::Error) -> Option<u16> {
    let failure = sources(error).any(|cause| cause.is::<CredentialFailure>());
    Status::within(&error.to_string()).filter(|_| !failure).map(|status| status.number)
}

/// For an operator: what failed, why and, if somebody must act, what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, " ({})", self.advice) }
    }
}
