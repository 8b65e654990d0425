//! Restores records that were delivered, are still in the segments, and are missing from the
//! bucket.
//!
//! The disk does not show how delivered records were cut into objects: a plan is removed once its
//! object has arrived. The bucket does: the remaining objects bound the missing ones, and a single
//! missing object between two others is cut as before, to the same bytes under the same key.
//!
//! No record is stored twice. Records count as present only if an object holds the same lines. If
//! another object has a key of the stream, the records that belong there are not sent, and the key
//! is reported. Nothing is put under a key that was listed.
//!
//! A crash or an abort leaves each object whole or missing, and the next attempt lists the bucket
//! again. A late request of an ended process puts the same bytes under the same key as the next
//! attempt does, if that has the same settings.

mod present;
mod report;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{SinkError, SinkErrorKind, UniqueId};
use audit_journal::Plan;
use audit_journal::shared::kept::{KeptJournal, KeptStream};
use audit_journal::shared::ranges::{len, without};
use futures::stream::TryStreamExt;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use self::present::Present;
pub use self::report::{ForeignObject, GoneRecords, JournalRedelivered};
use crate::Settings;
use crate::bucket::put::{Put, PutOutcome, longer, request};
use crate::bucket::response::Response;
use crate::destination::{compression, encoding, key};
use crate::layout::{Compression, Listed, ListedObject};
use crate::object::encode::ObjectEncoder;
use crate::object::encoded::EncodedObject;
use crate::object::pieces::pieces;

/// How many objects are put at once: each is held in memory.
const PUTS: usize = 4;

/// How long before the first known hour the search begins: an object is filed under the time of its
/// first record, and cutting waits a day at most.
const SLACK_MS: i64 = 24 * 60 * 60 * 1_000;

pub(crate) struct Redelivery {
    /// The journal, which stays locked until the redelivery ends.
    pub(crate) journal: KeptJournal,
    pub(crate) put: Arc<Put>,
    pub(crate) settings: Settings,
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
    /// Objects that were set aside: they show how their records were cut.
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
        // No time limit: a listing takes many requests, each of which the client limits.
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

    /// Restores the missing records of one stream before record `to`.
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
            let in_bucket_to = present.end_before(records.start);
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

    /// Divides missing records at known boundaries of objects, with the compression of each part:
    /// its own, or that of its neighbours.
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

    /// Puts these records, in objects of the configured size.
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
                    let (payload, sha256) = encoder.encode(&lines, compression);
                    let object = EncodedObject::plain(payload, sha256, key(&plan), plan.count);
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

    /// Retries a request until the bucket responds. A refusal that needs an operator is an error.
    async fn ask<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        done: &str,
        mut limit: Duration,
        ask: impl Fn() -> F,
    ) -> Result<T, SinkError> {
        let watch = self.put.health.watch();
        let mut retries = 0u32;
        let mut of_session = false;
        loop {
            let refusal = match request(limit, &self.put.bucket, ask()).await {
                Ok(answer) => {
                    watch.over();
                    return Ok(answer);
                }
                Err(refusal) => refusal.before_retry(&mut of_session),
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

/// The first object of these records, cut as the delivery cuts: up to the last batch that fits.
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
