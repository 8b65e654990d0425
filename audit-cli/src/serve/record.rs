//! A complete record, its neighbours, and its proof.

use std::sync::Arc;

use audit_sink_s3::layout::{ObjectKey, Partition};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::{Desk, Unanswered, json};
use crate::bucket::{Listed, Wanted};
use crate::escape;
use crate::failure::Failure;
use crate::object::read;
use crate::printer::pretty;
use crate::prove::object::{Which, prove};
use crate::query::Pointer;
use crate::units::HOUR_MS;
use crate::verify::inventory::Entry;

/// The number of neighbours shown before and after.
const BESIDE: usize = 5;

/// The maximum length of a neighbour, in characters.
const BESIDE_CHARS: usize = 240;

/// The maximum size at which a record is displayed whole, in bytes. A larger record can still be
/// copied whole.
const SHOWN_BYTES: usize = 1 << 20;

/// The object and the number of the record that a request names.
fn place(query: Option<&str>) -> Result<(ObjectKey, u64), Unanswered> {
    let (mut object, mut sequence) = (None, None);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "object" => object = value.parse().ok(),
            "sequence" => sequence = value.parse().ok(),
            _ => {}
        }
    }
    object.zip(sequence).ok_or_else(|| {
        let what = "the object and the number of a record are needed";
        Unanswered(StatusCode::BAD_REQUEST, Failure::new(what))
    })
}

pub(super) async fn record(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let (key, sequence) = place(query.as_deref())?;
    match look(&desk, &key, sequence).await {
        Ok(Some(record)) => Ok(json(&record).into_response()),
        Ok(None) => {
            let what = format!("no record {sequence} is in {key}");
            Err(Unanswered(StatusCode::NOT_FOUND, Failure::new(what)))
        }
        Err(failure) => Err(Unanswered(StatusCode::BAD_GATEWAY, failure)),
    }
}

/// A record of a stream, with its object.
type Beside = (ObjectKey, u64, Vec<u8>);

async fn look(
    desk: &Desk,
    key: &ObjectKey,
    sequence: u64,
) -> Result<Option<serde_json::Value>, Failure> {
    let objects = neighbours(desk, key).await?;
    let Some(at) = objects.iter().position(|object| object.key == *key) else { return Ok(None) };
    let object = &objects[at];
    let first = sequence.saturating_sub(BESIDE as u64);
    let mut records = lines(desk, object, first, sequence.saturating_add(BESIDE as u64)).await?;
    let has = |records: &[Beside]| records.iter().position(|(_, number, _)| *number == sequence);
    let Some(mut found) = has(&records) else { return Ok(None) };
    // Neighbours may be in the object before or after.
    // If these cannot be read, the record is shown without them.
    if found < BESIDE
        && at > 0
        && let Some(last) = sequence.checked_sub(1)
    {
        let mut before = lines(desk, &objects[at - 1], first, last).await.unwrap_or_default();
        before.append(&mut records);
        records = before;
        found = has(&records).unwrap_or(found);
    }
    if records.len() - found <= BESIDE
        && at + 1 < objects.len()
        && let Some(next) = sequence.checked_add(1)
    {
        let last = sequence.saturating_add(BESIDE as u64);
        records.extend(lines(desk, &objects[at + 1], next, last).await.unwrap_or_default());
    }
    let line = &records[found].2;
    let text = |pointer: &str| {
        let pointer: Pointer = pointer.parse().ok()?;
        let value = pointer.find(line)?.get().to_owned();
        serde_json::from_str::<String>(&value).ok()
    };
    let beside = |records: &[Beside]| -> Vec<serde_json::Value> {
        let shown = records.iter().map(|(key, number, line)| {
            let line = escape::json(line);
            let line: String = String::from_utf8_lossy(&line).chars().take(BESIDE_CHARS).collect();
            serde_json::json!({ "object": key.to_string(), "sequence": number, "line": line })
        });
        shown.collect()
    };
    let mut indented = Vec::new();
    let style = crate::output::Output::silent().style();
    pretty(&escape::json(line), style, &mut indented);
    let is_cut = indented.len() > SHOWN_BYTES;
    indented.truncate(SHOWN_BYTES);
    Ok(Some(serde_json::json!({
        "stream": key.stream().to_string(),
        "sequence": sequence,
        "object": key.to_string(),
        "stored": object.modified_ms,
        "hour": key.hour_ms(),
        "line": String::from_utf8_lossy(line),
        "pretty": String::from_utf8_lossy(&indented),
        "cut": is_cut,
        "execution": text("/$audit/execution").map(|id| escape::text(&id).into_owned()),
        "before": beside(&records[found.saturating_sub(BESIDE)..found]),
        "after": beside(&records[found + 1..records.len().min(found + 1 + BESIDE)]),
        "proof": !desk.integrity.keys().is_empty(),
    })))
}

/// The objects of the stream under the object's hour and the adjacent hours, in the order of their
/// records.
async fn neighbours(desk: &Desk, key: &ObjectKey) -> Result<Vec<Listed>, Failure> {
    let times_ms = key.hour_ms() - HOUR_MS..key.hour_ms() + 2 * HOUR_MS;
    let wanted = Wanted::new(times_ms, Some(key.stream()));
    let partitions: Vec<Partition> = desk.reader.hours_of(&wanted).await?;
    let mut listed = std::pin::pin!(desk.reader.objects_in(partitions, wanted.stream));
    let mut objects: Vec<Listed> = Vec::new();
    while let Some(object) = listed.next().await.transpose()? {
        objects.push(object);
    }
    objects.sort_by_key(|object| object.key.first_sequence());
    Ok(objects)
}

/// The records of an object with the numbers from `first` to `last`.
async fn lines(
    desk: &Desk,
    object: &Listed,
    first: u64,
    last: u64,
) -> Result<Vec<Beside>, Failure> {
    let mut lines = Vec::new();
    let content = read(&desk.reader, object, |sequence, line| {
        if (first..=last).contains(&sequence) {
            lines.push((object.key, sequence, line.to_vec()));
        }
    });
    match content.await {
        Ok(_) => Ok(lines),
        // The records before the damage are shown.
        Err(_) if !lines.is_empty() => Ok(lines),
        Err(error) => {
            let what = format!("cannot read {}", object.location);
            Err(Failure::new(what).because(error.said()))
        }
    }
}

/// The proof of a record, as a file.
pub(super) async fn proof(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let (key, sequence) = place(query.as_deref())?;
    let (which, mut text) = (Which::Record(sequence), None);
    let (entry, keys) = (Entry::new(&key), desk.integrity.keys());
    let proven = prove(&desk.reader, key.stream(), &entry, &which, keys, |proven| {
        text = Some(proven.proof.to_string());
        Ok(())
    });
    proven.await.map_err(|none| Unanswered(StatusCode::CONFLICT, none.into()))?;
    let Some(text) = text else {
        let failure = Failure::new("there is no proof of that record");
        return Err(Unanswered(StatusCode::CONFLICT, failure));
    };
    let name = format!("attachment; filename=\"{}-{sequence:012}.tlog-proof\"", key.stream());
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, text).into_response())
}
