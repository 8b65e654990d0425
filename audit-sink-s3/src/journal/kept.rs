//! Reads the records that segments still hold by their numbers, delivered or not.

use std::io;
use std::ops::Range;

use audit_core::UniqueId;
use sha2::{Digest, Sha256};

use super::format::{FIRST_GROUP, Found};
use super::recovery::RecoveredSegment;
use super::segment::{Segment, SegmentReader, Window};

/// The records of one stream that the segments hold. Their numbers have no gap.
#[derive(Debug)]
pub(crate) struct KeptStream {
    pub(crate) stream: UniqueId,
    /// The numbers of the records.
    pub(crate) records: Range<u64>,
    /// The earliest time of a batch, in milliseconds since the Unix epoch.
    pub(crate) oldest_ms: i64,
    /// In order. An index by group is small beside the segments: a group takes at least a block.
    groups: Vec<KeptGroup>,
}

#[derive(Debug)]
struct KeptGroup {
    records: Range<u64>,
    segment: Segment,
    offset: u64,
    /// Where the last group of its segment ends.
    limit: u64,
}

/// Records of one batch.
#[derive(Debug)]
pub(crate) struct KeptRecords<'a> {
    pub(crate) first_sequence: u64,
    pub(crate) count: u64,
    /// Of the batch, in milliseconds since the Unix epoch.
    pub(crate) time_ms: i64,
    /// Each with its line feed.
    pub(crate) lines: &'a [u8],
}

impl KeptStream {
    /// Reads which records a journal holds, by stream.
    pub(crate) fn all(segments: &[RecoveredSegment]) -> io::Result<Vec<KeptStream>> {
        let mut streams: Vec<KeptStream> = Vec::new();
        let mut window = Window::default();
        for RecoveredSegment { segment, stream, first_sequence: _, next_sequence: _, end } in
            segments
        {
            let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP, window);
            reader.limit(*end);
            while reader.position().offset < *end {
                let Found::Group(header) = reader.look()? else { return Err(not_there(&reader)) };
                let first = header.first_sequence;
                let group = KeptGroup {
                    records: first..first + u64::from(header.count),
                    segment: segment.clone(),
                    offset: reader.position().offset,
                    limit: *end,
                };
                let (places, _) = reader.batches(&header)?;
                let oldest_ms = places.iter().map(|place| place.time_ms).min().unwrap_or(i64::MAX);
                match streams.last_mut().filter(|last| last.stream == *stream) {
                    Some(last) => {
                        last.records.end = group.records.end;
                        last.oldest_ms = last.oldest_ms.min(oldest_ms);
                        last.groups.push(group);
                    }
                    None => streams.push(KeptStream {
                        stream: *stream,
                        records: group.records.clone(),
                        oldest_ms,
                        groups: vec![group],
                    }),
                }
                reader.step_over(&header);
            }
            window = reader.into_window();
        }
        Ok(streams)
    }

    /// Gives these records in order, those of one batch at a time. `take` says whether to go on.
    pub(crate) fn read(
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
            let Found::Group(header) = reader.look()? else { return Err(not_there(&reader)) };
            let (places, payload) = reader.batches(&header)?;
            let mut next = header.first_sequence;
            for place in places {
                let batch = next..next + u64::from(place.count);
                next = batch.end;
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

    /// SHA-256 of these records, line feeds included.
    pub(crate) fn sha256(&self, records: Range<u64>) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        self.read(records, |kept| {
            hash.update(kept.lines);
            true
        })?;
        Ok(hash.finalize().into())
    }
}

/// Where the first `count` lines end.
fn lines_end(lines: &[u8], count: u64) -> usize {
    let Some(last) = count.checked_sub(1) else { return 0 };
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    memchr::memchr_iter(b'\n', lines).nth(last).map_or(lines.len(), |end| end + 1)
}

fn not_there(reader: &SegmentReader) -> io::Error {
    let what = format!("a group is not there any more, at {}", reader.position());
    io::Error::new(io::ErrorKind::InvalidData, what)
}
