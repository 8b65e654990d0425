//! Those that report to a board.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::HealthBoard;
use super::trouble::Trouble;
use crate::shared::panic::{Panicked, catch};

/// Follows one thing under way, such as an object. Dropping it withdraws what it reported, and only
/// [`over`](Self::over) says that it ended well: a task that is dropped with its runtime knows
/// nothing of the bucket.
#[must_use]
#[derive(Debug)]
pub struct Watch {
    pub(super) board: Arc<HealthBoard>,
    pub(super) number: u64,
}

impl Watch {
    /// It is in this trouble now.
    pub fn report(&self, trouble: Trouble) {
        if let Trouble::Delivery(_) = trouble {
            self.board.retries.fetch_add(1, Ordering::Relaxed);
            self.board.metrics.retried();
        }
        self.board.change(|troubles| {
            troubles.last_error = Some(trouble.to_string());
            troubles.current.insert(self.number, trouble);
        });
    }

    /// It was carried out.
    pub fn over(self) {
        self.board.change(|troubles| {
            troubles.current.remove(&self.number);
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut troubles = self.board.lock();
        if troubles.current.remove(&self.number).is_some() {
            let level = troubles.level();
            drop(troubles);
            // It may be dropped by a panic, and a second one would end the process.
            let _ = catch(|| self.board.metrics.blocked(level as u8));
        }
    }
}

/// A task that must come to its end.
#[doc(hidden)]
#[must_use]
#[derive(Debug)]
pub struct MustEnd {
    pub(super) board: Option<Arc<HealthBoard>>,
    pub(super) what: &'static str,
}

impl MustEnd {
    /// It ended as it should.
    pub fn ended(mut self) {
        self.board = None;
    }

    /// It panicked.
    pub fn panicked(mut self, panicked: &Panicked) {
        if let Some(board) = self.board.take() {
            board.panicked();
            board.stop(Trouble::ended(self.what, Some(panicked)));
        }
    }
}

impl Drop for MustEnd {
    fn drop(&mut self) {
        if let Some(board) = self.board.take() {
            // The log need not hear of it: the process mostly ends as well.
            let trouble = Trouble::ended(self.what, None);
            let reason = trouble.to_string();
            board.lock().stop(trouble);
            board.stopped.send_if_modified(|stopped| stopped.replace(reason).is_none());
        }
    }
}

/// A batch that is accepted and not yet durable.
#[doc(hidden)]
#[must_use]
#[derive(Debug)]
pub struct PendingBatch(pub(super) Arc<HealthBoard>);

impl Drop for PendingBatch {
    fn drop(&mut self) {
        self.0.pending_batches.fetch_sub(1, Ordering::Relaxed);
    }
}
