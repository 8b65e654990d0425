//! Scans for the page: what it shows arrives as lines of JSON while objects are read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_sink_s3::layout::Partition;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::question::Question;
use super::{Desk, Unanswered, json};
use crate::bucket::{Listed, Reader};
use crate::escape;
use crate::export::csv::Csv;
use crate::export::found::Found;
use crate::failure::Failure;
use crate::object::{Chunk, Content, Part, Read, ReadError, read};
use crate::query::Members;
use crate::scan;
use crate::sieve::Sieve;

/// How often what was counted is sent.
const EVERY: Duration = Duration::from_millis(250);

/// The most distinct values that are counted of one member. Further ones are counted together.
const MAX_VALUES: usize = 5_000;
/// How many of them the page shows.
const VALUES_SENT: usize = 50;
/// The most bins of a timeline, and the most values that divide one of them.
const MAX_BINS: usize = 5_000;
const MAX_STACK: usize = 24;
/// How much of a value a cell shows, in characters.
const CELL_CHARS: usize = 160;
/// How long a value may be that is counted by itself, in bytes.
const MAX_VALUE_BYTES: usize = 1_024;
/// Objects that are wrong and are named.
const MAX_DAMAGED: u64 = 100;
/// A piece is sent on after so many records.
const PIECE_RECORDS: u64 = 4_096;
/// In how many records columns are looked for, of each piece.
const LOOKED_AT: u64 = 16;

/// A record in the table.
#[derive(Debug, Serialize)]
struct Row {
    stream: String,
    sequence: u64,
    object: String,
    time: i64,
    /// Whether the time is that of the object's hour.
    about: bool,
    cells: Vec<Option<String>>,
}

/// Values and how often they were found. Those for which there is no room are counted together.
#[derive(Debug, Default, Clone)]
struct Values {
    counts: HashMap<Box<str>, u64>,
    rest: u64,
}

impl Values {
    fn add(&mut self, value: &str, count: u64, max: usize) {
        if let Some(known) = self.counts.get_mut(value) {
            *known += count;
        } else if self.counts.len() < max && value.len() <= MAX_VALUE_BYTES {
            self.counts.insert(value.into(), count);
        } else {
            self.rest += count;
        }
    }

    fn merge(&mut self, other: Values, max: usize) {
        other.counts.iter().for_each(|(value, count)| self.add(value, *count, max));
        self.rest += other.rest;
    }
}

/// What is made of some records.
#[derive(Debug, Default)]
struct Piece {
    records: u64,
    rows: VecDeque<Row>,
    bins: BTreeMap<i64, Values>,
    facets: Vec<Values>,
    found: Found,
    /// Whether it is kept to the end of its object, whose last records come first.
    is_kept: bool,
}

impl Part for Piece {
    fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn is_full(&self) -> bool {
        !self.is_kept && (self.records >= PIECE_RECORDS || self.rows.len() >= 256)
    }
}

/// A question with what finds its answer in a record.
struct Plan {
    question: Question,
    sieve: Sieve,
    members: Members,
    counts: bool,
    /// Whether there are rows enough.
    has_rows: AtomicBool,
}

impl Plan {
    fn new(question: Question, counts: bool) -> Plan {
        let pointers = question.columns.iter().chain(&question.facets);
        let pointers = pointers.chain(&question.stack);
        Plan {
            sieve: question.sieve(),
            members: Members::new(pointers),
            counts,
            has_rows: AtomicBool::new(false),
            question,
        }
    }

    fn take(&self, object: &Listed, sequence: u64, line: &[u8], piece: &mut Piece) {
        let Question { columns, facets, newest_first, rows, .. } = &self.question;
        if !self.question.is_record_ahead(&object.key, sequence) {
            return;
        }
        let Some((time_ms, is_own)) = self.question.when(object.key.hour_ms(), line) else {
            return;
        };
        if !self.sieve.selects(line) {
            return;
        }
        piece.is_kept = *newest_first;
        piece.records += 1;
        if self.counts && piece.records <= LOOKED_AT {
            piece.found.add(line);
        }
        let found = self.members.find(line);
        let (cells, found) = found.split_at(columns.len());
        let (of_facets, of_stack) = found.split_at(facets.len());
        if self.counts {
            piece.facets.resize_with(facets.len(), Values::default);
            for (values, value) in piece.facets.iter_mut().zip(of_facets) {
                values.add(value.map_or("", RawValue::get), 1, MAX_VALUES);
            }
            let bin = self.question.bin_of(time_ms);
            // A record may say any time: the first bins are kept.
            if piece.bins.len() < MAX_BINS || piece.bins.contains_key(&bin) {
                let value = of_stack.first().copied().flatten().map_or("", RawValue::get);
                piece.bins.entry(bin).or_default().add(value, 1, MAX_STACK);
            }
        }
        let is_wanted = *newest_first || piece.rows.len() < *rows;
        if *rows > 0 && is_wanted && !self.has_rows.load(Ordering::Relaxed) {
            if piece.rows.len() == *rows {
                piece.rows.pop_front();
            }
            piece.rows.push_back(Row {
                stream: object.key.stream().to_string(),
                sequence,
                object: object.key.to_string(),
                time: time_ms,
                about: !is_own,
                cells: cells.iter().map(|value| value.map(cell)).collect(),
            });
        }
    }
}

/// A value as the table shows it: a text without its quotes, anything else as JSON.
fn cell(value: &RawValue) -> String {
    let text = value.get();
    // Escapes make a text longer than it is, six times at most.
    let is_cut = text.len() > 6 * CELL_CHARS;
    let text = match serde_json::from_str::<String>(text) {
        Ok(text) => text,
        Err(_) => text.to_owned(),
    };
    short(&text, is_cut || text.len() > CELL_CHARS)
}

fn short(text: &str, may_be_long: bool) -> String {
    match text.char_indices().nth(CELL_CHARS).filter(|_| may_be_long) {
        Some((at, _)) => format!("{}…", escape::text(&text[..at])),
        None => escape::text(text).into_owned(),
    }
}

/// What is read for a plan, in its order.
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

/// The objects that may hold an answer, in its order.
fn objects(desk: &Desk, question: &Question) -> BoxStream<'static, Result<Listed, Failure>> {
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

/// The sum of pieces.
#[derive(Default)]
struct Total {
    rows: usize,
    bins: BTreeMap<i64, Values>,
    facets: Vec<Values>,
    found: Found,
    objects: u64,
    damaged: u64,
}

impl Total {
    /// Adds a piece, and gives its rows in order.
    fn add(&mut self, piece: Piece, plan: &Plan) -> Vec<Row> {
        let Piece { rows, bins, facets, found, .. } = piece;
        self.facets.resize_with(plan.question.facets.len(), Values::default);
        for (all, values) in self.facets.iter_mut().zip(facets) {
            all.merge(values, MAX_VALUES);
        }
        for (bin, values) in bins {
            if self.bins.len() < MAX_BINS || self.bins.contains_key(&bin) {
                self.bins.entry(bin).or_default().merge(values, MAX_STACK);
            }
        }
        self.found.merge(found);
        let left = plan.question.rows.saturating_sub(self.rows);
        let rows: Vec<Row> = match plan.question.newest_first {
            true => rows.into_iter().rev().take(left).collect(),
            false => rows.into_iter().take(left).collect(),
        };
        self.rows += rows.len();
        if self.rows >= plan.question.rows {
            plan.has_rows.store(true, Ordering::Relaxed);
        }
        rows
    }

    fn shown(&self, plan: &Plan) -> serde_json::Value {
        let facets = self.facets.iter().zip(&plan.question.facets).map(|(values, pointer)| {
            let mut counts: Vec<_> = values.counts.iter().collect();
            counts.sort_by(|(one, a), (other, b)| b.cmp(a).then(one.cmp(other)));
            let distinct = counts.len();
            let sent = counts.into_iter().take(VALUES_SENT);
            let sent: Vec<_> = sent.map(|(value, count)| valued(value, *count)).collect();
            serde_json::json!({
                "member": pointer.to_string(),
                "values": sent,
                "distinct": distinct,
                "rest": values.rest,
            })
        });
        let bins = self.bins.iter().map(|(begin, values)| {
            let of: Vec<_> =
                values.counts.iter().map(|(value, count)| valued(value, *count)).collect();
            serde_json::json!({ "begin": begin, "values": of, "rest": values.rest })
        });
        let (searched, matched) = plan.sieve.counts();
        serde_json::json!({
            "kind": "counts",
            "searched": searched,
            "matched": matched,
            "objects": self.objects,
            "facets": facets.collect::<Vec<_>>(),
            "bins": bins.collect::<Vec<_>>(),
            "members": self.found.texts(),
        })
    }
}

/// A value as displayed, and as JSON for a condition; neither if it is missing.
fn valued(value: &str, count: u64) -> serde_json::Value {
    let raw: Option<&RawValue> = serde_json::from_str(value).ok();
    serde_json::json!({ "shown": raw.map(cell), "json": raw.map(RawValue::get), "count": count })
}

/// What is wrong with an object, if anything is.
fn wrong(object: &Listed, content: Result<Content, ReadError>) -> Option<serde_json::Value> {
    let what = match content {
        Ok(content) => content.contradiction(object)?,
        Err(ReadError::Unwanted) => return None,
        Err(error) => error.said(None),
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

/// How much of a response may wait for its reader, in pieces.
const PIECES_AHEAD: usize = 8;

/// A body that a task writes. Dropping it ends the task at its next piece.
fn body(receiver: mpsc::Receiver<Bytes>) -> Body {
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), receiver))
    });
    Body::from_stream(pieces)
}

fn question_of(query: Option<&str>) -> Result<Question, Unanswered> {
    Question::parse(query).map_err(|what| Unanswered(StatusCode::BAD_REQUEST, Failure::new(what)))
}

/// Everything that the page shows of a question: rows, and what was counted, as lines of JSON.
pub(super) async fn scan(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let plan = Arc::new(Plan::new(question_of(query.as_deref())?, true));
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        let end = match run(&desk, &plan, &sender).await {
            Ok(end) => end,
            Err(failure) => {
                let because = std::error::Error::source(&failure).map(ToString::to_string);
                let text = |text: &str| escape::text(text).into_owned();
                serde_json::json!({
                    "kind": "error",
                    "error": text(&failure.to_string()),
                    "because": because.as_deref().map(text),
                })
            }
        };
        // Nobody may be reading any more.
        let _ = sender.send(line(&end)).await;
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body(receiver)).into_response())
}

/// Sends what is found, and gives the end.
async fn run(
    desk: &Arc<Desk>,
    plan: &Arc<Plan>,
    sender: &Sender,
) -> Result<serde_json::Value, Failure> {
    let gone = || Failure::new("nobody reads the answer");
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
    let notes = plan.sieve.notes();
    let notes: Vec<_> = notes.iter().map(|note| escape::text(note).into_owned()).collect();
    Ok(serde_json::json!({ "kind": "end", "damaged": total.damaged, "notes": notes }))
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

/// All records that the question selects, as a file.
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
            // The file must not look whole: the connection is cut off.
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

/// The body of a file. An empty piece stands for a failure.
fn file(receiver: mpsc::Receiver<Bytes>) -> Body {
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        let piece = match piece.is_empty() {
            true => Err(std::io::Error::other("the file is not whole")),
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

/// Looks at the first object of a partition that can be read.
pub(super) async fn look_at(
    reader: &Reader,
    partition: &Partition,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut objects = std::pin::pin!(reader.objects_of(partition).await);
    while let Some(object) = objects.next().await.transpose()? {
        let mut looked = 0;
        // An object that cannot be read has nothing to show here.
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
