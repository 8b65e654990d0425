//! The records of a route's next object: where they are, and their reading.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::super::batch::RunRecords;
use super::super::filling::{Entry, Filled, Limit, ReadTo, fill};
use super::state::{Part, RouteRecords};
use crate::format::Position;
use crate::segment::WINDOW_BYTES;

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
    /// The size of the parts in the journal, in bytes.
    bytes: u64,
    parts: Vec<Part>,
}

impl Run {
    /// The first of these records.
    pub(super) fn of(records: &RouteRecords, route: u32, max_bytes: u64) -> Option<Run> {
        let front = records.parts.front()?;
        let ((_, is_system), stream) = (front.first()?, front.stream());
        let (since, end, parts) = (records.since, records.end, Vec::new());
        let mut run = Run { route, stream, is_system, since, end, max_bytes, bytes: 0, parts };
        if records.parts.iter().try_for_each(|part| run.add(part)).is_break() {
            // Later batches of the last batch's group may be left, so the run ends within the
            // group.
            run.end = run.parts.last()?.last_start()?;
        }
        Some(run)
    }

    /// Adds the next part, or the beginning of it. Breaks if the object ends there.
    fn add(&mut self, part: &Part) -> ControlFlow<()> {
        let is_whole = match part {
            Part::Batches(segment, stream, batches) => {
                let takes = batches.iter().take_while(|batch| {
                    let bytes = batch.bytes.into();
                    self.takes(*stream, batch.is_system, bytes, bytes)
                });
                let taken: VecDeque<_> = takes.copied().collect();
                let is_whole = taken.len() == batches.len();
                if !taken.is_empty() {
                    self.parts.push(Part::Batches(segment.clone(), *stream, taken));
                }
                is_whole
            }
            // The object may end within the stretch, which shows when it is read.
            Part::Stretch { stretch, is_read } => {
                let is_taken = self.takes(stretch.stream, false, 1, stretch.bytes);
                if is_taken {
                    let (stretch, is_read) = (stretch.clone(), *is_read);
                    self.parts.push(Part::Stretch { stretch, is_read });
                }
                is_taken
            }
        };
        if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Whether the object goes on with batches of this many bytes, whose first one has at least
    /// `first_bytes`. If so, they are counted.
    fn takes(&mut self, stream: UniqueId, is_system: bool, first_bytes: u64, bytes: u64) -> bool {
        let is_other = stream != self.stream || self.is_system || is_system;
        if self.bytes > 0 && (is_other || self.bytes + first_bytes > self.max_bytes) {
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// The size of the object in the journal, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.parts[..] {
            // Such a batch may be larger than an object should be.
            [Part::Batches(_, _, batches)] if batches.len() == 1 => self.bytes,
            _ => self.bytes.min(self.max_bytes),
        }
    }

    /// The memory that reading it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let reads_groups = self.parts.iter().any(|part| matches!(part, Part::Stretch { .. }));
        self.bytes() + if reads_groups { WINDOW_BYTES } else { 0 }
    }

    /// Reads the records. Also returns how far the last stretch was read, if there is one.
    pub(super) fn read(self) -> io::Result<(RunRecords, Option<ReadTo>)> {
        // Allocates what the delivery took from its memory for the run: a buffer that grows would
        // take up to twice that.
        let capacity = self.bytes();
        let Run { route, stream, is_system, since, mut end, max_bytes, parts, .. } = self;
        let entries = parts.into_iter().flat_map(Part::entries);
        let filled = fill(route, entries, Limit::Destination { max_bytes }, capacity)?;
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

impl Part {
    /// Its batches, or its stretch.
    fn entries(self) -> impl Iterator<Item = Entry> {
        let (batches, stretch) = match self {
            Part::Batches(segment, stream, batches) => (Some((segment, stream, batches)), None),
            Part::Stretch { stretch, .. } => (None, Some(Entry::Stretch(stretch))),
        };
        let batches = batches.into_iter().flat_map(|(segment, stream, batches)| {
            batches.into_iter().map(move |batch| Entry::Batch(segment.clone(), stream, batch))
        });
        batches.chain(stretch)
    }
}
