//! How far a follower has come, and the records of a segment to compare with that.

use std::ops::Range;

use audit_core::UniqueId;

/// A place between two records of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Segments with a lower ordinal are before the watermark.
    pub(crate) ordinal: u32,
    /// The route's earlier streams in that segment are before the watermark too.
    pub(crate) stream: UniqueId,
    /// Records of the stream below this number are before the watermark as well.
    pub(crate) next: u64,
}

impl Watermark {
    /// The records that are not before this watermark, of all those that some segments have of one
    /// route, in their order.
    pub(crate) fn left(&self, held: &[HeldRecords]) -> Vec<HeldRecords> {
        let is_at = |held: &HeldRecords| held.stream == self.stream;
        let left = held.iter().enumerate().filter(|(n, of)| {
            let mut later = held[n + 1..].iter().filter(|later| later.ordinal == of.ordinal);
            let is_earlier = of.ordinal == self.ordinal && !is_at(of) && later.any(is_at);
            of.ordinal >= self.ordinal && !is_earlier
        });
        let left = left.map(|(_, of)| {
            let begins_at = if is_at(of) { self.next } else { 0 };
            let records = of.records.start.max(begins_at)..of.records.end;
            HeldRecords { records, ..of.clone() }
        });
        left.filter(|left| !left.records.is_empty()).collect()
    }
}

/// The records of one stream in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldRecords {
    pub(crate) ordinal: u32,
    pub(crate) stream: UniqueId,
    /// Their numbers. System records between them are included.
    pub(crate) records: Range<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_depends_on_the_order_of_streams_in_a_segment() {
        let [a, b, c] = [1_u128, 3, 2].map(UniqueId::from_bits);
        let held = |ordinal, stream, records| HeldRecords { ordinal, stream, records };
        let all = [
            held(1, a, 0..4),
            held(2, a, 4..6),
            held(2, b, 1..7),
            held(2, c, 1..3),
            held(3, c, 3..5),
        ];
        for (ordinal, stream, next, left) in [
            (0, a, 0, &all[..]),
            (1, a, 4, &all[1..]),
            (2, a, 6, &all[2..]),
            (2, b, 7, &all[3..]),
            (2, b, 3, &[held(2, b, 3..7), all[3].clone(), all[4].clone()][..]),
            (2, c, 3, &all[4..]),
            // The watermark is in a stream that the segment does not hold.
            (3, a, 6, &all[4..]),
            (3, c, 4, &[held(3, c, 4..5)][..]),
            (3, c, 5, &[]),
            (4, c, 0, &[]),
        ] {
            let watermark = Watermark { ordinal, stream, next };
            assert_eq!(watermark.left(&all), left, "{watermark:?}");
        }
    }
}
