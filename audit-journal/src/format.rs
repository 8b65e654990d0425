//! What stands in the files of a journal.
//!
//! A segment begins with a header in a block of its own. After that come groups, each from the
//! beginning of a block on, so that writing one never touches a block that holds another: what was
//! acknowledged is not written over, but for a recovery that writes the last group again as it is.
//! What no group has been written to is zero.
//!
//! Headers are text, and so are the records: **a group has no zero byte in it.** That is what tells
//! a write that a power cut tore, which leaves zeros where a piece is missing, from damage to a
//! group that had been written whole.

use std::fmt;

use audit_core::{Batch, UniqueId};

/// The unit in which disks and kernels write: no two groups share one. In bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Where the first group of a segment begins.
pub(crate) const FIRST_GROUP: u64 = BLOCK_BYTES;

/// The header of a segment. It is durable before anything is written behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its place among the segments of the directory, without gaps.
    pub(crate) ordinal: u32,
    /// Random: the checksums in this segment begin with it, so that no other segment's bytes are
    /// taken for this one's.
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

    /// `None` if these bytes are not a header as it was written.
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
    /// Of the segment.
    pub(crate) ordinal: u32,
    /// In the segment, in bytes.
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
    /// The stream that the records belong to.
    pub(crate) stream: UniqueId,
    /// The number of the first record.
    pub(crate) first_sequence: u64,
    /// How many records.
    pub(crate) count: u32,
    /// How many batches.
    pub(crate) batches: u32,
    /// Bytes of the batches with their headers.
    pub(crate) payload_bytes: u32,
    /// Up to where the journal was durable when this was written: the end of the group before this
    /// one, in whatever segment.
    pub(crate) durable: Position,
    /// Checksum of the headers of the batches, each of which has the checksum of its batch.
    pub(crate) batch_sum: u32,
}

pub(crate) const GROUP_HEADER_BYTES: usize = 159;
/// What a group begins with.
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

    /// Bytes of the whole group.
    pub(crate) fn group_bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    /// Where the next group begins, if this one begins at `offset`.
    pub(crate) fn end(&self, offset: u64) -> u64 {
        (offset + self.group_bytes()).next_multiple_of(BLOCK_BYTES)
    }
}

/// A batch with its header, made by the one who persists it, so that the thread that writes has
/// nothing to compute but the header of the group.
#[derive(Debug, Clone)]
pub(crate) struct EncodedBatch {
    header: [u8; BATCH_HEADER_BYTES],
    batch: Batch,
}

pub(crate) const BATCH_HEADER_BYTES: usize = 80;

/// What a batch holds: records that somebody logged, or one of the host's own.
const LOGGED: u32 = 0;
const SYSTEM: u32 = 1;

impl EncodedBatch {
    pub(crate) fn new(batch: Batch) -> EncodedBatch {
        EncodedBatch::of_kind(batch, LOGGED)
    }

    /// A record of the host's own, which is delivered as an object of its own.
    pub(crate) fn system(batch: Batch) -> EncodedBatch {
        EncodedBatch::of_kind(batch, SYSTEM)
    }

    fn of_kind(batch: Batch, kind: u32) -> EncodedBatch {
        let time_ms = batch.time_ms().cast_unsigned();
        let bytes =
            u32::try_from(batch.lines().len()).expect("a batch has at most MAX_BATCH_BYTES");
        // Every caller does this for every batch: a formatter would take several times as long as
        // the checksum.
        let mut header =
            *b"batch 00000000 time 0000000000000000 count 00000000 bytes 00000000 sum 00000000\n";
        put_hex(&mut header[6..14], kind.into());
        put_hex(&mut header[20..36], time_ms);
        put_hex(&mut header[43..51], batch.count().into());
        put_hex(&mut header[58..66], bytes.into());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..67]), batch.lines());
        put_hex(&mut header[71..79], sum.into());
        EncodedBatch { header, batch }
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.header.len() + self.batch.lines().len()) as u64
    }
}

/// Writes a number in as many hexadecimal digits as there are places.
fn put_hex(places: &mut [u8], value: u64) {
    let mut left = value;
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    debug_assert_eq!(left, 0, "{value:x} does not fit");
}

/// Bytes that a group of these batches takes, up to the beginning of the next one.
pub(crate) fn space(batches: &[EncodedBatch]) -> u64 {
    let payload: u64 = batches.iter().map(EncodedBatch::bytes).sum();
    (GROUP_HEADER_BYTES as u64 + payload).next_multiple_of(BLOCK_BYTES)
}

/// The header of a group, and its text. Behind that follow the [parts] of its batches.
///
/// # Panics
///
/// If the payload does not fit into 32 bits of bytes; the one who groups keeps to the size of a
/// segment.
pub(crate) fn group_header(
    salt: u32,
    stream: UniqueId,
    first_sequence: u64,
    durable: Position,
    batches: &[EncodedBatch],
) -> (GroupHeader, Vec<u8>) {
    let payload: u64 = batches.iter().map(EncodedBatch::bytes).sum();
    let header = GroupHeader {
        stream,
        first_sequence,
        count: batches.iter().map(|encoded| encoded.batch.count()).sum(),
        batches: u32::try_from(batches.len()).expect("a group has fewer than 2^32 batches"),
        payload_bytes: u32::try_from(payload).expect("a group fits into a segment"),
        durable,
        batch_sum: batches
            .iter()
            .fold(salt, |sum, encoded| crc32c::crc32c_append(sum, &encoded.header)),
    };
    (header, header.encode(salt))
}

/// What follows the header of a group, in order.
pub(crate) fn parts(batches: &[EncodedBatch]) -> impl Iterator<Item = &[u8]> {
    batches.iter().flat_map(|EncodedBatch { header, batch }| [&header[..], &batch.lines()[..]])
}

/// What stands where a group may begin.
#[derive(Debug)]
pub(crate) enum Found {
    /// A group as it was written.
    Group(GroupHeader),
    /// Nothing was written here.
    Nothing,
    /// A group was being written here when the power was cut: a piece of it is missing. It was
    /// never acknowledged.
    Torn,
    /// A group was written here whole, and it is not what it was.
    Damaged(&'static str),
}

/// Looks at what begins with these bytes, which reach to the end of the segment.
pub(crate) fn look(rest: &[u8], salt: u32) -> Found {
    let Some(head) = rest.get(..GROUP_HEADER_BYTES) else { return Found::Nothing };
    let Some(header) = GroupHeader::decode(head, salt) else {
        if head.iter().all(|byte| *byte == 0) {
            return Found::Nothing;
        }
        let mends = |head: &[u8]| GroupHeader::decode(head, salt).is_some();
        return torn_or_damaged(head, mends, "the header of a group does not match its checksum");
    };
    let Some(payload) =
        rest.get(GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + header.payload_bytes as usize)
    else {
        return Found::Damaged("a group ends behind the end of its segment");
    };
    let matches = |payload: &[u8]| batches(&header, payload, salt).is_some();
    if matches(payload) {
        return Found::Group(header);
    }
    torn_or_damaged(payload, matches, "the records of a group do not match their checksums")
}

/// A piece that is missing is zero. What was written has no zeros, but where a single bit was
/// flipped in a byte that had no other: then setting it again mends the checksum.
fn torn_or_damaged(bytes: &[u8], matches: impl Fn(&[u8]) -> bool, what: &'static str) -> Found {
    let mut zeros = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
    match (zeros.next(), zeros.next()) {
        (None, _) => Found::Damaged(what),
        (Some(at), None) => {
            let mut mended = bytes.to_vec();
            let flipped = (0..8).any(|bit| {
                mended[at] = 1 << bit;
                matches(&mended)
            });
            if flipped { Found::Damaged(what) } else { Found::Torn }
        }
        (Some(_), Some(_)) => Found::Torn,
    }
}

/// The batches of a group: when each was made, how many records it has, and where its lines are in
/// the payload. `None` if a checksum does not match.
pub(crate) fn batches(header: &GroupHeader, payload: &[u8], salt: u32) -> Option<Vec<BatchPlace>> {
    let mut places = Vec::new();
    let (mut at, mut sum, mut records) = (0, salt, 0u32);
    for _ in 0..header.batches {
        let head = payload.get(at..at + BATCH_HEADER_BYTES)?;
        sum = crc32c::crc32c_append(sum, head);
        let mut fields = Fields { rest: head };
        fields.literal("batch ")?;
        let is_system = match fields.hex32()? {
            LOGGED => false,
            SYSTEM => true,
            _ => return None,
        };
        fields.literal(" time ")?;
        let time_ms = fields.hex64()?.cast_signed();
        fields.literal(" count ")?;
        let count = fields.hex32()?;
        fields.literal(" bytes ")?;
        let bytes = fields.hex32()? as usize;
        fields.literal(" ")?;
        let summed = head.len() - fields.rest.len();
        fields.literal("sum ")?;
        let batch_sum = fields.hex32()?;
        fields.literal("\n")?;
        let lines = at + BATCH_HEADER_BYTES..at + BATCH_HEADER_BYTES + bytes;
        let found =
            crc32c::crc32c_append(crc32c::crc32c(&head[..summed]), payload.get(lines.clone())?);
        if found != batch_sum {
            return None;
        }
        records = records.checked_add(count)?;
        at = lines.end;
        places.push(BatchPlace { time_ms, count, is_system, lines });
    }
    let whole = at == payload.len() && sum == header.batch_sum && records == header.count;
    whole.then_some(places)
}

/// A batch in the payload of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    pub(crate) time_ms: i64,
    pub(crate) count: u32,
    /// It is the host's own.
    pub(crate) is_system: bool,
    pub(crate) lines: std::ops::Range<usize>,
}

/// Ends a header with the checksum of what is in it, begun with `salt`.
pub(crate) fn seal(text: &mut Vec<u8>, salt: u32) {
    let sum = crc32c::crc32c_append(salt, text);
    text.extend_from_slice(format!("{sum:08x}\n").as_bytes());
}

/// Reads a header field by field.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of a header whose checksum matches.
    pub(crate) fn of(header: &'a [u8], salt: u32) -> Option<Fields<'a>> {
        let (text, sum) = header.split_at(header.len().checked_sub(9)?);
        let mut fields = Fields { rest: sum };
        let matches = fields.hex32()? == crc32c::crc32c_append(salt, text);
        fields.literal("\n")?;
        matches.then_some(Fields { rest: text })
    }

    pub(crate) fn text(&mut self, len: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    pub(crate) fn literal(&mut self, literal: &str) -> Option<()> {
        (self.text(literal.len())? == literal).then_some(())
    }

    pub(crate) fn hex64(&mut self) -> Option<u64> {
        self.hex(16)
    }

    pub(crate) fn hex32(&mut self) -> Option<u32> {
        u32::try_from(self.hex(8)?).ok()
    }

    /// Digits as they are written here: no sign, no capitals.
    pub(crate) fn hex(&mut self, digits: usize) -> Option<u64> {
        let text = self.text(digits)?;
        let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(lines: &str, time_ms: i64) -> EncodedBatch {
        EncodedBatch::new(Batch::from_lines(time_ms, lines.to_owned().into()).unwrap())
    }

    fn group(salt: u32) -> (Vec<u8>, GroupHeader) {
        let mut bytes = Vec::new();
        let durable = Position { ordinal: 3, offset: 8192 };
        let batches = [batch("{\"a\":1}\n{\"b\": \"@ @\"}\n", -5), batch("{}\n", i64::MAX)];
        let (header, text) = group_header(salt, UniqueId::from_bits(77), 9, durable, &batches);
        bytes.extend_from_slice(&text);
        parts(&batches).for_each(|part| bytes.extend_from_slice(part));
        assert_eq!(bytes.len() as u64, header.group_bytes());
        assert!(!bytes.contains(&0), "a group has no zero byte");
        bytes.resize(usize::try_from(space(&batches)).unwrap(), 0);
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
    fn any_flipped_bit_is_damage_and_never_a_torn_write() {
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
        /// A write that was cut leaves some pieces of the group and zeros for the others.
        #[test]
        fn a_torn_write_is_a_torn_write(
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
        fn any_bytes_are_looked_at_without_panic(bytes: Vec<u8>, salt: u32, at in 0usize..500) {
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
