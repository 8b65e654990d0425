//! `audit prove`: files that prove a record to anyone with the host's public key.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use audit_core::{UniqueId, durable, with_sources};
use audit_evidence::{HeadError, ObjectHead, Proof, Salts, TrustedKey};
use audit_sink_s3::layout::{DecodeError, LineDecoder};
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::arguments::{Common, Prove};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::{Content, ReadError, chunks, read};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::query::Pointer;
use crate::refused::{Refused, ended_well};
use crate::units::{Count, HOUR_MS, counted};
use crate::verify::inventory::{Entry, Inventory};

/// A stream's objects are filed under the hours after its opening, for at most a day, with an hour
/// on either side for clock skew.
const HOURS: Range<i64> = -1..27;

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

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
    let (mut count, mut searched) = (0, Searched::default());
    let mut write = |stream, proven| {
        count += write_all(directory, stream, proven, output)?;
        Ok::<(), Failure>(())
    };
    if let (Some(stream), Some(sequence)) = (*stream, *sequence) {
        write(stream, find(&reader, common, stream, sequence, keys).await?)?;
    } else if let Some(execution) = execution {
        let found;
        (found, searched) = of_execution(&reader, arguments, common, execution, output).await?;
        for (stream, entry, sequences) in found {
            match prove(&reader, stream, &entry, &sequences, keys).await {
                Ok(proven) => write(stream, proven)?,
                // Anybody may have put an object there whose lines name the execution.
                Err(NoProof::Useless(failure)) => {
                    searched.useless += 1;
                    output.note(&with_sources(&failure));
                }
                Err(NoProof::Unread(failure)) => return Err(failure),
            }
        }
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

/// Writes the files of these records, and prints their names. Returns the number of records.
fn write_all(
    directory: &Path,
    stream: UniqueId,
    proven: Vec<Proven>,
    output: &Output,
) -> Result<usize, Failure> {
    for (sequence, proof, record) in &proven {
        let name = format!("{stream}-{sequence:012}");
        let file = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        let line = Line {
            stream: stream.to_string(),
            sequence: *sequence,
            proof: write(&file("tlog-proof"), proof.to_string().as_bytes())?,
            record: write(&file("json"), &[&record[..], b"\n"].concat())?,
        };
        if output.is_json() {
            output.json(&line)?;
        } else {
            output.line(&format!("{}  {}", line.proof, line.record))?;
        }
    }
    Ok(proven.len())
}

fn write(file: &Path, content: &[u8]) -> Result<String, Failure> {
    durable::replace(file, content).map_err(|error| {
        Failure::new(format!("{} cannot be written", file.display())).because(error)
    })?;
    Ok(file.display().to_string())
}

/// The maximum number of objects that are asked for a record. Objects of a host do not overlap, so
/// that the first one holds it; anybody may put others before it.
const MAX_ASKED: usize = 1_000;

/// Finds a record, and proves it. Several objects may claim it, since anybody may copy one.
async fn find(
    reader: &Reader,
    common: &Common,
    stream: UniqueId,
    sequence: u64,
    keys: &[TrustedKey],
) -> Result<Vec<Proven>, Failure> {
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
                    prove(reader, stream, entry, &[sequence], keys).await
                }
                Ok(_) => continue,
                Err(none) => Err(none),
            };
            match proven {
                Ok(proven) => return Ok(proven),
                Err(NoProof::Useless(failure)) => useless = useless.or(Some(failure)),
                Err(NoProof::Unread(failure)) => return Err(failure),
            }
        }
    }
    reader.end()?;
    let none = || Failure::new(format!("no object holds record {sequence} of stream {stream}"));
    Err(useless.unwrap_or_else(none))
}

/// Why an object proves nothing.
pub(crate) enum NoProof {
    /// The store did not return it.
    Unread(Failure),
    /// It has no evidence, cannot be read, or contradicts its evidence.
    Useless(Failure),
}

impl From<NoProof> for Failure {
    fn from(none: NoProof) -> Failure {
        let (NoProof::Unread(failure) | NoProof::Useless(failure)) = none;
        failure
    }
}

/// An object's evidence, and the object itself unless `alone`.
async fn head(
    reader: &Reader,
    stream: UniqueId,
    entry: &Entry,
    alone: bool,
) -> Result<(ObjectHead, object_store::GetResult), NoProof> {
    let key = entry.key(stream);
    let name = key.to_string();
    let failed = |error: object_store::Error| {
        let what = format!("cannot read {name}");
        match ReadError::of(reader, &error) {
            ReadError::Store(said) => NoProof::Unread(Failure::new(what).because(said)),
            error @ (ReadError::Damaged(_)
            | ReadError::Gone
            | ReadError::Refused(_)
            | ReadError::Unwanted) => NoProof::Useless(Failure::new(what).because(error.said())),
        }
    };
    let options = GetOptions::new().with_head(alone);
    let found = reader.store().get_opts(&reader.location(&name), options).await.map_err(failed)?;
    let metadata = reader.metadata(&key, found.attributes.clone()).await.map_err(failed)?;
    let head = ObjectHead::from_metadata(&stream.to_string(), |name| metadata.get(name));
    let head = head.map_err(|error| {
        NoProof::Useless(Failure::new(format!("{name} proves nothing")).because(error))
    })?;
    Ok((head, found))
}

/// The maximum number of records of an object: several times those of the smallest records that fit
/// into an object of a host. Each takes 64 bytes here.
const MAX_RECORDS: u64 = 4 << 20;

/// A record's number, its proof, and its line.
pub(crate) type Proven = (u64, Proof, Vec<u8>);

/// Proves records of one object, whose numbers are in order. Only their lines are held in memory.
/// If there are keys, one of them must have certified the object's stream.
pub(crate) async fn prove(
    reader: &Reader,
    stream: UniqueId,
    entry: &Entry,
    sequences: &[u64],
    keys: &[TrustedKey],
) -> Result<Vec<Proven>, NoProof> {
    let (head, found) = head(reader, stream, entry, false).await?;
    let key = entry.key(stream);
    let name = key.to_string();
    let failure = |what: &str| Failure::new(format!("{name} proves nothing: {what}"));
    let failed = |what: &str| NoProof::Useless(failure(what));
    let because = |what: &str, why: BoxedError| NoProof::Useless(failure(what).because(why));
    if !keys.is_empty() && !keys.iter().any(|trusted| head.verify(&trusted.key).is_ok()) {
        return Err(failed("none of the given keys certified its stream and its root"));
    }
    if head.count > MAX_RECORDS {
        let claimed = format!("it claims {} records, more than {MAX_RECORDS}", Count(head.count));
        return Err(failed(&claimed));
    }
    let tampered = |error: HeadError| because("it was tampered with", error.into());
    let unread = |error: DecodeError| because("it cannot be read to its end", error.into());
    let salts = Salts::new(&name, head.stable, &head.seed);
    let mut tree = head.empty_tree();
    let mut lines = HashMap::new();
    let mut decoder = LineDecoder::new(key.compression());
    let mut body = chunks(reader, found);
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| match error {
            ReadError::Store(said) => NoProof::Unread(failure(&said)),
            error @ (ReadError::Damaged(_)
            | ReadError::Gone
            | ReadError::Refused(_)
            | ReadError::Unwanted) => failed(&error.said()),
        })?;
        let (mut left, mut goes_on) = (&bytes[..], true);
        while goes_on && tree.size() <= head.end() {
            let some = decoder.push_some(&mut left, |line| {
                let sequence = tree.size();
                // One more than there should be is an error below.
                if sequence <= head.end() {
                    tree.push(salts.leaf(sequence, line));
                }
                if sequences.binary_search(&sequence).is_ok() {
                    lines.insert(sequence, line.to_vec());
                }
            });
            goes_on = some.map_err(unread)?;
        }
    }
    head.check_tree(&tree).map_err(tampered)?;
    decoder.finish().map_err(unread)?;
    let mut note = head.note();
    if note.verify(head.certificate.stream_key()) != Ok(true) {
        return Err(failed("the stream's key did not sign its root"));
    }
    note.add(head.certificate.to_note_signature());
    let proofs = sequences.iter().map(|&sequence| {
        let path = tree.inclusion(sequence).ok_or_else(|| failed("it lacks the record"))?;
        let proof = Proof::new(Some(&salts.salt(sequence)), sequence, path, note.clone())
            .map_err(|error| because("its checkpoint is invalid", error.into()))?;
        let line = lines.get(&sequence).cloned().ok_or_else(|| failed("it lacks the record"))?;
        Ok((sequence, proof, line))
    });
    proofs.collect()
}

type Found = (UniqueId, Entry, Vec<u64>);

/// Objects that could not be searched for an execution.
#[derive(Default)]
struct Searched {
    refused: Refused,
    /// Whether an object is damaged.
    is_wrong: bool,
    /// Objects with lines that name it, and which prove nothing.
    useless: u64,
}

/// The records of an execution, by object.
async fn of_execution(
    reader: &Reader,
    arguments: &Prove,
    common: &Common,
    execution: &str,
    output: &Output,
) -> Result<(Vec<Found>, Searched), Failure> {
    let wanted = Wanted::new(arguments.times_ms(), arguments.stream);
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let (from, execution) = (reader.clone(), execution.to_owned());
    type Scanned = Result<(Listed, Vec<u64>, Result<Content, ReadError>), Failure>;
    let work = move |object: Result<Listed, Failure>, sender: mpsc::Sender<Scanned>| {
        let (reader, execution) = (from.clone(), execution.clone());
        async move {
            let scanned = match object {
                Ok(object) => {
                    let mut found = Vec::new();
                    let content = scan(&reader, &object, &execution, &mut found).await;
                    Ok((object, found, content))
                }
                Err(failure) => Err(failure),
            };
            // The reader may be gone.
            let _ = sender.send(scanned).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, 1, work));
    let (mut found, mut searched) = (Vec::new(), Searched::default());
    while let Some(scanned) = results.next().await.transpose()? {
        let (object, sequences, content) = scanned;
        progress.object(&object.key);
        searched.is_wrong |= !ended_well(&object, &content, &mut searched.refused, output)?;
        if !sequences.is_empty() {
            found.push((object.key.stream(), Entry::new(&object.key), sequences));
        }
    }
    Ok((found, searched))
}

/// Adds the numbers of the object's records that belong to the execution.
async fn scan(
    reader: &Reader,
    object: &Listed,
    execution: &str,
    found: &mut Vec<u64>,
) -> Result<Content, ReadError> {
    let finder = memchr::memmem::Finder::new(execution);
    let pointer = Pointer::from_str(EXECUTION).ok();
    read(reader, object, |sequence, line| {
        let is_of_it = finder.find(line).is_some()
            && pointer.as_ref().and_then(|pointer| pointer.find(line)).is_some_and(|value| {
                serde_json::from_str::<&str>(value.get()).is_ok_and(|text| text == execution)
            });
        if is_of_it {
            found.push(sequence);
        }
    })
    .await
}

/// The member in which records name their execution.
const EXECUTION: &str = "/$audit/execution";
