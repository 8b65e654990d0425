//! The limits of one execution, and the budget that enforces them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much one execution, with everything it calls, may emit.
///
/// The defaults are those of Convex's `log.audit`, which are those of one AWS Firehose
/// `PutRecordBatch`: 500 records, 1,000 KB each, 4 MB in all. The size of a log is that of its JSON
/// without the line break, with each variable at its largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LimitsForm", into = "LimitsForm")]
pub struct Limits {
    max_logs: u32,
    max_total_bytes: u32,
    max_log_bytes: u32,
}

impl Limits {
    /// The default for [`max_logs`](Self::max_logs).
    pub const DEFAULT_MAX_LOGS: u32 = 500;
    /// The default for [`max_total_bytes`](Self::max_total_bytes).
    pub const DEFAULT_MAX_TOTAL_BYTES: u32 = 4_000_000;
    /// The default for [`max_log_bytes`](Self::max_log_bytes).
    pub const DEFAULT_MAX_LOG_BYTES: u32 = 1_000_000;

    /// The highest value of [`max_logs`](Self::max_logs).
    pub const HIGHEST_MAX_LOGS: u32 = 10_000;
    /// The highest value of [`max_total_bytes`](Self::max_total_bytes): 16 MiB.
    pub const HIGHEST_MAX_TOTAL_BYTES: u32 = 16 << 20;

    /// Limits for one execution: the number of logs, their bytes in total, the bytes of one log.
    ///
    /// # Errors
    ///
    /// If the limit for one log exceeds that for all logs together, or a number exceeds what a
    /// [`Batch`](crate::Batch) can hold.
    pub fn new(
        max_logs: u32,
        max_total_bytes: u32,
        max_log_bytes: u32,
    ) -> Result<Limits, InvalidLimits> {
        let too_high = |name, actual, highest| {
            if actual > highest {
                Err(InvalidLimits::TooHigh { name, actual, highest })
            } else {
                Ok(())
            }
        };
        too_high("max_logs", max_logs, Self::HIGHEST_MAX_LOGS)?;
        too_high("max_total_bytes", max_total_bytes, Self::HIGHEST_MAX_TOTAL_BYTES)?;
        if max_log_bytes > max_total_bytes {
            return Err(InvalidLimits::LogOverTotal { max_log_bytes, max_total_bytes });
        }
        Ok(Limits { max_logs, max_total_bytes, max_log_bytes })
    }

    /// How many logs one execution may emit.
    pub fn max_logs(&self) -> u32 {
        self.max_logs
    }

    /// How many bytes all logs of one execution may have together.
    pub fn max_total_bytes(&self) -> u32 {
        self.max_total_bytes
    }

    /// How many bytes one log may have.
    pub fn max_log_bytes(&self) -> u32 {
        self.max_log_bytes
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_logs: Self::DEFAULT_MAX_LOGS,
            max_total_bytes: Self::DEFAULT_MAX_TOTAL_BYTES,
            max_log_bytes: Self::DEFAULT_MAX_LOG_BYTES,
        }
    }
}

const _: () = assert!(Limits::DEFAULT_MAX_LOGS <= Limits::HIGHEST_MAX_LOGS);
const _: () = assert!(Limits::DEFAULT_MAX_TOTAL_BYTES <= Limits::HIGHEST_MAX_TOTAL_BYTES);
const _: () = assert!(Limits::DEFAULT_MAX_LOG_BYTES <= Limits::DEFAULT_MAX_TOTAL_BYTES);

/// The form in a settings file.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsForm {
    max_logs: u32,
    max_total_bytes: u32,
    max_log_bytes: u32,
}

impl Default for LimitsForm {
    fn default() -> LimitsForm {
        Limits::default().into()
    }
}

impl From<Limits> for LimitsForm {
    fn from(Limits { max_logs, max_total_bytes, max_log_bytes }: Limits) -> LimitsForm {
        LimitsForm { max_logs, max_total_bytes, max_log_bytes }
    }
}

impl TryFrom<LimitsForm> for Limits {
    type Error = InvalidLimits;

    fn try_from(form: LimitsForm) -> Result<Limits, InvalidLimits> {
        Limits::new(form.max_logs, form.max_total_bytes, form.max_log_bytes)
    }
}

/// The limits contradict each other, or exceed what the engine supports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimits {
    /// A limit exceeds the highest value.
    #[error("{name} of {actual} exceeds limit of {highest}")]
    TooHigh {
        /// The name of the limit.
        name: &'static str,
        /// The value of the limit.
        actual: u32,
        /// The highest value that the engine supports.
        highest: u32,
    },
    /// One log could be larger than all logs together.
    #[error("max_log_bytes of {max_log_bytes} exceeds max_total_bytes of {max_total_bytes}")]
    LogOverTotal {
        /// The limit for one log, in bytes.
        max_log_bytes: u32,
        /// The limit for all logs together, in bytes.
        max_total_bytes: u32,
    },
}

/// The limit that an execution exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::max_logs`].
    Logs,
    /// [`Limits::max_total_bytes`].
    TotalBytes,
    /// [`Limits::max_log_bytes`].
    LogBytes,
}

/// An execution exceeded a limit. It has failed, even if the function catches this error.
///
/// Its text may reach a client, so it names only the limit: the [actual](Self::actual) number, from
/// which a client could infer the size of data it may not see, belongs in the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitExceeded {
    limit: Limit,
    actual: u64,
    max: u32,
    stopped_early: bool,
}

impl LimitExceeded {
    /// One log has `actual` bytes, which is more than [`Limits::max_log_bytes`].
    #[doc(hidden)]
    pub fn log_bytes(actual: u64, limits: &Limits) -> LimitExceeded {
        LimitExceeded {
            limit: Limit::LogBytes,
            actual,
            max: limits.max_log_bytes,
            stopped_early: false,
        }
    }

    /// As `log_bytes`, where counting stopped at `at_least` bytes.
    #[doc(hidden)]
    pub fn log_bytes_at_least(at_least: u64, limits: &Limits) -> LimitExceeded {
        LimitExceeded { stopped_early: true, ..LimitExceeded::log_bytes(at_least, limits) }
    }

    /// The limit that was exceeded.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The number that was too high: logs or bytes. For [`Limit::LogBytes`] it is a lower bound if
    /// counting stopped early.
    pub fn actual(&self) -> u64 {
        self.actual
    }

    /// The highest number allowed, in the same unit as [`actual`](Self::actual).
    pub fn max(&self) -> u64 {
        u64::from(self.max)
    }
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.limit {
            Limit::Logs => write!(f, "audit logs in one execution exceed limit of {max} logs"),
            Limit::TotalBytes => {
                write!(f, "audit logs in one execution exceed limit of {max} bytes")
            }
            Limit::LogBytes => write!(f, "audit log exceeds limit of {max} bytes"),
        }
    }
}

impl std::error::Error for LimitExceeded {}

/// Counts what one execution emits against its [`Limits`].
///
/// Once a limit is exceeded, every further charge fails with the same error, so that the execution
/// can neither continue nor hide it.
#[derive(Debug, Clone)]
pub struct Budget {
    limits: Limits,
    logs: u32,
    bytes: u32,
    exceeded: Option<LimitExceeded>,
}

impl Budget {
    /// A budget with nothing spent.
    pub const fn new(limits: Limits) -> Budget {
        Budget { limits, logs: 0, bytes: 0, exceeded: None }
    }

    /// Spends one log of at most `bound_bytes` bytes (its largest size with variables filled in).
    ///
    /// # Errors
    ///
    /// When this log or an earlier one exceeds a limit. Nothing is spent then.
    pub fn charge(&mut self, bound_bytes: u64) -> Result<(), LimitExceeded> {
        if let Some(exceeded) = self.exceeded {
            return Err(exceeded);
        }
        let total = u64::from(self.bytes) + bound_bytes;
        let over = |limit, actual, max| LimitExceeded { limit, actual, max, stopped_early: false };
        let Limits { max_logs, max_total_bytes, max_log_bytes } = self.limits;
        let exceeded = if bound_bytes > u64::from(max_log_bytes) {
            LimitExceeded::log_bytes(bound_bytes, &self.limits)
        } else if self.logs >= max_logs {
            over(Limit::Logs, u64::from(self.logs) + 1, max_logs)
        } else if total > u64::from(max_total_bytes) {
            over(Limit::TotalBytes, total, max_total_bytes)
        } else {
            self.logs += 1;
            self.bytes = u32::try_from(total).expect("at most max_total_bytes, which is a u32");
            return Ok(());
        };
        self.exceeded = Some(exceeded);
        Err(exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The model is the list of accepted logs.
        #[test]
        fn a_budget_accepts_exactly_what_fits(
            charges in prop::collection::vec(1u64..60, 0..40),
            max_logs in 0u32..20, max_total in 0u32..300, max_log in 0u32..60,
        ) {
            let limits = Limits::new(max_logs, max_total.max(max_log), max_log).unwrap();
            let mut budget = Budget::new(limits);
            let mut accepted: Vec<u64> = Vec::new();
            let mut failed = None;
            for bytes in charges {
                let fits = failed.is_none()
                    && bytes <= limits.max_log_bytes().into()
                    && accepted.len() < limits.max_logs() as usize
                    && accepted.iter().sum::<u64>() + bytes <= limits.max_total_bytes().into();
                match budget.charge(bytes) {
                    Ok(()) => { prop_assert!(fits); accepted.push(bytes) }
                    Err(error) => {
                        prop_assert!(!fits);
                        prop_assert!(error.actual() > error.max());
                        prop_assert_eq!(*failed.get_or_insert(error), error);
                    }
                }
                prop_assert_eq!(budget.exceeded, failed);
            }
        }
    }

    #[test]
    fn errors_name_the_limit_and_hide_the_actual() {
        let mut budget = Budget::new(Limits::default());
        let error = budget.charge(1_000_001).unwrap_err();
        assert_eq!(error.to_string(), "audit log exceeds limit of 1000000 bytes");

        let mut budget = Budget::new(Limits::default());
        (0..4).for_each(|_| budget.charge(1_000_000).unwrap());
        let error = budget.charge(9).unwrap_err();
        assert_eq!(error.to_string(), "audit logs in one execution exceed limit of 4000000 bytes");

        let mut budget = Budget::new(Limits::default());
        (0..500).for_each(|_| budget.charge(1).unwrap());
        let error = budget.charge(1).unwrap_err();
        assert_eq!(error.to_string(), "audit logs in one execution exceed limit of 500 logs");
    }

    #[test]
    fn contradictory_limits_are_rejected() {
        assert!(Limits::new(1, 10, 11).is_err());
        assert!(Limits::new(Limits::HIGHEST_MAX_LOGS + 1, 10, 10).is_err());
        assert!(Limits::new(1, Limits::HIGHEST_MAX_TOTAL_BYTES + 1, 10).is_err());
    }
}
