//! The functions on documents, and their logs.
//!
//! These functions do not depend on HTTP or caches, and do not decide when their logs become
//! durable.

use std::borrow::Cow;

use audit_runtime::{AuditError, AuditLog, FunctionError, Mutation, Query, Var, body};
use audit_sqlx::Tx;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Row};

/// A document as shown to users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Document {
    pub(crate) id: String,
    /// 1 for a new document; each change adds 1.
    pub(crate) revision: i64,
    pub(crate) title: String,
    pub(crate) text: String,
}

/// A change requested by a user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) title: String,
    pub(crate) text: String,
    /// The revision that the user saw, if the change must not overwrite a later one. 0 if the
    /// document must be new.
    pub(crate) expected_revision: Option<i64>,
}

/// Why a function failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The document does not exist.
    #[error("there is no such document")]
    NotFound,
    /// The document's revision is not the one that the user saw.
    #[error("the document is at revision {actual}, not at {expected}")]
    Stale { expected: i64, actual: i64 },
    /// The user's input is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The database failed, or another transaction conflicts with this one.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The audit log was refused.
    #[error("the audit log was refused")]
    Audit(#[from] AuditError),
}

/// Limits on stored values, in bytes. An id may begin with the name of a tenant, of up to 64.
const MAX_ID_BYTES: usize = 129;
const MAX_TITLE_BYTES: usize = 200;
const MAX_TEXT_BYTES: usize = 100_000;

/// The query `documents:view`.
///
/// Its result is cached and shown to many users, so the user, the client and the time are
/// variables.
pub(crate) async fn view(
    log: &AuditLog<'_, Query>,
    user: Var,
    database: impl sqlx::Executor<'_, Database = Any>,
    id: &str,
) -> Result<Document, Failure> {
    let found = find(database, id).await;
    log.audit(&body!({
        "action": "documents.view",
        "document": bounded(id, MAX_ID_BYTES),
        "revision": found.as_ref().ok().and_then(|found| Some(found.as_ref()?.revision)),
        "outcome": match &found {
            Ok(Some(_)) => "shown",
            Ok(None) => "not found",
            Err(_) => "failed",
        },
        "user": user,
        "client": { "ip": Var::IP, "userAgent": Var::USER_AGENT, "requestId": Var::REQUEST_ID },
        "at": Var::NOW,
    }))?;
    found?.ok_or(Failure::NotFound)
}

/// The mutation `documents:update`: changes or creates a document.
pub(crate) async fn update(
    log: &AuditLog<'_, Mutation>,
    user: Var,
    tx: &mut Tx<Any>,
    id: &str,
    change: &Change,
) -> Result<Document, Failure> {
    let before = find(&mut **tx, id).await;
    let result = match &before {
        Ok(before) => check(id, before.as_ref(), change),
        Err(_) => Ok(()),
    };
    let from =
        before.as_ref().ok().map(|before| before.as_ref().map_or(0, |before| before.revision));
    log.audit(&body!({
        "action": "documents.update",
        "document": bounded(id, MAX_ID_BYTES),
        "from": from,
        "to": from.map(|revision| revision + 1),
        "title": bounded(&change.title, MAX_TITLE_BYTES),
        "bytes": change.text.len(),
        "outcome": match (&before, &result) {
            (Ok(_), Ok(())) => "to be committed".to_owned(),
            (Ok(_), Err(failure)) => failure.to_string(),
            (Err(_), _) => "failed to read".to_owned(),
        },
        "user": user,
        "client": { "ip": Var::IP, "userAgent": Var::USER_AGENT, "requestId": Var::REQUEST_ID },
        "at": Var::NOW,
    }))?;
    result?;
    let revision = before?.map_or(0, |before| before.revision) + 1;
    let statement = if revision == 1 {
        // The document is new. If another transaction inserts it meanwhile, this reports a conflict
        // rather than a violated key.
        "INSERT INTO documents (id, revision, title, text) VALUES ($1, $2, $3, $4) \
         ON CONFLICT DO NOTHING"
    } else {
        "UPDATE documents SET revision = $2, title = $3, text = $4 WHERE id = $1"
    };
    let statement =
        sqlx::query(statement).bind(id).bind(revision).bind(&change.title).bind(&change.text);
    statement.execute(&mut **tx).await?;
    // The call's id links this revision to its records.
    let made = "INSERT INTO document_changes (document, revision, execution) VALUES ($1, $2, $3)";
    let made = sqlx::query(made).bind(id).bind(revision).bind(log.execution_id().to_string());
    made.execute(&mut **tx).await?;
    Ok(Document {
        id: id.to_owned(),
        revision,
        title: change.title.clone(),
        text: change.text.clone(),
    })
}

fn check(id: &str, before: Option<&Document>, change: &Change) -> Result<(), Failure> {
    let at_most = |what: &str, bytes: usize, limit: usize| {
        if bytes > limit {
            return Err(Failure::Invalid(format!(
                "{what} of {bytes} bytes exceeds limit of {limit} bytes"
            )));
        }
        Ok(())
    };
    for (what, value) in [("id", id), ("title", &change.title), ("text", &change.text)] {
        if !can_be_stored(value) {
            return Err(Failure::Invalid(format!("{what} contains the character U+0000")));
        }
    }
    at_most("id", id.len(), MAX_ID_BYTES)?;
    at_most("title", change.title.len(), MAX_TITLE_BYTES)?;
    at_most("text", change.text.len(), MAX_TEXT_BYTES)?;
    let actual = before.map_or(0, |before| before.revision);
    match change.expected_revision {
        Some(expected) if expected != actual => Err(Failure::Stale { expected, actual }),
        Some(_) | None => Ok(()),
    }
}

/// Whether a database can store this text. PostgreSQL refuses U+0000, even in a value to search
/// for, which would count as a failure of the database.
fn can_be_stored(text: &str) -> bool {
    !text.contains('\0')
}

/// Truncates a text for a log: if input is rejected for its size, its log must be small.
fn bounded(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(max_bytes)]))
}

/// The document's current revision, which tells whether a cached document is current.
pub(crate) async fn revision(
    database: impl sqlx::Executor<'_, Database = Any>,
    id: &str,
) -> Result<Option<i64>, Failure> {
    if !can_be_stored(id) {
        return Ok(None);
    }
    let row = sqlx::query("SELECT revision FROM documents WHERE id = $1").bind(id);
    let row = row.fetch_optional(database).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// A revision of a document that a call made.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    document: String,
    revision: i64,
}

/// The call that made this revision of a document.
pub(crate) async fn execution_of(
    database: impl sqlx::Executor<'_, Database = Any>,
    document: &str,
    revision: i64,
) -> Result<Option<String>, sqlx::Error> {
    if !can_be_stored(document) {
        return Ok(None);
    }
    let execution = "SELECT execution FROM document_changes WHERE document = $1 AND revision = $2";
    sqlx::query_scalar(execution).bind(document).bind(revision).fetch_optional(database).await
}

/// The revision that a call made, if it committed.
pub(crate) async fn changed_by(
    database: impl sqlx::Executor<'_, Database = Any>,
    execution: &str,
) -> Result<Option<Changed>, sqlx::Error> {
    let changed = "SELECT document, revision FROM document_changes WHERE execution = $1";
    let changed = sqlx::query_as(changed).bind(execution).fetch_optional(database).await?;
    Ok(changed.map(|(document, revision)| Changed { document, revision }))
}

async fn find(
    database: impl sqlx::Executor<'_, Database = Any>,
    id: &str,
) -> Result<Option<Document>, Failure> {
    if !can_be_stored(id) {
        return Ok(None);
    }
    let row = sqlx::query("SELECT id, revision, title, text FROM documents WHERE id = $1").bind(id);
    let document = |row: AnyRow| -> Result<Document, sqlx::Error> {
        Ok(Document {
            id: row.try_get(0)?,
            revision: row.try_get(1)?,
            title: row.try_get(2)?,
            text: row.try_get(3)?,
        })
    };
    Ok(row.fetch_optional(database).await?.map(document).transpose()?)
}

impl FunctionError<sqlx::Error> for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Failure::Database(error) => Some(error),
            Failure::NotFound | Failure::Stale { .. } | Failure::Invalid(_) | Failure::Audit(_) => {
                None
            }
        }
    }
}
