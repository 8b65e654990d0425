//! `audit prove`: files that prove a record to anyone with the host's public key.

pub(crate) mod object;

use std::ops::Range;
use std::path::Path;

use audit_core::{UniqueId, durable, with_sources};
use audit_evidence::TrustedKey;
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::mpsc;

use self::object::{Execution, NoProof, Proven, Which, head, prove};
use crate::arguments::{Common, Prove};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::{Content, ReadError, read};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::refused::{Refused, ended_well};
use crate::units::{HOUR_MS, counted};
use crate::verify::inventory::{Entry, Inventory};

/// A stream's objects are filed under the hours after its opening, for at most a day, with an hour
/// on either side for clock skew.
const HOURS: Range<i64> = -1..27;

#[derive(Serialize)]
struct Line {
    stream: String,
    sequence: u64,
    proof: String,
    record: String,
}

pub(crate) async fn run(
    arguments: &Prove,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let Prove { stream, sequence, execution, output: directory, keys, .. } = arguments;
    let reader = Reader::open(&arguments.source, common)?;
    std::fs::create_dir_all(directory).map_err(|error| {
        let directory = directory.display();
        Failure::new(format!("the directory {directory} cannot be created")).because(error)
    })?;
    let writer = Writer { directory, output };
    let (mut count, mut searched) = (0, Searched::default());
    if let (Some(stream), Some(sequence)) = (*stream, *sequence) {
        count = find(&reader, common, stream, sequence, keys, &writer).await?;
    } else if let Some(execution) = execution {
        let execution = Execution::new(execution);
        (count, searched) = of_execution(&reader, arguments, common, &execution, &writer).await?;
    }
    if count == 0 && searched.useless == 0 {
        output.note("no record of that execution was found");
    }
    searched.refused.end()?;
    if execution.is_some() {
        reader.end()?;
    }
    if count == 0 && searched.useless > 0 {
        let objects = counted(searched.useless, "object");
        return Err(Failure::new(format!("no record was proven by {objects} that has some")));
    }
    Ok(Outcome::wrong_if(count == 0 || searched.is_wrong || searched.useless > 0))
}

/// Writes the files of a record, and prints their names.
struct Writer<'a> {
    directory: &'a Path,
    output: &'a Output,
}

impl Writer<'_> {
    fn write(&self, stream: UniqueId, proven: Proven<'_>) -> Result<(), Failure> {
        let Proven { sequence, proof, line } = proven;
        let name = format!("{stream}-{sequence:012}");
        let file = |suffix: &str| self.directory.join(format!("{name}.{suffix}"));
        let line = Line {
            stream: stream.to_string(),
            sequence,
            proof: write(&file("tlog-proof"), proof.to_string().as_bytes())?,
            record: write(&file("json"), &[line, b"\n"].concat())?,
        };
        if self.output.is_json() {
            return self.output.json(&line);
        }
        self.output.line(&format!("{}  {}", line.proof, line.record))
    }
}

fn write(file: &Path, content: &[u8]) -> Result<String, Failure> {
    durable::replace(file, content).map_err(|error| {
        Failure::new(format!("{} cannot be written", file.display())).because(error)
    })?;
    Ok(file.display().to_string())
}

/// The maximum number of objects that are read to find a record. A host's objects do not overlap,
/// so the first one read holds the record, unless somebody added objects that are read before it.
const MAX_ASKED: usize = 1_000;

/// Finds a record, and writes its proof. Several objects may claim it, since anybody may copy one.
/// Returns the number of proofs.
async fn find(
    reader: &Reader,
    common: &Common,
    stream: UniqueId,
    sequence: u64,
    keys: &[TrustedKey],
    writer: &Writer<'_>,
) -> Result<u64, Failure> {
    let opened = i64::try_from(stream.time_ms()).unwrap_or(i64::MAX);
    let at = |hours: i64| opened.saturating_add(hours * HOUR_MS);
    let mut useless = None;
    // A host with a wrong clock files records under other hours, which the second search covers.
    for times_ms in [at(HOURS.start)..at(HOURS.end), i64::MIN..i64::MAX] {
        let wanted = Wanted::new(times_ms, Some(stream));
        let inventory = Inventory::list(reader, &wanted, common).await?;
        let entries = inventory.streams.get(&stream).map(Vec::as_slice).unwrap_or_default();
        let at = entries.partition_point(|entry| entry.first <= sequence);
        for entry in entries[..at].iter().rev().take(MAX_ASKED) {
            let proven = match head(reader, stream, entry, true).await {
                Ok((head, _)) if (head.first..head.end()).contains(&sequence) => {
                    let which = Which::Record(sequence);
                    let write = |proven: Proven<'_>| writer.write(stream, proven);
                    prove(reader, stream, entry, &which, keys, write).await
                }
                Ok(_) => continue,
                Err(none) => Err(none),
            };
            match proven {
                Ok(proven) => return Ok(proven),
                Err(NoProof::Useless(failure)) => useless = useless.or(Some(failure)),
                Err(NoProof::Failed(failure)) => return Err(failure),
            }
        }
    }
    reader.end()?;
    let none = || Failure::new(format!("no object holds record {sequence} of stream {stream}"));
    Err(useless.unwrap_or_else(none))
}

/// Objects that could not be searched for an execution.
#[derive(Default)]
struct Searched {
    refused: Refused,
    /// Whether an object is damaged.
    is_wrong: bool,
    /// Objects whose lines name the execution, but which prove nothing.
    useless: u64,
}

/// Proves the records of an execution, object by object as they are found. Returns the number of
/// proofs.
async fn of_execution(
    reader: &Reader,
    arguments: &Prove,
    common: &Common,
    execution: &Execution,
    writer: &Writer<'_>,
) -> Result<(u64, Searched), Failure> {
    let wanted = Wanted::new(arguments.times_ms(), arguments.stream);
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let (from, sought) = (reader.clone(), execution.clone());
    type Scanned = Result<(Listed, bool, Result<Content, ReadError>), Failure>;
    let work = move |object: Result<Listed, Failure>, sender: mpsc::Sender<Scanned>| {
        let (reader, execution) = (from.clone(), sought.clone());
        async move {
            let scanned = match object {
                Ok(object) => {
                    let mut has_some = false;
                    let content = read(&reader, &object, |_, line| {
                        has_some = has_some || execution.has(line);
                    });
                    let content = content.await;
                    Ok((object, has_some, content))
                }
                Err(failure) => Err(failure),
            };
            // The reader may be gone.
            let _ = sender.send(scanned).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, 1, work));
    let (mut count, mut searched) = (0, Searched::default());
    while let Some(scanned) = results.next().await.transpose()? {
        let (object, has_some, content) = scanned;
        progress.object(&object.key);
        let output = writer.output;
        searched.is_wrong |= !ended_well(&object, &content, &mut searched.refused, output)?;
        if !has_some {
            continue;
        }
        let (stream, entry) = (object.key.stream(), Entry::new(&object.key));
        let which = Which::Execution(execution);
        let write = |proven: Proven<'_>| {
            count += 1;
            writer.write(stream, proven)
        };
        match prove(reader, stream, &entry, &which, &arguments.keys, write).await {
            Ok(_) => {}
            // Anybody may have put an object there whose lines name the execution.
            Err(NoProof::Useless(failure)) => {
                searched.useless += 1;
                output.note(&with_sources(&failure));
            }
            Err(NoProof::Failed(failure)) => return Err(failure),
        }
    }
    Ok((count, searched))
}
