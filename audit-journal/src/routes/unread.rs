//! The records that a follower of a route has not read yet.
//!
//! Each batch gets an entry of its own as long as there are few entries, so that a follower that
//! keeps up reads exactly its own batches. Further batches share an entry for each stream and
//! segment, which covers the groups that hold them, so the memory does not depend on the number of
//! batches. The follower then reads whole groups, with the batches of other routes in them.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use audit_core::{Buffer, UniqueId};
use tokio::time::Instant;

use super::batch::{IndexedBatch, RunRecords, read_batch};
use crate::destination::RecordTime;
use crate::format::{Found, Position};
use crate::segment::{Segment, SegmentReader, WINDOW_BYTES, Window};
use crate::watermark::HeldRecords;

/// The records of one stream of a route in some groups of one segment. Neither the first nor the
/// last is a system record, which followers do not get.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(super) segment: Segment,
    pub(super) stream: UniqueId,
    /// Their numbers.
    pub(super) records: Range<u64>,
    /// The offsets from the first group with any of them to the end of the last such group.
    pub(super) groups: Range<u64>,
    /// At least their size in the journal, in bytes.
    pub(super) bytes: u64,
    /// The time of the first record, if known.
    pub(super) time_ms: Option<i64>,
}

impl Stretch {
    /// Creates a stretch of one batch in a group at these offsets.
    pub(super) fn of_batch(
        segment: &Segment,
        stream: UniqueId,
        batch: &IndexedBatch,
        groups: Range<u64>,
    ) -> Stretch {
        Stretch {
            segment: segment.clone(),
            stream,
            records: batch.first_sequence..batch.next_sequence(),
            groups,
            bytes: batch.bytes.into(),
            time_ms: Some(batch.time_ms),
        }
    }

    pub(super) fn held(&self) -> HeldRecords {
        let Stretch { segment, stream, records, .. } = self;
        let (ordinal, records) = (segment.header.ordinal, records.clone());
        HeldRecords { ordinal, stream: *stream, records }
    }

    pub(super) fn is_in(&self, ordinal: u32) -> bool {
        self.segment.header.ordinal == ordinal
    }

    /// Adds a batch after all others.
    pub(super) fn extend(&mut self, batch: &IndexedBatch, group_end: u64) {
        self.records.end = batch.next_sequence();
        self.groups.end = group_end;
        self.bytes += u64::from(batch.bytes);
    }
}

/// The records that a follower has not read, in order.
#[derive(Debug)]
pub(crate) struct Unread {
    entries: VecDeque<Entry>,
    /// At least their size in the journal, in bytes.
    bytes: u64,
    /// The time from which the next object's delay counts: when the first record came, or the last
    /// object was read.
    since: Instant,
    /// The number of entries from which further batches share one.
    max_places: usize,
    /// The size of the records from which the follower is woken by each batch, in bytes.
    wake_at: u64,
}

#[derive(Debug, Clone)]
enum Entry {
    Batch(Segment, UniqueId, IndexedBatch),
    Stretch(Stretch),
}

/// The lag of a follower: how much it has not read, and since when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lag {
    /// At least its size in the journal, in bytes.
    pub(crate) bytes: u64,
    pub(crate) since: Instant,
    /// The time of the oldest record whose time is known.
    pub(crate) time_ms: Option<i64>,
}

/// The records of a follower's next object, still in the journal.
#[derive(Debug)]
pub(crate) struct FollowedRun {
    route: u32,
    entries: Vec<Entry>,
    max_bytes: u64,
    /// The number after the object's last record, if an earlier process had decided it.
    end: Option<u64>,
}

/// The records of a follower's next object.
pub(crate) struct Followed {
    pub(crate) records: RunRecords,
    /// The ordinals of the segments with the first and the last record.
    pub(crate) ordinals: (u32, u32),
    /// Whether an earlier process had decided the end.
    pub(crate) is_noted: bool,
    /// If the object ends in a stretch: the offset of the group to continue from, and how much of
    /// the stretch was read, in bytes. The stretch may have grown since.
    rest: Option<(u64, u64)>,
}

impl Entry {
    fn stream(&self) -> UniqueId {
        match self {
            Entry::Batch(_, stream, _) => *stream,
            Entry::Stretch(stretch) => stretch.stream,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Entry::Batch(_, _, batch) => batch.bytes.into(),
            Entry::Stretch(stretch) => stretch.bytes,
        }
    }

    fn next_sequence(&self) -> u64 {
        match self {
            Entry::Batch(_, _, batch) => batch.next_sequence(),
            Entry::Stretch(stretch) => stretch.records.end,
        }
    }

    fn ordinal(&self) -> u32 {
        match self {
            Entry::Batch(segment, ..) => segment.header.ordinal,
            Entry::Stretch(stretch) => stretch.segment.header.ordinal,
        }
    }

    fn time_ms(&self) -> Option<i64> {
        match self {
            Entry::Batch(_, _, batch) => Some(batch.time_ms),
            Entry::Stretch(stretch) => stretch.time_ms,
        }
    }
}

impl Unread {
    /// Creates an empty list, in which batches share entries once there are `max_places`. The
    /// follower is woken by the first record, and by each batch once there are `wake_at` bytes.
    pub(crate) fn new(max_places: usize, wake_at: u64, now: Instant) -> Unread {
        Unread { entries: VecDeque::new(), bytes: 0, since: now, max_places, wake_at }
    }

    /// Adds records that were committed before the follower's task began.
    pub(super) fn push(&mut self, stretch: Stretch) {
        self.bytes += stretch.bytes;
        self.entries.push_back(Entry::Stretch(stretch));
    }

    /// Adds a committed batch in a group at these offsets. Returns whether the follower must be
    /// woken: the batch begins or fills an object.
    pub(super) fn add(
        &mut self,
        segment: &Segment,
        stream: UniqueId,
        batch: IndexedBatch,
        group: Range<u64>,
        now: Instant,
    ) -> bool {
        if batch.is_system {
            return false;
        }
        let is_first = self.entries.is_empty();
        if is_first {
            self.since = now;
        }
        self.bytes += u64::from(batch.bytes);
        let ordinal = segment.header.ordinal;
        if self.entries.len() < self.max_places {
            self.entries.push_back(Entry::Batch(segment.clone(), stream, batch));
        } else if let Some(Entry::Stretch(last)) = self.entries.back_mut()
            && last.is_in(ordinal)
            && last.stream == stream
        {
            last.extend(&batch, group.end);
        } else {
            let stretch = Stretch::of_batch(segment, stream, &batch, group);
            self.entries.push_back(Entry::Stretch(stretch));
        }
        is_first || self.bytes >= self.wake_at
    }

    pub(super) fn lag(&self) -> Option<Lag> {
        let Unread { entries, bytes, since, .. } = self;
        let time_ms = entries.iter().find_map(Entry::time_ms);
        (!entries.is_empty()).then_some(Lag { bytes: *bytes, since: *since, time_ms })
    }

    /// The records of the next object: up to the end that an earlier process had decided for it, or
    /// else at most `max_bytes` bytes, or one larger batch.
    pub(super) fn front(
        &self,
        route: u32,
        max_bytes: u64,
        end: Option<(UniqueId, u64)>,
    ) -> Option<FollowedRun> {
        let stream = self.entries.front()?.stream();
        let end = end.filter(|(of, _)| *of == stream).map(|(_, end)| end);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.iter().take_while(|entry| entry.stream() == stream) {
            bytes += entry.bytes();
            entries.push(entry.clone());
            let is_enough = match end {
                Some(end) => entry.next_sequence() >= end,
                None => bytes > max_bytes,
            };
            if is_enough {
                break;
            }
        }
        Some(FollowedRun { route, entries, max_bytes, end })
    }

    /// Drops what was read.
    pub(super) fn read(&mut self, followed: &Followed, now: Instant) {
        let (stream, next) = (followed.records.stream, followed.records.next_sequence());
        let is_read = |entry: &mut Entry| entry.stream() == stream && entry.next_sequence() <= next;
        while let Some(entry) = self.entries.pop_front_if(is_read) {
            self.bytes -= entry.bytes();
        }
        if let Some(Entry::Stretch(front)) = self.entries.front_mut()
            && front.stream == stream
            && front.records.start < next
            && let Some((group, bytes)) = followed.rest
        {
            let read = bytes.min(front.bytes);
            (front.records.start, front.groups.start) = (next, group);
            front.bytes -= read;
            front.time_ms = None;
            self.bytes -= read;
        }
        self.since = now;
    }
}

impl FollowedRun {
    /// The memory that reading it takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = self.entries.iter().map(Entry::bytes).sum::<u64>();
        let reads_groups = self.entries.iter().any(|entry| matches!(entry, Entry::Stretch(_)));
        bytes.min(self.max_bytes) + if reads_groups { WINDOW_BYTES } else { 0 }
    }

    /// Reads the records.
    pub(crate) fn read(self) -> io::Result<Followed> {
        let bytes = usize::try_from(self.bytes()).unwrap_or(0);
        let FollowedRun { route, entries, max_bytes, end } = self;
        let first = entries.first().expect("a run has an entry");
        let stream = first.stream();
        let first_sequence = match first {
            Entry::Batch(_, _, batch) => batch.first_sequence,
            Entry::Stretch(stretch) => stretch.records.start,
        };
        let mut filling = Filling {
            route,
            first_sequence,
            next: first_sequence,
            lines: Buffer::with_capacity(bytes),
            times: Vec::new(),
            max_bytes,
            end,
        };
        let mut memory = Vec::new();
        let (first_ordinal, mut last_ordinal) = (first.ordinal(), first.ordinal());
        let mut rest = None;
        for entry in &entries {
            let before = filling.next;
            let is_read_whole = match entry {
                Entry::Batch(segment, _, batch) => {
                    let lines = read_batch(segment, batch, route, &mut memory)?;
                    filling.add(batch.first_sequence, batch.count, batch.time_ms, lines)?
                }
                Entry::Stretch(stretch) => {
                    let (at, read, is_read_whole) = filling.read(stretch)?;
                    rest = Some((at, read));
                    is_read_whole
                }
            };
            if filling.next > before {
                last_ordinal = entry.ordinal();
            }
            if !is_read_whole {
                break;
            }
        }
        let Filling { first_sequence, next, lines, times, .. } = filling;
        let count = next - first_sequence;
        let ordinals = (first_ordinal, last_ordinal);
        let is_noted = end == Some(next);
        let (since, end) = (Instant::now(), Position { ordinal: 0, offset: 0 });
        let is_system = false;
        let records =
            RunRecords { stream, first_sequence, count, times, is_system, lines, since, end };
        Ok(Followed { records, ordinals, is_noted, rest })
    }
}

/// An object that is being filled with batches, none of which is divided.
struct Filling {
    route: u32,
    first_sequence: u64,
    next: u64,
    lines: Buffer,
    times: Vec<RecordTime>,
    max_bytes: u64,
    end: Option<u64>,
}

impl Filling {
    /// Adds the batches of a stretch. Returns the offset of the group to continue from, how much
    /// was read in bytes, and whether the stretch was read whole.
    fn read(&mut self, stretch: &Stretch) -> io::Result<(u64, u64, bool)> {
        let Stretch { segment, stream, records, groups, bytes, time_ms: _ } = stretch;
        let mut reader = SegmentReader::new(segment.clone(), groups.start, Window::default());
        reader.limit(groups.end);
        let mut read = 0;
        while reader.position().offset < groups.end && self.next < records.end {
            let at = reader.position();
            let Found::Group(header) = reader.look()? else { return Err(disappeared(at)) };
            let (places, payload) = reader.batches(&header)?;
            for place in places {
                let is_its = place.route == self.route && place.stream == *stream;
                // A system record is skipped. The record after it then shows the gap, and ends the
                // object.
                if !is_its || place.is_system || place.first_sequence < self.next {
                    continue;
                }
                let (first, lines) = (place.first_sequence, &payload[place.lines]);
                if !self.add(first, place.count, place.time_ms, lines)? {
                    return Ok((at.offset, read, false));
                }
                read += lines.len() as u64;
            }
            reader.step_over(&header);
        }
        match self.next == records.end {
            true => Ok((reader.position().offset, *bytes, true)),
            false => Err(disappeared(reader.position())),
        }
    }

    /// Adds the next batch. Returns false if the object ends before the batch: it is full, or
    /// system records precede the batch.
    fn add(&mut self, first: u64, count: u32, time_ms: i64, lines: &[u8]) -> io::Result<bool> {
        let is_full = match self.end {
            Some(end) => self.next >= end,
            None => (self.lines.len() + lines.len()) as u64 > self.max_bytes,
        };
        if (is_full || first > self.next) && self.next > self.first_sequence {
            return Ok(false);
        }
        if first < self.next {
            let what = format!("record {first} of a route is behind record {}", self.next);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.next == self.first_sequence {
            (self.first_sequence, self.next) = (first, first);
        }
        if self.times.last().is_none_or(|last| last.time_ms != time_ms) {
            self.times.push(RecordTime { first_sequence: first, time_ms });
        }
        self.lines.extend_from_slice(lines);
        self.next += u64::from(count);
        Ok(true)
    }
}

fn disappeared(at: Position) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a durable group has disappeared at {at}"))
}
