//! Receipts for operators: from a document to the records of its last change, and from a record to
//! the documents that its mutation changed. Operators can also remove old receipts.

use audit_core::{Place, UniqueId};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use functions_store::{Receipt, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::Server;
use super::problem::Problem;

/// `GET /receipts?execution=…`, `?stream=…&sequence=…` or `?document=…`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    execution: Option<String>,
    stream: Option<String>,
    sequence: Option<u64>,
    document: Option<String>,
}

/// A committed mutation, the place of its records, and the documents that it changed.
#[derive(Debug, Serialize)]
struct Committed {
    execution: String,
    attempt: u32,
    stream: String,
    sequence: u64,
    count: u32,
    documents: Vec<String>,
}

pub(super) async fn find(State(server): State<Server>, Query(wanted): Query<Wanted>) -> Response {
    let store = server.functions().store().clone();
    // A lookup may wait for the disk.
    let found = tokio::task::spawn_blocking(move || look_up(&store, wanted)).await;
    match found.unwrap_or_else(|error| Err(StoreError::failed(error))) {
        Ok(Some(committed)) => Json(committed).into_response(),
        Ok(None) => {
            let message = "no committed mutation matches";
            Problem::new(StatusCode::NOT_FOUND, "NoReceipt", message).into_response()
        }
        Err(error) => failed(&error, "read"),
    }
}

/// `DELETE /receipts?before=…`, in milliseconds since the Unix epoch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Old {
    before: u64,
}

/// The number of receipts removed per commit. A larger one would delay other commits.
const REMOVED_AT_ONCE: usize = 1_000;

/// Removes old receipts. Those removed before an error stay removed.
pub(super) async fn remove(State(server): State<Server>, Query(old): Query<Old>) -> Response {
    let store = server.functions().store().clone();
    let remove = move || {
        let mut removed = 0;
        loop {
            match store.remove_receipts_before(old.before, REMOVED_AT_ONCE)? {
                0 => return Ok::<usize, StoreError>(removed),
                more => removed += more,
            }
        }
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    match removed.unwrap_or_else(|error| Err(StoreError::failed(error))) {
        Ok(removed) => Json(serde_json::json!({ "removed": removed })).into_response(),
        Err(error) => failed(&error, "removed"),
    }
}

fn failed(error: &StoreError, what: &str) -> Response {
    tracing::warn!(%error, "receipts cannot be {what}");
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Problem::new(status, "StoreFailed", "the store failed").into_response()
}

fn look_up(store: &Store, wanted: Wanted) -> Result<Option<Committed>, StoreError> {
    let Wanted { execution, stream, sequence, document } = wanted;
    // An invalid identifier matches nothing.
    let id = |text: Option<String>| text?.parse::<UniqueId>().ok();
    let receipt = match (id(execution), id(stream), sequence, document) {
        (Some(execution), ..) => store.receipt(execution)?,
        (None, Some(stream), Some(sequence), _) => store.receipt_of_record(stream, sequence)?,
        (None, _, _, Some(document)) => store.receipt_of_document(&document)?,
        (None, ..) => None,
    };
    let Some(Receipt { execution, attempt, place }) = receipt else { return Ok(None) };
    let Place { stream, first_sequence: sequence, count } = place;
    let documents = store.documents_of_receipt(execution)?;
    let (execution, stream) = (execution.to_string(), stream.to_string());
    Ok(Some(Committed { execution, attempt, stream, sequence, count, documents }))
}
