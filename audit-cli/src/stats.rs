//! `audit stats`: how much there is, and whether anything is missing, double or damaged.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use audit_core::{UniqueId, Usage};
use audit_sink_s3::{ObjectKey, ObjectMetadata, Partition};
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::arguments::{Common, Stats};
use crate::bucket::{Listed, Reader, Wanted};
use crate::condition::{Pointer, Time};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::lines::{ReadError, Refused, read};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::ranges::Ranges;
use crate::time::{Size, Span, now_ms, shown};

/// What one object came to.
struct Seen {
    object: Listed,
    /// How many lines it has: numbers of its stream.
    count: u64,
    /// How many of them are records.
    logs: u64,
    /// Of its lines.
    sha256: [u8; 32],
    /// `None` if it was not read.
    usage: Option<Usage>,
    /// Of its first record; `None` if it was not asked for.
    time: Option<Time>,
    contradiction: Option<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
enum Finding {
    /// Records of a stream that are nowhere.
    Gap { stream: String, first_sequence: u64, last_sequence: u64 },
    /// Records that stand in two objects.
    Duplicate {
        stream: String,
        first_sequence: u64,
        last_sequence: u64,
        key: String,
        also: Option<String>,
    },
    /// An object with the lines of another one of another stream. Two hosts may have logged the
    /// same.
    SameLines { key: String, also: String },
    /// An object that is not what a sink wrote.
    Damaged { key: String, what: String },
    /// Nothing was there to be checked.
    NoStreams { why: String },
}

impl Finding {
    /// Whether it is certain that something is wrong.
    fn is_certain(&self) -> bool {
        match self {
            Finding::Gap { .. }
            | Finding::Duplicate { .. }
            | Finding::Damaged { .. }
            | Finding::NoStreams { .. } => true,
            Finding::SameLines { .. } => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Finding::Gap { stream, first_sequence, last_sequence } => {
                format!("gap: stream {stream} lacks records {first_sequence} to {last_sequence}")
            }
            Finding::Duplicate { stream, first_sequence, last_sequence, key, also } => {
                let also = also.as_ref().map(|also| format!(" and in {also}")).unwrap_or_default();
                format!(
                    "duplicate: records {first_sequence} to {last_sequence} of stream {stream} are in {key}{also}"
                )
            }
            Finding::SameLines { key, also } => {
                format!("perhaps a copy: {key} has the lines of {also}")
            }
            Finding::Damaged { key, what } => format!("damaged: {key}: {what}"),
            Finding::NoStreams { why } => format!("no streams: {why}"),
        }
    }
}

/// How many objects are remembered by the hash of their lines, so that a copy under another stream
/// is seen. It bounds memory: about 100 bytes each.
const REMEMBERED: usize = 1 << 20;

/// How many objects with the lines of others are named. All are counted.
const SAME_LINES_SHOWN: u64 = 20;

/// The objects that were read last.
#[derive(Default)]
struct Remembered {
    order: VecDeque<(u64, ObjectKey, u64)>,
    by_hash: HashMap<u64, ObjectKey>,
}

impl Remembered {
    /// Remembers an object, and gives one of another stream with the same lines.
    fn add(&mut self, sha256: &[u8; 32], key: ObjectKey, count: u64) -> Option<ObjectKey> {
        let hash = u64::from_le_bytes(*sha256.first_chunk().expect("a hash has 32 bytes"));
        if self.order.len() == REMEMBERED
            && let Some((oldest, ..)) = self.order.pop_front()
        {
            self.by_hash.remove(&oldest);
        }
        self.order.push_back((hash, key, count));
        let known = *self.by_hash.entry(hash).or_insert(key);
        (known.stream() != key.stream()).then_some(known)
    }

    /// Another object with one of these records.
    fn with(&self, records: &Range<u64>, than: &ObjectKey) -> Option<ObjectKey> {
        let mut known =
            self.order.iter().filter(|(_, key, _)| key.stream() == than.stream() && key != than);
        let overlaps = |(_, key, count): &&(u64, ObjectKey, u64)| {
            key.first_sequence() < records.end && records.start < key.first_sequence() + count
        };
        known.find(overlaps).map(|(_, key, _)| *key)
    }
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    objects: u64,
    /// As they are stored.
    stored_bytes: u64,
    logs: u64,
    /// Of the logs, without line feeds. With `--heads` not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metered_bytes: Option<u64>,
}

impl Totals {
    fn add(&mut self, seen: &Seen) {
        self.objects += 1;
        self.stored_bytes += seen.object.bytes;
        self.logs += seen.logs;
        if let Some(usage) = seen.usage {
            *self.bytes.get_or_insert(0) += usage.bytes();
            *self.metered_bytes.get_or_insert(0) += usage.metered_bytes();
        }
    }
}

#[derive(Serialize)]
struct Day {
    day: String,
    #[serde(flatten)]
    totals: Totals,
}

/// How late objects came.
#[derive(Debug, Serialize)]
struct Lag {
    p50_ms: i64,
    p99_ms: i64,
    max_ms: i64,
    /// What it is counted from.
    from: &'static str,
}

#[derive(Serialize)]
struct Summary<'a> {
    bucket: String,
    streams: u64,
    #[serde(flatten)]
    totals: &'a Totals,
    days: Vec<Day>,
    lag: Option<Lag>,
    last_arrival: Option<String>,
    gaps: u64,
    missing_records: u64,
    duplicates: u64,
    same_lines: u64,
    damaged: u64,
    /// That hold no records.
    other_objects: u64,
    /// How many of them writers left that died.
    leftovers: u64,
}

/// Durations, as counts of about one in eight of their size.
#[derive(Debug)]
struct Durations {
    buckets: Vec<u64>,
    count: u64,
    max_ms: i64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { buckets: vec![0; 64 * 8], count: 0, max_ms: 0 }
    }
}

impl Durations {
    fn add(&mut self, ms: i64) {
        let value = u64::try_from(ms).unwrap_or(0);
        self.buckets[Self::bucket(value)] += 1;
        self.count += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    fn bucket(value: u64) -> usize {
        match value.checked_ilog2() {
            Some(log) if log >= 3 => {
                ((log as usize) << 3 | ((value >> (log - 3)) & 7) as usize) - 16
            }
            Some(_) | None => value as usize,
        }
    }

    /// The most that a value in this bucket can be.
    fn most(bucket: usize) -> u64 {
        if bucket < 8 {
            return bucket as u64;
        }
        let (log, eighth) = ((bucket + 16) >> 3, (bucket as u64 + 16) & 7);
        ((8 + eighth + 1) << (log - 3)).wrapping_sub(1)
    }

    /// What a share of the values does not exceed.
    fn quantile(&self, share: f64) -> i64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                return i64::try_from(Self::most(bucket)).unwrap_or(i64::MAX).min(self.max_ms);
            }
        }
        self.max_ms
    }
}

/// What all objects so far came to.
#[derive(Default)]
struct Tally {
    totals: Totals,
    days: BTreeMap<Partition, Totals>,
    streams: BTreeMap<UniqueId, Ranges>,
    remembered: Remembered,
    lag: Durations,
    lag_from_records: bool,
    /// Objects in whose first record no time was found.
    untimed: u64,
    last_arrival_ms: Option<i64>,
    gaps: u64,
    missing_records: u64,
    duplicates: u64,
    same_lines: u64,
    damaged: u64,
}

impl Tally {
    fn add(&mut self, seen: &Seen) -> Vec<Finding> {
        let Seen { object, count, logs: _, sha256, usage: _, time, contradiction } = seen;
        let time_ms = time.and_then(Time::ms);
        self.untimed += u64::from(time.is_some() && time_ms.is_none());
        let key = object.key;
        let mut findings = Vec::new();
        self.totals.add(seen);
        self.days.entry(Partition::day_of(key.hour_ms())).or_default().add(seen);
        self.last_arrival_ms = self.last_arrival_ms.max(Some(object.modified_ms));
        // Of an object whose first record's time is not known, only what came after its hour is
        // certainly late.
        let from = time_ms.unwrap_or(key.partition().end_ms());
        self.lag_from_records |= time_ms.is_some();
        self.lag.add((object.modified_ms - from).max(0));

        if let Some(what) = contradiction {
            findings
                .push(Finding::Damaged { key: object.location.to_string(), what: what.clone() });
        }
        let records = key.first_sequence()..key.first_sequence().saturating_add(*count);
        for double in self.streams.entry(key.stream()).or_default().add(records) {
            findings.push(Finding::Duplicate {
                stream: key.stream().to_string(),
                first_sequence: double.start,
                last_sequence: double.end - 1,
                key: key.to_string(),
                also: self.remembered.with(&double, &key).map(|also| also.to_string()),
            });
        }
        if let Some(also) = self.remembered.add(sha256, key, *count) {
            findings.push(Finding::SameLines { key: key.to_string(), also: also.to_string() });
        }
        findings
    }

    /// What is missing, once all was seen. `from_the_beginning` says whether the first records of
    /// each stream must be there.
    fn gaps(&self, from_the_beginning: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (stream, ranges) in &self.streams {
            let before = ranges
                .first()
                .filter(|first| from_the_beginning && *first > 0)
                .map(|first| 0..first);
            for gap in before.into_iter().chain(ranges.gaps()) {
                let stream = stream.to_string();
                findings.push(Finding::Gap {
                    stream,
                    first_sequence: gap.start,
                    last_sequence: gap.end - 1,
                });
            }
        }
        findings
    }

    fn count(&mut self, finding: &Finding) {
        match finding {
            Finding::Gap { first_sequence, last_sequence, .. } => {
                self.gaps += 1;
                self.missing_records += last_sequence - first_sequence + 1;
            }
            Finding::Duplicate { .. } => self.duplicates += 1,
            Finding::SameLines { .. } => self.same_lines += 1,
            Finding::Damaged { .. } => self.damaged += 1,
            Finding::NoStreams { .. } => {}
        }
    }

    fn lag(&self) -> Option<Lag> {
        let from = if self.lag_from_records { "first record" } else { "end of the hour" };
        (self.lag.count > 0).then(|| Lag {
            p50_ms: self.lag.quantile(0.5),
            p99_ms: self.lag.quantile(0.99),
            max_ms: self.lag.max_ms,
            from,
        })
    }
}

pub(crate) async fn run(
    arguments: &Stats,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::new(&arguments.selection);
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let (heads, time) = (arguments.heads, Arc::new(arguments.time.clone()));
    let from = reader.clone();
    type Looked = Result<(Listed, Result<Seen, ReadError>), Failure>;
    let work = move |object: Result<Listed, Failure>, sender: mpsc::Sender<Looked>| {
        let (reader, time) = (from.clone(), Arc::clone(&time));
        async move {
            let looked = match object {
                Ok(object) => {
                    let seen = look(&reader, &object, heads, time.as_ref().as_ref()).await;
                    Ok((object, seen))
                }
                Err(failure) => Err(failure),
            };
            // Nobody may want it any more.
            let _ = sender.send(looked).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, 1, work));
    let mut tally = Tally::default();
    let mut refused = Refused::default();
    let mut wrong = false;
    let mut report = |tally: &mut Tally, finding: Finding| {
        wrong |= finding.is_certain();
        tally.count(&finding);
        // Hosts that log the same again and again would fill the screen.
        let shown = finding.is_certain() || tally.same_lines <= SAME_LINES_SHOWN;
        if shown { print_finding(&finding, output) } else { Ok(()) }
    };
    while let Some(result) = results.next().await.transpose()? {
        let (object, seen) = result;
        progress.object(&object.key);
        let damaged = |what: String| Finding::Damaged { key: object.location.to_string(), what };
        match seen {
            Ok(seen) => {
                refused.given();
                for finding in tally.add(&seen) {
                    report(&mut tally, finding)?;
                }
            }
            Err(ReadError::Damaged(what)) => report(&mut tally, damaged(what))?,
            Err(ReadError::Gone) => {
                report(&mut tally, damaged("was removed after it was listed".to_owned()))?
            }
            Err(ReadError::Refused(said)) => refused.add(&object, &said, output)?,
            Err(ReadError::Store(said)) => {
                return Err(Failure::new(format!("cannot read {}", object.location)).because(said));
            }
            Err(ReadError::Unwanted) => {}
        }
    }
    drop(progress);
    if tally.totals.objects == 0 && tally.damaged == 0 {
        report(&mut tally, Finding::NoStreams { why: reader.why_nothing(&wanted).await })?;
    }
    if tally.untimed > 0
        && let Some(time) = &arguments.time
    {
        let untimed = tally.untimed;
        output
            .note(&format!("no time was found at {time} in the first record of {untimed} objects"));
    }
    // Of a part of the time, streams may have begun before.
    for gap in tally.gaps(arguments.selection.since.is_none()) {
        report(&mut tally, gap)?;
    }
    print_summary(&reader, &tally, output)?;
    refused.end()?;
    Ok(Outcome::wrong_if(wrong))
}

/// Reads an object, or asks for its metadata.
async fn look(
    reader: &Reader,
    object: &Listed,
    heads: bool,
    time: Option<&Pointer>,
) -> Result<Seen, ReadError> {
    if heads {
        let head = reader.store().get_opts(&object.location, GetOptions::new().with_head(true));
        let head = head.await.map_err(|error| ReadError::of(reader, &error))?;
        // A directory keeps no metadata, so that only the lines tell.
        if let Some(metadata) = ObjectMetadata::from_attributes(&head.attributes) {
            let ObjectMetadata { last_sequence, count, sha256 } = metadata;
            let by_key = object.key.first_sequence().saturating_add(count).saturating_sub(1);
            let contradiction = (count == 0 || by_key != last_sequence).then(|| {
                format!(
                    "ends with record {by_key} by its key, and with {last_sequence} by its metadata"
                )
            });
            let object = object.clone();
            let (usage, time) = (None, None);
            return Ok(Seen { object, count, logs: count, sha256, usage, time, contradiction });
        }
    }
    let mut usage = Usage::default();
    let mut first_time = None;
    let content = read(reader, object, None, |sequence, line, _| {
        usage += Usage::of_log(line.len());
        if sequence == object.key.first_sequence() {
            first_time = time.map(|pointer| pointer.find_time(line));
        }
    })
    .await?;
    Ok(Seen {
        object: object.clone(),
        count: content.lines.count,
        logs: content.records(),
        sha256: content.lines.sha256,
        usage: Some(usage),
        time: first_time,
        contradiction: content.contradiction(object),
    })
}

fn print_finding(finding: &Finding, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(finding);
    }
    let style = output.style();
    let text = finding.text();
    output.line(&if finding.is_certain() { style.bad(&text) } else { style.doubtful(&text) })
}

fn print_summary(reader: &Reader, tally: &Tally, output: &Output) -> Result<(), Failure> {
    let Tally {
        totals, days, streams, gaps, missing_records, duplicates, same_lines, damaged, ..
    } = tally;
    let lag = tally.lag();
    let others = reader.others();
    let (other_objects, leftovers) =
        others.as_ref().map_or((0, 0), |others| (others.count, others.leftovers));
    if output.is_json() {
        let days = days.iter().map(|(day, totals)| {
            let Totals { objects, stored_bytes, logs, bytes, metered_bytes } = *totals;
            let day = day.to_string().trim_start_matches("dt=").to_owned();
            Day { day, totals: Totals { objects, stored_bytes, logs, bytes, metered_bytes } }
        });
        return output.json(&Summary {
            bucket: reader.name(),
            streams: streams.len() as u64,
            totals,
            days: days.collect(),
            lag,
            last_arrival: tally.last_arrival_ms.map(shown),
            gaps: *gaps,
            missing_records: *missing_records,
            duplicates: *duplicates,
            same_lines: *same_lines,
            damaged: *damaged,
            other_objects,
            leftovers,
        });
    }
    let style = output.style();
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| Size(bytes).to_string());
    let row = |day: &str, totals: &Totals| {
        let Totals { objects, stored_bytes, logs, bytes, metered_bytes } = totals;
        let (stored, bytes, metered) = (Size(*stored_bytes), size(*bytes), size(*metered_bytes));
        format!("{day:10}  {objects:>9}  {logs:>12}  {bytes:>11}  {metered:>11}  {stored:>11}")
    };
    let head = format!(
        "{:10}  {:>9}  {:>12}  {:>11}  {:>11}  {:>11}",
        "DAY", "OBJECTS", "LOGS", "BYTES", "METERED", "STORED"
    );
    output.line(&style.strong(&head))?;
    for (day, totals) in days {
        output.line(&row(day.to_string().trim_start_matches("dt="), totals))?;
    }
    output.line(&style.strong(&row("all", totals)))?;
    output.line(&format!("streams: {}", streams.len()))?;
    if let (Some(lag), Some(last)) = (lag, tally.last_arrival_ms) {
        let Lag { p50_ms, p99_ms, max_ms, from } = lag;
        let silent = Span(now_ms() - last);
        output.line(&format!(
            "last arrival: {}, {silent} ago",
            shown(last - last.rem_euclid(1_000))
        ))?;
        output.line(&format!(
            "objects came after the {from}: half of them within {}, 99 of 100 within {}, the last one within {}",
            Span(p50_ms),
            Span(p99_ms),
            Span(max_ms)
        ))?;
    }
    if let Some(others) = others {
        output.line(&style.doubtful(&others.to_string()))?;
    }
    if *same_lines > 0 {
        output.line(&style.doubtful(&format!("{same_lines} objects may be copies of others")))?;
    }
    let verdict = if totals.objects == 0 && *damaged == 0 {
        style.bad("there was nothing to check")
    } else if gaps + duplicates + damaged == 0 {
        style.good("no gaps, no duplicates, nothing damaged")
    } else {
        style.bad(&format!(
            "{gaps} gaps ({missing_records} records missing), {duplicates} duplicates, {damaged} damaged"
        ))
    };
    output.line(&verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_off_by_an_eighth_at_most() {
        for value in (0..200u64).chain([1_000, 12_345, 1 << 40, u64::MAX >> 1]) {
            let most = Durations::most(Durations::bucket(value));
            assert!(most >= value && most - value <= value / 8, "{value} {most}");
        }
        let mut durations = Durations::default();
        (1..=1_000).for_each(|ms| durations.add(ms));
        assert!((500..=563).contains(&durations.quantile(0.5)));
        assert!((990..=1_000).contains(&durations.quantile(0.99)));
        assert_eq!(durations.quantile(1.0), 1_000);
    }
}
