//! The responses to calls.

use std::sync::Arc;

use audit_host::Held;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use functions_calls::{Answered, Failed};
use serde::Serialize;

use super::client::Client;
use super::request::Format;
use crate::budget::Share;
use crate::problem::Problem;
use crate::{Server, export};

/// The status by which Convex's clients recognize a failed function.
const FUNCTION_FAILED: u16 = 560;

/// The outcome of a call, and its share of the budget until the response is built.
pub(super) struct Answer {
    pub(super) answered: Arc<Answered>,
    pub(super) format: Format,
    pub(super) share: Share,
}

/// A response of JSON that is counted until it is written.
pub(super) fn counted_json(text: String, held: Held) -> Response {
    ([(CONTENT_TYPE, "application/json")], held.of_bytes(text)).into_response()
}

pub(super) fn respond(
    server: &Server,
    client: &Client,
    answer: Result<Answer, Problem>,
) -> Response {
    let Answer { answered, format, share } = match answer {
        Ok(answer) => answer,
        Err(problem) => return problem.into_response(),
    };
    let (status, text) = written(&answered, format);
    let held = server.budget().answers().hold(0, &client.holder());
    let response = counted_json(text, held);
    drop(share);
    (status, response).into_response()
}

pub(super) fn written(answered: &Answered, format: Format) -> (StatusCode, String) {
    let Answered { result, log_lines } = answered;
    let mut body = String::new();
    let status = match result {
        Ok(value) => {
            body.push_str("{\"status\":\"success\",\"value\":");
            write_value(&mut body, value, format);
            StatusCode::OK
        }
        Err(Failed { message, data }) => {
            body.push_str("{\"status\":\"error\",\"errorMessage\":");
            body.push_str(&text(message));
            if let Some(data) = data {
                body.push_str(",\"errorData\":");
                write_value(&mut body, data, format);
            }
            StatusCode::from_u16(FUNCTION_FAILED).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    body.push_str(",\"logLines\":");
    body.push_str(&text(log_lines));
    body.push('}');
    (status, body)
}

/// Writes a function's value, given as JSON text in Convex's encoding.
fn write_value(body: &mut String, value: &str, format: Format) {
    match format {
        Format::Encoded => body.push_str(value),
        Format::Plain => export::plain(value, body),
    }
}

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings are JSON")
}
