//! The batches in a group, each with its own header.

use std::collections::BTreeMap;
use std::io::Write;

use audit_core::{Batch, UniqueId};

use super::fields::Fields;
use super::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, Position};

/// A batch with its header. The caller of `persist` computes the header, so that the committing
/// thread computes only the header of the group.
#[derive(Debug, Clone)]
pub(crate) struct EncodedBatch {
    header: [u8; BATCH_HEADER_BYTES],
    batch: Batch,
    kind: u32,
    /// `None` for the default route, whose stream and number stand in the header of the group.
    route: Option<RouteStream>,
}

/// A route, and the stream of its records in one opening of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteStream {
    /// At least 1 and below [`MAX_ROUTE`].
    pub(crate) route: u32,
    pub(crate) stream: UniqueId,
}

pub(crate) const BATCH_HEADER_BYTES: usize = 80;

/// The lowest bit of a batch's kind: set if the batch is a system record. The other bits are the
/// number of its route.
const SYSTEM: u32 = 1;

/// The kind of the table of routes, which comes before the batches of a group.
const TABLE: u32 = u32::MAX;

/// The beginning of a table of routes.
pub(crate) const TABLE_MARK: &str = "batch ffffffff ";

/// Route numbers are below this one.
pub(crate) const MAX_ROUTE: u32 = TABLE / 2;

/// The size of a row in the table of routes, in bytes.
pub(crate) const TABLE_ROW_BYTES: usize = 72;

impl EncodedBatch {
    pub(crate) fn new(batch: Batch) -> EncodedBatch {
        EncodedBatch::of_kind(batch, 0, None)
    }

    /// A batch of another route than the default one.
    pub(crate) fn routed(batch: Batch, route: RouteStream) -> EncodedBatch {
        EncodedBatch::of_kind(batch, kind(route.route, false), Some(route))
    }

    /// The table of the routes in a group: their streams, and the number of each one's first record
    /// there. `None` if there are none.
    fn table(rows: &[(RouteStream, u64)]) -> Option<EncodedBatch> {
        // The committing thread makes a table for each group, so little is formatted.
        let mut text = Vec::with_capacity(rows.len() * TABLE_ROW_BYTES);
        for (RouteStream { route, stream }, first_sequence) in rows {
            let mut row: [u8; TABLE_ROW_BYTES] =
                *b"route 00000000 stream 00000000000000000000000000 first 0000000000000000\n";
            put_hex(&mut row[6..14], (*route).into());
            write!(&mut row[22..48], "{stream}").expect("an identifier has 26 characters");
            put_hex(&mut row[55..71], *first_sequence);
            text.extend_from_slice(&row);
        }
        let table = Batch::from_lines(0, text.into()).ok()?;
        Some(EncodedBatch::of_kind(table, TABLE, None))
    }

    /// A system record, which is delivered as a separate object, of this route or the default one.
    pub(crate) fn system(batch: Batch, route: Option<RouteStream>) -> EncodedBatch {
        EncodedBatch::of_kind(batch, kind(route.map_or(0, |of| of.route), true), route)
    }

    fn of_kind(batch: Batch, kind: u32, route: Option<RouteStream>) -> EncodedBatch {
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
        EncodedBatch { header, batch, kind, route }
    }

    pub(crate) fn route(&self) -> Option<RouteStream> {
        self.route
    }

    /// Whether it is a system record.
    pub(crate) fn is_system(&self) -> bool {
        self.kind != TABLE && self.kind % 2 == SYSTEM
    }

    /// The number of its records that are of the default route.
    fn default_count(&self) -> u32 {
        if self.kind / 2 == 0 { self.batch.count() } else { 0 }
    }

    /// The most bytes that the batch adds to a group: for a route, with a row in the table of
    /// routes and the table's header.
    pub(crate) fn bytes_in_group(&self) -> u64 {
        let row = self.route.map_or(0, |_| TABLE_ROW_BYTES + BATCH_HEADER_BYTES);
        self.bytes() + row as u64
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(crate) fn bytes(&self) -> u64 {
        EncodedBatch::bytes_of(&self.batch)
    }

    /// The size in bytes of a batch once it is encoded.
    pub(crate) fn bytes_of(batch: &Batch) -> u64 {
        (BATCH_HEADER_BYTES + batch.lines().len()) as u64
    }
}

/// The kind of a batch of this route.
fn kind(route: u32, is_system: bool) -> u32 {
    2 * route + if is_system { SYSTEM } else { 0 }
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

/// The batches of a group, after the table of their routes if any batch needs it.
pub(crate) struct Group<'a> {
    table: Option<EncodedBatch>,
    batches: &'a [EncodedBatch],
}

impl Group<'_> {
    /// `next` returns the number of the next record of a route in this stream.
    pub(crate) fn new(batches: &[EncodedBatch], next: impl Fn(RouteStream) -> u64) -> Group<'_> {
        let mut routes: Vec<_> = batches.iter().filter_map(EncodedBatch::route).collect();
        routes.sort_unstable_by_key(|of| of.route);
        routes.dedup_by_key(|of| of.route);
        let rows: Vec<_> = routes.into_iter().map(|route| (route, next(route))).collect();
        Group { table: EncodedBatch::table(&rows), batches }
    }

    /// The table and the batches.
    fn all(&self) -> impl Iterator<Item = &EncodedBatch> {
        self.table.iter().chain(self.batches)
    }

    fn payload_bytes(&self) -> u64 {
        self.all().map(EncodedBatch::bytes).sum()
    }

    /// The space that it takes up to the next group, in bytes.
    pub(crate) fn space(&self) -> u64 {
        (GROUP_HEADER_BYTES as u64 + self.payload_bytes()).next_multiple_of(BLOCK_BYTES)
    }

    /// The distance of the first batch from the beginning of the group, in bytes.
    pub(crate) fn first_batch(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + self.table.as_ref().map_or(0, EncodedBatch::bytes)
    }

    /// The group's header, and the header's text. The [parts](Self::parts) follow it in the file.
    ///
    /// # Panics
    ///
    /// If the payload's size exceeds 32 bits. The caller keeps groups within the size of a segment.
    pub(crate) fn header(
        &self,
        salt: u32,
        stream: UniqueId,
        first_sequence: u64,
        durable: Position,
    ) -> (GroupHeader, Vec<u8>) {
        let payload = self.payload_bytes();
        let header = GroupHeader {
            stream,
            first_sequence,
            count: self.batches.iter().map(EncodedBatch::default_count).sum(),
            batches: u32::try_from(self.all().count())
                .expect("a group has fewer than 2^32 batches"),
            payload_bytes: u32::try_from(payload).expect("a group fits into a segment"),
            durable,
            batch_sum: self
                .all()
                .fold(salt, |sum, encoded| crc32c::crc32c_append(sum, &encoded.header)),
        };
        (header, header.encode(salt))
    }

    /// The parts that follow the header, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.all().flat_map(|EncodedBatch { header, batch, .. }| [&header[..], &batch.lines()[..]])
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
