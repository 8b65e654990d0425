//! What a response of the bucket means for a request that creates an object.
//!
//! `object_store` folds responses into a few kinds of error and keeps the rest as text, so some of
//! it is read back out of the text: `read` reads an error, and `status` what an HTTP response says
//! in it; a test against a real server pins that. What is not recognized counts as
//! [`Response::Unknown`]: the same bytes are sent again, which is harmless whatever the response
//! meant.

mod read;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use self::read::causes;
use self::status::Status;
#[cfg(feature = "aws")]
pub(crate) use self::status::element;
use super::blocker::Blocker;
use super::credentials::{CredentialFailure, Issuer};
use super::provider::Provider;
use crate::panic::Panicked;

/// Why a request did not succeed, and what its sender does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) response: Response,
    /// Who refused or failed, and what it said: in one line, without any credential.
    pub(crate) detail: String,
    /// What an operator has to do. Empty if nobody has to.
    pub(crate) advice: String,
    /// Whether there was no answer in the time it was given.
    pub(crate) timed_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// Something stands under the key. It may be our own object, from a request that seemed to
    /// fail.
    Exists,
    /// Nothing stands under the key and nothing was written: another request for it was under way.
    Contention,
    /// The request may have been carried out or not, or yet be.
    Unknown,
    /// No repetition helps until somebody acts.
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
        Refusal { response, detail, advice, timed_out: false }
    }

    /// The request was given up without a response.
    pub(crate) fn timeout(limit: Duration) -> Refusal {
        let detail = format!("no answer within {} ms", limit.as_millis());
        Refusal { response: Response::Unknown, detail, advice: String::new(), timed_out: true }
    }

    /// Nothing stands under a key that was said to exist a moment ago.
    pub(crate) fn gone() -> Refusal {
        let detail = "the key was refused as existing, and nothing stands there".to_owned();
        Refusal { response: Response::Contention, detail, advice: String::new(), timed_out: false }
    }

    /// The request, or what makes it, panicked.
    pub(crate) fn panicked(Panicked(what): &Panicked, provider: Provider) -> Refusal {
        let detail = format!("a request to the {} panicked: {what}", provider.noun());
        Refusal::new(Response::Blocked(Blocker::Panic), detail, provider, None)
    }

    pub(crate) fn is_panic(&self) -> bool {
        self.response == Response::Blocked(Blocker::Panic)
    }

    /// As one hears it who reads, and so needs other permissions.
    pub(crate) fn for_reader(self, provider: Provider) -> Refusal {
        if self.response != Response::Blocked(Blocker::Permission) {
            return self;
        }
        Refusal { advice: provider.advice_to_reader().to_owned(), ..self }
    }
}

/// The number of the HTTP status that a store refused a request with.
pub fn status(error: &object_store::Error) -> Option<u16> {
    let failure = causes(error).any(|cause| cause.is::<CredentialFailure>());
    Status::within(&error.to_string()).filter(|_| !failure).map(|status| status.number)
}

/// As an operator reads it: who refused, what it said, and what to do if it waits for somebody.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, " ({})", self.advice) }
    }
}
