//! [`Problem`].

use audit_host::shortened;
use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use functions_calls::CallError;
use serde_json::json;

/// An error other than a function's failure, in Convex's format.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Problem {
        Problem { status, code, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "BadJsonBody", message)
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, code, message } = self;
        // The message may quote what the client sent.
        let message = shortened(&message);
        let mut response =
            (status, Json(json!({ "code": code, "message": message }))).into_response();
        match status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<CallError> for Problem {
    fn from(refused: CallError) -> Problem {
        let (status, code) = match refused {
            CallError::NotFound(_) => (StatusCode::NOT_FOUND, "FunctionNotFound"),
            CallError::Invalid(_) => (StatusCode::BAD_REQUEST, "BadArguments"),
            CallError::NotDurable(_) => (StatusCode::SERVICE_UNAVAILABLE, "AuditLogNotDurable"),
            CallError::NotStored(_) => (StatusCode::SERVICE_UNAVAILABLE, "StoreUnavailable"),
            CallError::Conflict(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "OptimisticConcurrencyControlFailure")
            }
            CallError::Overloaded(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "TooManyConcurrentRequests")
            }
            CallError::Internal(_) | CallError::Unknown(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError")
            }
        };
        Problem::new(status, code, refused.to_string())
    }
}
