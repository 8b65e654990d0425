//! A route's batches in the segments, and the records that are read from them.

use std::io;
use std::ops::Range;

use audit_core::{Buffer, UniqueId};
use tokio::time::Instant;

use crate::destination::RecordTime;
use crate::format::{BATCH_HEADER_BYTES, BatchPlace, GROUP_HEADER_BYTES, Position, lines_of};
use crate::segment::Segment;
use crate::watermark::HeldRecords;

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

/// The records of one stream of a route in some groups of one segment. It neither begins nor ends
/// with a system record. A stretch for a follower may have some in between; the route's own has
/// none.
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
    lines_of(memory, route, batch.is_system)
        .ok_or_else(|| disappeared(segment.position(batch.offset)))
}

/// The error for a batch that is not where it was committed.
pub(super) fn disappeared(at: Position) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a durable batch has disappeared at {at}"))
}
