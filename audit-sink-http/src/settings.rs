//! The settings of a log stream.

use std::path::PathBuf;
use std::time::Duration;

use audit_core::MAX_BATCH_BYTES;
use audit_journal::shared::bounds::{MAX_IN_FLIGHT, MAX_TIME_MS, within};
use audit_journal::{InvalidSettings, JournalSettings};
use serde::{Deserialize, Serialize};

use crate::format::RequestLimits;
use crate::{Format, SecretSource};

/// The deployment that events come from: the member `convex` of a webhook's events, attributes in
/// other formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// The deployment's name. Default: `audit`.
    pub deployment_name: String,
    /// Its type. Default: `prod`. Convex has `dev`, `prod` and `preview`.
    pub deployment_type: String,
    /// The project's name. Default: empty.
    pub project_name: String,
    /// The project's name in URLs. Default: empty.
    pub project_slug: String,
}

impl Default for Origin {
    fn default() -> Origin {
        Origin {
            deployment_name: "audit".to_owned(),
            deployment_type: "prod".to_owned(),
            project_name: String::new(),
            project_slug: String::new(),
        }
    }
}

/// The settings of a log stream. These are plain values; opening a log stream
/// [checks](Settings::check) them.
///
/// In a settings file, every member except `url` may be omitted, and an unknown member is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The URL of requests: `https://host/path`. It holds no credentials.
    pub url: String,

    /// The format of requests. Default: `webhook`.
    #[serde(default)]
    pub format: Format,

    /// The log stream's name in logs, health and metrics, and in the names of directories:
    /// lower-case letters, digits, `-` and `_`. Default: `stream`.
    #[serde(default = "default_name")]
    pub name: String,

    /// The secrets for signing requests, at most two: the new one first while receivers switch
    /// over. Default: none. For `webhook`, `webhook-lines`, `ndjson`, `cloudevents` and `ocsf`.
    #[serde(default)]
    pub secrets: Vec<SecretSource>,

    /// The token that requests carry, in the header that the format's receivers expect. Default:
    /// none.
    #[serde(default)]
    pub token: Option<SecretSource>,

    /// A TOML file that assigns members of a body to fields of an event. Default: none, which maps
    /// common names. For `ocsf`.
    #[serde(default)]
    pub mapping: Option<PathBuf>,

    /// How long to wait until Splunk's indexers acknowledge a request, in milliseconds, before it
    /// is sent again. Default: none. A request is then delivered once the collector has accepted
    /// it, and lost if the collector crashes. The token must have indexer acknowledgment. Splunk
    /// advises 300,000. For `splunk`.
    #[serde(default)]
    pub indexer_ack_ms: Option<u64>,

    /// The deployment that events come from.
    #[serde(default)]
    pub origin: Origin,

    /// Whether to send without TLS to other hosts than this one. Default: no.
    #[serde(default)]
    pub allow_http: bool,

    /// Whether to send to addresses that are not public: loopback, private and link-local networks.
    /// Default: no, since a name controlled by others may resolve to a service of this host's own
    /// network.
    #[serde(default)]
    pub allow_private_addresses: bool,

    /// A file of certificates (PEM) that are trusted besides the system's. Default: none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,

    /// The maximum number of records in one request. Default: what the format's receivers accept.
    #[serde(default)]
    pub max_request_records: Option<usize>,

    /// The maximum size of a request's body, in bytes. Default: what the format's receivers accept.
    #[serde(default)]
    pub max_request_bytes: Option<usize>,

    /// The maximum size of one record as it is sent, in bytes. A larger one is replaced by a
    /// pointer with its hash. Default: what the format's receivers accept.
    #[serde(default)]
    pub max_record_bytes: Option<usize>,

    /// The time limit of one request, in milliseconds. Default: 10,000.
    #[serde(default = "number::<DEFAULT_REQUEST_TIMEOUT_MS>")]
    pub request_timeout_ms: u64,

    /// The longest backoff before the first retry of a request, in milliseconds. It doubles with
    /// each retry, and the backoff is random between zero and it. Default: 100.
    #[serde(default = "number::<DEFAULT_RETRY_BASE_MS>")]
    pub retry_base_ms: u64,

    /// The longest backoff, in milliseconds. Default: 10,000.
    #[serde(default = "number::<DEFAULT_RETRY_CAP_MS>")]
    pub retry_cap_ms: u64,

    /// The longest backoff while the receiver refuses, in milliseconds. It is longer, since retries
    /// fail until an operator acts. Default: 30,000.
    #[serde(default = "number::<DEFAULT_BLOCKED_RETRY_CAP_MS>")]
    pub blocked_retry_cap_ms: u64,

    /// Without a journal: the maximum number of concurrent requests. Default: 64, since each caller
    /// waits for one of its own.
    #[serde(default = "size::<DEFAULT_MAX_IN_FLIGHT>")]
    pub max_in_flight: usize,

    /// The limit on accepted lines that are not yet durable, in bytes. Default: 64 MiB. It must
    /// hold the largest batch.
    #[serde(default = "size::<DEFAULT_MAX_PENDING_BYTES>")]
    pub max_pending_bytes: usize,

    /// How long `persist` waits until its batch is certain, in milliseconds. Default: 20,000.
    #[serde(default = "number::<DEFAULT_PERSIST_TIMEOUT_MS>")]
    pub persist_timeout_ms: u64,

    /// The journal on this host's disk. With it, `persist` waits for one sync, and delivery
    /// follows. Default: none, and `persist` waits for the receiver.
    #[serde(default)]
    pub journal: Option<JournalSettings>,

    /// Beside a bucket with a journal, a route's too: whether `persist` also waits for the
    /// receiver's 2xx. Default: no. The log stream then follows the journal, and nothing fails
    /// while it is unreachable.
    #[serde(default)]
    pub required: bool,

    /// As a follower: how long a durable record waits for others to share its request, in
    /// milliseconds. Default: 200, since readers want current events.
    #[serde(default = "number::<DEFAULT_CUT_AFTER_MS>")]
    pub cut_after_ms: u64,

    /// As a follower: the size, in bytes, of the part of the journal that is kept only for log
    /// streams. Beyond it this log stream is paused, and the journal removes records that this log
    /// stream does not have. Default: half of the journal's `max_bytes`, which leaves the other
    /// half for an outage of the bucket.
    #[serde(default)]
    pub max_kept_bytes: Option<u64>,

    /// The size at which an object cut from the journal is full, in bytes of its lines. Default: 1
    /// MiB. An object is sent in as many requests as needed.
    #[serde(default = "size::<DEFAULT_MAX_OBJECT_BYTES>")]
    pub max_object_bytes: usize,

    /// The directory for records that the receiver will never accept. Default: none. Required with
    /// a journal, since an acknowledged record must be stored somewhere.
    #[serde(default)]
    pub dead_letters: Option<PathBuf>,

    /// The limit on those records, in bytes. Default: 64 MiB. Above it, delivery is blocked until
    /// an operator acts.
    #[serde(default = "number::<DEFAULT_MAX_DEAD_LETTER_BYTES>")]
    pub max_dead_letter_bytes: u64,
}

const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 10_000;
const DEFAULT_RETRY_BASE_MS: u64 = 100;
const DEFAULT_RETRY_CAP_MS: u64 = 10_000;
const DEFAULT_BLOCKED_RETRY_CAP_MS: u64 = 30_000;
const DEFAULT_MAX_IN_FLIGHT: usize = 64;
const DEFAULT_MAX_PENDING_BYTES: usize = 64 << 20;
const DEFAULT_PERSIST_TIMEOUT_MS: u64 = 20_000;
const DEFAULT_CUT_AFTER_MS: u64 = 200;
const DEFAULT_MAX_OBJECT_BYTES: usize = 1 << 20;
const DEFAULT_MAX_DEAD_LETTER_BYTES: u64 = 64 << 20;

fn number<const N: u64>() -> u64 {
    N
}

fn size<const N: usize>() -> usize {
    N
}

fn default_name() -> String {
    "stream".to_owned()
}

impl Settings {
    /// The settings of a log stream at this URL, with defaults for everything else.
    pub fn new(url: impl Into<String>, format: Format) -> Settings {
        Settings {
            url: url.into(),
            format,
            name: default_name(),
            secrets: Vec::new(),
            token: None,
            mapping: None,
            indexer_ack_ms: None,
            origin: Origin::default(),
            allow_http: false,
            allow_private_addresses: false,
            ca_file: None,
            max_request_records: None,
            max_request_bytes: None,
            max_record_bytes: None,
            request_timeout_ms: DEFAULT_REQUEST_TIMEOUT_MS,
            retry_base_ms: DEFAULT_RETRY_BASE_MS,
            retry_cap_ms: DEFAULT_RETRY_CAP_MS,
            blocked_retry_cap_ms: DEFAULT_BLOCKED_RETRY_CAP_MS,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            max_pending_bytes: DEFAULT_MAX_PENDING_BYTES,
            persist_timeout_ms: DEFAULT_PERSIST_TIMEOUT_MS,
            journal: None,
            required: false,
            cut_after_ms: DEFAULT_CUT_AFTER_MS,
            max_kept_bytes: None,
            max_object_bytes: DEFAULT_MAX_OBJECT_BYTES,
            dead_letters: None,
            max_dead_letter_bytes: DEFAULT_MAX_DEAD_LETTER_BYTES,
        }
    }

    /// Whether a sink can work with these values. The URL and secrets are checked when it is
    /// opened.
    ///
    /// # Errors
    ///
    /// The first value out of bounds, by name.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let limits = self.limits();
        // A pointer is smaller than the lower bound.
        within("max_request_records", limits.records as u64, 1, 1_000_000)?;
        within("max_request_bytes", limits.bytes as u64, 4_096, 1 << 30)?;
        within("max_record_bytes", limits.record_bytes as u64, 2_048, limits.bytes as u64)?;
        within("secrets", self.secrets.len() as u64, 0, 2)?;
        within("indexer_ack_ms", self.indexer_ack_ms.unwrap_or(1), 1, MAX_TIME_MS)?;
        within("request_timeout_ms", self.request_timeout_ms, 1, MAX_TIME_MS)?;
        within("retry_base_ms", self.retry_base_ms, 1, MAX_TIME_MS)?;
        within("retry_cap_ms", self.retry_cap_ms, self.retry_base_ms, MAX_TIME_MS)?;
        within("blocked_retry_cap_ms", self.blocked_retry_cap_ms, self.retry_base_ms, MAX_TIME_MS)?;
        within("max_in_flight", self.max_in_flight as u64, 1, MAX_IN_FLIGHT as u64)?;
        let most_pending = tokio::sync::Semaphore::MAX_PERMITS as u64;
        let pending = self.max_pending_bytes as u64;
        within("max_pending_bytes", pending, MAX_BATCH_BYTES as u64, most_pending)?;
        within("persist_timeout_ms", self.persist_timeout_ms, 1, MAX_TIME_MS)?;
        within("cut_after_ms", self.cut_after_ms, 0, MAX_TIME_MS)?;
        within("max_object_bytes", self.max_object_bytes as u64, 1, pending)?;
        within("max_dead_letter_bytes", self.max_dead_letter_bytes, 1 << 20, u64::MAX)?;
        self.journal.as_ref().map_or(Ok(()), JournalSettings::check)
    }

    /// Whether the name is valid in names of directories and in metrics.
    pub(crate) fn has_valid_name(&self) -> bool {
        let is_valid = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        (1..=64).contains(&self.name.len()) && self.name.bytes().all(is_valid)
    }

    /// The limits of requests: those that are set, and otherwise those of the format's receivers.
    pub fn limits(&self) -> RequestLimits {
        let usual = self.format.limits();
        let bytes = self.max_request_bytes.unwrap_or(usual.bytes);
        RequestLimits {
            records: self.max_request_records.unwrap_or(usual.records),
            bytes,
            record_bytes: self.max_record_bytes.unwrap_or(usual.record_bytes.min(bytes)),
        }
    }

    pub(crate) fn persist_timeout(&self) -> Duration {
        Duration::from_millis(self.persist_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_bound_holds() {
        let settings = || Settings::new("https://example.com", Format::Webhook);
        assert_eq!(settings().check(), Ok(()));
        let refused = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.check().unwrap_err().name
        };
        assert_eq!(refused(|s| s.max_request_records = Some(0)), "max_request_records");
        assert_eq!(refused(|s| s.max_request_bytes = Some(10)), "max_request_bytes");
        assert_eq!(refused(|s| s.max_record_bytes = Some(6_000_000)), "max_record_bytes");
        assert_eq!(refused(|s| s.request_timeout_ms = 0), "request_timeout_ms");
        assert_eq!(refused(|s| s.retry_base_ms = 0), "retry_base_ms");
        assert_eq!(refused(|s| s.retry_cap_ms = 1), "retry_cap_ms");
        assert_eq!(refused(|s| s.blocked_retry_cap_ms = 1), "blocked_retry_cap_ms");
        assert_eq!(refused(|s| s.max_in_flight = 0), "max_in_flight");
        assert_eq!(refused(|s| s.max_pending_bytes = 1), "max_pending_bytes");
        assert_eq!(refused(|s| s.persist_timeout_ms = 0), "persist_timeout_ms");
        assert_eq!(refused(|s| s.cut_after_ms = u64::MAX), "cut_after_ms");
        assert_eq!(refused(|s| s.max_object_bytes = 0), "max_object_bytes");
        assert_eq!(refused(|s| s.max_dead_letter_bytes = 0), "max_dead_letter_bytes");
        let source = || SecretSource::Env("X".to_owned());
        assert_eq!(
            Settings { secrets: vec![source(), source(), source()], ..settings() }
                .check()
                .unwrap_err()
                .name,
            "secrets"
        );
    }

    #[test]
    fn every_format_has_limits_that_are_valid() {
        for format in Format::ALL {
            assert_eq!(Settings::new("https://example.com", format).check(), Ok(()));
        }
    }
}
