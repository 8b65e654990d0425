//! `audit journal`: what a host has on its disk and not in the bucket yet, and its delivery when
//! the host is gone.

use std::time::Duration;

use audit_sink_s3::{
    Bucket, Health, HealthState, JournalBatch, JournalDelivered, JournalReader, JournalState,
    JournalStream, OpenErrorKind, OrphanedJournal, PlannedObject, Settings,
};
use serde::Serialize;

use crate::arguments::{
    Common, Compression, JournalCat, JournalCommand, JournalDeliver, JournalDirectory,
};
use crate::bucket::to_url;
use crate::cat::Printer;
use crate::failure::{Failure, Outcome};
use crate::lines::Chunk;
use crate::output::Output;
use crate::progress::Progress;
use crate::time::{Size, Span, now_ms, shown};

pub(crate) async fn run(
    command: &JournalCommand,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    match command {
        JournalCommand::Show(directory) => show(directory, output),
        JournalCommand::Cat(arguments) => cat(arguments, output),
        JournalCommand::Deliver(arguments) => deliver(arguments, common, output).await,
    }
}

/// Reads a journal. One that is damaged is what was to be found out, and no failure of the command.
fn read(directory: &JournalDirectory, output: &Output) -> Result<Option<JournalReader>, Failure> {
    match JournalReader::open(&directory.directory) {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.kind() == OpenErrorKind::Damaged => {
            let what =
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            if output.is_json() {
                output.json(&serde_json::json!({ "damaged": what }))?;
            } else {
                output.line(&output.style().bad(&format!("{error}: {what}")))?;
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn cannot_read(error: std::io::Error) -> Failure {
    Failure::new("the journal cannot be read").because(error)
}

#[derive(Serialize)]
struct State {
    in_use: bool,
    segments: u64,
    bytes: u64,
    undelivered: u64,
    undelivered_bytes: u64,
    oldest_undelivered: Option<String>,
    streams: Vec<Stream>,
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Stream {
    stream: String,
    delivered_to: u64,
    next_sequence: u64,
}

#[derive(Serialize)]
struct Object {
    key: String,
    count: u64,
    conflict: bool,
    file: String,
}

fn show(directory: &JournalDirectory, output: &Output) -> Result<Outcome, Failure> {
    let Some(reader) = read(directory, output)? else { return Ok(Outcome::Wrong) };
    let state = reader.state();
    let (mut bytes, mut oldest) = (0, None::<i64>);
    let counted = reader.batches(true, |batch| {
        bytes += batch.lines.len() as u64;
        oldest = Some(oldest.map_or(batch.time_ms, |oldest| oldest.min(batch.time_ms)));
        true
    });
    match counted {
        // Its host went on meanwhile: what was read was delivered and removed.
        Err(_) if state.in_use => {}
        counted => counted.map_err(cannot_read)?,
    }
    print_state(state, bytes, oldest, output)?;
    let conflicts = state.objects.iter().any(|object| object.set_aside);
    // While a host is there, what is not delivered is on its way.
    Ok(Outcome::wrong_if(conflicts || (!state.in_use && state.undelivered() > 0)))
}

fn print_state(
    state: &JournalState,
    undelivered_bytes: u64,
    oldest: Option<i64>,
    output: &Output,
) -> Result<(), Failure> {
    let JournalState { in_use, segments, bytes, streams, objects } = state;
    if output.is_json() {
        let stream = |stream: &JournalStream| {
            let JournalStream { stream, delivered_to, next_sequence } = *stream;
            Stream { stream: stream.to_string(), delivered_to, next_sequence }
        };
        let object = |object: &PlannedObject| {
            let PlannedObject { key, count, set_aside, file } = object;
            let file = file.display().to_string();
            Object { key: key.to_string(), count: *count, conflict: *set_aside, file }
        };
        return output.json(&State {
            in_use: *in_use,
            segments: *segments,
            bytes: *bytes,
            undelivered: state.undelivered(),
            undelivered_bytes,
            oldest_undelivered: oldest.map(shown),
            streams: streams.iter().map(stream).collect(),
            objects: objects.iter().map(object).collect(),
        });
    }
    let style = output.style();
    let used = if *in_use { "a process has it open" } else { "no process has it open" };
    output.line(&format!("{used}; {segments} segments hold records, {} of disk", Size(*bytes)))?;
    for JournalStream { stream, delivered_to, next_sequence } in streams {
        let undelivered = next_sequence.saturating_sub(*delivered_to);
        output.line(&format!(
            "stream {stream}: {next_sequence} records, {undelivered} not known to be in the bucket"
        ))?;
    }
    for PlannedObject { key, count, set_aside, file } in objects {
        let (key, file) = (key.to_string(), file.display());
        output.line(&if *set_aside {
            style.bad(&format!(
                "conflict: another object stands at {key}; the {count} records are in {file}"
            ))
        } else {
            format!("planned: {key}, {count} records")
        })?;
    }
    let verdict = match (state.undelivered(), oldest) {
        (0, _) => style.good("everything is in the bucket or set aside"),
        (undelivered, oldest) => {
            let age = oldest.map(|oldest| {
                format!(", the oldest of {}, {} ago", shown(oldest), Span(now_ms() - oldest))
            });
            let text = format!(
                "{undelivered} records are not known to be in the bucket, {}{}",
                Size(undelivered_bytes),
                age.unwrap_or_default()
            );
            if *in_use { text } else { style.bad(&text) }
        }
    };
    output.line(&verdict)
}

fn cat(arguments: &JournalCat, output: &Output) -> Result<Outcome, Failure> {
    let Some(reader) = read(&arguments.directory, output)? else { return Ok(Outcome::Wrong) };
    let printer = Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.pretty, output);
    let mut failed = None;
    reader
        .batches(!arguments.all, |batch| {
            let JournalBatch { stream, first_sequence, time_ms: _, lines } = batch;
            let mut chunk = Chunk::default();
            let records = lines.split(|byte| *byte == b'\n').filter(|record| !record.is_empty());
            for (sequence, record) in (first_sequence..).zip(records) {
                printer.print(stream, sequence, record, &mut chunk);
            }
            failed = output.write(&[&chunk.bytes]).err();
            failed.is_none()
        })
        .map_err(cannot_read)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    printer.notes().iter().for_each(|note| output.note(note));
    Ok(Outcome::Well)
}

#[derive(Serialize)]
struct Delivered {
    objects: u64,
    records: u64,
    conflicts: u64,
}

/// How often it is looked how the delivery is doing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

async fn deliver(
    arguments: &JournalDeliver,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let JournalDeliver { directory, bucket, dry_run, remove, timeout, compression } = arguments;
    if *dry_run {
        return show(directory, output);
    }
    let url = if bucket.contains("://") { bucket.clone() } else { to_url(bucket)? };
    let bucket = Bucket::open(&url)?;
    let name = bucket.to_string();
    let compression = match compression {
        Compression::Zstd => audit_sink_s3::Compression::Zstd,
        Compression::Gzip => audit_sink_s3::Compression::Gzip,
        Compression::None => audit_sink_s3::Compression::None,
    };
    let journal = match OrphanedJournal::open(&directory.directory).await {
        Ok(journal) => journal.remove_delivered(*remove),
        Err(error) if error.kind() == OpenErrorKind::Damaged => {
            read(directory, output)?;
            return Ok(Outcome::Wrong);
        }
        Err(error) => return Err(error.into()),
    };
    let undelivered = journal.state().undelivered();
    let earlier = journal.state().objects.iter().filter(|object| object.set_aside).count() as u64;
    let progress = Progress::new(common, undelivered);
    let settings = Settings { compression, ..Settings::default() };
    let delivering = journal.deliver(bucket, settings).await?;
    let mut said = String::new();
    let look = async {
        loop {
            let Health { state, records_delivered, .. } = delivering.health();
            let now = match state {
                HealthState::Ok => String::new(),
                HealthState::Retrying { reason } => format!("the bucket is asked again: {reason}"),
                HealthState::Blocked { reason } => format!("the bucket refuses: {reason}"),
            };
            progress.at(records_delivered, if now.is_empty() { "records" } else { &now });
            if now != said && !now.is_empty() && progress.is_hidden() {
                output.note(&now);
            }
            said = now;
            if delivering.is_finished() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let timed =
        tokio::time::timeout(timeout.map_or(Duration::MAX, Duration::from_secs), look).await;
    drop(progress);
    if timed.is_err() {
        let Health { records_delivered, last_error, .. } = delivering.health();
        let failure = Failure::new(format!(
            "{records_delivered} of {undelivered} records were delivered in time; the rest is in the journal still"
        ));
        return Err(match last_error {
            Some(error) => failure.because(error),
            None => failure,
        });
    }
    let delivered = delivering.finished().await;
    let JournalDelivered { objects, records, conflicts } =
        delivered.map_err(|error| Failure::new("the journal was not delivered").because(error))?;
    if output.is_json() {
        output.json(&Delivered { objects, records, conflicts })?;
    } else {
        output.line(&format!("{records} records in {objects} objects are in {name}"))?;
    }
    if conflicts + earlier > 0 {
        output.note(&format!(
            "{} objects were set aside, since others stand under their keys: see audit journal show {}",
            conflicts + earlier,
            directory.directory.display()
        ));
    }
    Ok(Outcome::wrong_if(conflicts + earlier > 0))
}
