//! The backoff before a retry.

use std::time::Duration;

/// The backoff before a retry: a random time between zero and `base_ms`, doubled for each earlier
/// retry, up to `cap_ms`. `random` is 64 random bits.
///
/// ["Full jitter"](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
/// spreads the retries of callers that one event has synchronized.
pub fn full_jitter(base_ms: u64, cap_ms: u64, retries: u32, random: u64) -> Duration {
    let doubled = base_ms.saturating_mul(1u64.checked_shl(retries).unwrap_or(u64::MAX));
    let longest_us = doubled.min(cap_ms).saturating_mul(1_000);
    let us = (u128::from(longest_us) * u128::from(random)) >> 64;
    Duration::from_micros(u64::try_from(us).unwrap_or(longest_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_cap_and_is_drawn_from_zero() {
        let longest = |base, cap, retries| full_jitter(base, cap, retries, u64::MAX);
        let ms = [0, 1, 2, 6, 7, 63, 64, u32::MAX]
            .map(|retries| longest(50, 5_000, retries).as_micros().div_ceil(1_000));
        assert_eq!(ms, [50, 100, 200, 3_200, 5_000, 5_000, 5_000, 5_000]);
        assert_eq!(longest(u64::MAX, u64::MAX, 64), Duration::from_micros(u64::MAX - 1));
        assert_eq!(full_jitter(50, 5_000, 9, 0), Duration::ZERO);
        assert_eq!(full_jitter(50, 5_000, 1, 1 << 63), Duration::from_millis(50));
    }
}
