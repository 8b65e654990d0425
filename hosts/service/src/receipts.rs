//! For operators: finds the records of a document's revision, and the change that belongs to a
//! record.

use audit_runtime::{LogReceipt, Place, UniqueId};
use audit_sqlx::{receipt_of_execution, receipt_of_record};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::answer::answer;
use crate::app::database_status;
use crate::database::Database;
use crate::documents::{self, Changed};

/// `GET /receipts?execution=…`, `?stream=…&sequence=…` or `?document=…&revision=…`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    execution: Option<String>,
    stream: Option<String>,
    sequence: Option<u64>,
    document: Option<String>,
    revision: Option<i64>,
}

/// A committed change and the place of its records.
#[derive(Debug, Serialize)]
struct Committed {
    execution: String,
    attempt: u32,
    stream: String,
    sequence: u64,
    count: u32,
    #[serde(flatten)]
    changed: Option<Changed>,
}

pub(crate) fn router(database: Database) -> Router {
    Router::new().route("/receipts", get(receipts)).with_state(database)
}

async fn receipts(State(database): State<Database>, Query(wanted): Query<Wanted>) -> Response {
    match find(&database, wanted).await {
        Ok(Some(committed)) => Json(committed).into_response(),
        Ok(None) => answer(StatusCode::NOT_FOUND, "no committed change has this"),
        Err(error) => {
            tracing::warn!(%error, "receipts cannot be read");
            let status = StatusCode::from_u16(database_status(&error));
            answer(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "the database failed")
        }
    }
}

async fn find(database: &Database, wanted: Wanted) -> Result<Option<Committed>, sqlx::Error> {
    let pool = database.pool();
    let Wanted { mut execution, stream, sequence, document, revision } = wanted;
    if let (Some(document), Some(revision)) = (document, revision) {
        execution = documents::execution_of(pool, &document, revision).await?;
    }
    // An invalid identifier matches nothing.
    let id = |text: Option<String>| text?.parse::<UniqueId>().ok();
    let receipt = match (id(execution), id(stream), sequence) {
        (Some(execution), ..) => receipt_of_execution(pool, execution).await?,
        (None, Some(stream), Some(sequence)) => receipt_of_record(pool, stream, sequence).await?,
        (None, ..) => None,
    };
    let Some(LogReceipt { execution, attempt, place, .. }) = receipt else { return Ok(None) };
    let Place { stream, first_sequence, count } = place;
    let (execution, stream) = (execution.to_string(), stream.to_string());
    let changed = documents::changed_by(pool, &execution).await?;
    Ok(Some(Committed { execution, attempt, stream, sequence: first_sequence, count, changed }))
}
