//! Starting over from the durable state, as the next process would.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use super::JournalDelivery;
use super::planned::{Planned, State};
use super::refusals::Failed;
use crate::cutter::Cutter;
use crate::disk::Disk;
use crate::format::Position;
use crate::plan::{self, Decided, DecidedObject};
use crate::recovery_error::RecoveryError;
use crate::segments::LiveSegments;
use crate::streams::Streams;

impl JournalDelivery {
    /// Starts over from the durable state.
    pub(super) fn begin(&mut self, decided: Decided) {
        let start = Position { ordinal: 0, offset: 0 };
        self.delivered = decided.delivered.into_iter().collect();
        let delivered = self.delivered.iter();
        let mut planned_to: BTreeMap<_, _> =
            delivered.map(|(stream, progress)| (*stream, progress.next)).collect();
        for DecidedObject { plan, .. } in &decided.objects {
            planned_to.insert(plan.stream, plan.next_sequence());
        }
        let planned = decided.objects.into_iter().map(|object| {
            let DecidedObject { plan, role, after, set_aside, file_bytes } = object;
            let state = if set_aside { State::Done { is_aside: true } } else { State::Waiting };
            Planned { plan, role, after, end: start, file_bytes, state }
        });
        self.planned = planned.collect();
        let live = Arc::clone(&self.live);
        let cutter = Cutter::new(live, planned_to, self.max_object_bytes);
        self.cutter = Arc::new(Mutex::new(cutter));
        (self.unplanned, self.refused) = (None, None);
        self.encodings.clear();
        (self.cutting, self.wanted) = (None, None);
        // Requests under way are dropped here, and their outcomes are unknown.
        self.requests = JoinSet::new();
        (self.delivered_to, self.allowed, self.more) = (start, 1, true);
        self.begin_route();
    }

    /// Reads the plans again.
    pub(super) async fn read_plans(&mut self) -> Result<(), Failed> {
        let (live, streams) = (Arc::clone(&self.live), Arc::clone(&self.streams));
        let route = self.number();
        let read = self.on_disk(move |disk| read_again(disk, &live, &streams, route));
        let decided = read.await.map_err(|error| ("the plans of objects cannot be read", error))?;
        self.begin(decided);
        self.lost = false;
        Ok(())
    }
}

/// Reads the plans of a route, 0 for the default route, while commits to it continue.
fn read_again(
    disk: &dyn Disk,
    live: &LiveSegments,
    streams: &Streams,
    route: u32,
) -> io::Result<Decided> {
    let _locked = streams.lock_files();
    // Other routes' deliveries continue, and write the files of their own streams.
    let is_own = |stream| live.routes().route_of(stream) == route;
    let has_records = |stream| match route {
        0 => live.end_of(stream) > Some(0),
        _ => live.routes().has(route, stream),
    };
    plan::recover(disk, is_own, has_records).map_err(|error| match error {
        RecoveryError::Io(error) => error,
        error @ RecoveryError::Damaged { .. } => io::Error::other(error),
    })
}
