//! What the followers of routes have not read.

use std::ops::Range;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::super::batch::IndexedBatch;
use super::super::unread::{Followed, FollowedRun, Lag, Stretch, Unread};
use super::{RouteIndex, RouteRecords};
use crate::format::Position;
use crate::segment::Segment;
use crate::shared::latest;
use crate::watermark::{HeldRecords, Watermark};

impl RouteIndex {
    /// As [`listen`](Self::listen), for a follower of the route.
    pub(crate) fn listen_as_follower(&self, route: u32) -> Option<latest::Receiver<Position>> {
        self.listen_to(route, |records| &mut records.unread_changed)
    }

    /// A route's records in a segment, delivered or not.
    pub(crate) fn in_segment(&self, ordinal: u32, route: u32) -> Option<HeldRecords> {
        let state = self.state();
        Some(state.in_segments.get(&ordinal)?.get(&route)?.held())
    }

    /// A route's records in all segments, delivered or not, in order.
    pub(crate) fn in_segments(&self, route: u32) -> Vec<HeldRecords> {
        let state = self.state();
        let of_route = state.in_segments.values().filter_map(|routes| routes.get(&route));
        of_route.map(Stretch::held).collect()
    }

    /// Begins to note in `unread` what this follower has not read: everything after the watermark.
    pub(crate) fn follow(
        &self,
        route: u32,
        follower: u32,
        watermark: &Watermark,
        mut unread: Unread,
    ) {
        let mut state = self.state();
        let of_route = state.in_segments.iter().filter_map(|(ordinal, routes)| {
            let stretch = routes.get(&route)?.clone();
            let first = watermark.begins_at(*ordinal, stretch.stream).max(stretch.records.start);
            let records = first..stretch.records.end;
            (first < records.end).then_some(Stretch { records, ..stretch })
        });
        of_route.for_each(|stretch| unread.push(stretch));
        state.route(route, Instant::now()).unread.insert(follower, unread);
    }

    /// A follower whose task has ended.
    pub(crate) fn unfollow(&self, route: u32, follower: u32) {
        if let Some(records) = self.state().routes.get_mut(&route) {
            records.unread.remove(&follower);
        }
    }

    /// What a follower has not read. `None` if it has read everything.
    pub(crate) fn lag(&self, route: u32, follower: u32) -> Option<Lag> {
        self.state().routes.get(&route)?.unread.get(&follower)?.lag()
    }

    /// The records of a follower's next object, of at most `max_bytes` unless it is a single batch,
    /// or up to the end that an earlier process had decided. They stay until they are
    /// [read](Self::read).
    pub(crate) fn followed(
        &self,
        route: u32,
        follower: u32,
        max_bytes: u64,
        end: Option<(UniqueId, u64)>,
    ) -> Option<FollowedRun> {
        self.state().routes.get(&route)?.unread.get(&follower)?.front(route, max_bytes, end)
    }

    /// Drops what a follower has read.
    pub(crate) fn read(&self, route: u32, follower: u32, followed: &Followed, now: Instant) {
        let mut state = self.state();
        let unread = state.routes.get_mut(&route).and_then(|of| of.unread.get_mut(&follower));
        if let Some(unread) = unread {
            unread.read(followed, now);
        }
    }
}

impl RouteRecords {
    /// Notes a committed batch for the followers, and wakes them if one has more to do because of
    /// it.
    pub(super) fn add_for_followers(
        &mut self,
        stream: UniqueId,
        segment: &Segment,
        batch: IndexedBatch,
        group: &Range<u64>,
        now: Instant,
    ) {
        let mut wakes = false;
        for unread in self.unread.values_mut() {
            wakes |= unread.add(segment, stream, batch, group.clone(), now);
        }
        if let Some(changed) = self.unread_changed.as_ref().filter(|_| wakes) {
            changed.send(self.end);
        }
    }
}
