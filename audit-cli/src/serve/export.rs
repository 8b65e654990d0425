//! Exports all records that a question selects, as a file.
//!
//! If an object or an hour could not be read, the connection is cut off at the end of the file, so
//! that the file does not look complete. With `partial=1`, the file ends normally with all that
//! could be read, and its name says that it is incomplete.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::question::Question;
use super::search::{PIECES_AHEAD, objects, question_of, wrong};
use super::{Desk, Unanswered};
use crate::arguments::time_pointers;
use crate::bucket::Listed;
use crate::export::csv::Csv;
use crate::failure::Failure;
use crate::object::{Chunk, Part, Read};
use crate::parquet::{Exporter, Group};
use crate::scan;
use crate::units::counted;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ndjson,
    Csv,
    Parquet,
}

impl Form {
    /// Whether the client accepts an incomplete file, under a name that says so.
    fn may_be_partial(query: &str) -> bool {
        url::form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "partial" && value == "1")
    }

    fn of(query: &str) -> Result<Form, Unanswered> {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let format = pairs.into_iter().find(|(name, _)| name == "format");
        match format.as_ref().map_or("ndjson", |(_, format)| format) {
            "ndjson" => Ok(Form::Ndjson),
            "csv" => Ok(Form::Csv),
            "parquet" => Ok(Form::Parquet),
            other => {
                let what = format!("unknown format {other:?}: use ndjson, csv or parquet");
                Err(Unanswered(StatusCode::BAD_REQUEST, Failure::new(what)))
            }
        }
    }

    /// The content type, and the name of the file.
    fn headers(self, is_partial: bool) -> (&'static str, String) {
        let (kind, suffix) = match self {
            Form::Ndjson => ("application/x-ndjson", "ndjson"),
            Form::Csv => ("text/csv; charset=utf-8", "csv"),
            Form::Parquet => ("application/vnd.apache.parquet", "parquet"),
        };
        let name = if is_partial { "audit-incomplete" } else { "audit" };
        (kind, format!("attachment; filename=\"{name}.{suffix}\""))
    }
}

pub(super) async fn export(
    State(desk): State<Arc<Desk>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Unanswered> {
    let desk = Arc::new(desk.anew());
    let mut question = question_of(query.as_deref())?;
    question.newest_first = false;
    question.after = None;
    let query = query.as_deref().unwrap_or_default();
    let (form, is_partial) = (Form::of(query)?, Form::may_be_partial(query));
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        let _permit = desk.scans.acquire().await;
        let lacks = Lacks::default();
        let written = match form {
            Form::Ndjson => write_lines(&desk, question, None, &lacks, &sender).await,
            Form::Csv => {
                let csv = Csv::new(question.columns.clone(), true);
                write_lines(&desk, question, Some(csv), &lacks, &sender).await
            }
            Form::Parquet => write_parquet(&desk, question, &lacks, &sender).await,
        };
        match written.and_then(|()| if is_partial { Ok(()) } else { lacks.end(&desk) }) {
            // The client may be gone.
            Ok(()) => drop(sender.send(None).await),
            Err(failure) => crate::output::note(&format!("an export was cut off: {failure}")),
        }
    });
    let (kind, name) = form.headers(is_partial);
    let kind = kind.to_owned();
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, file(receiver)).into_response())
}

/// The objects that a file lacks.
#[derive(Debug, Clone, Default)]
struct Lacks(Arc<AtomicU64>);

/// The number of objects of a file that are named.
const MAX_NAMED: u64 = 100;

impl Lacks {
    fn add(&self, object: &Listed, what: &str) {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            ..MAX_NAMED => {
                crate::output::note(&format!("an export lacks {}: {what}", object.location));
            }
            MAX_NAMED => crate::output::note("an export lacks further objects"),
            _ => {}
        }
    }

    /// Fails if the file lacks anything.
    fn end(&self, desk: &Desk) -> Result<(), Failure> {
        match self.0.load(Ordering::Relaxed) {
            0 => desk.reader.end(),
            count => {
                let objects = counted(count, "object");
                Err(Failure::new(format!("it lacks records of {objects}")))
            }
        }
    }
}

/// Sends the pieces of a file, then `None`.
type Sender = mpsc::Sender<Option<Bytes>>;

/// The body of a file. Without its end, as after a failure or a panic of the task that writes it,
/// the connection is cut off: the file must not look whole.
fn file(receiver: mpsc::Receiver<Option<Bytes>>) -> Body {
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(piece)) => Some((Ok(piece), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the file is not whole")), None)),
        }
    });
    Body::from_stream(pieces)
}

fn gone() -> Failure {
    Failure::new("the reader of the file is gone")
}

async fn write_lines(
    desk: &Arc<Desk>,
    question: Question,
    csv: Option<Csv>,
    lacks: &Lacks,
    sender: &Sender,
) -> Result<(), Failure> {
    if let Some(csv) = &csv {
        sender.send(Some(csv.head().into())).await.map_err(|_| gone())?;
    }
    let take = move |object: &Listed, sequence, line: &[u8], chunk: &mut Chunk| {
        match &csv {
            Some(csv) => csv.row(object.key.stream(), sequence, line, false, &mut chunk.bytes),
            None => chunk.bytes.extend_from_slice(line),
        }
        chunk.bytes.push(b'\n');
        chunk.ends.push(chunk.bytes.len());
    };
    let mut parts = std::pin::pin!(selected(desk, question, lacks, take));
    while let Some(part) = parts.next().await.transpose()? {
        if let Some(chunk) = part {
            sender.send(Some(chunk.bytes.into())).await.map_err(|_| gone())?;
        }
    }
    Ok(())
}

async fn write_parquet(
    desk: &Arc<Desk>,
    question: Question,
    lacks: &Lacks,
    sender: &Sender,
) -> Result<(), Failure> {
    let written = Written::default();
    let time = time_pointers(question.time.as_ref());
    let mut exporter = Exporter::new(written.clone(), Vec::new(), time);
    let take = |object: &Listed, sequence, line: &[u8], group: &mut Group| {
        group.begin(object.key.to_string(), object.key.stream(), None);
        group.add(sequence, line);
    };
    let mut objects = 0;
    let mut parts = std::pin::pin!(selected(desk, question, lacks, take));
    while let Some(part) = parts.next().await.transpose()? {
        match part {
            Some(group) => exporter.add(group)?,
            None => objects += 1,
        }
        written.send(sender).await?;
    }
    // Only given members may lack a column.
    let _lacking = exporter.end(objects)?;
    written.send(sender).await
}

/// The bytes of a Parquet file that have not been sent yet.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    async fn send(&self, to: &Sender) -> Result<(), Failure> {
        let bytes = std::mem::take(&mut *self.0.lock());
        if bytes.is_empty() {
            return Ok(());
        }
        to.send(Some(bytes.into())).await.map_err(|_| gone())
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds each selected record to a part. Passes on the parts in order, and `None` at the end of each
/// object. A damaged object does not end the file: what could be read of it is passed on.
fn selected<P: Part>(
    desk: &Desk,
    question: Question,
    lacks: &Lacks,
    take: impl Fn(&Listed, u64, &[u8], &mut P) + Send + Sync + 'static,
) -> impl Stream<Item = Result<Option<P>, Failure>> + Send {
    let lacks = lacks.clone();
    let objects = objects(desk, &question);
    let asked = Arc::new((question.sieve(), question, take));
    let begin = move |object: &Listed| {
        let (asked, object) = (Arc::clone(&asked), object.clone());
        move |sequence, line: &[u8], part: &mut P| {
            let (sieve, question, take) = &*asked;
            let is_in_range = question.when(object.key.hour_ms(), line).is_some();
            if is_in_range && sieve.selects(line) {
                take(&object, sequence, line, part);
            }
        }
    };
    scan::scan::<P, _, _, _>(&desk.reader, objects, begin).map(move |read| match read? {
        Read::Part(part) => Ok(Some(part)),
        Read::Ended(object, content) => {
            if let Some(damage) = wrong(&object, content) {
                lacks.add(&object, damage["what"].as_str().unwrap_or_default());
            }
            Ok(None)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_without_its_end_is_cut_off() {
        for is_whole in [true, false] {
            let (sender, receiver) = mpsc::channel(4);
            sender.send(Some("one".into())).await.unwrap();
            sender.send(Some(Bytes::new())).await.unwrap();
            sender.send(Some("two".into())).await.unwrap();
            if is_whole {
                sender.send(None).await.unwrap();
            }
            drop(sender);
            let bytes = axum::body::to_bytes(file(receiver), usize::MAX).await;
            assert_eq!(bytes.ok(), is_whole.then(|| "onetwo".into()));
        }
    }
}
