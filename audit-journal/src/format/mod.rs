//! The byte format of a journal's segments.
//!
//! A segment begins with a header in a block of its own. Groups follow, each aligned to the start
//! of a block, so that writing one never touches a block that holds another: acknowledged groups
//! are never overwritten, except that a recovery rewrites the last group unchanged. Unwritten space
//! is zero.
//!
//! Headers and records are text: **a group contains no zero byte.** This distinguishes a write torn
//! by a power cut, which leaves zeros in place of the missing pieces, from damage to a completely
//! written group.

mod batch;
mod fields;
mod found;
mod group;

use std::fmt;

use audit_core::UniqueId;

pub(crate) use self::batch::{
    BATCH_HEADER_BYTES, EncodedBatch, MAX_ROUTE, RouteStream, TABLE_MARK, TABLE_ROW_BYTES,
};
pub(crate) use self::fields::{Fields, seal};
pub(crate) use self::found::{BatchPlace, Found, batches, lines_of, look, look_into};
pub(crate) use self::group::Group;

/// The unit in which disks and kernels write, in bytes. No two groups share a block.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// The offset of a segment's first group.
pub(crate) const FIRST_GROUP: u64 = BLOCK_BYTES;

/// The header of a segment. It is durable before anything is written behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its number among the segments of the directory, without gaps.
    pub(crate) ordinal: u32,
    /// A random seed of this segment's checksums, so that another segment's bytes are never taken
    /// for this one's.
    pub(crate) salt: u32,
    /// The size of the file, in bytes.
    pub(crate) bytes: u64,
}

pub(crate) const SEGMENT_HEADER_BYTES: usize = 79;

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let SegmentHeader { ordinal, salt, bytes } = self;
        let mut text =
            format!("audit journal 1 segment {ordinal:08x} salt {salt:08x} bytes {bytes:016x} ")
                .into_bytes();
        seal(&mut text, 0);
        debug_assert_eq!(text.len(), SEGMENT_HEADER_BYTES);
        text
    }

    /// Returns `None` if these bytes are not an intact header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let mut fields = Fields::of(bytes.get(..SEGMENT_HEADER_BYTES)?, 0)?;
        fields.literal("audit journal 1 segment ")?;
        let ordinal = fields.hex32()?;
        fields.literal(" salt ")?;
        let salt = fields.hex32()?;
        fields.literal(" bytes ")?;
        let bytes = fields.hex64()?;
        Some(SegmentHeader { ordinal, salt, bytes })
    }
}

/// A place in the journal, between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) ordinal: u32,
    /// The offset in the segment, in bytes.
    pub(crate) offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.ordinal, self.offset)
    }
}

/// The header of a group: batches that were made durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// The stream that the records of the default route belong to.
    pub(crate) stream: UniqueId,
    /// The number of the default route's first record, or of its next one if it has none here.
    pub(crate) first_sequence: u64,
    /// The number of records of the default route.
    pub(crate) count: u32,
    /// The number of batches, including the table of routes.
    pub(crate) batches: u32,
    /// The size of the batches with their headers.
    pub(crate) payload_bytes: u32,
    /// The end of the durable journal when this group was written, that is, the end of the previous
    /// group, in whatever segment.
    pub(crate) durable: Position,
    /// The checksum of the batches' headers. Each header has the checksum of its batch.
    pub(crate) batch_sum: u32,
}

pub(crate) const GROUP_HEADER_BYTES: usize = 159;
/// The beginning of every group.
pub(crate) const GROUP_MARK: &str = "group ";

impl GroupHeader {
    fn encode(&self, salt: u32) -> Vec<u8> {
        let GroupHeader {
            stream,
            first_sequence,
            count,
            batches,
            payload_bytes,
            durable,
            batch_sum,
        } = self;
        let Position { ordinal, offset } = durable;
        let mut text = format!(
            "{GROUP_MARK}{stream} first {first_sequence:016x} count {count:08x} batches {batches:08x} \
             bytes {payload_bytes:08x} durable {ordinal:08x}+{offset:016x} sum {batch_sum:08x} "
        )
        .into_bytes();
        seal(&mut text, salt);
        debug_assert_eq!(text.len(), GROUP_HEADER_BYTES);
        text
    }

    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<GroupHeader> {
        let mut fields = Fields::of(bytes.get(..GROUP_HEADER_BYTES)?, salt)?;
        fields.literal(GROUP_MARK)?;
        let stream = fields.text(UniqueId::TEXT_BYTES)?.parse().ok()?;
        fields.literal(" first ")?;
        let first_sequence = fields.hex64()?;
        fields.literal(" count ")?;
        let count = fields.hex32()?;
        fields.literal(" batches ")?;
        let batches = fields.hex32()?;
        fields.literal(" bytes ")?;
        let payload_bytes = fields.hex32()?;
        fields.literal(" durable ")?;
        let ordinal = fields.hex32()?;
        fields.literal("+")?;
        let offset = fields.hex64()?;
        fields.literal(" sum ")?;
        let batch_sum = fields.hex32()?;
        let durable = Position { ordinal, offset };
        Some(GroupHeader {
            stream,
            first_sequence,
            count,
            batches,
            payload_bytes,
            durable,
            batch_sum,
        })
    }

    /// The size of the whole group, in bytes.
    pub(crate) fn group_bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    /// The offset of the next group, if this one begins at `offset`.
    pub(crate) fn end(&self, offset: u64) -> u64 {
        (offset + self.group_bytes()).next_multiple_of(BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use audit_core::Batch;
    use proptest::prelude::*;

    fn batch(lines: &str, time_ms: i64) -> EncodedBatch {
        EncodedBatch::new(Batch::from_lines(time_ms, lines.to_owned().into()).unwrap())
    }

    fn group(salt: u32) -> (Vec<u8>, GroupHeader) {
        let mut bytes = Vec::new();
        let durable = Position { ordinal: 3, offset: 8192 };
        let batches = [batch("{\"a\":1}\n{\"b\": \"@ @\"}\n", -5), batch("{}\n", i64::MAX)];
        let group = Group::new(&batches, |_| 0);
        let (header, text) = group.header(salt, UniqueId::from_bits(77), 9, durable);
        bytes.extend_from_slice(&text);
        group.parts().for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(bytes.len() as u64, header.group_bytes());
        assert!(!bytes.contains(&0), "a group has no zero byte");
        bytes.resize(usize::try_from(group.space()).unwrap(), 0);
        (bytes, header)
    }

    #[test]
    fn written_groups_are_read() {
        let (bytes, header) = group(7);
        let Found::Group(found) = look(&bytes, 7) else { panic!("{:?}", look(&bytes, 7)) };
        assert_eq!(found, header);
        assert_eq!((found.count, found.batches, found.end(4096)), (3, 2, 8192));
        let payload = &bytes[GROUP_HEADER_BYTES..usize::try_from(header.group_bytes()).unwrap()];
        let places = batches(&header, payload, 7).unwrap();
        assert_eq!((places[0].time_ms, places[0].count), (-5, 2));
        assert_eq!(
            (places[1].time_ms, &payload[places[1].lines.clone()]),
            (i64::MAX, &b"{}\n"[..])
        );
        assert!(
            matches!(look(&bytes, 8), Found::Damaged(_)),
            "another segment's bytes are not this one's"
        );
        let segment = SegmentHeader { ordinal: 4, salt: 7, bytes: 1 << 26 };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Some(segment));
    }

    #[test]
    fn a_flipped_bit_is_damage_and_not_a_torn_write() {
        let (bytes, header) = group(7);
        for bit in 0..usize::try_from(header.group_bytes()).unwrap() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(look(&flipped, 7), Found::Damaged(_)),
                "bit {bit}: {:?}",
                look(&flipped, 7)
            );
        }
        let segment = SegmentHeader { ordinal: 4, salt: 7, bytes: 1 << 26 }.encode();
        for bit in 0..segment.len() * 8 {
            let mut flipped = segment.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), None);
        }
    }

    proptest! {
        /// A torn write leaves some pieces of the group, and zeros for the others.
        #[test]
        fn torn_writes_are_not_damage(
            cuts in prop::collection::vec((0usize..400, 2usize..200), 1..6), salt: u32,
        ) {
            let (mut bytes, header) = group(salt);
            let len = usize::try_from(header.group_bytes()).unwrap();
            for (from, length) in cuts {
                let (from, to) = (from.min(len - 2), (from + length).min(len).max(from.min(len - 2) + 2));
                bytes[from..to].fill(0);
            }
            let found = look(&bytes, salt);
            prop_assert!(matches!(found, Found::Torn | Found::Nothing), "{found:?}");
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, salt: u32, at in 0usize..500) {
            look(&bytes, salt);
            let (mut group, _) = group(salt);
            let end = (at + bytes.len()).min(group.len());
            let at = at.min(end);
            group[at..end].copy_from_slice(&bytes[..end - at]);
            look(&group, salt);
            look(&group[..at], salt);
        }
    }
}
