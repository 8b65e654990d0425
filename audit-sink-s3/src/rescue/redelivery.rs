//! Delivers records again that were delivered, are still in the segments, and are missing from the
//! bucket.
//!
//! Nothing on the disk says how delivered records were cut into objects: a plan is removed once its
//! object has arrived. The bucket says it: the objects that are left bound what is missing, and one
//! missing object between two others is cut as it was, to the same bytes under the same key.
//!
//! No record comes to the bucket twice. Records count as present only where an object holds these
//! very lines; where anything else stands under a key of the stream, the records that belong there
//! are not sent, and it is named. Nothing is put under a key that was listed.
//!
//! A crash or an abort leaves each object there whole or not at all, and the next attempt lists
//! what there is. A request of an ended process that arrives late puts the same bytes under the
//! same key as the next attempt does, if that has the same settings.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{SinkError, SinkErrorKind, UniqueId};
use audit_journal::{KeptJournal, KeptStream, Plan};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::GetOptions;
use sha2::{Digest, Sha256};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::Settings;
use crate::bucket::put::{Put, PutOutcome, longer, request};
use crate::bucket::response::Response;
use crate::destination::{compression, encoding, key};
use crate::layout::{Compression, LineDecoder, Listed, ListedObject, ObjectKey, ObjectMetadata};
use crate::object::encode::ObjectEncoder;
use crate::object::pieces::pieces;

/// What came of delivering again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalRedelivered {
    /// Objects that were put.
    pub objects: u64,
    /// Records in them.
    pub records: u64,
    /// Delivered records of the journal that were found in the bucket.
    pub present: u64,
    /// Objects under the keys of records of this journal that hold something else. They were left
    /// alone.
    pub conflicts: Vec<ForeignObject>,
    /// Streams whose first records the journal does not hold any more.
    pub gone: Vec<GoneRecords>,
}

impl JournalRedelivered {
    /// Counts an object whose request has ended.
    fn ended(
        &mut self,
        request: Option<Result<(Plan, PutOutcome), JoinError>>,
    ) -> Result<(), SinkError> {
        match request {
            Some(Ok((plan, PutOutcome::Stored))) => {
                self.objects += 1;
                self.records += plan.count;
                Ok(())
            }
            Some(Ok((plan, PutOutcome::Conflict))) => {
                self.conflicts.push(ForeignObject { key: key(&plan), records: plan.count });
                Ok(())
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Err(SinkError::indeterminate(
                SinkErrorKind::Closed,
                "the delivery of an object ended without an outcome: start it again",
            )),
        }
    }

    /// Whether every delivered record of the journal is in the bucket now, and no record is known
    /// to be in neither.
    pub fn is_whole(&self) -> bool {
        self.conflicts.is_empty() && self.gone.iter().all(|gone| gone.missing() == 0)
    }
}

/// An object that stands where records of the journal belong, and does not hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignObject {
    /// Its key.
    pub key: ObjectKey,
    /// How many records were not delivered for it.
    pub records: u64,
}

/// Records of a stream that were delivered and removed from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneRecords {
    /// The stream.
    pub stream: UniqueId,
    /// Records below this number are not in the journal.
    pub kept_from: u64,
    /// The number after that of the last one of them that is in the bucket. Whether those before
    /// it are, was not looked at: `audit stats` does.
    pub in_bucket_to: u64,
}

impl GoneRecords {
    /// How many records are known to be in neither the journal nor the bucket.
    pub fn missing(&self) -> u64 {
        self.kept_from - self.in_bucket_to
    }
}

/// How many objects of the bucket are looked at at once.
const LOOKS: usize = 8;

/// How many objects are put at once: each is held in memory.
const PUTS: usize = 4;

/// How far objects are looked for under hours before the first that is known: an object has the
/// time of its first record, and cutting waits a day at most.
const SLACK_MS: i64 = 24 * 60 * 60 * 1_000;

/// The work on one journal.
pub(crate) struct Redelivery {
    /// Locked as long as this lasts.
    pub(crate) journal: KeptJournal,
    pub(crate) put: Arc<Put>,
    pub(crate) settings: Settings,
}

/// What an object of the bucket turned out to be.
enum Look {
    /// It holds records up to before this one, and those that the journal has are the same.
    Same { end: u64 },
    /// It holds something else. How many records its metadata say that it has, if they do.
    Foreign { count: Option<u64> },
    /// It was removed meanwhile.
    Gone,
}

/// What the bucket holds of one stream.
#[derive(Default)]
struct Present {
    /// Sorted by their beginning.
    same: Vec<(Range<u64>, Compression)>,
    foreign: Vec<(ObjectKey, Option<u64>)>,
    /// First numbers of all objects, sorted.
    keys: Vec<u64>,
}

impl Redelivery {
    pub(crate) async fn run(self) -> Result<JournalRedelivered, SinkError> {
        let Redelivery { journal, put, settings } = self;
        let (kept, plans, _lock) =
            blocking(move || Ok((journal.streams()?, journal.conflicts()?, journal))).await?;
        let kept: Vec<_> = kept.into_iter().map(|(kept, to)| (Arc::new(kept), to)).collect();
        let work = Work { put, settings, plans };
        let mut listed = work.list(&kept).await?;
        let mut result = JournalRedelivered::default();
        for (kept, to) in kept {
            let objects = listed.remove(&kept.stream).unwrap_or_default();
            work.stream(&kept, to, objects, &mut result).await?;
        }
        Ok(result)
    }
}

struct Work {
    put: Arc<Put>,
    settings: Settings,
    /// Objects that were set aside: they say how their records were cut.
    plans: Vec<Plan>,
}

impl Work {
    /// The objects of these streams, sorted by their first records.
    async fn list(
        &self,
        kept: &[(Arc<KeptStream>, u64)],
    ) -> Result<BTreeMap<UniqueId, Vec<ListedObject>>, SinkError> {
        let mut found: BTreeMap<UniqueId, Vec<ListedObject>> =
            kept.iter().map(|(kept, _)| (kept.stream, Vec::new())).collect();
        let began = kept.iter().map(|(kept, _)| {
            let stream_ms = i64::try_from(kept.stream.time_ms()).unwrap_or(i64::MAX);
            kept.oldest_ms.min(stream_ms)
        });
        let Some(from_ms) = began.min() else { return Ok(found) };
        let from_ms = from_ms.saturating_sub(SLACK_MS);
        let bucket = &self.put.bucket;
        // A listing takes as long as it has pages. The client bounds each request.
        let days = self.ask("listed", Duration::MAX, || bucket.level(None)).await?;
        for day in days.partitions.iter().filter(|day| day.end_ms() > from_ms) {
            let objects = self.ask("listed", Duration::MAX, || {
                let is_of_journal = |listed: &Listed| match listed {
                    Listed::Object(object) => found.contains_key(&object.key.stream()),
                    Listed::Other { .. } => false,
                };
                bucket
                    .list(day)
                    .try_filter(move |listed| std::future::ready(is_of_journal(listed)))
                    .try_collect::<Vec<_>>()
            });
            for listed in objects.await? {
                let Listed::Object(object) = listed else { continue };
                found.entry(object.key.stream()).or_default().push(object);
            }
        }
        for objects in found.values_mut() {
            objects.sort_unstable_by_key(|object| object.key.first_sequence());
        }
        Ok(found)
    }

    /// Delivers what is missing of one stream before record `to`.
    async fn stream(
        &self,
        kept: &Arc<KeptStream>,
        to: u64,
        objects: Vec<ListedObject>,
        result: &mut JournalRedelivered,
    ) -> Result<(), SinkError> {
        let present = self.present(kept, to, objects).await?;
        let records = kept.records.start..to;
        if records.start > 0 {
            // Objects before the first kept record, and the one that it may be in.
            let before = present.same.iter().filter(|(same, _)| same.start < records.start);
            let same = before.map(|(same, _)| same.end);
            let foreign = present.foreign.iter();
            let foreign = foreign.filter(|(key, _)| key.first_sequence() < records.start);
            let foreign =
                foreign.filter_map(|(key, says)| key.first_sequence().checked_add((*says)?));
            let in_bucket_to = same.chain(foreign).max().unwrap_or(0).min(records.start);
            let (stream, kept_from) = (kept.stream, records.start);
            result.gone.push(GoneRecords { stream, kept_from, in_bucket_to });
        }
        let same = present.same.iter().map(|(same, _)| same.clone());
        let same: Vec<_> = same.chain(kept.system_records()).collect();
        let absent = without(&records, &same);
        result.present += (to - records.start) - absent.iter().map(len).sum::<u64>();
        let mut blocked = Vec::new();
        for (key, count) in &present.foreign {
            let range = present.blocked_by(key.first_sequence(), *count, &records);
            if !range.is_empty() {
                result.conflicts.push(ForeignObject { key: *key, records: len(&range) });
                blocked.push(range);
            }
        }
        let taken = [same, blocked].concat();
        let missing = without(&records, &taken).into_iter();
        let parts = missing.flat_map(|missing| self.parts(kept.stream, missing, &present));
        self.put(kept, parts.collect(), result).await
    }

    /// Looks at the objects that hold records of the stream from its first kept one to before `to`,
    /// and at the last one before.
    async fn present(
        &self,
        kept: &Arc<KeptStream>,
        to: u64,
        objects: Vec<ListedObject>,
    ) -> Result<Present, SinkError> {
        let mut present = Present::default();
        present.keys.extend(objects.iter().map(|object| object.key.first_sequence()));
        let before = present.keys.partition_point(|first| *first < kept.records.start);
        let within = before..present.keys.partition_point(|first| *first < to);
        // Objects hold disjoint records, so the last one whose end is certain ends the search.
        for object in objects[..before].iter().rev() {
            let look = self.look(kept, object).await?;
            let is_certain = matches!(look, Look::Same { .. } | Look::Foreign { count: Some(_) });
            present.add(object.key, &look);
            if is_certain {
                break;
            }
        }
        let within = objects.into_iter().take(within.end).skip(within.start);
        let mut looks = stream::iter(within)
            .map(|object| async move {
                Ok::<_, SinkError>((object.key, self.look(kept, &object).await?))
            })
            .buffered(LOOKS);
        while let Some((key, look)) = looks.try_next().await? {
            present.add(key, &look);
        }
        drop(looks);
        present.same.sort_unstable_by_key(|(same, _)| same.start);
        Ok(present)
    }

    async fn look(&self, kept: &Arc<KeptStream>, object: &ListedObject) -> Result<Look, SinkError> {
        let bucket = &self.put.bucket;
        let first = object.key.first_sequence();
        let attributes = self.ask("read", self.settings.put_timeout(), || async {
            let head = GetOptions::new().with_head(true);
            match bucket.store().get_opts(&object.location, head).await {
                Ok(head) => Ok(Some(head.attributes)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let Some(attributes) = attributes.await? else { return Ok(Look::Gone) };
        let says = ObjectMetadata::from_attributes(&attributes).filter(|says| {
            says.count > 0 && first.checked_add(says.count - 1) == Some(says.last_sequence)
        });
        if let Some(ObjectMetadata { last_sequence, count: _, sha256 }) = &says {
            let end = last_sequence.saturating_add(1);
            if end <= kept.records.start {
                return Ok(Look::Same { end });
            }
            let is_within = kept.records.start <= first && end <= kept.records.end;
            if is_within && self.sha256(kept, first..end).await? == *sha256 {
                return Ok(Look::Same { end });
            }
        }
        // A directory says nothing, and of an object that is not kept whole the lines must.
        let compared = first.max(kept.records.start)..kept.records.end;
        let read = self.ask("read", self.settings.put_timeout(), || async {
            match self.read(object, compared.clone()).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                read => read.map(Some),
            }
        });
        let Some(read) = read.await? else { return Ok(Look::Gone) };
        let says = says.map(|says| says.count);
        let Some(Lines { count, sha256 }) = read else {
            return Ok(Look::Foreign { count: says });
        };
        let end = first.saturating_add(count);
        let same = compared.start..end.min(compared.end);
        if end <= kept.records.start || self.sha256(kept, same).await? == sha256 {
            return Ok(Look::Same { end });
        }
        Ok(Look::Foreign { count: says })
    }

    /// Reads an object, and hashes those of its records that are `compared`. `None` if it cannot be
    /// decoded.
    async fn read(
        &self,
        object: &ListedObject,
        compared: Range<u64>,
    ) -> object_store::Result<Option<Lines>> {
        let read = self.put.bucket.store().get_opts(&object.location, GetOptions::new());
        let mut pieces = read.await?.into_stream();
        let mut decoder = LineDecoder::new(object.key.compression());
        let (mut hash, mut sequence) = (Sha256::new(), object.key.first_sequence());
        while let Some(piece) = pieces.try_next().await? {
            let pushed = decoder.push(&piece, |line| {
                if compared.contains(&sequence) {
                    hash.update(line);
                    hash.update(b"\n");
                }
                sequence = sequence.saturating_add(1);
            });
            if pushed.is_err() {
                return Ok(None);
            }
        }
        let Ok(decoded) = decoder.finish() else { return Ok(None) };
        let sha256 = hash.finalize().into();
        Ok(Some(Lines { count: decoded.count, sha256 }))
    }

    async fn sha256(
        &self,
        kept: &Arc<KeptStream>,
        records: Range<u64>,
    ) -> Result<[u8; 32], SinkError> {
        let kept = Arc::clone(kept);
        blocking(move || kept.sha256(records)).await
    }

    /// Divides missing records where objects are known to have begun and ended, and says how each
    /// part is compressed: as it was, or as its neighbours are.
    fn parts(
        &self,
        stream: UniqueId,
        missing: Range<u64>,
        present: &Present,
    ) -> Vec<(Range<u64>, Compression)> {
        let plans = || self.plans.iter().filter(|plan| plan.stream == stream);
        let mut bounds: Vec<_> = plans()
            .flat_map(|plan| [plan.first_sequence, plan.next_sequence()])
            .filter(|bound| missing.start < *bound && *bound < missing.end)
            .chain([missing.start, missing.end])
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let neighbour = present.compression_near(missing.start);
        let parts = bounds.windows(2).map(|bounds| {
            let part = bounds[0]..bounds[1];
            let plan = plans().find(|plan| plan.first_sequence == part.start);
            let planned = plan.and_then(|plan| compression(plan.encoding));
            let compression = planned.or(neighbour).unwrap_or(self.settings.compression);
            (part, compression)
        });
        parts.collect()
    }

    /// Puts these records, in objects of the size that is set.
    async fn put(
        &self,
        kept: &Arc<KeptStream>,
        parts: Vec<(Range<u64>, Compression)>,
        result: &mut JournalRedelivered,
    ) -> Result<(), SinkError> {
        let mut requests: JoinSet<(Plan, PutOutcome)> = JoinSet::new();
        let mut encoder = ObjectEncoder::new(pieces());
        for (part, compression) in parts {
            let mut at = part.start;
            while at < part.end {
                if requests.len() >= PUTS {
                    result.ended(requests.join_next().await)?;
                }
                let (from, rest) = (Arc::clone(kept), at..part.end);
                let max_object_bytes = self.settings.max_object_bytes;
                let (used, plan, object) = blocking(move || {
                    let (plan, lines) = cut(&from, rest, compression, max_object_bytes)?;
                    let (first, count) = (plan.first_sequence, plan.count);
                    let object = encoder.encode(&lines, first, count, compression);
                    Ok((encoder, plan, object))
                })
                .await?;
                encoder = used;
                at = plan.next_sequence();
                let put = Arc::clone(&self.put);
                requests.spawn(async move {
                    let path = put.bucket.path(&key(&plan).to_string());
                    (plan, put.until_certain(&path, &object).await)
                });
            }
        }
        while !requests.is_empty() {
            result.ended(requests.join_next().await)?;
        }
        Ok(())
    }

    /// Asks the bucket until it answers. What it refuses until an operator acts is an error.
    async fn ask<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        done: &str,
        mut limit: Duration,
        ask: impl Fn() -> F,
    ) -> Result<T, SinkError> {
        let watch = self.put.health.watch();
        let mut retries = 0u32;
        loop {
            let refusal = match request(limit, &self.put.bucket, ask()).await {
                Ok(answer) => {
                    watch.over();
                    return Ok(answer);
                }
                Err(refusal) => refusal,
            };
            if let Response::Blocked(_) = refusal.response {
                watch.over();
                let bucket = &self.put.bucket;
                let message = format!("objects of {bucket} cannot be {done}");
                return Err(SinkError::not_persisted(SinkErrorKind::Blocked, message)
                    .with_source(refusal.to_string()));
            }
            if refusal.timed_out {
                limit = longer(limit);
            }
            let backoff = self.put.backoff(refusal.response, retries);
            watch.report(refusal.into());
            sleep(backoff).await;
            retries = retries.saturating_add(1);
        }
    }
}

/// The first object of these records, cut as the delivery cuts: batches are gathered until the next
/// one would be too much.
fn cut(
    kept: &KeptStream,
    records: Range<u64>,
    compression: Compression,
    max_object_bytes: usize,
) -> io::Result<(Plan, Vec<u8>)> {
    let mut plan: Option<Plan> = None;
    let mut lines = Vec::new();
    kept.read(records, |batch| {
        if !lines.is_empty() && lines.len() + batch.lines.len() > max_object_bytes {
            return false;
        }
        lines.extend_from_slice(batch.lines);
        let plan = plan.get_or_insert(Plan {
            stream: kept.stream,
            first_sequence: batch.first_sequence,
            count: 0,
            time_ms: batch.time_ms,
            encoding: encoding(compression),
        });
        plan.count += batch.count;
        true
    })?;
    Ok((plan.ok_or(io::ErrorKind::UnexpectedEof)?, lines))
}

/// The lines of an object.
struct Lines {
    count: u64,
    /// Of those that were to be compared.
    sha256: [u8; 32],
}

impl Present {
    fn add(&mut self, key: ObjectKey, look: &Look) {
        match *look {
            Look::Same { end } => {
                self.same.push((key.first_sequence()..end, key.compression()));
            }
            Look::Foreign { count } => self.foreign.push((key, count)),
            Look::Gone => {}
        }
    }

    /// The records that are not delivered for a foreign object with this first number: as many as
    /// its metadata say, or else all up to the next object, since they may be in it in a form that
    /// is not understood here.
    fn blocked_by(&self, first: u64, count: Option<u64>, records: &Range<u64>) -> Range<u64> {
        let start = first.max(records.start);
        if self.same.iter().any(|(same, _)| same.contains(&start)) {
            return start..start;
        }
        let next_key = self.keys.iter().copied().find(|key| *key > first);
        let next_same = self.same.iter().map(|(same, _)| same.start).find(|same| *same > start);
        let says = count.map(|count| first.saturating_add(count));
        let ends = [next_key, next_same, says].into_iter().flatten();
        start..ends.fold(records.end, u64::min).max(start)
    }

    fn compression_near(&self, sequence: u64) -> Option<Compression> {
        let after = self.same.partition_point(|(same, _)| same.start < sequence);
        let near = after.checked_sub(1).unwrap_or(after);
        self.same.get(near).map(|(_, compression)| *compression)
    }
}

fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// What is left of `all` without these, in order.
fn without(all: &Range<u64>, taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut taken = taken.to_vec();
    taken.sort_unstable_by_key(|taken| taken.start);
    let (mut left, mut at) = (Vec::new(), all.start);
    for taken in taken {
        if at < taken.start.min(all.end) {
            left.push(at..taken.start.min(all.end));
        }
        at = at.max(taken.end);
    }
    if at < all.end {
        left.push(at..all.end);
    }
    left
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SinkError> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| {
            SinkError::not_persisted(SinkErrorKind::Blocked, "the journal cannot be read")
                .with_source(error)
        }),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(SinkError::not_persisted(SinkErrorKind::Closed, "the runtime has ended")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_left_are_in_order_and_within() {
        for (taken, left) in [
            ("", "3..9"),
            ("0..3 9..12", "3..9"),
            ("0..4 8..12", "4..8"),
            ("5..7 4..6", "3..4 7..9"),
            ("2..10", ""),
            ("6..7 3..4 8..9", "4..6 7..8"),
        ] {
            let ranges = taken.split_whitespace().map(|range| {
                let (start, end) = range.split_once("..").unwrap();
                start.parse().unwrap()..end.parse().unwrap()
            });
            let found = without(&(3..9), &ranges.collect::<Vec<_>>());
            let found: Vec<_> = found.iter().map(|range| format!("{range:?}")).collect();
            assert_eq!(found.join(" "), left, "{taken}");
        }
    }
}
