//! Single steps of the journal, for the benchmarks only and without any stability promise.
#![allow(missing_debug_implementations, reason = "used by benchmarks only")]

use std::io;
use std::path::Path;
use std::sync::Arc;

use audit_core::{Batch, UniqueId};

use crate::disk::{LocalDisk, UnsyncedFile};
use crate::format::{EncodedBatch, Position};
use crate::segment::Segment;
use crate::segment_writer::{OWN_WRITE_FROM, SegmentWriter};

/// The work that a caller of `persist` does for its batch: header and checksums. Returns the
/// encoded size in bytes.
pub fn encode_batch(batch: Batch) -> u64 {
    EncodedBatch::new(batch).bytes()
}

/// Appends to one segment as the committing thread does, but without a sync. Starts over at the
/// beginning of the segment when it is full.
pub struct Appender {
    segment: Segment,
    writer: SegmentWriter,
}

impl Appender {
    /// Creates the segment in a new directory.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn create(directory: &Path, segment_bytes: u64) -> io::Result<Appender> {
        let disk = LocalDisk::open(directory)?;
        let Segment { header, file } = Segment::prepare(&disk, 1, segment_bytes, 7)?;
        let segment = Segment { header, file: Arc::new(UnsyncedFile(file)) };
        Ok(Appender { segment, writer: Appender::writer() })
    }

    fn writer() -> SegmentWriter {
        let start = Position { ordinal: 0, offset: 0 };
        SegmentWriter::new(UniqueId::from_bits(1), start, OWN_WRITE_FROM)
    }

    /// Appends these batches as one group.
    pub fn append(&mut self, batches: &[Batch]) {
        let batches: Vec<_> = batches.iter().cloned().map(EncodedBatch::new).collect();
        if self.writer.needs_segment(&batches) {
            self.writer = Appender::writer();
        }
        let segment = self.segment.clone();
        self.writer.commit(&batches, || Some(segment)).expect("the benchmark's disk works");
    }
}
