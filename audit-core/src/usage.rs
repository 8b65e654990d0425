//! Metering.

use std::ops::{Add, AddAssign};

/// How much was logged, and the metered size.
///
/// Each log counts its bytes rounded up to the next [`STEP_BYTES`](Usage::STEP_BYTES), the
/// granularity by which AWS Firehose bills ingestion, and with it Convex.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    logs: u64,
    bytes: u64,
    metered_bytes: u64,
}

impl Usage {
    /// The granularity of metering: 5,000 bytes.
    pub const STEP_BYTES: u64 = 5_000;

    /// The usage of one log whose JSON has `bytes` bytes.
    pub fn of_log(bytes: usize) -> Usage {
        let bytes = bytes as u64;
        Usage { logs: 1, bytes, metered_bytes: bytes.div_ceil(Self::STEP_BYTES) * Self::STEP_BYTES }
    }

    /// The number of logs.
    pub fn logs(&self) -> u64 {
        self.logs
    }

    /// The total size of the logs' JSON in bytes, with variables filled in and without line breaks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The metered size in bytes: the sum of the sizes of all logs, each rounded up to the next
    /// [`STEP_BYTES`](Usage::STEP_BYTES).
    pub fn metered_bytes(&self) -> u64 {
        self.metered_bytes
    }
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        let Usage { logs, bytes, metered_bytes } = other;
        Usage {
            logs: self.logs + logs,
            bytes: self.bytes + bytes,
            metered_bytes: self.metered_bytes + metered_bytes,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(usages: I) -> Usage {
        usages.fold(Usage::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_counts_its_bytes_rounded_up_to_the_next_5000() {
        let metered = |bytes| Usage::of_log(bytes).metered_bytes();
        assert_eq!(
            [2, 4_999, 5_000, 5_001, 1_000_000].map(metered),
            [5_000, 5_000, 5_000, 10_000, 1_000_000]
        );
    }

    #[test]
    fn each_log_is_rounded_separately() {
        let usage: Usage = (0..3).map(|_| Usage::of_log(100)).sum();
        assert_eq!((usage.logs(), usage.bytes(), usage.metered_bytes()), (3, 300, 15_000));
    }
}
