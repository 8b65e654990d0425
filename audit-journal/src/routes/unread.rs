//! The records that a follower of a route has not read yet.
//!
//! Each batch gets an entry of its own as long as there are few entries, so that a follower that
//! keeps up reads exactly its own batches. Further batches share an entry for each stream and
//! segment, which covers the groups that hold them, so the memory does not depend on the number of
//! batches. The follower then reads whole groups, with the batches of other routes in them.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::batch::{IndexedBatch, RunRecords, Stretch};
use super::filling::{Entry, Filled, Limit, ReadTo, fill};
use crate::format::Position;
use crate::segment::{Segment, WINDOW_BYTES};

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
    /// How far the last stretch was read, if there is one.
    stretch: Option<ReadTo>,
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
            && let Some(ReadTo { at, bytes, time_ms, .. }) = followed.stretch
        {
            let read = bytes.min(front.bytes);
            (front.records.start, front.groups.start) = (next, at.offset);
            front.bytes -= read;
            front.time_ms = time_ms;
            self.bytes -= read;
        }
        self.since = now;
    }
}

impl FollowedRun {
    /// The memory that reading it takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let reads_groups = self.entries.iter().any(|entry| matches!(entry, Entry::Stretch(_)));
        self.record_bytes() + if reads_groups { WINDOW_BYTES } else { 0 }
    }

    fn record_bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum::<u64>().min(self.max_bytes)
    }

    /// Reads the records.
    pub(crate) fn read(self) -> io::Result<Followed> {
        let capacity = self.record_bytes();
        let FollowedRun { route, entries, max_bytes, end } = self;
        let stream = entries.first().expect("a run has an entry").stream();
        let limit = Limit::Follower { max_bytes, end };
        let Filled { first_sequence, next, lines, times, ordinals, stretch } =
            fill(route, entries, limit, capacity)?;
        let count = next - first_sequence;
        let is_noted = end == Some(next);
        let (since, end) = (Instant::now(), Position { ordinal: 0, offset: 0 });
        let is_system = false;
        let records =
            RunRecords { stream, first_sequence, count, times, is_system, lines, since, end };
        Ok(Followed { records, ordinals, is_noted, stretch })
    }
}
