//! The received part of an incomplete WebSocket message.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::budget::{Budget, FREE_BYTES, Share};

/// Counts the bytes since the last complete message of a WebSocket. A message may be long, and the
/// WebSocket library does not show how much of it is buffered.
#[derive(Debug)]
pub(super) struct Inflow {
    budget: Arc<Budget>,
    state: Mutex<Arriving>,
}

#[derive(Debug, Default)]
struct Arriving {
    bytes: usize,
    shares: Vec<Share>,
}

impl Inflow {
    pub(super) fn new(budget: Arc<Budget>) -> Inflow {
        Inflow { budget, state: Mutex::default() }
    }

    /// Frees the bytes of a complete message.
    pub(super) fn settle(&self) {
        let mut state = self.state.lock();
        state.bytes = 0;
        state.shares.clear();
    }

    /// Counts received bytes.
    ///
    /// # Errors
    ///
    /// The budget has no room for them.
    pub(super) fn received(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        let beyond = |bytes: usize| bytes.saturating_sub(FREE_BYTES);
        let before = state.bytes;
        state.bytes += bytes;
        // A growing buffer may take twice its length. Counted in steps of 64 KiB, so that there are
        // few shares.
        let steps = |bytes: usize| beyond(bytes).div_ceil(FREE_BYTES);
        let more = steps(state.bytes) - steps(before);
        if more > 0 {
            let share = self
                .budget
                .receive(2 * more * FREE_BYTES)
                .map_err(|refused| io::Error::new(io::ErrorKind::OutOfMemory, refused.message()))?;
            state.shares.push(share);
        }
        Ok(())
    }
}
