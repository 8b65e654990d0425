//! Handles that report to a board.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::HealthBoard;
use super::trouble::Trouble;
use crate::shared::panic::{Panicked, catch};

/// Follows one operation, such as the delivery of an object. Dropping it withdraws its report; only
/// [`over`](Self::over) reports success, since a task that is dropped with its runtime knows
/// nothing about the bucket.
#[must_use]
#[derive(Debug)]
pub struct Watch {
    pub(super) board: Arc<HealthBoard>,
    pub(super) number: u64,
}

impl Watch {
    /// Reports the operation's current trouble.
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

    /// Reports that the operation succeeded.
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
            // This may run during a panic, and a second one would abort the process.
            let _ = catch(|| self.board.metrics.blocked(level as u8));
        }
    }
}

/// A task that must run to completion.
#[doc(hidden)]
#[must_use]
#[derive(Debug)]
pub struct MustEnd {
    pub(super) board: Option<Arc<HealthBoard>>,
    pub(super) what: &'static str,
}

impl MustEnd {
    /// The task completed.
    pub fn ended(mut self) {
        self.board = None;
    }

    /// The task panicked.
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
            // Not logged: the process usually ends as well.
            let trouble = Trouble::ended(self.what, None);
            let reason = trouble.to_string();
            board.lock().stop(trouble);
            board.note_stopped(reason);
        }
    }
}

/// An accepted batch that is not yet durable.
#[doc(hidden)]
#[must_use]
#[derive(Debug)]
pub struct PendingBatch(pub(super) Arc<HealthBoard>);

impl Drop for PendingBatch {
    fn drop(&mut self) {
        self.0.pending_batches.fetch_sub(1, Ordering::Relaxed);
    }
}
