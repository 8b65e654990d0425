//! Sends records of a bucket to a follower's destination: those that it is missing, or any others.
//!
//! A record keeps its stream and number. Each object of the bucket is always divided in the same
//! way, so that a request that a later process repeats has the same records and the same id.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use audit_journal::shared::pieces::pieces;
use audit_journal::shared::ranges::{len, without};
use audit_journal::{Delivery, Encoding, Follower, Plan, RecordTime, Records};
use futures::stream::{self, StreamExt};
use object_store::{GetOptions, ObjectStore};
use tokio::task::{JoinSet, spawn_blocking};

use crate::layout::{LineDecoder, Listed, ListedObject, ObjectMetadata};
use crate::{Bucket, Partition};

/// Records of one stream.
pub type StreamRecords = (UniqueId, Range<u64>);

/// The number of objects that are read, and held in memory, at once.
const READS: usize = 2;

/// How long before the start of its stream an object's time may be, in milliseconds, since clocks
/// are set back.
const SLACK_MS: i64 = 24 * 60 * 60 * 1_000;

/// The result of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The number of objects from which records were sent.
    pub objects: u64,
    /// The number of records that were sent.
    pub records: u64,
    /// Wanted records that were not sent: no object of the bucket has them, their object could not
    /// be read, or the destination has another object in their place. Numbers after the end of a
    /// stream are not included.
    pub left: Vec<StreamRecords>,
    /// Objects that could not be read, by their keys, and why.
    pub unread: Vec<(String, String)>,
}

/// A replay ended early. The records that were passed to `note` were sent, and another replay can
/// continue from there.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The bucket could not be listed.
    #[error("the bucket cannot be listed")]
    Listing(String),
    /// `note` failed: the records that were sent could not be made durable as sent.
    #[error("the note of the records that were sent cannot be written")]
    Noting(#[source] io::Error),
}

impl ReplayError {
    /// The error of the store or the disk.
    pub fn reason(&self) -> String {
        match self {
            ReplayError::Listing(said) => said.clone(),
            ReplayError::Noting(error) => error.to_string(),
        }
    }
}

/// Sends these records of a bucket to a follower's destination, each at least once. An end of
/// [`u64::MAX`] means the end of the stream. `note` is called with records that have arrived, to
/// make that durable. System records are never sent, but are passed to `note` too. `note` blocks
/// the caller.
///
/// A record's time is the time at which the store received its object, limited to the object's
/// hour, since the bucket has no other.
///
/// Dropping the future stops the replay. The next replay repeats the records that were sent but not
/// noted. A replay waits as long as the destination refuses; the follower's health says why.
///
/// # Errors
///
/// If the bucket cannot be listed, or `note` fails.
pub async fn replay(
    bucket: &Bucket,
    follower: &Follower,
    wanted: &[StreamRecords],
    note: impl FnMut(&[StreamRecords]) -> io::Result<()>,
) -> Result<Replayed, ReplayError> {
    run(bucket, follower, wanted, note, false).await
}

/// As [`replay`]. `is_hasty` is a known-bad variant, which notes records before it sends them.
async fn run(
    bucket: &Bucket,
    follower: &Follower,
    wanted: &[StreamRecords],
    mut note: impl FnMut(&[StreamRecords]) -> io::Result<()>,
    is_hasty: bool,
) -> Result<Replayed, ReplayError> {
    let mut replay = Replay { wanted: wanted.to_vec(), covered: Vec::new(), arrived: Vec::new() };
    let mut result = Replayed::default();
    // First the days since the streams began. Earlier days have records only if a clock was wrong.
    for is_late in [true, false] {
        let listed = list(bucket, &replay.wanted, is_late, &mut result.unread).await;
        let listed = listed.map_err(|error| ReplayError::Listing(bucket.describe(&error)))?;
        replay.objects(bucket, follower, listed, &mut result, &mut note, is_hasty).await?;
        replay.wanted = replay.left();
        if replay.wanted.is_empty() {
            break;
        }
    }
    result.records = replay.arrived.iter().map(|(_, records)| len(records)).sum();
    result.left = replay.wanted;
    Ok(result)
}

struct Replay {
    /// Records that were not sent yet.
    wanted: Vec<StreamRecords>,
    /// System records, and records that were sent.
    covered: Vec<StreamRecords>,
    /// Records that were sent.
    arrived: Vec<StreamRecords>,
}

impl Replay {
    /// Sends the wanted records of these objects.
    async fn objects(
        &mut self,
        bucket: &Bucket,
        follower: &Follower,
        listed: Vec<ListedObject>,
        result: &mut Replayed,
        note: &mut impl FnMut(&[StreamRecords]) -> io::Result<()>,
        is_hasty: bool,
    ) -> Result<(), ReplayError> {
        let (system, objects): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|object| object.key.is_system());
        let system = system.iter().flat_map(|object| {
            let first = object.key.first_sequence();
            self.wanted_of(object.key.stream(), &(first..first.saturating_add(1)))
        });
        let system: Vec<_> = system.collect();
        if !system.is_empty() {
            note(&system).map_err(ReplayError::Noting)?;
            self.covered.extend(system);
        }
        let mut reads = stream::iter(self.relevant(objects))
            .map(|object| async move {
                let read = read(bucket, &object).await;
                (object, read)
            })
            .buffered(READS);
        let mut sending: JoinSet<(Plan, Delivery)> = JoinSet::new();
        while let Some((object, read)) = reads.next().await {
            let lines = match read {
                Ok(lines) => lines,
                Err(why) => {
                    result.unread.push((object.key.to_string(), why));
                    continue;
                }
            };
            let encoding = follower.destination.encoding();
            let pieces = self.pieces(&object, &lines, encoding, follower.max_object_bytes);
            result.objects += u64::from(!pieces.is_empty());
            for (plan, lines) in pieces {
                while sending.len() >= follower.max_in_flight {
                    self.ended(sending.join_next().await, note)?;
                }
                if is_hasty {
                    let records = plan.first_sequence..plan.next_sequence();
                    note(&[(plan.stream, records)]).map_err(ReplayError::Noting)?;
                }
                let destination = Arc::clone(&follower.destination);
                sending.spawn(async move {
                    let encoding = Arc::clone(&destination);
                    let encoded = spawn_blocking(move || {
                        let times = [RecordTime {
                            first_sequence: plan.first_sequence,
                            time_ms: plan.time_ms,
                        }];
                        let records = Records { lines: &lines, times: &times };
                        encoding.encode(&plan, None, records, &self::pieces()).seal(None)
                    });
                    let encoded = match encoded.await {
                        Ok(encoded) => encoded,
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    };
                    (plan, destination.send(&plan, encoded).await)
                });
            }
        }
        while !sending.is_empty() {
            self.ended(sending.join_next().await, note)?;
        }
        Ok(())
    }

    /// The wanted ones among these records.
    fn wanted_of(&self, stream: UniqueId, records: &Range<u64>) -> Vec<StreamRecords> {
        let wanted = self.wanted.iter().filter(|(of, _)| *of == stream);
        let both =
            wanted.map(|(_, wanted)| wanted.start.max(records.start)..wanted.end.min(records.end));
        both.filter(|both| !both.is_empty()).map(|both| (stream, both)).collect()
    }

    /// The objects that may hold wanted records, in order. Their keys do not say where they end.
    fn relevant(&self, mut objects: Vec<ListedObject>) -> Vec<ListedObject> {
        objects.sort_unstable_by_key(|object| object.key);
        objects.sort_by_key(|object| (object.key.stream(), object.key.first_sequence()));
        let mut by_stream: BTreeMap<UniqueId, Vec<u64>> = BTreeMap::new();
        for object in &objects {
            by_stream.entry(object.key.stream()).or_default().push(object.key.first_sequence());
        }
        objects.retain(|object| {
            let (stream, first) = (object.key.stream(), object.key.first_sequence());
            let starts = &by_stream[&stream];
            let next = starts.get(starts.partition_point(|start| *start <= first));
            let records = first..next.copied().unwrap_or(u64::MAX);
            !self.wanted_of(stream, &records).is_empty()
        });
        objects
    }

    /// Divides the wanted records of an object into requests, each of at most `max_bytes` bytes of
    /// lines, or of a single record.
    fn pieces(
        &self,
        object: &ListedObject,
        lines: &[Vec<u8>],
        encoding: Encoding,
        max_bytes: usize,
    ) -> Vec<(Plan, Vec<u8>)> {
        let (stream, first) = (object.key.stream(), object.key.first_sequence());
        let hour = object.key.partition();
        let time_ms = object.modified_ms.clamp(hour.begin_ms(), hour.end_ms() - 1);
        let mut pieces: Vec<(Plan, Vec<u8>)> = Vec::new();
        // A foreign object may have any number in its name, even the highest.
        let end = first.saturating_add(lines.len() as u64);
        for (_, records) in self.wanted_of(stream, &(first..end)) {
            let mut is_new = true;
            for sequence in records {
                let line = usize::try_from(sequence - first).ok().and_then(|at| lines.get(at));
                let line = line.expect("among the object's lines");
                let last = pieces
                    .last_mut()
                    .filter(|(_, lines)| !is_new && lines.len() + line.len() < max_bytes);
                let (plan, lines) = match last {
                    Some(last) => last,
                    None => {
                        let (first_sequence, count) = (sequence, 0);
                        let plan = Plan { stream, first_sequence, count, time_ms, encoding };
                        pieces.push((plan, Vec::new()));
                        pieces.last_mut().expect("pushed above")
                    }
                };
                plan.count += 1;
                lines.extend_from_slice(line);
                lines.push(b'\n');
                is_new = false;
            }
        }
        pieces
    }

    /// Notes the records of a request that has ended, if they have arrived.
    fn ended(
        &mut self,
        ended: Option<Result<(Plan, Delivery), tokio::task::JoinError>>,
        note: &mut impl FnMut(&[StreamRecords]) -> io::Result<()>,
    ) -> Result<(), ReplayError> {
        let (plan, delivery) = match ended {
            None => return Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        };
        if delivery == Delivery::Delivered {
            let records = (plan.stream, plan.first_sequence..plan.next_sequence());
            note(std::slice::from_ref(&records)).map_err(ReplayError::Noting)?;
            self.covered.push(records.clone());
            self.arrived.push(records);
        }
        Ok(())
    }

    /// The wanted records that were not sent.
    fn left(&self) -> Vec<StreamRecords> {
        let left = self.wanted.iter().flat_map(|(stream, wanted)| {
            let covered = self.covered.iter().filter(|(of, _)| of == stream);
            let covered: Vec<_> = covered.map(|(_, covered)| covered.clone()).collect();
            let last = covered.iter().map(|covered| covered.end).max();
            let end = match last.filter(|last| wanted.end == u64::MAX && *last > wanted.start) {
                Some(last) => last,
                None => wanted.end,
            };
            let left = without(&(wanted.start..end), &covered);
            left.into_iter().map(|left| (*stream, left))
        });
        left.collect()
    }
}

/// Lists the objects of these records' streams, including system objects: of days that end after
/// the first stream begins, or of earlier days. Days that the store refuses to list are added to
/// `unread`.
async fn list(
    bucket: &Bucket,
    wanted: &[StreamRecords],
    is_late: bool,
    unread: &mut Vec<(String, String)>,
) -> object_store::Result<Vec<ListedObject>> {
    let began = wanted.iter().map(|(stream, _)| stream.time_ms()).min();
    let Some(began) = began else { return Ok(Vec::new()) };
    let from_ms = i64::try_from(began).unwrap_or(i64::MAX).saturating_sub(SLACK_MS);
    let is_listed = |day: &&Partition| (day.end_ms() > from_ms) == is_late;
    let mut objects = Vec::new();
    for is_system in [false, true] {
        let days = match is_system {
            false => bucket.level(None).await?,
            true => bucket.system_level(None).await?,
        };
        for day in days.partitions.iter().filter(is_listed) {
            let mut listed = if is_system { bucket.list_system(day) } else { bucket.list(day) };
            while let Some(listed) = listed.next().await {
                let object = match listed {
                    Ok(Listed::Object(object)) => object,
                    Ok(Listed::Other { .. }) => continue,
                    Err(error) if bucket.is_refusal(&error) => {
                        unread.push((day.to_string(), bucket.describe(&error)));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if wanted.iter().any(|(stream, _)| *stream == object.key.stream()) {
                    objects.push(object);
                }
            }
        }
    }
    Ok(objects)
}

/// The maximum memory of the lines of one object, in bytes: many times what hosts write, which is 8
/// MiB by default. Few bytes of a bucket can expand to gigabytes.
const MAX_HELD_BYTES: usize = 256 << 20;

/// The memory of a line in addition to its text, in bytes: its entry in the list, and the
/// allocator's overhead.
const LINE_BYTES: usize = size_of::<Vec<u8>>() + 24;

/// Reads the lines of an object, if a sink wrote it.
async fn read(bucket: &Bucket, object: &ListedObject) -> Result<Vec<Vec<u8>>, String> {
    let failed = |error: object_store::Error| bucket.describe(&error);
    let found = bucket.store().get_opts(&object.location, GetOptions::new()).await;
    let found = found.map_err(failed)?;
    let metadata = ObjectMetadata::from_attributes(&found.attributes);
    let too_large = || format!("it has more than {MAX_HELD_BYTES} bytes, which no host writes");
    if found.meta.size > MAX_HELD_BYTES as u64 {
        return Err(too_large());
    }
    let bytes = found.bytes().await.map_err(failed)?;
    let key = object.key;
    let decoded = spawn_blocking(move || {
        let mut decoder = LineDecoder::new(key.compression());
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let (mut left, mut held, mut goes_on) = (&bytes[..], 0, true);
        while goes_on {
            let some = decoder.push_some(&mut left, |line| {
                held += line.len() + LINE_BYTES;
                if held <= MAX_HELD_BYTES {
                    lines.push(line.to_vec());
                }
            });
            goes_on = some.map_err(|error| error.to_string())?;
            if held > MAX_HELD_BYTES {
                return Err(too_large());
            }
        }
        let found = decoder.finish().map_err(|error| error.to_string())?;
        let found = found.metadata(key.first_sequence());
        if metadata.is_some() && metadata != found {
            return Err("its lines do not match the count and the hash in its metadata".to_owned());
        }
        let is_record = |line: &Vec<u8>| {
            line.first() == Some(&b'{')
                && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
        };
        match lines.iter().position(|line| !is_record(line)) {
            Some(at) => Err(format!("line {} is not a JSON object", at + 1)),
            None => Ok(lines),
        }
    });
    match decoded.await {
        Ok(decoded) => decoded,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
