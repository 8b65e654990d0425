//! The records of a route's next object: where they are, and their reading.

use std::io;

use audit_core::{Buffer, UniqueId};
use tokio::time::Instant;

use super::super::batch::{IndexedBatch, RunRecords, disappeared, read_batch};
use crate::destination::RecordTime;
use crate::format::Position;
use crate::segment::Segment;

/// The records of a route's next object, still in the journal.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) route: u32,
    pub(super) stream: UniqueId,
    pub(super) is_system: bool,
    pub(super) since: Instant,
    pub(super) end: Position,
    pub(super) batches: Vec<(Segment, IndexedBatch)>,
}

impl Run {
    /// The size of the records in the journal, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.batches.iter().map(|(_, batch)| u64::from(batch.bytes)).sum()
    }

    /// Reads the records.
    pub(crate) fn read(self) -> io::Result<RunRecords> {
        // Allocates what the delivery took from its memory for the run: a buffer that grows would
        // take up to twice that.
        let bytes = usize::try_from(self.bytes()).unwrap_or(0);
        let Run { route, stream, is_system, since, end, batches } = self;
        let (_, first) = batches.first().expect("a run has a batch");
        let first_sequence = first.first_sequence;
        let (mut lines, mut times, mut next) =
            (Buffer::with_capacity(bytes), Vec::<RecordTime>::new(), first_sequence);
        let mut memory = Vec::new();
        for (segment, batch) in batches {
            if batch.first_sequence != next {
                return Err(disappeared(&segment, &batch));
            }
            lines.extend_from_slice(read_batch(&segment, &batch, route, &mut memory)?);
            if times.last().is_none_or(|last| last.time_ms != batch.time_ms) {
                times.push(RecordTime { first_sequence: next, time_ms: batch.time_ms });
            }
            next = batch.next_sequence();
        }
        let count = next - first_sequence;
        Ok(RunRecords { stream, first_sequence, count, times, is_system, lines, since, end })
    }
}
