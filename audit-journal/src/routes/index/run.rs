//! The records of a route's next object: where they are, and their reading.

use std::io;
use std::ops::ControlFlow;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::super::batch::RunRecords;
use super::super::filling::{Entry, Filled, Limit, ReadTo, fill, window_bytes};
use super::state::{Part, RouteRecords};
use crate::format::Position;

/// The records of a route's next object, still in the journal.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) route: u32,
    stream: UniqueId,
    is_system: bool,
    since: Instant,
    end: Position,
    /// The most bytes of the object in the journal, unless it is a single batch.
    max_bytes: u64,
    /// The size of the entries in the journal, in bytes.
    bytes: u64,
    entries: Vec<Entry>,
}

impl Run {
    /// The first of these records.
    pub(super) fn of(records: &RouteRecords, route: u32, max_bytes: u64) -> Option<Run> {
        let front = records.parts.front()?;
        let ((_, is_system), stream) = (front.first()?, front.stream());
        let (since, end, entries) = (records.since, records.end, Vec::new());
        let mut run = Run { route, stream, is_system, since, end, max_bytes, bytes: 0, entries };
        let _is_bounded = records.parts.iter().try_for_each(|part| run.add(part));
        Some(run)
    }

    /// Adds the next part. Breaks if the object ends before the end of the part.
    fn add(&mut self, part: &Part) -> ControlFlow<()> {
        match part {
            Part::Batches(segment, stream, batches) => batches.iter().try_for_each(|batch| {
                let entry = Entry::Batch(segment.clone(), *stream, *batch);
                self.push(entry, batch.is_system, batch.bytes.into())
            }),
            // The object may end within the stretch, which shows when it is read.
            Part::Stretch { stretch, .. } => self.push(Entry::Stretch(stretch.clone()), false, 1),
        }
    }

    /// Adds an entry. Breaks if the object ends before it. Its first batch has at least
    /// `first_bytes`.
    fn push(&mut self, entry: Entry, is_system: bool, first_bytes: u64) -> ControlFlow<()> {
        let is_other = entry.stream() != self.stream || self.is_system || is_system;
        if let Some(last) = self.entries.last()
            && (is_other || self.bytes + first_bytes > self.max_bytes)
        {
            // Later batches of the last batch's group may be left, so the run ends within the
            // group.
            self.end = last.start();
            return ControlFlow::Break(());
        }
        self.bytes += entry.bytes();
        self.entries.push(entry);
        ControlFlow::Continue(())
    }

    /// The size of the object in the journal, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.entries[..] {
            [Entry::Batch(..)] => self.bytes,
            _ => self.bytes.min(self.max_bytes),
        }
    }

    /// The memory that reading it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes() + window_bytes(&self.entries)
    }

    /// Reads the records. Also returns how far the last stretch was read, if there is one.
    pub(super) fn read(self) -> io::Result<(RunRecords, Option<ReadTo>)> {
        // Allocates what the delivery took from its memory for the run: a buffer that grows would
        // take up to twice that.
        let capacity = self.bytes();
        let Run { route, stream, is_system, since, mut end, max_bytes, entries, .. } = self;
        let filled = fill(route, &entries, Limit::Destination { max_bytes }, capacity)?;
        let Filled { first_sequence, next, lines, times, stretch, .. } = filled;
        if let Some(ReadTo { at, time_ms: Some(_), .. }) = stretch {
            end = at;
        }
        let count = next - first_sequence;
        let records =
            RunRecords { stream, first_sequence, count, times, is_system, lines, since, end };
        Ok((records, stretch))
    }
}
