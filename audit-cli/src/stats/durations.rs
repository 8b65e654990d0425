//! The delays of objects.

use serde::Serialize;

/// How late objects arrived.
#[derive(Debug, Serialize)]
pub(super) struct Lag {
    pub(super) p50_ms: i64,
    pub(super) p99_ms: i64,
    pub(super) max_ms: i64,
    /// The event from which the delay is measured.
    pub(super) from: &'static str,
}

/// A histogram of durations whose buckets are an eighth as wide as their values.
#[derive(Debug)]
pub(super) struct Durations {
    buckets: Vec<u64>,
    count: u64,
    max_ms: i64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { buckets: vec![0; 64 * 8], count: 0, max_ms: 0 }
    }
}

impl Durations {
    pub(super) fn add(&mut self, ms: i64) {
        let value = u64::try_from(ms).unwrap_or(0);
        self.buckets[Self::bucket(value)] += 1;
        self.count += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    fn bucket(value: u64) -> usize {
        match value.checked_ilog2() {
            Some(log) if log >= 3 => {
                ((log as usize) << 3 | ((value >> (log - 3)) & 7) as usize) - 16
            }
            Some(_) | None => value as usize,
        }
    }

    /// The largest value of this bucket.
    fn most(bucket: usize) -> u64 {
        if bucket < 8 {
            return bucket as u64;
        }
        let (log, eighth) = ((bucket + 16) >> 3, (bucket as u64 + 16) & 7);
        ((8 + eighth + 1) << (log - 3)).wrapping_sub(1)
    }

    /// The summary. `None` if there are no values. `from` names the start of the delay.
    pub(super) fn lag(&self, from: &'static str) -> Option<Lag> {
        (self.count > 0).then(|| Lag {
            p50_ms: self.quantile(0.5),
            p99_ms: self.quantile(0.99),
            max_ms: self.max_ms,
            from,
        })
    }

    fn quantile(&self, share: f64) -> i64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                return i64::try_from(Self::most(bucket)).unwrap_or(i64::MAX).min(self.max_ms);
            }
        }
        self.max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_off_by_at_most_an_eighth() {
        for value in (0..200u64).chain([1_000, 12_345, 1 << 40, u64::MAX >> 1]) {
            let most = Durations::most(Durations::bucket(value));
            assert!(most >= value && most - value <= value / 8, "{value} {most}");
        }
        let mut durations = Durations::default();
        (1..=1_000).for_each(|ms| durations.add(ms));
        assert!((500..=563).contains(&durations.quantile(0.5)));
        assert!((990..=1_000).contains(&durations.quantile(0.99)));
        assert_eq!(durations.quantile(1.0), 1_000);
    }
}
