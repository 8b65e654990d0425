//! Commits groups of batches: one write and one sync each.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use audit_core::UniqueId;

use crate::disk::{DiskFile, is_full};
use crate::format::{
    BLOCK_BYTES, EncodedBatch, FIRST_GROUP, GROUP_HEADER_BYTES, Group, Position, RouteStream,
};
use crate::segment::Segment;

/// The writer at the end of the journal. Every opening has its own.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    stream: UniqueId,
    next_sequence: u64,
    /// The last stream of each route that has records, and the number of its next record.
    routes: BTreeMap<u32, (UniqueId, u64)>,
    /// The open segment, and the offset of the next group in it.
    open: Option<(Segment, u64)>,
    /// The end of the last durable group.
    durable: Position,
    /// Holds the parts of a group that are written together. Reused.
    buffer: Vec<u8>,
    /// Parts of at least this many bytes are written without a copy.
    own_write_from: usize,
    failed: Option<Arc<io::Error>>,
    /// Whether the end of the stream is known.
    is_certain: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Committed {
    /// The number of the default route's first record.
    pub(crate) first_sequence: u64,
    /// The number of records of the default route.
    pub(crate) count: u32,
    /// The batches, in the order in which they were given.
    pub(crate) batches: Vec<CommittedBatch>,
    pub(crate) segment: Segment,
    pub(crate) offset: u64,
    /// The offset of the next group.
    pub(crate) end: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CommittedBatch {
    /// `None` for the default route.
    pub(crate) route: Option<u32>,
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    pub(crate) count: u32,
    pub(crate) time_ms: i64,
    pub(crate) is_system: bool,
    pub(crate) offset: u64,
    /// Its size with its header.
    pub(crate) bytes: u64,
}

/// Why a group may not be durable.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// There is no segment for it. Nothing was written, and it may be retried once there is one.
    NoSegment,
    /// The stream has no sequence numbers left. Nothing was written.
    StreamFull,
    /// The disk had no space. The group may still be complete in the journal: if the process ends
    /// before another group is durable, recovery may find it. The next group goes into another
    /// segment; once that is durable, recovery skips this one.
    NoSpace {
        error: Arc<io::Error>,
        /// The segment, to which nothing more is written.
        sealed: Segment,
        /// The number of the next record.
        next_sequence: u64,
    },
    /// The write or sync failed. Whether the group is durable is unknown, and later results for the
    /// file cannot be trusted. The journal accepts nothing more.
    Failed(Arc<io::Error>),
    /// An earlier write or sync failed. Nothing was written.
    Stopped(Arc<io::Error>),
}

impl SegmentWriter {
    /// A writer for a journal that was recovered up to `durable` and holds no records of `stream`.
    /// Parts of at least `own_write_from` bytes ([`OWN_WRITE_FROM`]) are written without being
    /// copied together with others.
    pub(crate) fn new(stream: UniqueId, durable: Position, own_write_from: usize) -> SegmentWriter {
        SegmentWriter {
            stream,
            next_sequence: 0,
            routes: BTreeMap::new(),
            open: None,
            durable,
            buffer: Vec::new(),
            own_write_from,
            failed: None,
            is_certain: true,
        }
    }

    /// The number of the next record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether the stream's end is known. It is unknown after a failed group, and after one that
    /// found no space until the next group of the same stream shows that it was abandoned.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// Continues with another stream, in the next segment.
    ///
    /// # Panics
    ///
    /// If the end of the current one [is unknown](Self::is_certain).
    pub(crate) fn change_stream(&mut self, stream: UniqueId) {
        assert!(self.is_certain, "the end of the stream is known");
        (self.stream, self.next_sequence, self.open) = (stream, 0, None);
    }

    /// Whether a group with this many bytes of batches, including their headers, fits into the open
    /// segment.
    pub(crate) fn has_room(&self, payload_bytes: u64) -> bool {
        self.fits((GROUP_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(BLOCK_BYTES))
    }

    /// Whether a group of these batches needs a new segment.
    #[cfg(any(test, feature = "simulation", feature = "bench_internals"))]
    pub(crate) fn needs_segment(&self, batches: &[EncodedBatch]) -> bool {
        !self.fits(Group::new(batches, |route| self.next_of(route)).space())
    }

    /// Whether this much space is left in the open segment.
    fn fits(&self, space: u64) -> bool {
        self.open.as_ref().is_some_and(|(segment, offset)| offset + space <= segment.header.bytes)
    }

    /// The number of the next record of a route in this stream.
    fn next_of(&self, route: RouteStream) -> u64 {
        let known = self.routes.get(&route.route).filter(|(stream, _)| *stream == route.stream);
        known.map_or(0, |(_, next)| *next)
    }

    /// Makes the batches durable as one group, in this order. `next_segment` provides a prepared
    /// segment when the open one is full.
    ///
    /// After a crash before this returns, the group may be complete, and is delivered, or torn, and
    /// recovery skips it. No caller has a receipt. Once this has returned, every recovery finds the
    /// group.
    ///
    /// # Panics
    ///
    /// If the batches do not fit into a segment of their own.
    pub(crate) fn commit(
        &mut self,
        batches: &[EncodedBatch],
        next_segment: impl FnOnce() -> Option<Segment>,
    ) -> Result<Committed, CommitError> {
        if let Some(error) = &self.failed {
            return Err(CommitError::Stopped(Arc::clone(error)));
        }
        let group = Group::new(batches, |route| self.next_of(route));
        let space = group.space();
        if !self.fits(space) {
            let segment = next_segment().ok_or(CommitError::NoSegment)?;
            let bytes = segment.header.bytes;
            let fits = FIRST_GROUP + space <= bytes;
            assert!(fits, "{space} bytes do not fit into a segment of {bytes}");
            self.open = Some((segment, FIRST_GROUP));
        }
        let (segment, offset) = self.open.as_mut().expect("opened above");
        let salt = segment.header.salt;
        let (header, text) = group.header(salt, self.stream, self.next_sequence, self.durable);
        let parts = std::iter::once(&text[..]).chain(group.parts());
        self.is_certain = false;
        let file = &*segment.file;
        let written = write_parts(file, *offset, &mut self.buffer, self.own_write_from, parts);
        if let Err(error) = written {
            return Err(self.cannot_write(error));
        }
        if let Err(error) = segment.file.sync_data() {
            // The kernel may have dropped the data that it could not write and report success for
            // the next sync. So there is no next sync: acknowledged groups are durable, the state
            // of this one is unknown, and only a recovery can determine it.
            return Err(self.stop(error));
        }
        let begin = *offset;
        let end = header.end(begin);
        *offset = end;
        let segment = segment.clone();
        self.durable = segment.position(end);
        self.is_certain = true;
        let mut at = begin + group.first_batch();
        let first_sequence = self.next_sequence;
        let batches = batches.iter().map(|batch| {
            let (offset, bytes) = (at, batch.bytes());
            at += bytes;
            self.number(batch, offset, bytes)
        });
        let batches = batches.collect();
        let count = header.count;
        Ok(Committed { first_sequence, count, batches, segment, offset: begin, end })
    }

    /// Numbers the records of a durable batch.
    fn number(&mut self, batch: &EncodedBatch, offset: u64, bytes: u64) -> CommittedBatch {
        let (count, time_ms) = (batch.batch().count(), batch.batch().time_ms());
        let (stream, next) = match batch.route() {
            None => (self.stream, &mut self.next_sequence),
            Some(RouteStream { route, stream }) => {
                let known = self.routes.entry(route).or_insert((stream, 0));
                if known.0 != stream {
                    *known = (stream, 0);
                }
                (stream, &mut known.1)
            }
        };
        let (first_sequence, route) = (*next, batch.route().map(|route| route.route));
        *next += u64::from(count);
        let is_system = batch.is_system();
        CommittedBatch { route, stream, first_sequence, count, time_ms, is_system, offset, bytes }
    }

    /// Handles a failed write, after which nothing was synced: acknowledged groups are as durable
    /// as before.
    ///
    /// If the disk is out of space, the journal continues, but never in this segment: the written
    /// part of the group may reach the disk at any time, and a group after it would follow a hole.
    /// The next group goes into another segment and names the same predecessor as this one, which
    /// tells a recovery that this one was abandoned. If a crash before that leaves this group
    /// complete, it is delivered. Any other error stops the journal.
    fn cannot_write(&mut self, error: io::Error) -> CommitError {
        if !is_full(&error) {
            return self.stop(error);
        }
        let (sealed, _) = self.open.take().expect("a segment was written to");
        let next_sequence = self.next_sequence;
        CommitError::NoSpace { error: Arc::new(error), sealed, next_sequence }
    }

    fn stop(&mut self, error: io::Error) -> CommitError {
        let error = Arc::new(error);
        self.failed = Some(Arc::clone(&error));
        CommitError::Failed(error)
    }
}

/// Parts of at least this many bytes are written without a copy. Smaller ones are copied together,
/// which is faster than one call for each.
pub(crate) const OWN_WRITE_FROM: usize = 128 << 10;

/// Writes these parts consecutively, copying small parts together into one call.
fn write_parts<'a>(
    file: &dyn DiskFile,
    mut offset: u64,
    buffer: &mut Vec<u8>,
    own_write_from: usize,
    parts: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    buffer.clear();
    let mut write = |bytes: &[u8]| {
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok(())
    };
    for part in parts {
        if part.len() < own_write_from {
            buffer.extend_from_slice(part);
            continue;
        }
        if !buffer.is_empty() {
            write(buffer)?;
            buffer.clear();
        }
        write(part)?;
    }
    if buffer.is_empty() { Ok(()) } else { write(buffer) }
}
