//! How much of the journal's disk space a route uses.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::health::HealthBoard;
use crate::shared::panic::catch;

/// The bit of `used` that is set while no batches are accepted.
const CLOSED: u64 = 1 << 63;

/// Why a batch is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full { used: u64 },
    Closed,
}

/// The bytes that a route's undelivered records take: batches that are queued or in segments, and
/// the files of objects.
#[derive(Debug, Default)]
pub(crate) struct Share {
    used: AtomicU64,
    freed: Notify,
    /// The number of batches that are no longer counted in `used`, and that the next recovery may
    /// still find.
    uncertain: AtomicU64,
    /// The health of the route since it was opened, whose metrics show the share. Locked while they
    /// are set, so that the last value set is the latest.
    shown: Mutex<Option<Arc<HealthBoard>>>,
}

impl Share {
    /// The share of a route that is not open.
    pub(crate) fn closed() -> Arc<Share> {
        Arc::new(Share { used: AtomicU64::new(CLOSED), ..Share::default() })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire) & !CLOSED
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.used.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Shows the share in the metrics of `health` from now on, and in no others.
    pub(crate) fn show(&self, health: &Arc<HealthBoard>, limit: u64) {
        let mut shown = self.shown();
        if let Some(before) = shown.replace(Arc::clone(health)) {
            before.journal_bytes_metric(0);
        }
        health.journal_bytes(self.used());
        health.journal_limit(limit);
    }

    /// Shows a new limit.
    pub(crate) fn show_limit(&self, limit: u64) {
        if let Some(health) = &*self.shown() {
            health.journal_limit(limit);
        }
    }

    fn show_used(&self) {
        if let Some(health) = &*self.shown() {
            // This may run while a charge is dropped during a panic, and a second one would abort
            // the process.
            let _ = catch(|| health.journal_bytes_metric(self.used()));
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<Arc<HealthBoard>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts batches from now on.
    pub(crate) fn open(&self) {
        self.used.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Accepts no more batches. Accepted ones are counted as used until they are delivered or
    /// certainly not written.
    pub(crate) fn close(&self) {
        self.used.fetch_or(CLOSED, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Whether a batch whose write failed may be found by the next recovery.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain.load(Ordering::Acquire) > 0
    }

    /// Takes this many bytes if the limit is not exceeded. A route that uses nothing may exceed it
    /// with one batch, so that every batch can be accepted.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64, limit: u64) -> Result<Charge, Refused> {
        let fits = |used: u64| {
            let is_open = used & CLOSED == 0;
            (is_open && (used == 0 || used + bytes <= limit)).then_some(used + bytes)
        };
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => {
                self.show_used();
                Ok(Charge::new(self, bytes))
            }
            Err(used) if used & CLOSED != 0 => Err(Refused::Closed),
            Err(used) => Err(Refused::Full { used }),
        }
    }

    /// Takes this many bytes for a system record, even beyond the limit.
    pub(crate) fn charge_system(self: &Arc<Self>, bytes: u64) -> Charge {
        self.add(bytes);
        Charge::new(self, bytes)
    }

    /// Counts bytes that are on the disk.
    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        self.show_used();
    }

    /// Counts bytes that are no longer needed.
    pub(crate) fn free(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before & !CLOSED >= bytes, "{bytes} bytes are freed, and {before} were used");
        self.show_used();
        self.freed.notify_waiters();
    }

    /// Makes the callers that wait in [`until`](Self::until) check again.
    pub(crate) fn notify(&self) {
        self.freed.notify_waiters();
    }

    /// Calls `is_so` now and whenever bytes are freed, until it returns a value. Returns that
    /// value.
    pub(crate) async fn until<T>(&self, mut is_so: impl FnMut() -> Option<T>) -> T {
        loop {
            // Registered before the check, so that no release after it is missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(value) = is_so() {
                return value;
            }
            freed.await;
        }
    }
}

/// The bytes of a batch that is not durable yet. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct Charge {
    share: Arc<Share>,
    bytes: u64,
    may_be_durable: bool,
    /// Keeps the stream of the batch from ending.
    turn: Option<Box<dyn Debug + Send + Sync>>,
}

/// A batch that the next recovery may find, although its write failed.
#[derive(Debug)]
pub(crate) struct UncertainBatch(Arc<Share>);

impl UncertainBatch {
    /// No recovery will find the batch.
    pub(crate) fn settle(self) {
        self.0.uncertain.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Charge {
    fn new(share: &Arc<Share>, bytes: u64) -> Charge {
        Charge { share: Arc::clone(share), bytes, may_be_durable: false, turn: None }
    }

    /// Adds the batch's turn, which is held until the outcome is known.
    pub(crate) fn with_turn(mut self, turn: impl Debug + Send + Sync + 'static) -> Charge {
        self.turn = Some(Box::new(turn));
        self
    }

    /// Marks the outcome of the batch's write as unknown: the next recovery may find the batch.
    pub(crate) fn uncertain(mut self) -> UncertainBatch {
        self.share.uncertain.fetch_add(1, Ordering::AcqRel);
        self.may_be_durable = false;
        UncertainBatch(Arc::clone(&self.share))
    }

    /// Sets whether the batch may be durable: true before it is written, false once it was
    /// certainly not written.
    pub(crate) fn set_may_be_durable(&mut self, may_be_durable: bool) {
        self.may_be_durable = may_be_durable;
    }

    /// The batch is durable: its bytes stay counted until its object is durable too.
    pub(crate) fn commit(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.uncertain.fetch_add(u64::from(self.may_be_durable), Ordering::AcqRel);
            self.share.free(self.bytes);
        }
    }
}
