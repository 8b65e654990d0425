//! The state of the index.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use audit_core::UniqueId;
use tokio::time::Instant;

use crate::format::Position;
use crate::routes::batch::IndexedBatch;
use crate::routes::unread::{Stretch, Unread};
use crate::segment::Segment;
use crate::shared::latest;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) routes: BTreeMap<u32, RouteRecords>,
    /// For each segment with records that are in no object, the number of streams that they belong
    /// to.
    pub(super) held: BTreeMap<u32, usize>,
    /// The streams of each route in each segment, in their order.
    pub(super) in_segments: BTreeMap<u32, BTreeMap<u32, Vec<InSegment>>>,
    /// The route of each stream that is not of the default route.
    pub(super) streams: BTreeMap<UniqueId, u32>,
    /// Nothing more will be committed.
    pub(super) is_closed: bool,
}

/// The records of one route that are in no object, and the readers of the route.
#[derive(Debug)]
pub(super) struct RouteRecords {
    pub(super) segments: VecDeque<SegmentRecords>,
    /// Their size in the journal, in bytes.
    pub(super) bytes: u64,
    /// The time from which the next object's delay counts: when the first record came, or the last
    /// object was planned.
    pub(super) since: Instant,
    /// Whether the last group began an object, so that the reader must be woken.
    pub(super) begins_object: bool,
    /// The number of system records among them, each of which is an object.
    pub(super) system: usize,
    /// The size of the records from which the reader is woken by each group, in bytes.
    pub(super) wake_at: u64,
    /// The end of the last group with records of the route.
    pub(super) end: Position,
    /// Whether a segment that holds some of them is to be removed.
    pub(super) is_wanted: bool,
    /// Sends `end`. `None` as long as nothing reads the route, and once nothing more is committed.
    pub(super) changed: Option<latest::Sender<Position>>,
    /// The unread records of each follower whose task runs, by the follower's number.
    pub(super) unread: BTreeMap<u32, Unread>,
    /// Like `changed`, for the followers.
    pub(super) unread_changed: Option<latest::Sender<Position>>,
}

/// The records of one stream of a route in one segment, delivered or not.
#[derive(Debug)]
pub(super) struct InSegment {
    pub(super) stream: UniqueId,
    /// The records that followers get: without system records at either end.
    pub(super) logged: Option<Stretch>,
}

/// The records of one stream of a route in one segment that are in no object.
#[derive(Debug)]
pub(super) struct SegmentRecords {
    pub(super) segment: Segment,
    pub(super) stream: UniqueId,
    pub(super) batches: VecDeque<IndexedBatch>,
}

impl State {
    pub(super) fn route(&mut self, route: u32, now: Instant) -> &mut RouteRecords {
        self.routes.entry(route).or_insert_with(|| RouteRecords::new(now))
    }

    pub(super) fn add(
        &mut self,
        route: u32,
        stream: UniqueId,
        segment: &Segment,
        batch: IndexedBatch,
        end: Position,
        now: Instant,
    ) {
        if self.route(route, now).add(stream, segment, batch, end, now) {
            *self.held.entry(segment.header.ordinal).or_insert(0) += 1;
        }
    }
}

impl InSegment {
    /// Notes a committed batch in its segment, among the streams of its route.
    pub(super) fn add(
        streams: &mut Vec<InSegment>,
        stream: UniqueId,
        segment: &Segment,
        batch: IndexedBatch,
        group: &Range<u64>,
    ) {
        if streams.last().is_none_or(|last| last.stream != stream) {
            streams.push(InSegment { stream, logged: None });
        }
        if batch.is_system {
            return;
        }
        let logged = streams.last_mut().map(|last| &mut last.logged);
        match logged.expect("pushed above") {
            Some(stretch) => stretch.extend(&batch, group.end),
            logged @ None => {
                *logged = Some(Stretch::of_batch(segment, stream, &batch, group.clone()));
            }
        }
    }
}

impl RouteRecords {
    pub(super) fn new(now: Instant) -> RouteRecords {
        RouteRecords {
            segments: VecDeque::new(),
            bytes: 0,
            since: now,
            begins_object: false,
            system: 0,
            wake_at: 0,
            end: Position { ordinal: 0, offset: 0 },
            is_wanted: false,
            changed: None,
            unread: BTreeMap::new(),
            unread_changed: None,
        }
    }

    /// Adds a batch of a group that ends at `end`. Returns whether the batch begins an entry, for
    /// another stream or segment.
    pub(super) fn add(
        &mut self,
        stream: UniqueId,
        segment: &Segment,
        batch: IndexedBatch,
        end: Position,
        now: Instant,
    ) -> bool {
        let last = self.segments.back();
        let is_with_last = last.is_some_and(|held| {
            let is_system = held.batches.back().is_some_and(|last| last.is_system);
            held.stream == stream && !is_system && !batch.is_system
        });
        self.begins_object |= !is_with_last;
        if last.is_none() {
            self.since = now;
        }
        self.bytes += u64::from(batch.bytes);
        self.system += usize::from(batch.is_system);
        self.end = end;
        let is_last = |held: &&mut SegmentRecords| {
            held.segment.header.ordinal == segment.header.ordinal && held.stream == stream
        };
        if let Some(held) = self.segments.back_mut().filter(is_last) {
            held.batches.push_back(batch);
            return false;
        }
        let (segment, batches) = (segment.clone(), VecDeque::from([batch]));
        self.segments.push_back(SegmentRecords { segment, stream, batches });
        true
    }

    pub(super) fn wake(&self) {
        if let Some(changed) = &self.changed {
            changed.send(self.end);
        }
    }

    pub(super) fn grew(&mut self) {
        if std::mem::take(&mut self.begins_object) || self.bytes >= self.wake_at {
            self.wake();
        } else if let Some(changed) = &self.changed {
            changed.set(self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn readers_are_woken_when_they_have_more_to_do() {
        let mut state = State::default();
        let records = state.route(1, Instant::now());
        let (sender, mut reader) = latest::channel(records.end);
        (records.changed, records.wake_at) = (Some(sender), 100);
        for (n, (bytes, begins_object, wakes)) in
            [(40, true, true), (99, false, false), (100, false, true), (101, false, true)]
                .into_iter()
                .enumerate()
        {
            records.end = Position { ordinal: 1, offset: n as u64 };
            (records.bytes, records.begins_object) = (bytes, begins_object);
            records.grew();
            assert_eq!(reader.changed().now_or_never().is_some(), wakes, "{bytes} bytes");
            assert_eq!(reader.get(), records.end);
        }
    }
}
