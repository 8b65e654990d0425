//! Operations that the disk refused, panics, and their retries.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use audit_core::DiskFault;
use tokio::time::Instant;

use super::JournalDelivery;
use crate::disk::{Disk, is_full};
use crate::health::{Trouble, Watch};
use crate::shared::executor::execute;

/// An operation that the disk refused.
pub(super) struct Refused {
    pub(super) again_at: Instant,
    /// Whether the disk lacked space.
    pub(super) is_full: bool,
    /// Whether the operation read the journal.
    pub(super) reading: bool,
    pub(super) watch: Watch,
}

/// The operation that failed, and its error.
pub(super) type Failed = (&'static str, io::Error);

/// The delay before a refused operation is retried.
pub(super) const DISK_PAUSE: Duration = Duration::from_secs(1);

impl JournalDelivery {
    pub(super) fn refuse(&mut self, failed: Failed, reading: bool) {
        let (what, error) = failed;
        let is_full = is_full(&error);
        if DiskFault::of(&error) == Some(DiskFault::Removed) && !self.is_gone {
            self.is_gone = true;
            self.health.stop(Trouble::removed(&error));
        }
        let watch = self.refused.take().map_or_else(|| self.health.watch(), |before| before.watch);
        watch.report(Trouble::disk(what, &error));
        let again_at = Instant::now() + DISK_PAUSE;
        self.refused = Some(Refused { again_at, is_full, reading, watch });
        if is_full {
            self.clean_at = Instant::now();
        }
    }

    /// Whether it ended because the journal's directory was removed.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Counts a panic or a dropped request. Returns the backoff before the retry.
    pub(super) fn broke(&mut self, trouble: Trouble) -> Duration {
        let health = &self.health;
        health.panicked();
        let (watch, times) = self.broken.take().unwrap_or_else(|| (health.watch(), 0));
        watch.report(trouble);
        self.broken = Some((watch, times.saturating_add(1)));
        self.destination.backoff_after_panic(times)
    }

    /// Ends the trouble that a panic or a dropped request caused.
    pub(super) fn mended(&mut self) {
        if let Some((watch, _)) = self.broken.take() {
            watch.over();
        }
    }

    pub(super) fn may_use_disk(&self) -> bool {
        self.again_at() <= Instant::now()
    }

    pub(super) fn again_at(&self) -> Instant {
        self.refused.as_ref().map_or_else(Instant::now, |refused| refused.again_at)
    }

    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        action: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.disk);
        execute(&*self.executor, move || action(&*disk)).await
    }
}
