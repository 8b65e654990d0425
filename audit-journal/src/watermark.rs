//! How far a follower has come, and the records that it is compared with.

use std::ops::Range;

use audit_core::UniqueId;

/// A place between two records of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Segments with a lower ordinal are before the watermark.
    pub(crate) ordinal: u32,
    pub(crate) stream: UniqueId,
    /// Records of the stream below this number are before the watermark as well.
    pub(crate) next: u64,
}

impl Watermark {
    /// The first record number in a segment that is not before this watermark.
    pub(crate) fn begins_at(&self, ordinal: u32, stream: UniqueId) -> u64 {
        if ordinal < self.ordinal {
            u64::MAX
        } else if stream == self.stream {
            self.next
        } else {
            0
        }
    }

    /// Whether all these records are before this watermark.
    pub(crate) fn is_behind(&self, held: &HeldRecords) -> bool {
        let begins_at = self.begins_at(held.ordinal, held.stream);
        held.records.end <= begins_at.max(held.records.start)
    }
}

/// The records of one route in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldRecords {
    pub(crate) ordinal: u32,
    pub(crate) stream: UniqueId,
    /// Their numbers.
    pub(crate) records: Range<u64>,
}
