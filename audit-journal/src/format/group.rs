//! Groups, as they are written: one header, then the batches.

use std::io::Write;

use audit_core::{Batch, UniqueId};

use super::batch::{EncodedBatch, RouteStream, TABLE, TABLE_ROW_BYTES, put_hex};
use super::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, Position};

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
        Group { table: table(&rows), batches }
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
        self.all().flat_map(|encoded| [&encoded.header[..], &encoded.batch().lines()[..]])
    }
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
