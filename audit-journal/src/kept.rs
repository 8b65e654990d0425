//! Reads the records that segments still hold, delivered or not, by their numbers.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use sha2::{Digest, Sha256};

use crate::Plan;
use crate::disk::Disk;
use crate::format::{FIRST_GROUP, Found};
use crate::plan::{self, Decided};
use crate::recovery::{Recovered, RecoveredSegment};
use crate::segment::{Segment, SegmentReader, Window};

/// The records of the default route that the segments of a journal still hold. The journal is
/// locked while this lives.
///
/// Its methods do blocking I/O.
#[derive(Debug)]
pub struct KeptJournal {
    disk: Arc<dyn Disk>,
    segments: Vec<RecoveredSegment>,
    /// The first undelivered record of each stream.
    delivered: BTreeMap<UniqueId, u64>,
}

impl KeptJournal {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        recovered: &Recovered,
        decided: &Decided,
    ) -> KeptJournal {
        let delivered = decided.delivered.iter().filter(|(_, progress)| progress.route == 0);
        let delivered = delivered.map(|(stream, progress)| (*stream, progress.next)).collect();
        KeptJournal { disk, segments: recovered.segments.clone(), delivered }
    }

    /// The streams that have delivered records here, each with its first undelivered record.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn streams(&self) -> io::Result<Vec<(KeptStream, u64)>> {
        let streams = KeptStream::all(&self.segments)?.into_iter().filter_map(|kept| {
            let next = self.delivered.get(&kept.stream).copied().unwrap_or(0);
            let next = next.min(kept.records.end);
            (kept.records.start < next).then_some((kept, next))
        });
        Ok(streams.collect())
    }

    /// All objects that ever met a conflict. Their files stay until an operator removes them.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn conflicts(&self) -> io::Result<Vec<Plan>> {
        plan::conflicts(&*self.disk)
    }
}

/// The records of one stream in the segments. Their numbers have no gaps.
#[derive(Debug)]
pub struct KeptStream {
    /// The stream.
    pub stream: UniqueId,
    /// The numbers of the records.
    pub records: Range<u64>,
    /// The earliest time of a batch, in milliseconds since the Unix epoch.
    pub oldest_ms: i64,
    /// The numbers of the host's own records.
    system: Vec<u64>,
    /// The groups, in order. This index is small compared with the segments, since a group takes at
    /// least a block.
    groups: Vec<KeptGroup>,
}

#[derive(Debug)]
struct KeptGroup {
    records: Range<u64>,
    segment: Segment,
    offset: u64,
    /// The end of the last group in its segment.
    limit: u64,
}

/// Some or all of the records of one batch.
#[derive(Debug)]
pub struct KeptRecords<'a> {
    /// The number of the first one.
    pub first_sequence: u64,
    /// The number of records.
    pub count: u64,
    /// The time of the batch, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The records, each with its line feed.
    pub lines: &'a [u8],
}

impl KeptStream {
    /// Indexes the records in these segments by stream.
    pub(crate) fn all(segments: &[RecoveredSegment]) -> io::Result<Vec<KeptStream>> {
        let mut streams: Vec<KeptStream> = Vec::new();
        let mut window = Window::default();
        for RecoveredSegment { segment, stream, end, .. } in segments {
            let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP, window);
            reader.limit(*end);
            while reader.position().offset < *end {
                let Found::Group(header) = reader.look()? else { return Err(disappeared(&reader)) };
                let first = header.first_sequence;
                let group = KeptGroup {
                    records: first..first + u64::from(header.count),
                    segment: segment.clone(),
                    offset: reader.position().offset,
                    limit: *end,
                };
                let (mut places, _) = reader.batches(&header)?;
                places.retain(|place| place.route == 0);
                let system = places.iter().filter(|place| place.is_system);
                let system: Vec<u64> = system.map(|place| place.first_sequence).collect();
                let oldest_ms = places.iter().map(|place| place.time_ms).min().unwrap_or(i64::MAX);
                match streams.last_mut().filter(|last| last.stream == *stream) {
                    Some(last) => {
                        last.records.end = group.records.end;
                        last.oldest_ms = last.oldest_ms.min(oldest_ms);
                        last.system.extend(system);
                        last.groups.push(group);
                    }
                    None => streams.push(KeptStream {
                        stream: *stream,
                        records: group.records.clone(),
                        oldest_ms,
                        system,
                        groups: vec![group],
                    }),
                }
                reader.step_over(&header);
            }
            window = reader.into_window();
        }
        Ok(streams)
    }

    /// The numbers of the host's own records, each as a range.
    pub fn system_records(&self) -> impl Iterator<Item = Range<u64>> {
        self.system.iter().map(|number| *number..number + 1)
    }

    /// Passes these records to `take` in order, one batch at a time, until it returns false.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn read(
        &self,
        records: Range<u64>,
        mut take: impl FnMut(KeptRecords<'_>) -> bool,
    ) -> io::Result<()> {
        let begin = self.groups.partition_point(|group| group.records.end <= records.start);
        let mut window = Window::default();
        for group in &self.groups[begin..] {
            if group.records.start >= records.end {
                break;
            }
            let mut reader = SegmentReader::new(group.segment.clone(), group.offset, window);
            reader.limit(group.limit);
            let Found::Group(header) = reader.look()? else { return Err(disappeared(&reader)) };
            let (places, payload) = reader.batches(&header)?;
            for place in places.into_iter().filter(|place| place.route == 0) {
                let first = place.first_sequence;
                let batch = first..first + u64::from(place.count);
                let part = batch.start.max(records.start)..batch.end.min(records.end);
                if part.is_empty() {
                    continue;
                }
                let lines = &payload[place.lines];
                let from = lines_end(lines, part.start - batch.start);
                let lines = &lines[from..][..lines_end(&lines[from..], part.end - part.start)];
                let kept = KeptRecords {
                    first_sequence: part.start,
                    count: part.end - part.start,
                    time_ms: place.time_ms,
                    lines,
                };
                if !take(kept) {
                    return Ok(());
                }
            }
            window = reader.into_window();
        }
        Ok(())
    }

    /// The SHA-256 of these records, including line feeds.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn sha256(&self, records: Range<u64>) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        self.read(records, |kept| {
            hash.update(kept.lines);
            true
        })?;
        Ok(hash.finalize().into())
    }
}

/// The end of the first `count` lines.
fn lines_end(lines: &[u8], count: u64) -> usize {
    let Some(last) = count.checked_sub(1) else { return 0 };
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    memchr::memchr_iter(b'\n', lines).nth(last).map_or(lines.len(), |end| end + 1)
}

fn disappeared(reader: &SegmentReader) -> io::Error {
    let what = format!("a group has disappeared at {}", reader.position());
    io::Error::new(io::ErrorKind::InvalidData, what)
}
