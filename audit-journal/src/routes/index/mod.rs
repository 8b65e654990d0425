//! The places of the routes' records that are not in an object yet.
//!
//! A route reads exactly its own batches: nothing is read for a route without any, and each batch
//! is read once. A place is dropped once the object with its records is durable.
//!
//! All routes together have a limited number of places, so the memory does not depend on the number
//! of batches. Once half of the places are used, the routes with the most cut their records into
//! objects, however few. If that does not suffice, since the disk refuses it or takes long, a
//! route's further batches in a segment share one place: a stretch, which covers the groups that
//! hold them. What an object holds does not depend on that: a stretch is divided between batches.
//!
//! Followers of routes have their own entries here: see [`super::unread`].

mod followers;
mod run;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use audit_core::UniqueId;
use tokio::time::Instant;

pub(crate) use self::run::Run;
use self::state::{InSegment, RouteRecords, State};
use super::batch::{IndexedBatch, RunRecords, Stretch};
use crate::format::{FIRST_GROUP, Found, Position};
use crate::recovery::{RecoveredSegment, RoutedRecords};
use crate::segment::{SegmentReader, Window};
use crate::segment_writer::Committed;
use crate::shared::latest;

/// The most places of records that are in no object, for all routes together: 10 MiB, since each
/// takes 40 bytes, and twice as much while lists grow. Half of them are enough for 26,000 batches a
/// second that are cut every five seconds.
pub(crate) const MAX_PLACES: usize = 1 << 18;

/// The routes' records that are in segments only. This state is only in memory.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    state: Mutex<State>,
}

/// The records of a route that wait to be cut into objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Their size in the journal, in bytes.
    pub(crate) bytes: u64,
    pub(crate) since: Instant,
    /// The time of the first record.
    pub(crate) time_ms: i64,
    /// The stream of the first record.
    pub(crate) stream: UniqueId,
    /// Whether the next object ends before the last record: system records are objects of their
    /// own, and no object holds records of two streams.
    pub(crate) is_bounded: bool,
    /// Whether they are to be cut, however few: a segment that holds some of them is to be removed,
    /// or the index has many places.
    pub(crate) is_wanted: bool,
}

impl RouteIndex {
    /// Creates an empty index in which batches share places once there are `max_places`. A stream
    /// of a route needs at least one in each segment, and one for each system record.
    pub(crate) fn new(max_places: usize) -> RouteIndex {
        RouteIndex { state: Mutex::new(State::new(max_places)) }
    }

    /// Indexes the records in these segments that are in no object according to `planned_to`.
    /// Segments without such records are not read again.
    pub(crate) fn recover(
        &self,
        segments: &[RecoveredSegment],
        planned_to: impl Fn(UniqueId) -> u64,
        now: Instant,
    ) -> io::Result<()> {
        let mut window = Window::default();
        for RecoveredSegment { segment, routed, end, .. } in segments {
            let in_segment = |records: &RoutedRecords| {
                let logged = Stretch {
                    segment: segment.clone(),
                    stream: records.stream,
                    records: records.logged.clone(),
                    groups: FIRST_GROUP..*end,
                    bytes: *end - FIRST_GROUP,
                    time_ms: None,
                };
                let logged = (!records.logged.is_empty()).then_some(logged);
                InSegment { stream: records.stream, logged }
            };
            let routes = routed
                .iter()
                .map(|(route, streams)| (*route, streams.iter().map(in_segment).collect()));
            self.state().in_segments.insert(segment.header.ordinal, routes.collect());
            if routed.values().flatten().all(|records| records.next <= planned_to(records.stream)) {
                continue;
            }
            let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP, window);
            reader.limit(*end);
            while reader.position().offset < *end {
                let Found::Group(header) = reader.look()? else {
                    let what = format!("a group has disappeared at {}", reader.position());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                };
                let from = reader.position().offset;
                let places = reader.routed(&header)?;
                reader.step_over(&header);
                let group = from..reader.position().offset;
                let mut state = self.state();
                let before = state.places;
                for place in places.iter().filter(|place| place.route > 0) {
                    let batch = IndexedBatch::new(place, from);
                    if batch.next_sequence() > planned_to(place.stream) {
                        state.add((place.route, place.stream), segment, batch, &group, now);
                    }
                }
                state.cut_largest(before);
            }
            window = reader.into_window();
        }
        Ok(())
    }

    /// Indexes a durable group, and wakes only the routes for which it begins or fills an object.
    /// If it woke all, each sync would wake 64 tasks for 64 busy routes.
    pub(crate) fn committed(&self, group: &Committed, now: Instant) {
        let Committed { batches, segment, offset, end, .. } = group;
        if batches.iter().all(|batch| batch.route.is_none()) {
            return;
        }
        let group = *offset..*end;
        let mut grown = Vec::with_capacity(batches.len());
        let mut state = self.state();
        let before = state.places;
        for batch in batches {
            let Some(route) = batch.route else { continue };
            let indexed = IndexedBatch {
                first_sequence: batch.first_sequence,
                time_ms: batch.time_ms,
                offset: batch.offset,
                bytes: u32::try_from(batch.bytes).expect("a batch fits into a segment"),
                count: batch.count,
                is_system: batch.is_system,
            };
            grown.push(route);
            let records = state.add((route, batch.stream), segment, indexed, &group, now);
            records.add_for_followers(batch.stream, segment, indexed, &group, now);
            let in_segment = state.in_segments.entry(segment.header.ordinal).or_default();
            let streams = in_segment.entry(route).or_default();
            InSegment::add(streams, batch.stream, segment, indexed, &group);
        }
        grown.sort_unstable();
        grown.dedup();
        for route in grown {
            state.routes.get_mut(&route).into_iter().for_each(RouteRecords::grew);
        }
        state.cut_largest(before);
    }

    /// Subscribes a route's reader to its records. Returns `None` if nothing more is committed.
    pub(crate) fn listen(&self, route: u32) -> Option<latest::Receiver<Position>> {
        self.listen_to(route, |records| &mut records.changed)
    }

    fn listen_to(
        &self,
        route: u32,
        of: impl Fn(&mut RouteRecords) -> &mut Option<latest::Sender<Position>>,
    ) -> Option<latest::Receiver<Position>> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        let records = state.route(route, Instant::now());
        let end = records.end;
        Some(of(records).get_or_insert_with(|| latest::channel(end).0).subscribe())
    }

    /// Adds a stream of a route, before its first file is written.
    pub(crate) fn add_stream(&self, stream: UniqueId, route: u32) {
        self.state().streams.insert(stream, route);
    }

    /// Removes a stream of which no record or file is left.
    pub(crate) fn forget_stream(&self, stream: UniqueId) {
        self.state().streams.remove(&stream);
    }

    /// The route of a stream, 0 for the default route.
    pub(crate) fn route_of(&self, stream: UniqueId) -> u32 {
        self.state().streams.get(&stream).copied().unwrap_or(0)
    }

    /// The end of the last group with records of a route.
    pub(crate) fn end_of(&self, route: u32) -> Option<Position> {
        self.state().routes.get(&route).map(|records| records.end)
    }

    /// The records of a route that are in no object. From now on, the route's reader is woken by
    /// the first of them, and once they take at least `wake_at` bytes.
    pub(crate) fn waiting(&self, route: u32, wake_at: u64) -> Option<Waiting> {
        let mut state = self.state();
        let records = state.routes.get_mut(&route)?;
        records.wake_at = wake_at;
        let RouteRecords { parts, places, bytes, since, system, is_wanted, is_large, .. } = records;
        let (front, back) = (parts.front()?, parts.back()?);
        let ((time_ms, _), stream) = (front.first()?, front.stream());
        let is_bounded = back.stream() != stream || *places > 1 && *system > 0;
        let is_wanted = *is_wanted || *is_large;
        Some(Waiting { bytes: *bytes, since: *since, time_ms, stream, is_bounded, is_wanted })
    }

    /// Whether any segment holds records of this stream of a route, delivered or not.
    pub(crate) fn has(&self, route: u32, stream: UniqueId) -> bool {
        let state = self.state();
        let mut of_route = state.in_segments.values().filter_map(|routes| routes.get(&route));
        of_route.any(|streams| streams.iter().any(|of| of.stream == stream))
    }

    /// Whether records of this stream of a route are in no object.
    pub(crate) fn is_waiting(&self, route: u32, stream: UniqueId) -> bool {
        let state = self.state();
        let waiting = state.routes.get(&route).into_iter().flat_map(|records| &records.parts);
        waiting.into_iter().any(|part| part.stream() == stream)
    }

    /// Forgets a removed segment.
    pub(crate) fn removed(&self, ordinal: u32) {
        self.state().in_segments.remove(&ordinal);
    }

    /// The records of a route's next object: a single system record, or other batches of at most
    /// `max_bytes` bytes, or one larger batch. They stay in the index until they are
    /// [planned](Self::planned).
    pub(crate) fn front(&self, route: u32, max_bytes: u64) -> Option<Run> {
        Run::of(self.state().routes.get(&route)?, route, max_bytes)
    }

    /// Reads the records of a run.
    pub(crate) fn read_run(&self, run: Run) -> io::Result<RunRecords> {
        let route = run.route;
        let (records, stretch) = run.read()?;
        if let Some(stretch) = stretch {
            self.state().divide(route, records.stream, records.next_sequence(), stretch);
        }
        Ok(records)
    }

    /// Drops the records of a stream below `next`: the objects that hold them are durable. Returns
    /// their size in the journal, in bytes.
    pub(crate) fn planned(&self, route: u32, stream: UniqueId, next: u64) -> u64 {
        let mut state = self.state();
        let State { routes, places, held, .. } = &mut *state;
        let Some(records) = routes.get_mut(&route) else { return 0 };
        let (bytes_before, places_before) = (records.bytes, records.places);
        for ordinal in records.drop_to(stream, next) {
            if let Some(parts) = held.get_mut(&ordinal) {
                *parts -= 1;
                if *parts == 0 {
                    held.remove(&ordinal);
                }
            }
        }
        *places -= places_before - records.places;
        bytes_before - records.bytes
    }

    /// Whether a segment holds records that are in no object.
    pub(crate) fn holds(&self, ordinal: u32) -> bool {
        self.state().held.contains_key(&ordinal)
    }

    /// Asks the routes whose records hold this segment, the oldest one, to cut them.
    pub(crate) fn want(&self, ordinal: u32) {
        let mut state = self.state();
        for records in state.routes.values_mut() {
            let front = records.parts.front();
            if front.is_some_and(|part| part.ordinal() == ordinal) && !records.is_wanted {
                records.is_wanted = true;
                records.wake();
            }
        }
    }

    /// Closes the readers' channels: nothing more will be committed.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for records in state.routes.values_mut() {
            drop((records.changed.take(), records.unread_changed.take()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
