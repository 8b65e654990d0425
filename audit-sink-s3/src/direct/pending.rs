//! Batches on their way: their numbers, and their count.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;

use crate::health::HealthBoard;

/// Numbers batches in the order of their arrival.
pub(super) type Ticket = u64;

/// Counts a batch as pending while it lives.
pub(super) struct Pending {
    _room: OwnedSemaphorePermit,
    health: Arc<HealthBoard>,
}

impl Pending {
    pub(super) fn new(room: OwnedSemaphorePermit, health: &Arc<HealthBoard>) -> Pending {
        health.pending_batches.fetch_add(1, Ordering::Relaxed);
        Pending { _room: room, health: Arc::clone(health) }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.health.pending_batches.fetch_sub(1, Ordering::Relaxed);
    }
}
