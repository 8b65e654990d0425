//! The state of the index.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use audit_core::UniqueId;
use tokio::time::Instant;

use crate::format::Position;
use crate::routes::batch::{IndexedBatch, Stretch};
use crate::routes::filling::ReadTo;
use crate::routes::unread::Unread;
use crate::segment::Segment;
use crate::shared::latest;

#[derive(Debug)]
pub(super) struct State {
    pub(super) routes: BTreeMap<u32, RouteRecords>,
    /// The number of places that all routes hold.
    pub(super) places: usize,
    /// The number of places from which further batches share one.
    max_places: usize,
    /// For each segment with records that are in no object, the number of parts that they make.
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
    pub(super) parts: VecDeque<Part>,
    /// The number of places in them.
    pub(super) places: usize,
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
    /// Whether they had more places than other routes' when there were many.
    pub(super) is_large: bool,
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

/// Some records of one stream of a route in one segment, in no object yet.
#[derive(Debug)]
pub(super) enum Part {
    /// The place of each batch.
    Batches(Segment, UniqueId, VecDeque<IndexedBatch>),
    /// One place for all batches. Once they were read for an object, no more are added, so that the
    /// object ends where the part does.
    Stretch { stretch: Stretch, is_read: bool },
}

impl Part {
    pub(super) fn stream(&self) -> UniqueId {
        match self {
            Part::Batches(_, stream, _) => *stream,
            Part::Stretch { stretch, .. } => stretch.stream,
        }
    }

    pub(super) fn ordinal(&self) -> u32 {
        match self {
            Part::Batches(segment, ..) => segment.header.ordinal,
            Part::Stretch { stretch, .. } => stretch.segment.header.ordinal,
        }
    }

    /// The time of the first record, or of an earlier one, and whether it is a system record.
    pub(super) fn first(&self) -> Option<(i64, bool)> {
        match self {
            Part::Batches(_, _, batches) => {
                batches.front().map(|batch| (batch.time_ms, batch.is_system))
            }
            Part::Stretch { stretch, .. } => stretch.time_ms.map(|time_ms| (time_ms, false)),
        }
    }

    /// Where its last batch, or the first group with any, begins.
    pub(super) fn last_start(&self) -> Option<Position> {
        match self {
            Part::Batches(segment, _, batches) => {
                batches.back().map(|last| segment.position(last.offset))
            }
            Part::Stretch { stretch, .. } => Some(stretch.segment.position(stretch.groups.start)),
        }
    }

    fn ends_with_system(&self) -> bool {
        match self {
            Part::Batches(_, _, batches) => batches.back().is_some_and(|last| last.is_system),
            Part::Stretch { .. } => false,
        }
    }
}

impl State {
    pub(super) fn new(max_places: usize) -> State {
        State {
            routes: BTreeMap::new(),
            places: 0,
            max_places,
            held: BTreeMap::new(),
            in_segments: BTreeMap::new(),
            streams: BTreeMap::new(),
            is_closed: false,
        }
    }

    pub(super) fn route(&mut self, route: u32, now: Instant) -> &mut RouteRecords {
        self.routes.entry(route).or_insert_with(|| RouteRecords::new(now))
    }

    /// Adds a batch of a group at these offsets. Returns the route's records.
    pub(super) fn add(
        &mut self,
        (route, stream): (u32, UniqueId),
        segment: &Segment,
        batch: IndexedBatch,
        group: &Range<u64>,
        now: Instant,
    ) -> &mut RouteRecords {
        let is_full = self.places >= self.max_places;
        let records = self.routes.entry(route).or_insert_with(|| RouteRecords::new(now));
        let (parts, places) = (records.parts.len(), records.places);
        records.add(stream, segment, batch, group, is_full, now);
        self.places += records.places - places;
        if records.parts.len() > parts {
            *self.held.entry(segment.header.ordinal).or_insert(0) += 1;
        }
        records
    }

    /// Has the routes with the most places cut their records once half of all places are used, and
    /// again whenever a sixty-fourth more is. `before` is how many were used before the last group.
    ///
    /// An object file then stands for at least as many batches as a route has on average. To read
    /// the groups of a stretch costs more, since those have other routes' batches too.
    pub(super) fn cut_largest(&mut self, before: usize) {
        let step = (self.max_places / 64).max(1);
        if self.places < self.max_places / 2 || before / step >= self.places / step {
            return;
        }
        let routes = self.routes.values().filter(|records| records.places > 0).count();
        for records in self.routes.values_mut() {
            if !records.is_large && records.places * routes >= self.places {
                records.is_large = true;
                records.wake();
            }
        }
    }

    /// Notes that a stretch was read up to `next` for an object, and divides it there.
    pub(super) fn divide(&mut self, route: u32, stream: UniqueId, next: u64, read: ReadTo) {
        let Some(records) = self.routes.get_mut(&route) else { return };
        let ReadTo { mut from, mut bytes, .. } = read;
        for n in 0..records.parts.len() {
            let Part::Stretch { stretch, is_read } = &mut records.parts[n] else { continue };
            if stretch.stream != stream || stretch.records.start != from || from >= next {
                continue;
            }
            *is_read = true;
            // Divided already while it was read: the delivery has started over.
            if stretch.records.end <= next {
                (from, bytes) = (stretch.records.end, bytes - stretch.bytes);
                continue;
            }
            let rest = Stretch {
                records: next..stretch.records.end,
                groups: read.at.offset..stretch.groups.end,
                bytes: stretch.bytes - bytes,
                time_ms: read.time_ms.or(stretch.time_ms),
                ..stretch.clone()
            };
            (stretch.records.end, stretch.bytes) = (next, bytes);
            *self.held.entry(rest.segment.header.ordinal).or_insert(0) += 1;
            self.places += 1;
            records.places += 1;
            records.parts.insert(n + 1, Part::Stretch { stretch: rest, is_read: false });
            return;
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
            parts: VecDeque::new(),
            places: 0,
            bytes: 0,
            since: now,
            begins_object: false,
            system: 0,
            wake_at: 0,
            end: Position { ordinal: 0, offset: 0 },
            is_wanted: false,
            is_large: false,
            changed: None,
            unread: BTreeMap::new(),
            unread_changed: None,
        }
    }

    /// Adds a batch of a group at these offsets. With `is_full`, it gets no place of its own. A
    /// system record always does: it is an object of its own.
    fn add(
        &mut self,
        stream: UniqueId,
        segment: &Segment,
        batch: IndexedBatch,
        group: &Range<u64>,
        is_full: bool,
        now: Instant,
    ) {
        let last = self.parts.back_mut();
        let is_with_last = last.as_ref().is_some_and(|last| {
            last.stream() == stream && !last.ends_with_system() && !batch.is_system
        });
        self.begins_object |= !is_with_last;
        if last.is_none() {
            self.since = now;
        }
        self.bytes += u64::from(batch.bytes);
        self.system += usize::from(batch.is_system);
        self.end = segment.position(group.end);
        let ordinal = segment.header.ordinal;
        match last.filter(|last| last.ordinal() == ordinal && last.stream() == stream) {
            // Even if there are places again, so that a segment has few parts.
            Some(Part::Stretch { stretch, is_read: false }) if !batch.is_system => {
                return stretch.extend(&batch, group.end);
            }
            Some(Part::Batches(_, _, batches)) if batch.is_system || !is_full => {
                batches.push_back(batch);
            }
            _ => self.parts.push_back(match is_full && !batch.is_system {
                true => {
                    let stretch = Stretch::of_batch(segment, stream, &batch, group.clone());
                    Part::Stretch { stretch, is_read: false }
                }
                false => Part::Batches(segment.clone(), stream, VecDeque::from([batch])),
            }),
        }
        self.places += 1;
    }

    /// Drops the records of a stream below `next`, where a part or a batch ends. Returns the
    /// ordinals of the segments of the parts that are dropped whole.
    pub(super) fn drop_to(&mut self, stream: UniqueId, next: u64) -> Vec<u32> {
        let mut dropped = Vec::new();
        while let Some(front) = self.parts.front_mut().filter(|part| part.stream() == stream) {
            match front {
                Part::Batches(_, _, batches) => {
                    while let Some(batch) = batches.pop_front_if(|b| b.next_sequence() <= next) {
                        self.bytes -= u64::from(batch.bytes);
                        self.system -= usize::from(batch.is_system);
                        self.places -= 1;
                    }
                    if !batches.is_empty() {
                        break;
                    }
                }
                Part::Stretch { stretch, .. } if stretch.records.end <= next => {
                    self.bytes -= stretch.bytes;
                    self.places -= 1;
                }
                Part::Stretch { .. } => break,
            }
            dropped.push(front.ordinal());
            self.parts.pop_front();
            self.is_wanted = false;
        }
        (self.since, self.is_large) = (Instant::now(), false);
        dropped
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
        let mut state = State::new(usize::MAX);
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
