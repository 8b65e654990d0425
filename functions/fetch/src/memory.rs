//! The memory of fetches, which they share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The number of bytes per permit. Permits are counted in 32 bits.
const UNIT_BYTES: usize = 1 << 10;

/// The memory of a running fetch, in bytes: 128 KiB of unread response, the client's read buffer
/// (408 KiB), and a piece on its way to the function.
pub(crate) const FETCH_BYTES: usize = 1 << 20;

/// An amount of memory to share.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    semaphore: Arc<Semaphore>,
    units: usize,
}

impl Memory {
    /// An amount of `bytes`, or `least` if that is more.
    pub(crate) fn new(bytes: usize, least: usize) -> Memory {
        let units =
            (bytes.max(least) / UNIT_BYTES).clamp(FETCH_BYTES / UNIT_BYTES, u32::MAX as usize >> 3);
        Memory { semaphore: Arc::new(Semaphore::new(units)), units }
    }

    /// The limit of one call: a quarter of this amount, or `least` if that is more.
    pub(crate) fn quarter(&self, least: usize) -> Memory {
        Memory::new(self.units * UNIT_BYTES / 4, least)
    }

    /// Waits for a share of `bytes`, or of everything if that is less.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(UNIT_BYTES).min(self.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.semaphore).acquire_many_owned(units).await.ok()
    }
}

/// A share of a call's memory and of the total. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Share([Option<OwnedSemaphorePermit>; 2]);

impl Share {
    /// Waits for the call's memory first, so that a call that waits for its own fetches holds up no
    /// other call.
    ///
    /// # Cancellation
    ///
    /// Dropping the future frees what it has taken.
    pub(crate) async fn take(call: &Memory, all: &Memory, bytes: usize) -> Share {
        let of_call = call.take(bytes).await;
        Share([of_call, all.take(bytes).await])
    }

    /// Frees all but `bytes` of the share.
    pub(crate) fn shrunk(mut self, bytes: usize) -> Share {
        for permit in self.0.iter_mut().flatten() {
            let units = bytes.div_ceil(UNIT_BYTES).max(1);
            if let Some(more) = permit.num_permits().checked_sub(units) {
                drop(permit.split(more));
            }
        }
        self
    }
}
