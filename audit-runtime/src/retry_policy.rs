//! How a mutation is retried on write conflicts.

use std::time::Duration;

/// The number of attempts for a mutation that meets write conflicts, and the backoff between them.
///
/// Attempt n + 1 waits for a random time between 0 and `min(max_backoff_ms, base_backoff_ms *
/// 2^(n-1))`: full jitter, as in the AWS Architecture Blog, "Exponential Backoff And Jitter".
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
    pub(crate) fn backoff(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 1u64.checked_shl(attempt - 1).unwrap_or(u64::MAX);
        let ceiling = self.base_backoff_ms.saturating_mul(doubled).min(self.max_backoff_ms);
        Duration::from_micros(random % ceiling.saturating_mul(1_000).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_ceiling_and_never_overflows() {
        let policy = RetryPolicy { max_attempts: 100, base_backoff_ms: 2, max_backoff_ms: 50 };
        for attempt in 1..200 {
            let ceiling = policy.base_backoff_ms.saturating_mul(1 << (attempt - 1).min(20)).min(50);
            for random in [0, 1, 12_345_678, u64::MAX] {
                assert!(policy.backoff(attempt, random) <= Duration::from_millis(ceiling));
            }
        }
        assert_eq!(policy.backoff(1, 2_000), Duration::from_millis(2));
        let endless =
            RetryPolicy { max_attempts: 1, base_backoff_ms: u64::MAX, max_backoff_ms: u64::MAX };
        assert!(endless.backoff(64, u64::MAX - 1) > Duration::ZERO);
    }
}
