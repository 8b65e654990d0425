//! A route's batches in the segments, and the records that are read from them.

use std::io;

use audit_core::{Buffer, UniqueId};
use tokio::time::Instant;

use crate::destination::RecordTime;
use crate::format::{BATCH_HEADER_BYTES, BatchPlace, GROUP_HEADER_BYTES, Position, lines_of};
use crate::segment::Segment;

/// Where a batch is in its segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexedBatch {
    pub(super) first_sequence: u64,
    pub(super) time_ms: i64,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) count: u32,
    /// Whether it is a system record.
    pub(super) is_system: bool,
}

impl IndexedBatch {
    /// A batch of a group that begins at this offset.
    pub(super) fn new(place: &BatchPlace, group: u64) -> IndexedBatch {
        let bytes = place.lines.len() + BATCH_HEADER_BYTES;
        let at = GROUP_HEADER_BYTES + place.lines.start - BATCH_HEADER_BYTES;
        IndexedBatch {
            first_sequence: place.first_sequence,
            time_ms: place.time_ms,
            offset: group + at as u64,
            bytes: u32::try_from(bytes).expect("a batch fits into a segment"),
            count: place.count,
            is_system: place.is_system,
        }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.count)
    }
}

/// The records of a route's next object.
#[derive(Debug)]
pub(crate) struct RunRecords {
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    pub(crate) count: u64,
    /// The times at which they were made, in order.
    pub(crate) times: Vec<RecordTime>,
    /// Whether it is a single system record.
    pub(crate) is_system: bool,
    pub(crate) lines: Buffer,
    pub(crate) since: Instant,
    /// The end of the last group whose records of the route are all in this object or an earlier
    /// one.
    pub(crate) end: Position,
}

impl RunRecords {
    /// The number after the last record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count
    }
}

/// Reads the lines of a batch of this route into `memory`.
pub(super) fn read_batch<'a>(
    segment: &Segment,
    batch: &IndexedBatch,
    route: u32,
    memory: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    memory.resize(batch.bytes as usize, 0);
    segment.file.read_exact_at(memory, batch.offset)?;
    lines_of(memory, route, batch.is_system).ok_or_else(|| disappeared(segment, batch))
}

pub(super) fn disappeared(segment: &Segment, batch: &IndexedBatch) -> io::Error {
    let what = format!("a durable batch has disappeared at {}", segment.position(batch.offset));
    io::Error::new(io::ErrorKind::InvalidData, what)
}
