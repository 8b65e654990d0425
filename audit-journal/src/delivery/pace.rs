//! Decides what the delivery may do next, and what it waits for.

use std::sync::Arc;

use tokio::time::Instant;

use super::JournalDelivery;
use super::memory::Memory;
use crate::cutter::Cut;
use crate::shared::job::Job;

/// The objects that each core may encode before they can be sent. Until then, they are in their
/// files.
const AHEAD: usize = 4;

impl JournalDelivery {
    pub(super) fn note_oldest(&self) {
        let gathered = match self.waiting() {
            Some(waiting) => Some(waiting.time_ms),
            None => self.cutter().pending.as_ref().map(Cut::time_ms),
        };
        let planned = self.planned.front().map(|planned| planned.plan.time_ms);
        let unplanned = self.unplanned.as_ref().map(|next| next.plan.time_ms);
        let encoding = self.encodings.front().map(|next| next.time_ms);
        let oldest = planned.or(unplanned).or(encoding).or(gathered);
        self.health.oldest_undelivered(oldest);
    }

    /// When the object that is being filled is cut, however full it is.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = match self.route {
            Some(_) => self.waiting()?.since,
            None => self.cutter().pending.as_ref()?.since,
        };
        let now = self.hurry || self.ended || !self.flushes.is_empty();
        Some(if now { since } else { since + self.journal.cut_after() })
    }

    /// Whether another object may be cut. As long as the default route has no trouble, a core never
    /// waits for its next object: one more than there are cores is encoded at once, and some are
    /// planned ahead, since the first requests go out one by one.
    pub(super) fn has_slot(&self) -> bool {
        let is_ahead = self.route.is_none() && !self.health.delivery_in_trouble();
        let ahead = if is_ahead { AHEAD * self.memory.cores() } else { 0 };
        let at_once = if self.route.is_none() { self.memory.cores() + 1 } else { 1 };
        self.planned.len() + self.encodings.len() < self.allowed + ahead
            && self.encodings.len() < at_once
            && self.unplanned.is_none()
            && !self.is_unopened()
    }

    /// Whether the default route's next object may be cut now.
    pub(super) fn may_cut(&self) -> bool {
        self.route.is_none() && self.has_slot() && self.may_use_disk()
    }

    /// Whether there is memory for the lines of the default route's next object. Requests it if
    /// not.
    pub(super) fn has_memory(&mut self) -> bool {
        let bytes = self.max_object_bytes as u64;
        if self.cutting.is_none() && self.wanted.is_none() {
            self.cutting = self.memory.try_cut(bytes);
            if self.cutting.is_none() {
                let memory = Arc::clone(&self.memory);
                self.wanted = Some(Job::spawn(async move { memory.cut(bytes).await }));
            }
        }
        self.cutting.is_some()
    }

    /// Whether everything is read and delivered.
    pub(super) fn is_idle(&self) -> bool {
        let is_read = match self.route {
            Some(_) => self.waiting().is_none(),
            None => !self.more && self.cutter().pending.is_none(),
        };
        is_read && self.planned.is_empty() && self.unplanned.is_none() && self.encodings.is_empty()
    }

    /// Frees memory that nothing needs now.
    pub(super) fn rest(&mut self) {
        let fills_none = !self.more && self.cutter().pending.is_none();
        if fills_none {
            (self.cutting, self.wanted) = (None, None);
        }
        if self.is_idle() {
            self.cutter().trim();
            self.destination.trim();
            self.memory.rest();
        }
    }
}

/// Waits for the requested memory; forever if none is requested.
pub(super) async fn taken(wanted: &mut Option<Job<Memory>>) -> Memory {
    match wanted {
        Some(wanted) => wanted.await,
        None => std::future::pending().await,
    }
}
