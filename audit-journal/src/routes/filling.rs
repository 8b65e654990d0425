//! Fills an object of a route, or of its follower, with records that are in segments.

use std::io;

use audit_core::{Buffer, UniqueId};

use super::batch::{IndexedBatch, Stretch, disappeared, read_batch};
use crate::destination::RecordTime;
use crate::format::{BATCH_HEADER_BYTES, Found, Position};
use crate::segment::{Segment, SegmentReader, Window};

/// Where records of a stream are: a batch, or all batches of some groups.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Batch(Segment, UniqueId, IndexedBatch),
    Stretch(Stretch),
}

/// The rule that ends an object. No batch is divided, and an object has at least one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// The object for the route's destination. It takes at most `max_bytes` bytes in the journal,
    /// and lacks no record.
    Destination { max_bytes: u64 },
    /// The object for a follower. It has at most `max_bytes` bytes of lines, or ends where an
    /// earlier process had decided, and in any case before a record that the follower does not get.
    Follower { max_bytes: u64, end: Option<u64> },
}

/// The records of an object.
pub(super) struct Filled {
    pub(super) first_sequence: u64,
    /// The number after the last record.
    pub(super) next: u64,
    pub(super) lines: Buffer,
    pub(super) times: Vec<RecordTime>,
    /// The ordinals of the segments with the first and the last record.
    pub(super) ordinals: (u32, u32),
    /// How far the last stretch was read, if there is one.
    pub(super) stretch: Option<ReadTo>,
}

/// How far a stretch was read. It may have grown since.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTo {
    /// The number of its first record.
    pub(super) from: u64,
    /// The group to continue from.
    pub(super) at: Position,
    /// How much of the stretch was read, in bytes of the journal.
    pub(super) bytes: u64,
    /// The time of the first batch that was not read. `None` if all were.
    pub(super) time_ms: Option<i64>,
}

impl Entry {
    pub(super) fn stream(&self) -> UniqueId {
        match self {
            Entry::Batch(_, stream, _) => *stream,
            Entry::Stretch(stretch) => stretch.stream,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Entry::Batch(_, _, batch) => batch.bytes.into(),
            Entry::Stretch(stretch) => stretch.bytes,
        }
    }

    pub(super) fn first_sequence(&self) -> u64 {
        match self {
            Entry::Batch(_, _, batch) => batch.first_sequence,
            Entry::Stretch(stretch) => stretch.records.start,
        }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        match self {
            Entry::Batch(_, _, batch) => batch.next_sequence(),
            Entry::Stretch(stretch) => stretch.records.end,
        }
    }

    pub(super) fn ordinal(&self) -> u32 {
        match self {
            Entry::Batch(segment, ..) => segment.header.ordinal,
            Entry::Stretch(stretch) => stretch.segment.header.ordinal,
        }
    }

    pub(super) fn time_ms(&self) -> Option<i64> {
        match self {
            Entry::Batch(_, _, batch) => Some(batch.time_ms),
            Entry::Stretch(stretch) => stretch.time_ms,
        }
    }
}

/// Reads the records of these entries of one stream until the object is full, into a buffer of
/// `capacity` bytes.
pub(super) fn fill(
    route: u32,
    entries: impl IntoIterator<Item = Entry>,
    limit: Limit,
    capacity: u64,
) -> io::Result<Filled> {
    let mut entries = entries.into_iter().peekable();
    let first = entries.peek().expect("an object has an entry");
    let (first_sequence, ordinal) = (first.first_sequence(), first.ordinal());
    let mut filling = Filling {
        route,
        limit,
        bytes: 0,
        first_sequence,
        next: first_sequence,
        lines: Buffer::with_capacity(usize::try_from(capacity).unwrap_or(0)),
        times: Vec::new(),
        memory: Vec::new(),
        window: Window::default(),
    };
    let mut ordinals = (ordinal, ordinal);
    let mut stretch = None;
    for entry in entries {
        let before = filling.next;
        let is_whole = match &entry {
            Entry::Batch(segment, _, batch) => filling.read_batch(segment, batch)?,
            Entry::Stretch(of) => {
                let read = stretch.insert(filling.read_stretch(of)?);
                read.time_ms.is_none()
            }
        };
        if filling.next > before {
            ordinals.1 = entry.ordinal();
        }
        if !is_whole {
            break;
        }
    }
    let Filling { first_sequence, next, lines, times, .. } = filling;
    Ok(Filled { first_sequence, next, lines, times, ordinals, stretch })
}

/// An object that is being filled.
struct Filling {
    route: u32,
    limit: Limit,
    /// The size of its batches in the journal, in bytes.
    bytes: u64,
    first_sequence: u64,
    next: u64,
    lines: Buffer,
    times: Vec<RecordTime>,
    /// Memory for batches and for groups.
    memory: Vec<u8>,
    window: Window,
}

impl Filling {
    /// Adds a batch. Returns false if the object ends before it.
    fn read_batch(&mut self, segment: &Segment, batch: &IndexedBatch) -> io::Result<bool> {
        let mut memory = std::mem::take(&mut self.memory);
        let lines = read_batch(segment, batch, self.route, &mut memory)?;
        let added = self.add(batch.first_sequence, batch.count, batch.time_ms, lines);
        self.memory = memory;
        added
    }

    /// Adds the batches of a stretch.
    fn read_stretch(&mut self, stretch: &Stretch) -> io::Result<ReadTo> {
        let Stretch { segment, stream, records, groups, bytes, time_ms: _ } = stretch;
        let window = std::mem::take(&mut self.window);
        let mut reader = SegmentReader::new(segment.clone(), groups.start, window);
        reader.limit(groups.end);
        let mut read = 0;
        while reader.position().offset < groups.end && self.next < records.end {
            let at = reader.position();
            let Found::Group(header) = reader.look()? else { return Err(disappeared(at)) };
            let (places, payload) = reader.batches(&header)?;
            for place in places {
                let is_its = place.route == self.route
                    && place.stream == *stream
                    && (self.next..records.end).contains(&place.first_sequence);
                // A follower gets no system records. The record after one shows the gap.
                if !is_its || place.is_system {
                    continue;
                }
                let (first, lines) = (place.first_sequence, &payload[place.lines]);
                if !self.add(first, place.count, place.time_ms, lines)? {
                    let time_ms = Some(place.time_ms);
                    return Ok(ReadTo { from: records.start, at, bytes: read, time_ms });
                }
                read += (lines.len() + BATCH_HEADER_BYTES) as u64;
            }
            reader.step_over(&header);
        }
        let at = reader.position();
        self.window = reader.into_window();
        match self.next == records.end {
            true => Ok(ReadTo { from: records.start, at, bytes: *bytes, time_ms: None }),
            false => Err(disappeared(at)),
        }
    }

    /// Adds the next batch. Returns false if the object ends before it.
    fn add(&mut self, first: u64, count: u32, time_ms: i64, lines: &[u8]) -> io::Result<bool> {
        let bytes = (lines.len() + BATCH_HEADER_BYTES) as u64;
        let ends = match self.limit {
            Limit::Destination { max_bytes } => self.bytes + bytes > max_bytes,
            Limit::Follower { end: Some(end), .. } => self.next >= end || first > self.next,
            Limit::Follower { max_bytes, end: None } => {
                (self.lines.len() + lines.len()) as u64 > max_bytes || first > self.next
            }
        };
        let is_empty = self.next == self.first_sequence;
        if ends && !is_empty {
            return Ok(false);
        }
        if is_empty && matches!(self.limit, Limit::Follower { .. }) && first > self.next {
            (self.first_sequence, self.next) = (first, first);
        }
        if first != self.next {
            let what = format!("record {first} of a route is not record {}", self.next);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.times.last().is_none_or(|last| last.time_ms != time_ms) {
            self.times.push(RecordTime { first_sequence: first, time_ms });
        }
        self.lines.extend_from_slice(lines);
        self.bytes += bytes;
        self.next += u64::from(count);
        Ok(true)
    }
}
