//! Single steps of the sink, for the benchmarks. Not for anybody else, and without any promise.
#![allow(missing_debug_implementations, reason = "nobody looks at them")]

use std::io;
use std::path::Path;
use std::sync::Arc;

use audit_core::{Batch, UniqueId};

use crate::Compression;
use crate::journal::disk::{LocalDisk, UnsyncedFile};
use crate::journal::format::{EncodedBatch, Position};
use crate::journal::{JournalWriter, OWN_WRITE_FROM, Segment};
use crate::object::encode;
use crate::object::pieces::pieces;

/// Encodes objects as the delivery of a journal does.
pub struct ObjectEncoder(encode::ObjectEncoder);

impl ObjectEncoder {
    /// One that has not encoded anything yet.
    pub fn new() -> ObjectEncoder {
        ObjectEncoder(encode::ObjectEncoder::new(pieces()))
    }

    /// Encodes lines with zstd. Says how many bytes the object has.
    pub fn encode(&mut self, lines: &[u8], count: u64) -> usize {
        self.0.encode(lines, 0, count, Compression::Zstd).payload.content_length()
    }
}

impl Default for ObjectEncoder {
    fn default() -> ObjectEncoder {
        ObjectEncoder::new()
    }
}

/// What a caller of `persist` does to its batch: a header and checksums. Says how many bytes it is
/// then.
pub fn encode_batch(batch: Batch) -> u64 {
    EncodedBatch::new(batch).bytes()
}

/// Appends to one segment of a journal as the thread that commits does, but without a sync. From
/// the beginning again when it is full.
pub struct Appender {
    segment: Segment,
    writer: JournalWriter,
}

impl Appender {
    /// In a new directory.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn create(directory: &Path, segment_bytes: u64) -> io::Result<Appender> {
        let disk = LocalDisk::open(directory)?;
        let Segment { header, file } = Segment::prepare(&disk, 1, segment_bytes, 7)?;
        let segment = Segment { header, file: Arc::new(UnsyncedFile(file)) };
        Ok(Appender { segment, writer: Appender::writer() })
    }

    fn writer() -> JournalWriter {
        let start = Position { ordinal: 0, offset: 0 };
        JournalWriter::new(UniqueId::from_bits(1), start, OWN_WRITE_FROM)
    }

    /// Appends one group of these batches.
    pub fn append(&mut self, batches: &[Batch]) {
        let batches: Vec<_> = batches.iter().cloned().map(EncodedBatch::new).collect();
        if self.writer.needs_segment(&batches) {
            self.writer = Appender::writer();
        }
        let segment = self.segment.clone();
        self.writer.commit(&batches, || Some(segment)).expect("a disk that works");
    }
}
