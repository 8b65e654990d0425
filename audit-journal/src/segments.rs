//! The existing segments: written by the committer, read by the delivery, and removed once they are
//! delivered.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::UniqueId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::begin::note_begin;
use crate::disk::{Disk, is_full, remove_if_there};
use crate::format::{FIRST_GROUP, Position};
use crate::recovery::RecoveredSegment;
use crate::routes::RouteIndex;
use crate::segment::{Segment, file_name};
use crate::segment_writer::Committed;
use crate::shared::latest;
use crate::watermark::HeldRecords;

/// The segments with records, by ordinal, and the size of all segment files.
#[derive(Debug)]
pub(crate) struct LiveSegments {
    state: Mutex<State>,
    /// The places of records of other routes than the default one.
    routes: RouteIndex,
    /// Notified of each removal, for the thread that waits for room to prepare a segment.
    removed: Condvar,
    /// Notified when there is no room for another segment.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    segments: BTreeMap<u32, LiveSegment>,
    /// The streams of these segments: the number of segments, and the sequence number after the
    /// last record. Kept because the end of a stream is asked for often, and a long outage leaves
    /// many segments.
    streams: HashMap<UniqueId, (usize, u64)>,
    /// The size of all segment files in bytes, including prepared ones.
    bytes: u64,
    /// The size of the files of the routes' objects, in bytes.
    object_bytes: u64,
    /// Whether the disk had no room for another segment at the last attempt.
    lacks_room: bool,
}

/// The durable part of a segment with records.
#[derive(Debug, Clone)]
pub(crate) struct LiveSegment {
    pub(crate) segment: Segment,
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    /// The sequence number after its last durable record.
    pub(crate) next_sequence: u64,
    /// The end of its last durable group.
    pub(crate) end: u64,
    /// The time from which nothing more is written to it. This is monotonic, since the wall clock
    /// may jump by years in either direction.
    pub(crate) sealed_at: Option<Instant>,
}

impl LiveSegment {
    /// Its records of the default route.
    pub(crate) fn held(&self) -> HeldRecords {
        let (ordinal, records) =
            (self.segment.header.ordinal, self.first_sequence..self.next_sequence);
        HeldRecords { ordinal, stream: self.stream, records }
    }
}

impl State {
    /// Adds a segment after all others.
    fn add(&mut self, new: LiveSegment) {
        let (segments, end) = self.streams.entry(new.stream).or_default();
        (*segments, *end) = (*segments + 1, new.next_sequence.max(*end));
        self.segments.insert(new.segment.header.ordinal, new);
    }

    /// Records the end of a segment's last group.
    fn grew(&mut self, ordinal: u32, next_sequence: u64, end: u64) {
        let Some(live) = self.segments.get_mut(&ordinal) else { return };
        (live.next_sequence, live.end) = (next_sequence, end);
        if let Some((_, end)) = self.streams.get_mut(&live.stream) {
            *end = next_sequence;
        }
    }

    fn remove(&mut self, ordinal: u32) {
        let Some(live) = self.segments.remove(&ordinal) else { return };
        self.bytes -= live.segment.header.bytes;
        if let Entry::Occupied(mut stream) = self.streams.entry(live.stream) {
            stream.get_mut().0 -= 1;
            if stream.get().0 == 0 {
                stream.remove();
            }
        }
    }
}

/// Publishes the durable groups of one stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    live: Arc<LiveSegments>,
    stream: UniqueId,
    durable: latest::Sender<Position>,
}

impl Publisher {
    /// Creates a publisher that sends the end of the last durable group to `durable`. The channel
    /// closes when the publisher is dropped, after which nothing more will be committed.
    pub(crate) fn new(
        live: Arc<LiveSegments>,
        stream: UniqueId,
        durable: latest::Sender<Position>,
    ) -> Publisher {
        Publisher { live, stream, durable }
    }

    /// Publishes a group of `count` records, before any caller has a receipt for it: a flush after
    /// the receipt must wait for this group too.
    pub(crate) fn publish(&self, group: &Committed, count: u32) {
        let now = Instant::now();
        self.live.committed(group, self.stream, count, now);
        self.live.routes.committed(group, now);
        self.durable.send(group.segment.position(group.end));
    }

    /// Seals a segment that is not full. The next record will have the number `next_sequence`.
    pub(crate) fn seal(&self, segment: &Segment, next_sequence: u64) {
        self.live.sealed(segment, self.stream, next_sequence, Instant::now());
    }

    /// Continues with another stream.
    pub(crate) fn change_stream(&mut self, stream: UniqueId) {
        self.stream = stream;
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn stream(&self) -> UniqueId {
        self.stream
    }
}

/// Closes the channels: nothing more will be committed.
impl Drop for Publisher {
    fn drop(&mut self) {
        self.live.routes.close();
    }
}

impl LiveSegments {
    /// The segments that a recovery found. Nothing more is written to them. `planned_to` tells the
    /// first record of each stream that is in no object. For `max_places`, see
    /// [`RouteIndex::new`].
    ///
    /// # Errors
    ///
    /// If the records of routes cannot be read.
    pub(crate) fn recovered(
        segments: &[RecoveredSegment],
        planned_to: &BTreeMap<UniqueId, u64>,
        max_places: usize,
    ) -> io::Result<Arc<LiveSegments>> {
        let now = Instant::now();
        let mut state = State::default();
        for recovered in segments {
            let RecoveredSegment { segment, stream, first_sequence, next_sequence, end, .. } =
                recovered;
            state.bytes += segment.header.bytes;
            state.add(LiveSegment {
                segment: segment.clone(),
                stream: *stream,
                first_sequence: *first_sequence,
                next_sequence: *next_sequence,
                end: *end,
                sealed_at: Some(now),
            });
        }
        let routes = RouteIndex::new(max_places);
        let planned_to = |stream| planned_to.get(&stream).copied().unwrap_or(0);
        routes.recover(segments, planned_to, now)?;
        let (removed, wanted) = (Condvar::new(), Notify::new());
        Ok(Arc::new(LiveSegments { state: Mutex::new(state), routes, removed, wanted }))
    }

    /// The places of records of other routes than the default one.
    pub(crate) fn routes(&self) -> &RouteIndex {
        &self.routes
    }

    /// Records a durable group of `count` records.
    fn committed(&self, group: &Committed, stream: UniqueId, count: u32, now: Instant) {
        let ordinal = group.segment.header.ordinal;
        let mut state = self.state();
        if !state.segments.contains_key(&ordinal) {
            // The previous segment is full.
            if let Some((_, last)) = state.segments.iter_mut().next_back() {
                last.sealed_at.get_or_insert(now);
            }
            state.add(LiveSegment {
                segment: group.segment.clone(),
                stream,
                first_sequence: group.first_sequence,
                next_sequence: group.first_sequence,
                end: group.offset,
                sealed_at: None,
            });
        }
        state.grew(ordinal, group.first_sequence + u64::from(count), group.end);
    }

    /// Seals this segment and all before it: nothing more is written to them. A segment without a
    /// durable group is recorded too, so that it is removed in its turn.
    fn sealed(&self, segment: &Segment, stream: UniqueId, next_sequence: u64, now: Instant) {
        let mut state = self.state();
        // A segment is sealed early only when the disk is out of space.
        state.lacks_room = true;
        if !state.segments.contains_key(&segment.header.ordinal) {
            state.add(LiveSegment {
                segment: segment.clone(),
                stream,
                first_sequence: next_sequence,
                next_sequence,
                end: FIRST_GROUP,
                sealed_at: None,
            });
        }
        for live in state.segments.values_mut() {
            live.sealed_at.get_or_insert(now);
        }
    }

    /// The first segment with at least this ordinal.
    pub(crate) fn from(&self, ordinal: u32) -> Option<LiveSegment> {
        self.state().segments.range(ordinal..).next().map(|(_, live)| live.clone())
    }

    /// The size in bytes of all segment files, and of the files of the routes' objects.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.state();
        state.bytes + state.object_bytes
    }

    /// Changes the size of the files of the routes' objects.
    pub(crate) fn change_objects(&self, less: u64, more: u64) {
        let mut state = self.state();
        state.object_bytes = (state.object_bytes + more).saturating_sub(less);
        drop(state);
        self.removed.notify_all();
    }

    /// Prepares a segment and adds its size.
    pub(crate) fn prepare(
        &self,
        disk: &dyn Disk,
        ordinal: u32,
        bytes: u64,
        salt: u32,
    ) -> io::Result<Segment> {
        let prepared = Segment::prepare(disk, ordinal, bytes, salt);
        let mut state = self.state();
        state.lacks_room = prepared.as_ref().is_err_and(is_full);
        if prepared.is_ok() {
            state.bytes += bytes;
        } else if state.lacks_room {
            self.wanted.notify_one();
        }
        prepared
    }

    /// Makes the delivery check again whether segments can be removed.
    pub(crate) fn want_room(&self) {
        self.wanted.notify_one();
    }

    /// Completes after there was no room for another segment.
    pub(crate) async fn room_is_wanted(&self) {
        self.wanted.notified().await;
    }

    /// The size in bytes of the oldest segments, up to the first one for which `predicate` is
    /// false.
    pub(crate) fn bytes_while(&self, predicate: impl Fn(&LiveSegment) -> bool) -> u64 {
        let state = self.state();
        let oldest = state.segments.values().take_while(|segment| predicate(segment));
        oldest.map(|segment| segment.segment.header.bytes).sum()
    }

    /// The size in bytes of the groups after this position.
    pub(crate) fn bytes_behind(&self, position: Position) -> u64 {
        let state = self.state();
        let segments = state.segments.range(position.ordinal..);
        let behind = segments.map(|(ordinal, segment)| match *ordinal == position.ordinal {
            true => segment.end.saturating_sub(position.offset.max(FIRST_GROUP)),
            false => segment.end.saturating_sub(FIRST_GROUP),
        });
        behind.sum()
    }

    /// Whether the disk lacks room for another segment.
    pub(crate) fn lacks_room(&self) -> bool {
        self.state().lacks_room
    }

    /// Waits for at most `patience` until there is room for `bytes` more within `max_bytes`.
    /// Returns whether there is.
    pub(crate) fn wait_for_room(&self, bytes: u64, max_bytes: u64, patience: Duration) -> bool {
        let full = |state: &mut State| state.bytes + state.object_bytes + bytes > max_bytes;
        if self.bytes() + bytes > max_bytes {
            self.wanted.notify_one();
        }
        let waited = self.removed.wait_timeout_while(self.state(), patience, full);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !timeout.timed_out()
    }

    /// Removes the oldest segments as long as `may_go` returns true.
    ///
    /// A crash in here may leave a segment that nothing needs: its records are delivered or in
    /// object files, and what followers miss of it is recorded. The journal's new beginning is
    /// durable before the removal, so recovery removes such a segment, and reports any other
    /// missing segment.
    pub(crate) fn remove_while(
        &self,
        disk: &dyn Disk,
        mut may_go: impl FnMut(&LiveSegment) -> io::Result<bool>,
    ) -> io::Result<()> {
        while let Some(oldest) = self.from(0).filter(|oldest| oldest.sealed_at.is_some()) {
            if !may_go(&oldest)? {
                break;
            }
            let ordinal = oldest.segment.header.ordinal;
            note_begin(disk, ordinal + 1)?;
            remove_if_there(disk, &file_name(ordinal))?;
            disk.sync_directory()?;
            self.state().remove(ordinal);
            self.routes.removed(ordinal);
            self.removed.notify_all();
        }
        Ok(())
    }

    /// The sequence number after this stream's last durable record, if any segment belongs to the
    /// stream.
    pub(crate) fn end_of(&self, stream: UniqueId) -> Option<u64> {
        self.state().streams.get(&stream).map(|(_, end)| *end)
    }

    /// Whether any segment holds records of this stream.
    pub(crate) fn has(&self, stream: UniqueId) -> bool {
        self.state().streams.contains_key(&stream)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
