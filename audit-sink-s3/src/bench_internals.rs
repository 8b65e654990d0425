//! Single steps of the sink, for the benchmarks. Not for anybody else, and without any promise.
#![allow(missing_debug_implementations, reason = "nobody looks at them")]

use audit_journal::shared::pieces::pieces;

use crate::Compression;
use crate::object::encode;

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
