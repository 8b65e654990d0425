//! Scans for the page. Results are sent as lines of JSON while objects are read.

use std::sync::Arc;
use std::time::Duration;

use audit_sink_s3::layout::Partition;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::plan::{LOOKED_AT, Piece, Plan, Row, Total};
use super::question::Question;
use super::{Desk, Unanswered, json};
use crate::bucket::{Listed, Reader};
use crate::escape;
use crate::export::found::Found;
use crate::failure::Failure;
use crate::object::{Content, Read, ReadError, read};
use crate::scan;

/// The interval at which the counts are sent.
const EVERY: Duration = Duration::from_millis(250);

/// The maximum number of damaged objects that are listed.
const MAX_DAMAGED: u64 = 100;

/// The results of a scan for a plan, in the order of its question.
fn pieces(
    desk: &Arc<Desk>,
    plan: &Arc<Plan>,
) -> impl Stream<Item = Result<Read<Piece>, Failure>> + Send + use<> {
    let plan = Arc::clone(plan);
    let objects = objects(desk, &plan.question);
    let begin = move |object: &Listed| {
        let (plan, object) = (Arc::clone(&plan), object.clone());
        move |sequence, line: &[u8], piece: &mut Piece| plan.take(&object, sequence, line, piece)
    };
    scan::scan(&desk.reader, objects, begin)
}

/// The objects that may hold selected records, in the order of the question.
pub(super) fn objects(
    desk: &Desk,
    question: &Question,
) -> BoxStream<'static, Result<Listed, Failure>> {
    let (reader, question) = (desk.reader.clone(), question.clone());
    let listed = async move {
        let wanted = question.wanted();
        let mut partitions = match reader.hours_of(&wanted).await {
            Ok(partitions) => partitions,
            Err(failure) => return stream::iter([Err(failure)]).left_stream(),
        };
        if question.newest_first {
            partitions.reverse();
        }
        partitions.retain(|partition| {
            question.after.is_none_or(|after| match question.newest_first {
                true => partition.begin_ms() <= after.key.hour_ms(),
                false => partition.end_ms() > after.key.hour_ms(),
            })
        });
        let stream = wanted.stream;
        let objects = match question.newest_first {
            true => reader.newest_in(partitions, stream).left_stream(),
            false => reader.objects_in(partitions, stream).right_stream(),
        };
        let is_ahead = move |object: &Result<Listed, Failure>| {
            std::future::ready(object.as_ref().map_or(true, |object| question.is_ahead(object)))
        };
        objects.filter(is_ahead).right_stream()
    };
    stream::once(listed).flatten().boxed()
}

/// The damage of an object, if any.
pub(super) fn wrong(
    object: &Listed,
    content: Result<Content, ReadError>,
) -> Option<serde_json::Value> {
    let what = match content {
        Ok(content) => content.contradiction(object)?,
        Err(ReadError::Unwanted) => return None,
        Err(error) => error.said(),
    };
    let what = escape::text(&what).into_owned();
    Some(serde_json::json!({ "kind": "damage", "object": object.key.to_string(), "what": what }))
}

fn line(value: &serde_json::Value) -> Bytes {
    let mut line = value.to_string();
    line.push('\n');
    line.into()
}

type Sender = mpsc::Sender<Bytes>;

/// The maximum number of pieces of a response that wait for its reader.
pub(super) const PIECES_AHEAD: usize = 8;

/// A body that a task writes. Dropping the body ends the task at its next piece.
fn body(receiver: mpsc::Receiver<Bytes>) -> Body {
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), receiver))
    });
    Body::from_stream(pieces)
}

pub(super) fn question_of(query: Option<&str>) -> Result<Question, Unanswered> {
    Question::parse(query).map_err(|what| Unanswered(StatusCode::BAD_REQUEST, Failure::new(what)))
}

/// Everything that the page shows for a question: rows and counts, as lines of JSON.
pub(super) async fn scan(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let plan = Arc::new(Plan::new(question_of(query.as_deref())?, true));
    let desk = Arc::new(desk.anew());
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        let end = run(&desk, &plan, &sender).await.unwrap_or_else(|failure| {
            let mut error = failure.shown();
            error["kind"] = "error".into();
            error
        });
        // The reader may be gone.
        let _ = sender.send(line(&end)).await;
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body(receiver)).into_response())
}

/// Sends rows and counts. Returns the last line.
async fn run(
    desk: &Arc<Desk>,
    plan: &Arc<Plan>,
    sender: &Sender,
) -> Result<serde_json::Value, Failure> {
    let gone = || Failure::new("the reader of the response is gone");
    let Ok(_permit) = desk.scans.acquire().await else { return Err(gone()) };
    let mut pieces = std::pin::pin!(pieces(desk, plan));
    let mut total = Total::default();
    let mut sent = Instant::now();
    loop {
        let next = tokio::select! {
            biased;
            () = sender.closed() => return Err(gone()),
            next = pieces.next() => next,
        };
        let Some(read) = next else { break };
        match read? {
            Read::Part(piece) => {
                let rows = total.add(piece, plan);
                if !rows.is_empty() {
                    let rows = line(&serde_json::json!({ "kind": "rows", "rows": rows }));
                    sender.send(rows).await.map_err(|_| gone())?;
                }
            }
            Read::Ended(object, content) => {
                total.objects += 1;
                if let Some(damage) = wrong(&object, content) {
                    total.damaged += 1;
                    if total.damaged <= MAX_DAMAGED {
                        sender.send(line(&damage)).await.map_err(|_| gone())?;
                    }
                }
            }
        }
        if sent.elapsed() >= EVERY {
            sent = Instant::now();
            sender.send(line(&total.shown(plan))).await.map_err(|_| gone())?;
        }
    }
    sender.send(line(&total.shown(plan))).await.map_err(|_| gone())?;
    let mut notes = plan.sieve.notes();
    let unlisted = desk.reader.end().err().map(|failure| failure.to_string());
    let is_incomplete = total.damaged > 0 || unlisted.is_some();
    notes.extend(unlisted);
    let notes: Vec<_> = notes.iter().map(|note| escape::text(note).into_owned()).collect();
    Ok(serde_json::json!({
        "kind": "end",
        "damaged": total.damaged,
        "incomplete": is_incomplete,
        "notes": notes,
    }))
}

/// A page of rows, as JSON.
pub(super) async fn records(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let plan = Arc::new(Plan::new(question_of(query.as_deref())?, false));
    let rows = rows_of(&desk, &plan).await;
    let rows = rows.map_err(|failure| Unanswered(StatusCode::BAD_GATEWAY, failure))?;
    Ok(json(&serde_json::json!({ "rows": rows })).into_response())
}

async fn rows_of(desk: &Arc<Desk>, plan: &Arc<Plan>) -> Result<Vec<Row>, Failure> {
    let _permit = desk.scans.acquire().await;
    let (mut total, mut rows) = (Total::default(), Vec::new());
    let mut pieces = std::pin::pin!(pieces(desk, plan));
    while rows.len() < plan.question.rows
        && let Some(read) = pieces.next().await.transpose()?
    {
        if let Read::Part(piece) = read {
            rows.extend(total.add(piece, plan));
        }
    }
    Ok(rows)
}

/// Finds the members in the first readable object of a partition.
pub(super) async fn look_at(
    reader: &Reader,
    partition: &Partition,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut objects = std::pin::pin!(reader.objects_of(partition).await);
    while let Some(object) = objects.next().await.transpose()? {
        let mut looked = 0;
        // Unreadable objects are skipped here.
        let _ = read(reader, &object, |_, line| {
            looked += 1;
            if looked <= LOOKED_AT {
                found.add(line);
            }
        })
        .await;
        if found.records() > 0 {
            return Ok(());
        }
    }
    Ok(())
}
