//! The batches in a group, each with its own header.

use audit_core::Batch;

use super::GroupHeader;
use super::fields::Fields;

/// A batch with its header. The caller of `persist` computes the header, so that the committing
/// thread computes only the header of the group.
#[derive(Debug, Clone)]
pub(crate) struct EncodedBatch {
    pub(super) header: [u8; BATCH_HEADER_BYTES],
    batch: Batch,
}

pub(crate) const BATCH_HEADER_BYTES: usize = 80;

/// The kind of a batch of records that functions logged.
const LOGGED: u32 = 0;

/// The kind of a batch with one system record.
const SYSTEM: u32 = 1;

impl EncodedBatch {
    pub(crate) fn new(batch: Batch) -> EncodedBatch {
        EncodedBatch::of_kind(batch, LOGGED)
    }

    /// A system record, which is delivered as a separate object.
    pub(crate) fn system(batch: Batch) -> EncodedBatch {
        EncodedBatch::of_kind(batch, SYSTEM)
    }

    fn of_kind(batch: Batch, kind: u32) -> EncodedBatch {
        let time_ms = batch.time_ms().cast_unsigned();
        let bytes =
            u32::try_from(batch.lines().len()).expect("a batch has at most MAX_BATCH_BYTES");
        // This runs for every batch, and formatting would take several times as long as the
        // checksum.
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

/// Writes a number in hexadecimal, padded with zeros to the length of `places`.
fn put_hex(places: &mut [u8], value: u64) {
    let mut left = value;
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    debug_assert_eq!(left, 0, "{value:x} does not fit");
}

/// The parts that follow the header of a group, in order.
pub(crate) fn parts(batches: &[EncodedBatch]) -> impl Iterator<Item = &[u8]> {
    batches.iter().flat_map(|EncodedBatch { header, batch }| [&header[..], &batch.lines()[..]])
}

/// Finds the batches in the payload of a group. Returns `None` if a checksum does not match.
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
    /// Whether it is a system record.
    pub(crate) is_system: bool,
    /// Its lines, as a range of the payload.
    pub(crate) lines: std::ops::Range<usize>,
}
