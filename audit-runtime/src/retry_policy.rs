//! How a mutation is retried on write conflicts.

use std::time::Duration;

use audit_core::full_jitter;

/// The number of attempts for a mutation that meets write conflicts, and the backoff between them.
///
/// Attempt n + 1 waits for a random time between 0 and `min(max_backoff_ms, base_backoff_ms *
/// 2^(n-1))`: [full jitter](full_jitter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The total number of attempts. The default is 10; 0 counts as 1.
    pub max_attempts: u32,
    /// The base of the backoff, in milliseconds. The default is 2.
    pub base_backoff_ms: u64,
    /// The longest backoff, in milliseconds. The default is 200.
    pub max_backoff_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { max_attempts: 10, base_backoff_ms: 2, max_backoff_ms: 200 }
    }
}

impl RetryPolicy {
    /// The backoff after this attempt, the first being 1. `random` is 64 random bits.
    pub(crate) fn backoff(&self, attempt: u32, random: u64) -> Duration {
        full_jitter(self.base_backoff_ms, self.max_backoff_ms, attempt - 1, random)
    }
}
