//! The parts of a delivery that differ for a route. Each route has a delivery of its own, with its
//! own requests, backoff, health and share of the journal's disk.
//!
//! Where the default route's delivery reads the journal in order, a route's reads its own batches
//! where the index says they are, and only when an object is cut. Records of a destination that is
//! away are cut into objects as well, whose files wait for it, so that they keep no segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::UniqueId;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::planned::State;
use super::{JournalDelivery, lock};
use crate::destination::{Destination, Plan};
use crate::health::HealthBoard;
use crate::progress::remove_progress;
use crate::routes::{Share, Waiting};
use crate::segments::LiveSegments;
use crate::shared::executor::execute;

/// The route of a delivery.
#[derive(Debug)]
pub(crate) struct RouteLane {
    /// At least 1.
    pub(crate) number: u32,
    pub(crate) share: Arc<Share>,
    /// Whether the route was opened with its own destination. Before that, objects are encoded and
    /// not sent.
    pub(crate) is_open: bool,
    /// The size of the object files that are counted in `share`, in bytes.
    pub(crate) file_bytes: u64,
    /// The most that `share` may be used, in bytes.
    pub(crate) limit: Arc<AtomicU64>,
}

impl RouteLane {
    /// Counts `less` bytes of object files that are no longer needed and `more` bytes of new ones.
    pub(super) fn change_files(&mut self, live: &LiveSegments, less: u64, more: u64) {
        self.file_bytes = self.file_bytes + more - less;
        self.share.add(more);
        self.share.free(less);
        live.change_objects(less, more);
    }
}

/// How long an idle route's delivery sleeps.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

impl JournalDelivery {
    /// Follows [`begin`](Self::begin): counts what is durable. If the delivery panicked, it may not
    /// have counted its last step.
    pub(super) fn begin_route(&mut self) {
        let Some(route) = &mut self.route else { return };
        let delivered = self.delivered.iter().map(|(stream, progress)| (*stream, progress.next));
        let planned = self.planned.iter().map(|planned| planned.plan);
        let planned = planned.map(|plan| (plan.stream, plan.next_sequence()));
        for (stream, next) in delivered.chain(planned) {
            route.share.free(self.live.routes().planned(route.number, stream, next));
        }
        let files = self.planned.iter().map(|planned| planned.file_bytes).sum();
        route.change_files(&self.live, route.file_bytes, files);
    }

    /// The number of its route, 0 for the default route.
    pub(super) fn number(&self) -> u32 {
        self.route.as_ref().map_or(0, |route| route.number)
    }

    /// Ends the route's current stream once nothing more is committed. If the stream's end is
    /// unknown, the next recovery finds it, and the next process closes the stream. The default
    /// route's stream is ended by the committing thread.
    pub(super) fn end_route(&self) {
        let route = self.route.as_ref().filter(|_| self.ended);
        if route.is_some_and(|route| !route.share.is_uncertain()) {
            self.streams.end();
        }
    }

    /// Whether it is the delivery of a route whose destination is not known yet.
    pub(super) fn is_unopened(&self) -> bool {
        self.route.as_ref().is_some_and(|route| !route.is_open)
    }

    /// Delivers to this destination from now on.
    ///
    /// Requests to the previous destination are dropped: their outcomes are unknown, and their
    /// objects are sent to the new one.
    pub(super) fn open_route(
        &mut self,
        destination: Arc<dyn Destination>,
        health: Arc<HealthBoard>,
    ) {
        let before = std::mem::replace(&mut self.health, health);
        // Its metrics stay, and nothing is waiting for the destination that they name.
        before.oldest_undelivered(None);
        self.destination = destination;
        (self.requests, self.allowed, self.hurry) = (JoinSet::new(), 1, false);
        for planned in &mut self.planned {
            if let State::UnderWay { .. } = planned.state {
                planned.state = State::Waiting;
            }
        }
        if let Some(route) = &mut self.route {
            route.is_open = true;
        }
    }

    /// The route's records that are in no object. `None` for the default route.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let wake_at = self.full_route();
        self.live.routes().waiting(self.route.as_ref()?.number, wake_at)
    }

    /// Whether the route's next object is to be cut: it is full, a segment with its records is to
    /// be removed, or it can be sent and is due or gets no more records.
    pub(super) fn must_cut_route(&self) -> bool {
        let Some(waiting) = self.waiting() else { return false };
        if self.unplanned.is_some() || !self.encodings.is_empty() || !self.may_use_disk() {
            return false;
        }
        let is_due = || self.due().is_some_and(|due| due <= Instant::now());
        let must_be_cut = waiting.bytes >= self.full_route() || waiting.is_wanted;
        must_be_cut || self.has_slot() && (waiting.is_bounded || is_due())
    }

    /// The size at which a route's object is full, in bytes of the journal: a route with a small
    /// share must not use it up before anything is sent.
    pub(super) fn full_route(&self) -> u64 {
        let share = self.route.as_ref().map_or(u64::MAX, |r| r.limit.load(Ordering::Relaxed) / 2);
        share.min(self.max_object_bytes as u64)
    }

    /// Notes that an object's file is durable: segments are no longer needed for its records.
    pub(super) fn planned_route(&mut self, plan: &Plan, file_bytes: u64) {
        let Some(route) = &mut self.route else { return };
        let next = plan.next_sequence();
        lock(&self.cutter).planned(plan);
        route.change_files(&self.live, 0, file_bytes);
        route.share.free(self.live.routes().planned(route.number, plan.stream, next));
        if self.is_pressed() {
            self.live.want_room();
        }
    }

    /// Whether an object that was just planned is sent now. If not, it waits in its file.
    pub(super) fn may_send(&self) -> bool {
        !self.is_unopened()
            && self.requests.len() < self.allowed
            // No object overtakes an earlier one that still waits in its file.
            && self.planned.iter().all(|planned| planned.state != State::Waiting)
    }

    /// Removes the progress of the route's former streams once all their records are delivered.
    pub(super) async fn clean_route(&mut self) {
        let number = self.number();
        let is_gone = |stream: UniqueId| {
            !self.live.routes().has(number, stream)
                && self.planned.iter().all(|planned| planned.plan.stream != stream)
                && self.unplanned.as_ref().is_none_or(|next| next.plan.stream != stream)
        };
        let gone = self.delivered.iter().filter(|(stream, progress)| {
            self.streams.is_past(**stream, progress) && is_gone(**stream)
        });
        let gone: Vec<_> = gone.map(|(stream, _)| *stream).collect();
        let (disk, live) = (Arc::clone(&self.disk), Arc::clone(&self.live));
        let streams = gone.clone();
        let removed = execute(&*self.executor, move || {
            streams.iter().try_for_each(|stream| {
                // A crash may bring the file back; a later process then removes it again.
                remove_progress(&*disk, *stream)?;
                live.routes().forget_stream(*stream);
                Ok::<_, std::io::Error>(())
            })
        });
        match removed.await {
            Ok(()) => self.delivered.retain(|stream, _| !gone.contains(stream)),
            Err(error) => {
                tracing::warn!(%error, "the progress of a delivered route cannot be removed");
            }
        }
        if self.delivered.len() <= 1 && self.is_idle() {
            self.clean_at = Instant::now() + IDLE;
        }
    }
}
