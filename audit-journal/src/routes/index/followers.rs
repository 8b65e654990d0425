//! The records that the followers of routes have not read.

use std::ops::Range;

use audit_core::UniqueId;
use tokio::time::Instant;

use super::super::batch::{IndexedBatch, Stretch};
use super::super::unread::{Followed, FollowedRun, Lag, Unread};
use super::{InSegment, RouteIndex, RouteRecords, State};
use crate::format::Position;
use crate::segment::Segment;
use crate::shared::latest;
use crate::watermark::{HeldRecords, Watermark};

impl RouteIndex {
    /// Like [`listen`](Self::listen), for a follower of the route.
    pub(crate) fn listen_as_follower(&self, route: u32) -> Option<latest::Receiver<Position>> {
        self.listen_to(route, |records| &mut records.unread_changed)
    }

    /// The records that a segment holds for the followers of a route, delivered or not, in order.
    pub(crate) fn in_segment(&self, ordinal: u32, route: u32) -> Vec<HeldRecords> {
        let state = self.state();
        let routes = state.in_segments.get(&ordinal);
        let streams = routes.and_then(|routes| routes.get(&route)).into_iter().flatten();
        streams.filter_map(InSegment::held).collect()
    }

    /// The records that all segments hold for the followers of a route, delivered or not, in order.
    pub(crate) fn in_segments(&self, route: u32) -> Vec<HeldRecords> {
        self.state().stretches(route).map(Stretch::held).collect()
    }

    /// Begins to track what this follower has not read, in `unread`: everything after the
    /// watermark.
    pub(crate) fn follow(
        &self,
        route: u32,
        follower: u32,
        watermark: &Watermark,
        mut unread: Unread,
    ) {
        let mut state = self.state();
        let stretches: Vec<_> = state.stretches(route).collect();
        let held: Vec<_> = stretches.iter().map(|stretch| stretch.held()).collect();
        for HeldRecords { ordinal, stream, records } in watermark.left(&held) {
            let is_its = |stretch: &&&Stretch| stretch.is_in(ordinal) && stretch.stream == stream;
            if let Some(stretch) = stretches.iter().find(is_its) {
                unread.push(Stretch { records, ..(*stretch).clone() });
            }
        }
        state.route(route, Instant::now()).unread.insert(follower, unread);
    }

    /// Stops tracking a follower whose task has ended.
    pub(crate) fn unfollow(&self, route: u32, follower: u32) {
        if let Some(records) = self.state().routes.get_mut(&route) {
            records.unread.remove(&follower);
        }
    }

    /// The lag of a follower. `None` if it has read everything.
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

impl InSegment {
    fn held(&self) -> Option<HeldRecords> {
        self.logged.as_ref().map(Stretch::held)
    }
}

impl State {
    /// The records that the segments hold for the followers of a route, in order.
    fn stretches(&self, route: u32) -> impl Iterator<Item = &Stretch> {
        let of_route = self.in_segments.values().filter_map(move |routes| routes.get(&route));
        of_route.flatten().filter_map(|of| of.logged.as_ref())
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
