//! Batches with their headers, as they are written.

use audit_core::{Batch, UniqueId};

/// A batch with its header. The caller of `persist` computes the header, so that the committing
/// thread computes only the header of the group.
#[derive(Debug, Clone)]
pub(crate) struct EncodedBatch {
    pub(super) header: [u8; BATCH_HEADER_BYTES],
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
pub(super) const SYSTEM: u32 = 1;

/// The kind of the table of routes, which comes before the batches of a group.
pub(super) const TABLE: u32 = u32::MAX;

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

    /// A system record, which is delivered as a separate object, of this route or the default one.
    pub(crate) fn system(batch: Batch, route: Option<RouteStream>) -> EncodedBatch {
        EncodedBatch::of_kind(batch, kind(route.map_or(0, |of| of.route), true), route)
    }

    pub(super) fn of_kind(batch: Batch, kind: u32, route: Option<RouteStream>) -> EncodedBatch {
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
    pub(super) fn default_count(&self) -> u32 {
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
pub(super) fn kind(route: u32, is_system: bool) -> u32 {
    2 * route + if is_system { SYSTEM } else { 0 }
}

/// Writes a number in hexadecimal, padded with zeros to the length of `places`.
pub(super) fn put_hex(places: &mut [u8], value: u64) {
    let mut left = value;
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    debug_assert_eq!(left, 0, "{value:x} does not fit");
}
