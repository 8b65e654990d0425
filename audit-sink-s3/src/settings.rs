//! The settings of a sink.

use std::time::Duration;

use audit_core::MAX_BATCH_BYTES;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::bounds::{InvalidSettings, MAX_IN_FLIGHT, MAX_TIME_MS, within};
use crate::evidence::settings::EvidenceSettings;
use crate::layout::MAX_OBJECT_BYTES;
use crate::{Compression, JournalSettings};

/// The settings of an [`S3Sink`](crate::S3Sink): plain values, with defaults for a service that
/// writes to a bucket in its own region. Opening a sink [checks](Settings::check) them.
///
/// In a settings file every member is optional, and an unknown one is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How objects are compressed. Default: zstd, which every engine that reads the layout knows.
    pub compression: Compression,

    /// How long the first batch of an object waits for others, in milliseconds. Default: 50.
    ///
    /// Trades cost against latency: every object is one PUT, and the function that logged waits.
    /// For a busy writer, at S3 Standard's $0.005 for 1,000 PUTs: 5 ms $2,630 a month, 50 ms $263,
    /// 250 ms $53, 1 s $13. A small PUT takes about 80 ms, so 50 ms less than doubles the latency.
    /// 0 does not wait.
    pub linger_ms: u64,

    /// The size at which an object is full, in bytes of its uncompressed lines. Default: 8 MiB.
    ///
    /// A batch is never divided: a larger one gets its own object. Query engines read objects of
    /// megabytes well, but thousands of tiny ones badly. At most 1 GiB
    /// ([`MAX_OBJECT_BYTES`](crate::layout::MAX_OBJECT_BYTES)).
    pub max_object_bytes: usize,

    /// The maximum number of objects in flight. Default: 8.
    ///
    /// While all are in flight, new batches gather in larger objects. 8 objects of 80 ms each are
    /// 100 objects a second, well below the limit of S3, 3,500 PUTs a second per prefix.
    pub max_in_flight: usize,

    /// The limit on accepted lines that are not yet delivered, in bytes. Default: 64 MiB. It must
    /// hold the largest batch ([`MAX_BATCH_BYTES`]).
    ///
    /// Bounds memory: encoding holds at most as much again. Without room `persist` waits, and fails
    /// as *not persisted* at its deadline.
    pub max_pending_bytes: usize,

    /// The time limit of one request to the bucket, in milliseconds. Default: 10,000.
    ///
    /// It doubles with each retry, up to five minutes, so that a slow connection does not cut every
    /// attempt at the same point.
    pub put_timeout_ms: u64,

    /// How long `persist` waits for a certain outcome, in milliseconds. Default: 20,000.
    ///
    /// The sink has its own deadline so that the error can contain the bucket's last response. Set
    /// it below the caller's deadline.
    pub persist_timeout_ms: u64,

    /// Whether to reject a store that does not protect objects from being overwritten. Default: no,
    /// such a store is logged as a warning.
    ///
    /// Each record is delivered once either way. The protection is against other holders of the
    /// same credentials.
    pub require_create_only: bool,

    /// The base of the backoff, in milliseconds. Default: 50. The limit doubles with each retry;
    /// the backoff is drawn between zero and the limit ("full jitter"), so that many hosts do not
    /// retry at once.
    pub retry_base_ms: u64,

    /// The longest backoff, in milliseconds. Default: 5,000.
    pub retry_cap_ms: u64,

    /// The longest backoff while the bucket refuses access, in milliseconds. Default: 30,000.
    /// Retries fail until an operator acts.
    pub blocked_retry_cap_ms: u64,

    /// The journal on this host's disk: `persist` then waits for one sync instead of a PUT.
    /// Default: none, which is direct mode.
    pub journal: Option<JournalSettings>,

    /// Evidence: signatures that prove what was logged to anyone with the host's public key.
    /// Default: none, since it needs a name for the host and a place for its key.
    pub evidence: Option<EvidenceSettings>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            compression: Compression::Zstd,
            linger_ms: 50,
            max_object_bytes: 8 << 20,
            max_in_flight: 8,
            max_pending_bytes: 64 << 20,
            put_timeout_ms: 10_000,
            persist_timeout_ms: 20_000,
            require_create_only: false,
            retry_base_ms: 50,
            retry_cap_ms: 5_000,
            blocked_retry_cap_ms: 30_000,
            journal: None,
            evidence: None,
        }
    }
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] names the first invalid value and its bounds.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let Settings {
            compression: Compression::Zstd | Compression::Gzip | Compression::None,
            linger_ms,
            max_object_bytes,
            max_in_flight,
            max_pending_bytes,
            put_timeout_ms,
            persist_timeout_ms,
            require_create_only: _,
            retry_base_ms,
            retry_cap_ms,
            blocked_retry_cap_ms,
            ref journal,
            ref evidence,
        } = *self;
        within("persist_timeout_ms", persist_timeout_ms, 1, MAX_TIME_MS)?;
        // With a linger beyond the deadline, every batch that is alone would fail.
        within("linger_ms", linger_ms, 0, persist_timeout_ms - 1)?;
        let most_pending = Semaphore::MAX_PERMITS as u64;
        within(
            "max_pending_bytes",
            max_pending_bytes as u64,
            MAX_BATCH_BYTES as u64,
            most_pending,
        )?;
        let most_in_object = MAX_OBJECT_BYTES.min(max_pending_bytes as u64);
        within("max_object_bytes", max_object_bytes as u64, 1, most_in_object)?;
        within("max_in_flight", max_in_flight as u64, 1, MAX_IN_FLIGHT as u64)?;
        within("put_timeout_ms", put_timeout_ms, 1, MAX_TIME_MS)?;
        within("retry_base_ms", retry_base_ms, 1, MAX_TIME_MS)?;
        within("retry_cap_ms", retry_cap_ms, retry_base_ms, MAX_TIME_MS)?;
        within("blocked_retry_cap_ms", blocked_retry_cap_ms, retry_base_ms, MAX_TIME_MS)?;
        journal.as_ref().map_or(Ok(()), JournalSettings::check)?;
        evidence.as_ref().map_or(Ok(()), EvidenceSettings::check)
    }

    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms)
    }

    pub(crate) fn put_timeout(&self) -> Duration {
        Duration::from_millis(self.put_timeout_ms)
    }

    pub(crate) fn persist_timeout(&self) -> Duration {
        Duration::from_millis(self.persist_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_bound_holds() {
        assert_eq!(Settings::default().check(), Ok(()));
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err().name
        };
        assert_eq!(refused(|s| s.linger_ms = s.persist_timeout_ms), "linger_ms");
        assert_eq!(refused(|s| s.max_object_bytes = 0), "max_object_bytes");
        assert_eq!(refused(|s| s.max_object_bytes = s.max_pending_bytes + 1), "max_object_bytes");
        assert_eq!(refused(|s| s.max_in_flight = 0), "max_in_flight");
        assert_eq!(refused(|s| s.max_pending_bytes = MAX_BATCH_BYTES - 1), "max_pending_bytes");
        assert_eq!(refused(|s| s.max_pending_bytes = usize::MAX), "max_pending_bytes");
        assert_eq!(refused(|s| s.put_timeout_ms = 0), "put_timeout_ms");
        assert_eq!(refused(|s| s.persist_timeout_ms = 0), "persist_timeout_ms");
        assert_eq!(refused(|s| s.persist_timeout_ms = u64::MAX), "persist_timeout_ms");
        assert_eq!(refused(|s| s.retry_base_ms = 0), "retry_base_ms");
        assert_eq!(refused(|s| s.retry_cap_ms = s.retry_base_ms - 1), "retry_cap_ms");
        assert_eq!(refused(|s| s.blocked_retry_cap_ms = 0), "blocked_retry_cap_ms");
    }

    #[test]
    fn errors_name_the_value_and_its_bounds() {
        let error = Settings { max_in_flight: 0, ..Settings::default() }.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_in_flight is 0, and must be at least 1 and at most 1024"
        );
    }

    #[test]
    fn members_are_optional_and_unknown_ones_rejected() {
        let settings: Settings =
            serde_json::from_str(r#"{"compression":"gzip","linger_ms":5}"#).unwrap();
        let expected =
            Settings { compression: Compression::Gzip, linger_ms: 5, ..Settings::default() };
        assert_eq!(settings, expected);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert!(serde_json::from_str::<Settings>(r#"{"lingerMs":5}"#).is_err());
    }
}
