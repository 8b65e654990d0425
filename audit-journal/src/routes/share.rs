//! How much of the journal's disk space a route uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Set while no batches are let in.
const CLOSED: u64 = 1 << 63;

/// Why a batch is not let in.
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
    /// A batch that is not counted any more may be found by the next recovery.
    is_uncertain: AtomicBool,
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

    /// Lets batches in.
    pub(crate) fn open(&self) {
        self.used.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Lets no more batches in. Those that are in are counted as used until they are delivered or
    /// certainly not written.
    pub(crate) fn close(&self) {
        self.used.fetch_or(CLOSED, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Whether a batch whose write failed may be found by the next recovery.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.is_uncertain.load(Ordering::Acquire)
    }

    /// Takes this many bytes if the limit is not exceeded. A route that uses nothing may exceed it
    /// with one batch, so that every batch can be accepted.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64, limit: u64) -> Result<Charge, Refused> {
        let fits = |used: u64| {
            let is_open = used & CLOSED == 0;
            (is_open && (used == 0 || used + bytes <= limit)).then_some(used + bytes)
        };
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Charge { share: Arc::clone(self), bytes, may_be_durable: false }),
            Err(used) if used & CLOSED != 0 => Err(Refused::Closed),
            Err(used) => Err(Refused::Full { used }),
        }
    }

    /// Counts bytes that are on the disk.
    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts bytes that are no longer needed.
    pub(crate) fn free(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before & !CLOSED >= bytes, "{bytes} bytes are freed, and {before} were used");
        self.freed.notify_waiters();
    }

    /// Completes once `is_so`, which is asked again whenever bytes are freed.
    pub(crate) async fn until<T>(&self, mut is_so: impl FnMut() -> Option<T>) -> T {
        loop {
            // It hears of what is freed from here on.
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
}

impl Charge {
    /// The batch is about to be written, or was certainly not written.
    pub(crate) fn set_may_be_durable(&mut self, may_be_durable: bool) {
        self.may_be_durable = may_be_durable;
    }

    /// The batch is durable: its bytes are freed once its object is.
    pub(crate) fn commit(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.is_uncertain.fetch_or(self.may_be_durable, Ordering::AcqRel);
            self.share.free(self.bytes);
        }
    }
}
