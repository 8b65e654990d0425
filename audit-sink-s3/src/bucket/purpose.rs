//! The purpose for which a bucket is opened.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use super::store_clock::StoreClock;

/// The purpose for which a bucket is opened.
#[derive(Clone)]
#[cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores retry")
)]
pub(crate) enum Purpose {
    Write(StoreClock),
    Read {
        retry_for: Duration,
        on_retry: Option<OnRetry>,
        /// The time of the store's last response, in milliseconds since the Unix epoch; 0 for none.
        store_time_ms: Arc<AtomicI64>,
    },
}

impl Purpose {
    pub(super) fn reading(retry_for: Duration, on_retry: Option<OnRetry>) -> Purpose {
        Purpose::Read { retry_for, on_retry, store_time_ms: Arc::default() }
    }
}

/// Called with the reason for each failed request that is retried.
pub(crate) type OnRetry = Arc<dyn Fn(&str) + Send + Sync>;

/// What a store is opened with.
#[cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores have options")
)]
pub(crate) struct Given {
    /// Options by their names in lower case.
    pub(crate) options: Vec<(String, String)>,
    /// Whether environment variables count too, where no option has another value.
    pub(crate) has_environment: bool,
}
