//! Groups and batches, as they are found in a segment.

use std::collections::BTreeMap;

use audit_core::UniqueId;

use super::batch::{BATCH_HEADER_BYTES, SYSTEM, TABLE, TABLE_ROW_BYTES, kind};
use super::fields::Fields;
use super::{GROUP_HEADER_BYTES, GroupHeader};

/// The content of a place where a group may begin.
#[derive(Debug)]
pub(crate) enum Found {
    /// An intact group.
    Group(GroupHeader),
    /// Unwritten space.
    Nothing,
    /// A group that was being written when the power was cut: a piece of it is missing. It was
    /// never acknowledged.
    Torn,
    /// A group that was written completely and was altered since.
    Damaged(&'static str),
}

/// Classifies the content at the start of these bytes, which extend to the end of the segment.
pub(crate) fn look(rest: &[u8], salt: u32) -> Found {
    match look_into(rest, salt) {
        Ok((header, _)) => Found::Group(header),
        Err(found) => found,
    }
}

/// Like [`look`], with the batches of a group, whose checksums are computed once for both.
pub(crate) fn look_into(rest: &[u8], salt: u32) -> Result<(GroupHeader, Vec<BatchPlace>), Found> {
    let head = rest.get(..GROUP_HEADER_BYTES).ok_or(Found::Nothing)?;
    let Some(header) = GroupHeader::decode(head, salt) else {
        if head.iter().all(|byte| *byte == 0) {
            return Err(Found::Nothing);
        }
        let repairs = |head: &[u8]| GroupHeader::decode(head, salt).is_some();
        let what = "the header of a group does not match its checksum";
        return Err(torn_or_damaged(head, repairs, what));
    };
    let payload = rest.get(GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + header.payload_bytes as usize);
    let what = "a group extends beyond the end of its segment";
    let payload = payload.ok_or(Found::Damaged(what))?;
    if let Some(places) = batches(&header, payload, salt) {
        return Ok((header, places));
    }
    let matches = |payload: &[u8]| batches(&header, payload, salt).is_some();
    let what = "the records of a group do not match their checksums";
    Err(torn_or_damaged(payload, matches, what))
}

/// Missing pieces are zero. Written bytes are never zero, unless a bit flip cleared the only set
/// bit of a byte. In that case setting a bit again makes the checksum match.
fn torn_or_damaged(bytes: &[u8], matches: impl Fn(&[u8]) -> bool, what: &'static str) -> Found {
    let mut zeros = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
    match (zeros.next(), zeros.next()) {
        (None, _) => Found::Damaged(what),
        (Some(at), None) => {
            let mut repaired = bytes.to_vec();
            let flipped = (0..8).any(|bit| {
                repaired[at] = 1 << bit;
                matches(&repaired)
            });
            if flipped { Found::Damaged(what) } else { Found::Torn }
        }
        (Some(_), Some(_)) => Found::Torn,
    }
}

/// Finds the batches in the payload of a group, and the number of each one's first record. Returns
/// `None` if a checksum does not match.
pub(crate) fn batches(header: &GroupHeader, payload: &[u8], salt: u32) -> Option<Vec<BatchPlace>> {
    let mut places = Vec::new();
    let mut routes = BTreeMap::new();
    let (mut at, mut sum) = (0, salt);
    let mut next_sequence = header.first_sequence;
    for n in 0..header.batches {
        let head = payload.get(at..at + BATCH_HEADER_BYTES)?;
        sum = crc32c::crc32c_append(sum, head);
        let BatchHeader { kind, time_ms, count, bytes, sum: batch_sum, summed } =
            BatchHeader::read(head)?;
        let lines = at + BATCH_HEADER_BYTES..at + BATCH_HEADER_BYTES + bytes;
        let found = crc32c::crc32c_append(summed, payload.get(lines.clone())?);
        if found != batch_sum {
            return None;
        }
        at = lines.end;
        if kind == TABLE && n == 0 {
            routes = table(&payload[lines])?;
            continue;
        }
        let (route, is_system) = (kind / 2, kind % 2 == SYSTEM);
        let (stream, next) = match route {
            0 => (header.stream, &mut next_sequence),
            _ => {
                let (stream, next) = routes.get_mut(&route)?;
                (*stream, next)
            }
        };
        let first_sequence = *next;
        *next = next.checked_add(u64::from(count))?;
        places.push(BatchPlace { time_ms, count, is_system, route, stream, first_sequence, lines });
    }
    let records = next_sequence - header.first_sequence;
    let is_whole =
        at == payload.len() && sum == header.batch_sum && records == u64::from(header.count);
    is_whole.then_some(places)
}

/// The rows of a table of routes: their streams, and the numbers of their first records.
fn table(mut text: &[u8]) -> Option<BTreeMap<u32, (UniqueId, u64)>> {
    let mut rows = BTreeMap::new();
    while !text.is_empty() {
        let (row, rest) = text.split_at_checked(TABLE_ROW_BYTES)?;
        let mut fields = Fields { rest: row };
        fields.literal("route ")?;
        let route = fields.hex32()?;
        fields.literal(" stream ")?;
        let stream = fields.text(UniqueId::TEXT_BYTES)?.parse().ok()?;
        fields.literal(" first ")?;
        let first_sequence = fields.hex64()?;
        fields.literal("\n")?;
        if rows.insert(route, (stream, first_sequence)).is_some() {
            return None;
        }
        text = rest;
    }
    Some(rows)
}

struct BatchHeader {
    kind: u32,
    time_ms: i64,
    count: u32,
    bytes: usize,
    /// The checksum of the header and the lines.
    sum: u32,
    /// The checksum of the header alone.
    summed: u32,
}

impl BatchHeader {
    fn read(head: &[u8]) -> Option<BatchHeader> {
        let mut fields = Fields { rest: head };
        fields.literal("batch ")?;
        let kind = fields.hex32()?;
        fields.literal(" time ")?;
        let time_ms = fields.hex64()?.cast_signed();
        fields.literal(" count ")?;
        let count = fields.hex32()?;
        fields.literal(" bytes ")?;
        let bytes = fields.hex32()? as usize;
        fields.literal(" ")?;
        let summed = crc32c::crc32c(&head[..head.len() - fields.rest.len()]);
        fields.literal("sum ")?;
        let sum = fields.hex32()?;
        fields.literal("\n")?;
        Some(BatchHeader { kind, time_ms, count, bytes, sum, summed })
    }
}

/// The lines of an encoded batch. Returns `None` unless the bytes are an intact batch of this
/// route, and a system record or not as `is_system` says.
pub(crate) fn lines_of(batch: &[u8], route: u32, is_system: bool) -> Option<&[u8]> {
    let (head, lines) = batch.split_at_checked(BATCH_HEADER_BYTES)?;
    let header = BatchHeader::read(head)?;
    let is_intact = header.kind == kind(route, is_system)
        && header.bytes == lines.len()
        && crc32c::crc32c_append(header.summed, lines) == header.sum;
    is_intact.then_some(lines)
}

/// A batch in the payload of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    pub(crate) time_ms: i64,
    pub(crate) count: u32,
    pub(crate) is_system: bool,
    /// 0 for the default route.
    pub(crate) route: u32,
    pub(crate) stream: UniqueId,
    /// The number of its first record.
    pub(crate) first_sequence: u64,
    /// Its lines, as a range of the payload.
    pub(crate) lines: std::ops::Range<usize>,
}
