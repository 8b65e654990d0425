//! `audit compact`: writes the records of whole days to Parquet files.
//!
//! The files of a day are numbered. A process that makes one has read which objects the earlier
//! files hold, and creates the file only if its number is free. So no object is in two files, even
//! if two processes run at once. A process that is killed leaves only complete files, and the next
//! one continues after them. Objects that arrive late go into a further file of their day.

use std::collections::HashSet;

use audit_core::with_sources;
use audit_host::are_apart;
use audit_sink_s3::Bucket;
use audit_sink_s3::layout::Partition;
use futures::StreamExt;
use object_store::{ObjectStore, PutMode};
use parquet::errors::ParquetError;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use super::columns::Columns;
use super::file::{FILE_BYTES, FileWriter, GROUP_BYTES, GROUP_RECORDS, SORTED_GROUP_RECORDS, seal};
use super::group::{Group, Source};
use super::index::{File, Held, Target, Unread, day_name, name, next_number};
use super::source::{self, Object};
use crate::arguments::{Common, Compact};
use crate::bucket::{Listed, Reader, Wanted, to_url};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::ReadError;
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::query::Pointer;
use crate::units::{HOUR_MS, Size, counted, now_ms};

/// How many names in a row may be taken by files that are not listed.
const MAX_TAKEN: u32 = 3;

/// The maximum number of objects that are read at once. Each is held in memory.
const MOST_AT_ONCE: usize = 4;

/// The time from the end of a day until it is compacted, so that objects that are on their way
/// arrive before.
pub(super) const LATE_MS: i64 = HOUR_MS;

/// A line of output for a file that was made.
#[derive(Serialize)]
struct Line {
    file: String,
    objects: u64,
    records: u64,
    /// The bytes of the records' lines.
    lines_bytes: u64,
    bytes: u64,
}

pub(crate) async fn run(
    arguments: &Compact,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let target = Target { bucket: open_apart(&arguments.source.bucket, &arguments.to)? };
    let now = reader.store_time_ms().unwrap_or_else(now_ms);
    let times_ms = arguments.times_ms();
    let wanted = Wanted::new(times_ms.clone(), None);
    let days = reader.days(&wanted).await?.into_iter().filter(|day| {
        let is_over = arguments.today || day.end_ms().saturating_add(LATE_MS) <= now;
        is_over && times_ms.start <= day.begin_ms() && day.end_ms() <= times_ms.end
    });
    let days: Vec<Partition> = days.collect();
    if days.is_empty() {
        let why = reader.why_nothing(&wanted).await;
        output.note(&format!("no day that is over for an hour is to be compacted: {why}"));
        return Ok(Outcome::Well);
    }
    let progress = PartitionProgress::new(common, days.clone());
    let mut work = Work {
        reader: &reader,
        target: &target,
        time: arguments.time_pointers(),
        by: &arguments.by,
        output,
        columns: Columns::default(),
        progress,
        left_out: 0,
        refused: 0,
    };
    Box::pin(work.days(&days)).await?;
    if work.refused > 0 {
        return Err(Failure::new(format!("{} could not be read", counted(work.refused, "object"))));
    }
    reader.end()?;
    Ok(Outcome::wrong_if(work.left_out > 0))
}

/// The state of a run.
pub(super) struct Work<'a> {
    pub(super) reader: &'a Reader,
    pub(super) target: &'a Target,
    pub(super) time: Vec<Pointer>,
    /// The members by which rows are sorted. If empty, the default members of the actor.
    by: &'a [Pointer],
    pub(super) output: &'a Output,
    pub(super) columns: Columns,
    pub(super) progress: PartitionProgress,
    /// Damaged objects, and objects that the store refused. A later run tries them again.
    pub(super) left_out: u64,
    pub(super) refused: u64,
}

struct Made {
    content: Vec<u8>,
    line: Line,
    columns: Columns,
}

impl Work<'_> {
    /// Makes the missing files of these days.
    pub(super) async fn days(&mut self, days: &[Partition]) -> Result<(), Failure> {
        let first = days.first().map(day_name).unwrap_or_default();
        let earlier = self.target.all_files().await?;
        if let Some(last) = earlier.files.iter().rfind(|file| file.day < first)
            && let Some(held) = self.held(last).await?
        {
            self.columns = held.columns;
        }
        for day in days {
            self.day(day).await?;
        }
        Ok(())
    }

    /// Reads which objects a file holds. If it is foreign or refused, prints a note and returns
    /// `None`.
    async fn held(&mut self, file: &File) -> Result<Option<Held>, Failure> {
        let held = self.target.held(file).await;
        self.known(held)
    }

    /// Returns a result of reading. If the store refused it, or `audit compact` did not write it,
    /// counts it, prints a note and returns `None`.
    fn known<T>(&mut self, read: Result<T, Unread>) -> Result<Option<T>, Failure> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(Unread::Store(failure)) => Err(failure),
            Err(Unread::Refused(failure)) => {
                self.refused += 1;
                self.output.note(&with_sources(&failure));
                Ok(None)
            }
            Err(Unread::Foreign(failure)) => {
                self.left_out += 1;
                self.output.note(&with_sources(&failure));
                Ok(None)
            }
        }
    }

    async fn day(&mut self, day: &Partition) -> Result<(), Failure> {
        let day_name = day_name(day);
        let mut left_out: HashSet<String> = HashSet::new();
        let mut taken = (0, 0);
        loop {
            // Listed again after each file, since another process may have made one.
            let files = self.target.files(&day_name).await;
            let Some(files) = self.known(files)? else { return Ok(()) };
            let mut held: HashSet<String> = HashSet::new();
            for file in &files {
                // A file that cannot be read may hold any object of the day, so the day is not
                // compacted while it is there.
                let Some(found) = self.held(file).await? else { return Ok(()) };
                held.extend(found.objects);
                self.columns = found.columns;
            }
            let Some(number) = next_number(&files) else {
                self.left_out += 1;
                self.output.note(&format!("{day}: the last file has the highest number"));
                return Ok(());
            };
            if taken == (number, MAX_TAKEN) {
                // The name is taken, but no file of this name is listed. In a directory, it may be
                // a pipe.
                let name = name(&day_name, number);
                self.left_out += 1;
                self.output.note(&format!("{name} exists and is not a file: remove it"));
                return Ok(());
            }
            let wanted = Wanted::new(day.begin_ms()..day.end_ms(), None);
            let partitions = self.reader.partitions(&wanted).await?;
            let mut listed = std::pin::pin!(self.reader.objects_in(partitions, None));
            let mut missing: Vec<Listed> = Vec::new();
            while let Some(object) = listed.next().await.transpose()? {
                self.progress.object(&object.key);
                let key = object.key.to_string();
                if !held.contains(&key) && !left_out.contains(&key) {
                    missing.push(object);
                }
            }
            let name = name(&day_name, number);
            let Some(mut made) = self.file(&name, missing, &mut left_out).await? else {
                return Ok(());
            };
            seal(&mut made.content).map_err(|error| not_written(&name, error))?;
            // A crash before this leaves nothing; after it, the complete file exists.
            let (store, path) = (self.target.bucket.store(), self.target.path(&name));
            let put = store.put_opts(&path, made.content.into(), PutMode::Create.into());
            match put.await {
                Ok(_) => {
                    self.columns = made.columns;
                    self.say(&made.line)?;
                }
                // Another process made this file. The next iteration reads which objects it holds
                // and puts the others into the next file.
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => {
                    let (before, times) = taken;
                    taken = (number, if before == number { times + 1 } else { 1 });
                }
                Err(error) => {
                    let said = self.target.bucket.describe(&error);
                    let what = format!("cannot create {name} in {}", self.target.name());
                    return Err(
                        Failure::new(format!("{what}; run it again to continue")).because(said)
                    );
                }
            }
        }
    }

    fn say(&self, line: &Line) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.json(line);
        }
        let Line { file, objects, records, lines_bytes, bytes } = line;
        self.output.line(&format!(
            "{file}  {}, {}: {} for {} of lines",
            counted(*objects, "object"),
            counted(*records, "record"),
            Size(*bytes),
            Size(*lines_bytes),
        ))
    }

    /// Writes a file with as many of these objects as fit, from the first on. `None` if there are
    /// none. Damaged objects are left out and reported.
    async fn file(
        &mut self,
        name: &str,
        missing: Vec<Listed>,
        left_out: &mut HashSet<String>,
    ) -> Result<Option<Made>, Failure> {
        let from = self.reader.clone();
        type Came = (Listed, Result<Object, ReadError>);
        let work = move |object: Listed, sender: mpsc::Sender<Came>| {
            let reader = from.clone();
            async move {
                let read = source::read(&reader, &object).await;
                // The receiver may be gone.
                let _ = sender.send((object, read)).await;
            }
        };
        let at_once = self.reader.parallel.min(MOST_AT_ONCE);
        let missing = futures::stream::iter(missing);
        let mut objects = std::pin::pin!(in_order(missing, at_once, 1, work));
        let mut columns = self.columns.clone();
        let mut writer: Option<FileWriter<Vec<u8>>> = None;
        let mut group = Group::default();
        let (mut objects_in, mut lines_bytes) = (0u64, 0);
        let failed = |error: ParquetError| not_written(name, error);
        while lines_bytes < FILE_BYTES
            && let Some((listed, read)) = objects.next().await
        {
            let object = match read {
                Ok(object) => object,
                Err(ReadError::Unwanted) => continue,
                Err(ReadError::Store(said)) => {
                    let what = format!("cannot read {}", listed.location);
                    return Err(Failure::new(what).because(said));
                }
                Err(error) => {
                    let counter = match error {
                        ReadError::Refused(_) | ReadError::Gone => &mut self.refused,
                        ReadError::Damaged(_) | ReadError::Store(_) | ReadError::Unwanted => {
                            &mut self.left_out
                        }
                    };
                    *counter += 1;
                    let said = error.said();
                    self.output.note(&format!("{} is left out: {said}", listed.location));
                    left_out.insert(listed.key.to_string());
                    continue;
                }
            };
            let lines = &object.lines;
            let is_full = group.bytes() + lines.bytes.len() > GROUP_BYTES
                || group.records() + lines.ends.len() > GROUP_RECORDS;
            if is_full && !group.is_empty() {
                let full = std::mem::take(&mut group);
                self.write(&mut writer, &mut columns, full).map_err(failed)?;
            }
            lines_bytes += (lines.bytes.len() + lines.ends.len()) as u64;
            objects_in += 1;
            let Source { key, stream, evidence } = object.source.clone();
            group.begin(key, stream, evidence);
            for (sequence, line) in (object.first..).zip(object.lines.records()) {
                group.add(sequence, line);
            }
        }
        if !group.is_empty() {
            self.write(&mut writer, &mut columns, group).map_err(failed)?;
        }
        let Some(writer) = writer else { return Ok(None) };
        let (records, objects) = (writer.records, objects_in);
        let content = writer.end(objects).map_err(failed)?;
        let bytes = content.len() as u64;
        let line = Line { file: name.to_owned(), objects, records, lines_bytes, bytes };
        Ok(Some(Made { content, line, columns }))
    }

    /// Writes a row group. The first one begins the file.
    fn write(
        &self,
        writer: &mut Option<FileWriter<Vec<u8>>>,
        columns: &mut Columns,
        group: Group,
    ) -> Result<(), ParquetError> {
        block_in_place(|| {
            if writer.is_none() {
                columns.extend(group.lines(), None);
                *writer = Some(FileWriter::new(Vec::new(), columns.clone(), self.time.clone())?);
            }
            let Some(writer) = writer else { return Ok(()) };
            let by = match self.by {
                [] => columns.actor().into_iter().collect(),
                by => by.to_vec(),
            };
            if by.is_empty() {
                return writer.write(group);
            }
            let mut groups = group.sorted_by(&by, SORTED_GROUP_RECORDS).into_iter();
            groups.try_for_each(|group| writer.write(group))
        })
    }
}

fn not_written(name: &str, error: ParquetError) -> Failure {
    Failure::new(format!("{name} cannot be made")).because(error)
}

/// Opens the directory of the files, which must be separate from that of the records: a reader of
/// one must not find the files of the other.
fn open_apart(source: &str, to: &str) -> Result<Bucket, Failure> {
    let (source, to) = (to_url(source)?, to_new_url(to)?);
    if !are_apart(&source, &to).map_err(Failure::new)? {
        let why = "readers of one would find the other: choose a prefix of its own, as \
            s3://bucket/logs-parquet is beside s3://bucket/logs";
        return Err(Failure::new(format!("{to} is not apart from {source}")).because(why));
    }
    Ok(Bucket::open(&to)?)
}

/// A URL unchanged, or the URL of a directory that may not exist yet.
fn to_new_url(to: &str) -> Result<String, Failure> {
    if to.contains("://") {
        return Ok(to.to_owned());
    }
    let path = std::path::Path::new(to);
    let failed = |error: std::io::Error| {
        Failure::new(format!("the directory {to:?} cannot be made")).because(error)
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    // The part that exists, with links resolved.
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(&absolute);
    let rest = absolute.strip_prefix(existing).unwrap_or(std::path::Path::new(""));
    let true_path = existing.canonicalize().map_err(failed)?.join(rest);
    match url::Url::from_directory_path(&true_path) {
        Ok(url) => Ok(url.into()),
        Err(()) => Err(Failure::new(format!("{to} cannot be written as a URL"))),
    }
}
