//! `audit journal`: shows the journal of a host, and delivers that of a host that is gone.

use std::time::Duration;

use audit_core::{Health, HealthState};
use audit_journal::{
    JournalBatch, JournalDelivered, JournalDelivering, JournalErrorKind, JournalReader,
    JournalRecords, JournalState, JournalStream, OrphanedJournal, Plan, PlannedObject,
};
use audit_sink_s3::layout::ObjectKey;
use audit_sink_s3::rescue::{self, ForeignObject, GoneRecords, JournalRedelivered};
use audit_sink_s3::{Bucket, Settings};
use serde::Serialize;
use tokio::time::Instant;

use crate::arguments::{
    Common, Compression, JournalCat, JournalCommand, JournalDeliver, JournalDirectory,
};
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::followers::{self, Follower};
use crate::object::Chunk;
use crate::output::Output;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::units::{Size, Span, now_ms, shown};

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

/// Reads a journal. Damage is a result of the command rather than a failure.
fn read(directory: &JournalDirectory, output: &Output) -> Result<Option<JournalReader>, Failure> {
    match JournalReader::open(&directory.directory) {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.kind() == JournalErrorKind::Damaged => {
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
    followers: Vec<Follower>,
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
    let counted = reader.batches(JournalRecords::Undelivered, |batch| {
        bytes += batch.lines.len() as u64;
        oldest = Some(oldest.map_or(batch.time_ms, |oldest| oldest.min(batch.time_ms)));
        true
    });
    match counted {
        // The host continued meanwhile: the segments read were delivered and removed.
        Err(_) if state.in_use => {}
        counted => counted.map_err(cannot_read)?,
    }
    let followers = Follower::all(&reader)?;
    print_state(state, bytes, oldest, &followers, output)?;
    let conflicts = state.objects.iter().any(|object| object.set_aside);
    let is_wrong = followers.iter().any(|follower| follower.is_wrong(state.in_use));
    // While a host has the journal open, undelivered records are being delivered.
    Ok(Outcome::wrong_if(conflicts || is_wrong || (!state.in_use && state.undelivered() > 0)))
}

fn print_state(
    state: &JournalState,
    undelivered_bytes: u64,
    oldest: Option<i64>,
    followers: &[Follower],
    output: &Output,
) -> Result<(), Failure> {
    let JournalState { in_use, segments, bytes, streams, objects, followers: _ } = state;
    if output.is_json() {
        let stream = |stream: &JournalStream| {
            let JournalStream { stream, delivered_to, next_sequence } = *stream;
            Stream { stream: stream.to_string(), delivered_to, next_sequence }
        };
        let object = |object: &PlannedObject| {
            let PlannedObject { plan, set_aside, file } = object;
            let file = file.display().to_string();
            Object { key: destined(plan), count: plan.count, conflict: *set_aside, file }
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
            followers: followers.to_vec(),
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
    for PlannedObject { plan, set_aside, file } in objects {
        let (key, count, file) = (destined(plan), plan.count, file.display());
        output.line(&if *set_aside {
            style.bad(&format!(
                "conflict: another object has the key {key}; the {count} records are in {file}"
            ))
        } else {
            format!("planned: {key}, {count} records")
        })?;
    }
    for follower in followers {
        follower.print(output)?;
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

/// The destination of an object: in a bucket, its key.
fn destined(plan: &Plan) -> String {
    match ObjectKey::of_plan(plan) {
        Some(key) => key.to_string(),
        None => format!("{}-{:012}.{}", plan.stream, plan.first_sequence, plan.encoding),
    }
}

fn cat(arguments: &JournalCat, output: &Output) -> Result<Outcome, Failure> {
    let Some(reader) = read(&arguments.directory, output)? else { return Ok(Outcome::Wrong) };
    let printer = Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.pretty, output);
    let records = match (arguments.delivered, arguments.all) {
        (true, _) => JournalRecords::Delivered,
        (false, true) => JournalRecords::All,
        (false, false) => JournalRecords::Undelivered,
    };
    let mut failed = None;
    reader
        .batches(records, |batch| {
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
    printer.sieve().notes().iter().for_each(|note| output.note(note));
    Ok(Outcome::Well)
}

#[derive(Serialize)]
struct Delivered {
    objects: u64,
    records: u64,
    conflicts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<Redelivered>,
    /// The followers that lack records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    followers: Vec<Follower>,
}

#[derive(Serialize)]
struct Redelivered {
    objects: u64,
    records: u64,
    present: u64,
    conflicts: Vec<Conflict>,
    gone: Vec<Gone>,
}

#[derive(Serialize)]
struct Conflict {
    key: String,
    records: u64,
}

#[derive(Serialize)]
struct Gone {
    stream: String,
    kept_from: u64,
    in_bucket_to: u64,
}

async fn deliver(
    arguments: &JournalDeliver,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let JournalDeliver {
        directory,
        bucket,
        dry_run,
        again,
        remove,
        timeout,
        log_streams,
        compression,
        max_object_bytes,
    } = arguments;
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
        Ok(journal) => journal,
        Err(error) if error.kind() == JournalErrorKind::Damaged => {
            read(directory, output)?;
            return Ok(Outcome::Wrong);
        }
        Err(error) => return Err(error.into()),
    };
    let undelivered = journal.state().undelivered();
    let earlier = journal.state().objects.iter().filter(|object| object.set_aside).count() as u64;
    let settings =
        Settings { compression, max_object_bytes: *max_object_bytes, ..Settings::default() };
    let waiting = Waiting {
        common,
        output,
        end: timeout.and_then(|timeout| Instant::now().checked_add(Duration::from_secs(timeout))),
    };
    let redelivered = if *again {
        let delivering = rescue::deliver_again(&journal, bucket.clone(), settings.clone()).await?;
        if !waiting.until_finished(&delivering, None).await {
            let delivered = delivering.health().records_delivered;
            return Err(too_late(
                &delivering,
                format!("{delivered} records were delivered again in time"),
            ));
        }
        Some(delivering.finished().await.map_err(|error| {
            Failure::new("the records of the journal were not delivered again").because(error)
        })?)
    } else {
        None
    };
    // Records not delivered again because of a conflicting object are only in the segments.
    let is_free = redelivered.as_ref().is_none_or(|again| again.conflicts.is_empty());
    let journal = journal.remove_delivered(*remove && is_free);
    let followers = followers::of_journal(
        log_streams.as_deref(),
        &directory.directory,
        journal.state(),
        output,
    )?;
    let delivering = rescue::deliver(journal, bucket, followers, settings).await?;
    if !waiting.until_finished(&delivering, Some(undelivered)).await {
        let delivered = delivering.health().records_delivered;
        return Err(too_late(
            &delivering,
            format!("{delivered} of {undelivered} records were delivered in time"),
        ));
    }
    let delivered = delivering.finished().await;
    let JournalDelivered { objects, records, conflicts } =
        delivered.map_err(|error| Failure::new("the journal was not delivered").because(error))?;
    let is_whole = redelivered.as_ref().is_none_or(JournalRedelivered::is_whole);
    let mut followers = Follower::all(&JournalReader::open(&directory.directory)?)?;
    followers.retain(|follower| follower.is_wrong(false));
    let is_followed = followers.is_empty();
    if output.is_json() {
        let again = redelivered.as_ref().map(Redelivered::of);
        output.json(&Delivered { objects, records, conflicts, again, followers })?;
    } else {
        if let Some(redelivered) = &redelivered {
            print_redelivered(redelivered, output)?;
        }
        output.line(&format!("{records} records in {objects} objects are in {name}"))?;
        followers.iter().try_for_each(|follower| follower.print(output))?;
    }
    if conflicts + earlier > 0 {
        output.note(&format!(
            "{} objects were set aside because others have their keys: see audit journal show {}",
            conflicts + earlier,
            directory.directory.display()
        ));
    }
    Ok(Outcome::wrong_if(conflicts + earlier > 0 || !is_whole || !is_followed))
}

/// The interval at which a delivery's state is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits for deliveries and reports their progress.
struct Waiting<'a> {
    common: &'a Common,
    output: &'a Output,
    /// When to give up.
    end: Option<Instant>,
}

impl Waiting<'_> {
    /// Waits until a delivery has finished. Returns false when it is time to give up. `records` is
    /// the number of records to deliver, if known.
    async fn until_finished<T>(
        &self,
        delivering: &JournalDelivering<T>,
        records: Option<u64>,
    ) -> bool {
        let progress = Progress::new(self.common, records.unwrap_or(0));
        let mut said = String::new();
        while !delivering.is_finished() {
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            let Health { state, records_delivered, .. } = delivering.health();
            let now = match state {
                HealthState::Ok => String::new(),
                HealthState::Retrying { reason } => format!("retrying: {reason}"),
                HealthState::Blocked { reason } => format!("the bucket refuses: {reason}"),
            };
            progress.at(records_delivered, if now.is_empty() { "records" } else { &now });
            if now != said && !now.is_empty() && progress.is_hidden() {
                self.output.note(&now);
            }
            said = now;
            let rest = self.end.map_or(LOOK_EVERY, |end| end.duration_since(Instant::now()));
            tokio::time::sleep(LOOK_EVERY.min(rest)).await;
        }
        true
    }
}

fn too_late<T>(delivering: &JournalDelivering<T>, delivered: String) -> Failure {
    let failure = Failure::new(format!("{delivered}; the rest is still in the journal"));
    match delivering.health().last_error {
        Some(error) => failure.because(error),
        None => failure,
    }
}

impl Redelivered {
    fn of(redelivered: &JournalRedelivered) -> Redelivered {
        let JournalRedelivered { objects, records, present, conflicts, gone } = redelivered;
        let conflicts = conflicts.iter().map(|foreign| {
            let ForeignObject { key, records } = foreign;
            Conflict { key: key.to_string(), records: *records }
        });
        let gone = gone.iter().map(|gone| {
            let GoneRecords { stream, kept_from, in_bucket_to } = *gone;
            Gone { stream: stream.to_string(), kept_from, in_bucket_to }
        });
        Redelivered {
            objects: *objects,
            records: *records,
            present: *present,
            conflicts: conflicts.collect(),
            gone: gone.collect(),
        }
    }
}

fn print_redelivered(redelivered: &JournalRedelivered, output: &Output) -> Result<(), Failure> {
    let JournalRedelivered { objects, records, present, conflicts, gone } = redelivered;
    let style = output.style();
    output.line(&format!(
        "{records} records in {objects} objects were delivered again; {present} were in the bucket"
    ))?;
    for ForeignObject { key, records } in conflicts {
        output.line(&style.bad(&format!(
            "conflict: another object has the key {key}; {records} records were not delivered because of it"
        )))?;
    }
    for lost in gone {
        let GoneRecords { stream, kept_from, in_bucket_to } = lost;
        if lost.missing() > 0 {
            output.line(&style.bad(&format!(
                "stream {stream}: records {in_bucket_to} to {} are neither in the journal nor in the bucket",
                kept_from - 1
            )))?;
        } else {
            output.line(&format!(
                "stream {stream}: records before {kept_from} are not in the journal any more; audit stats says whether \
                 the bucket has them all"
            ))?;
        }
    }
    Ok(())
}
