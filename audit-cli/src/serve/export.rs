//! Exports the records that a question selects.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::question::Question;
use super::search::{PIECES_AHEAD, Sender, objects, question_of, wrong};
use super::{Desk, Unanswered};
use crate::bucket::Listed;
use crate::export::csv::Csv;
use crate::failure::Failure;
use crate::object::{Chunk, Read};
use crate::scan;

/// All records that a question selects, as a file.
pub(super) async fn export(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let mut question = question_of(query.as_deref())?;
    question.newest_first = false;
    question.after = None;
    let pairs = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let is_csv = pairs.into_iter().any(|(name, value)| name == "format" && value == "csv");
    let csv = Arc::new(is_csv.then(|| Csv::new(question.columns.clone(), true)));
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let written = Arc::clone(&csv);
    tokio::spawn(async move {
        if let Err(failure) = write(&desk, question, written, &sender).await {
            // The file must not look complete, so the connection is aborted.
            crate::output::note(&format!("an export was cut off: {failure}"));
            let _ = sender.send(Bytes::new()).await;
        }
    });
    let (kind, name) = match is_csv {
        true => ("text/csv; charset=utf-8", "attachment; filename=\"audit.csv\""),
        false => ("application/x-ndjson", "attachment; filename=\"audit.ndjson\""),
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, file(receiver)).into_response())
}

/// The body of a file. An empty piece marks a failure.
fn file(receiver: mpsc::Receiver<Bytes>) -> Body {
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        let piece = match piece.is_empty() {
            true => Err(std::io::Error::other("the file is incomplete")),
            false => Ok(piece),
        };
        Some((piece, receiver))
    });
    Body::from_stream(pieces)
}

async fn write(
    desk: &Arc<Desk>,
    question: Question,
    csv: Arc<Option<Csv>>,
    sender: &Sender,
) -> Result<(), Failure> {
    let gone = || Failure::new("nobody reads it");
    let _permit = desk.scans.acquire().await;
    if let Some(csv) = &*csv {
        sender.send(csv.head().into()).await.map_err(|_| gone())?;
    }
    let objects = objects(desk, &question);
    let asked = Arc::new((question.sieve(), question));
    let begin = move |object: &Listed| {
        let (stream, hour_ms) = (object.key.stream(), object.key.hour_ms());
        let (asked, csv) = (Arc::clone(&asked), Arc::clone(&csv));
        move |sequence, line: &[u8], chunk: &mut Chunk| {
            let (sieve, question) = &*asked;
            if question.when(hour_ms, line).is_some() && sieve.selects(line) {
                match &*csv {
                    Some(csv) => csv.row(stream, sequence, line, false, &mut chunk.bytes),
                    None => chunk.bytes.extend_from_slice(line),
                }
                chunk.bytes.push(b'\n');
                chunk.ends.push(chunk.bytes.len());
            }
        }
    };
    let mut pieces = std::pin::pin!(scan::scan::<Chunk, _, _, _>(&desk.reader, objects, begin));
    while let Some(read) = pieces.next().await.transpose()? {
        match read {
            Read::Part(chunk) => sender.send(chunk.bytes.into()).await.map_err(|_| gone())?,
            Read::Ended(object, content) => {
                if let Some(damage) = wrong(&object, content) {
                    let what = damage["what"].as_str().unwrap_or_default();
                    return Err(Failure::new(format!("{}: {what}", object.location)));
                }
            }
        }
    }
    Ok(())
}
