//! Pending batches.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use crate::health::{HealthBoard, PendingBatch};

/// Numbers batches in the order of their arrival.
pub(super) type Ticket = u64;

/// Counts a batch as pending while it lives.
pub(super) struct Pending {
    /// The span in which its caller waits, for traces.
    pub(super) span: Span,
    _room: OwnedSemaphorePermit,
    _counted: PendingBatch,
}

impl Pending {
    pub(super) fn new(room: OwnedSemaphorePermit, health: &Arc<HealthBoard>) -> Pending {
        Pending { span: Span::current(), _room: room, _counted: health.pending_batch() }
    }
}
