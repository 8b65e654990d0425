//! The answers of a store, and whether they are refusals.

use audit_sink_s3::status;
use object_store::Error;

use super::wire::{Answer, PATIENCE};

/// The outcome of a request that must be refused.
pub(super) enum Refusal {
    Refused(String),
    CarriedOut,
    Unclear(String),
}

pub(super) async fn limited<T>(
    request: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let said = format!("no answer within {} s", PATIENCE.as_secs());
            Err(Error::Generic { store: "bucket", source: said.into() })
        }
    }
}

pub(super) fn is_answer(error: &Error) -> bool {
    is_refusal(error) || status(error).is_some()
}

pub(super) fn is_refusal(error: &Error) -> bool {
    let known = matches!(
        error,
        Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
    );
    // Refused listings are only recognizable by their text.
    known || status(error).is_some_and(|status| matches!(status, 401 | 403 | 405))
}

pub(super) fn of_answer(answer: Result<Answer, String>) -> Refusal {
    match answer {
        Ok(answer) if (200..300).contains(&answer.status) => Refusal::CarriedOut,
        Ok(answer) if matches!(answer.status, 401 | 403 | 405) => {
            Refusal::Refused(answer.to_string())
        }
        Ok(answer) => Refusal::Unclear(answer.to_string()),
        Err(said) => Refusal::Unclear(said),
    }
}
