//! How far a host's clock is behind its store's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;

/// The store's clock, as known from its responses. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StoreClock(Arc<AtomicI64>);

/// The value until a response states the time.
const UNKNOWN: i64 = i64::MIN;

impl Default for StoreClock {
    fn default() -> StoreClock {
        StoreClock(Arc::new(AtomicI64::new(UNKNOWN)))
    }
}

impl StoreClock {
    /// Notes the header `Date` of a response that came at `now_ms` by the host's clock, in
    /// milliseconds since the Unix epoch.
    #[cfg_attr(
        not(any(feature = "aws", feature = "gcp", feature = "azure")),
        allow(dead_code, reason = "only the providers' stores respond with headers")
    )]
    pub(super) fn note(&self, date: Option<&str>, now_ms: i64) {
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        if let Some(date) = date {
            // The header has whole seconds, rounded down: on average, half a second is missing.
            let date_ms = date.timestamp_millis().saturating_add(500);
            self.0.store(date_ms.saturating_sub(now_ms).max(UNKNOWN + 1), Ordering::Relaxed);
        }
    }

    /// How far the host's clock is behind the store's, in milliseconds, within half a second and
    /// the time of a response. `None` if no response has stated the time.
    pub(crate) fn offset_ms(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|offset| *offset != UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_date_that_is_one_counts() {
        let clock = StoreClock::default();
        for date in [None, Some("yesterday"), Some("")] {
            clock.note(date, 0);
            assert_eq!(clock.offset_ms(), None);
        }
        let other = clock.clone();
        other.note(Some("Thu, 01 Jan 1970 00:01:00 GMT"), 50_000);
        assert_eq!(clock.offset_ms(), Some(10_500));
        clock.note(None, 0);
        clock.note(Some("Thu, 01 Jan 1970 00:01:00 GMT"), 70_000);
        assert_eq!(other.offset_ms(), Some(-9_500));
        clock.note(Some("Thu, 01 Jan 1970 00:01:00 GMT"), i64::MAX);
        assert!(other.offset_ms().is_some());
    }
}
