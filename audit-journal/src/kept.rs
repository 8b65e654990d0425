//! Reads the records that segments still hold, delivered or not, by their numbers.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use sha2::{Digest, Sha256};

use crate::Plan;
use crate::disk::Disk;
use crate::format::{BatchPlace, FIRST_GROUP, Found};
use crate::plan::{self, Decided};
use crate::recovery::{Recovered, RecoveredSegment};
use crate::segment::{Segment, SegmentReader, Window};

/// The records of one route that the segments of a journal still hold. The journal is locked while
/// this lives.
///
/// Its methods do blocking I/O.
#[derive(Debug)]
pub struct KeptJournal {
    disk: Arc<dyn Disk>,
    segments: Vec<RecoveredSegment>,
    /// 0 for the default route.
    route: u32,
    /// The first undelivered record of each stream.
    delivered: BTreeMap<UniqueId, u64>,
}

impl KeptJournal {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        recovered: &Recovered,
        decided: &Decided,
        route: u32,
    ) -> KeptJournal {
        let delivered = decided.delivered.iter().filter(|(_, progress)| progress.route == route);
        let delivered = delivered.map(|(stream, progress)| (*stream, progress.next)).collect();
        let holds = |segment: &&RecoveredSegment| route == 0 || segment.routed.contains_key(&route);
        let segments = recovered.segments.iter().filter(holds).cloned().collect();
        KeptJournal { disk, segments, route, delivered }
    }

    /// The streams whose delivered records the segments still hold, each with the number of its
    /// first undelivered record.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn streams(&self) -> io::Result<Vec<(KeptStream, u64)>> {
        let streams = KeptStream::all(&self.segments, self.route)?.into_iter().filter_map(|kept| {
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
    /// The numbers of the system records.
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
    /// Indexes the records of a route in these segments by stream.
    pub(crate) fn all(segments: &[RecoveredSegment], route: u32) -> io::Result<Vec<KeptStream>> {
        let mut streams: Vec<KeptStream> = Vec::new();
        let mut window = Window::default();
        for RecoveredSegment { segment, end, .. } in segments {
            let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP, window);
            reader.limit(*end);
            while reader.position().offset < *end {
                let Found::Group(header) = reader.look()? else { return Err(disappeared(&reader)) };
                let offset = reader.position().offset;
                let (places, _) = reader.batches(&header)?;
                for place in places.iter().filter(|place| place.route == route) {
                    if streams.last().is_none_or(|last| last.stream != place.stream) {
                        streams.push(KeptStream::before(place));
                    }
                    let kept = streams.last_mut().expect("pushed above");
                    kept.add(place, segment, offset, *end);
                }
                reader.step_over(&header);
            }
            window = reader.into_window();
        }
        Ok(streams)
    }

    /// Creates a stream that begins with this batch, which is still to be added.
    fn before(first: &BatchPlace) -> KeptStream {
        let records = first.first_sequence..first.first_sequence;
        let (oldest_ms, system, groups) = (i64::MAX, Vec::new(), Vec::new());
        KeptStream { stream: first.stream, records, oldest_ms, system, groups }
    }

    /// Adds a batch in the group at `offset` of a segment whose last group ends at `limit`.
    fn add(&mut self, place: &BatchPlace, segment: &Segment, offset: u64, limit: u64) {
        let BatchPlace { first_sequence: first, count, time_ms, is_system, .. } = *place;
        let records = first..first + u64::from(count);
        self.records.end = records.end;
        self.oldest_ms = self.oldest_ms.min(time_ms);
        if is_system {
            self.system.push(first);
        }
        let position = segment.position(offset);
        match self.groups.last_mut().filter(|last| last.segment.position(last.offset) == position) {
            Some(last) => last.records.end = records.end,
            None => {
                let segment = segment.clone();
                self.groups.push(KeptGroup { records, segment, offset, limit });
            }
        }
    }

    /// The numbers of the system records, each as a range.
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
            for place in places.into_iter().filter(|place| place.stream == self.stream) {
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
