//! The settings of evidence.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::WitnessSettings;
use crate::bounds::{InvalidSettings, MAX_TIME_MS, within};

/// The settings of evidence, which proves to anyone with the host's public key what was logged.
/// Plain values without secrets: the key itself is in a file or in the environment.
///
/// In a settings file every member except `name` is optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceSettings {
    /// The name that the host signs under, which is part of its public key: for example
    /// `example.com/api`. 1 to 64 visible ASCII characters without `+`. Hosts that write with the
    /// same key may share it.
    pub name: String,

    /// The file of the host's private key, created if missing and private to its owner (0600).
    /// Default: none, and the key is in the environment variable
    /// [`KEY_VARIABLE`](Self::KEY_VARIABLE).
    ///
    /// Keep it away from the bucket, and from those who deliver journals of lost hosts.
    #[serde(default)]
    pub key_file: Option<PathBuf>,

    /// The promised interval of system records while records are logged, in milliseconds. Default:
    /// 300,000 (5 minutes). At most a day.
    ///
    /// The end of a stream could be cut off unnoticed for this long. Each record costs one PUT: at
    /// five minutes $0.04 a month.
    #[serde(default = "EvidenceSettings::default_heartbeat_ms")]
    pub heartbeat_ms: u64,

    /// The promised interval while no records are logged, in milliseconds. Default: 3,600,000 (an
    /// hour). At most a day.
    #[serde(default = "EvidenceSettings::default_idle_heartbeat_ms")]
    pub idle_heartbeat_ms: u64,

    /// The maximum age of a stream, after which another one begins, in milliseconds. Default and
    /// maximum: 86,400,000, a day.
    ///
    /// A stream's key exists only while the stream is written, so a thief of the host's keys cannot
    /// forge earlier streams.
    #[serde(default = "EvidenceSettings::default_max_stream_ms")]
    pub max_stream_ms: u64,

    /// The witnesses, at most 16, that the streams' checkpoints are submitted to with each system
    /// record. Default: none.
    ///
    /// A witness cosigns a single history of each stream. So a tail that was cut off, or a stream
    /// that was rewritten by whoever has the host's key, contradicts the witness. An unreachable
    /// witness delays only a close, by five seconds at most.
    #[serde(default)]
    pub witnesses: Vec<WitnessSettings>,
}

impl EvidenceSettings {
    /// The environment variable of the host's private key, used if no file is set.
    pub const KEY_VARIABLE: &'static str = "AUDIT_EVIDENCE_KEY";

    /// The defaults, with this name.
    pub fn new(name: impl Into<String>) -> EvidenceSettings {
        EvidenceSettings {
            name: name.into(),
            key_file: None,
            heartbeat_ms: Self::default_heartbeat_ms(),
            idle_heartbeat_ms: Self::default_idle_heartbeat_ms(),
            max_stream_ms: Self::default_max_stream_ms(),
            witnesses: Vec::new(),
        }
    }

    /// Sets the key file, unless the environment has a key.
    pub fn with_key_in(self, file: impl Into<PathBuf>) -> EvidenceSettings {
        let is_in_environment = std::env::var_os(Self::KEY_VARIABLE).is_some();
        EvidenceSettings { key_file: (!is_in_environment).then(|| file.into()), ..self }
    }

    /// The witnesses as [`WitnessSettings::parse_list`] reads them. `None` if there are none.
    pub fn witnesses_text(&self) -> Option<String> {
        let texts: Vec<_> = self.witnesses.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    const fn default_heartbeat_ms() -> u64 {
        5 * 60 * 1_000
    }

    const fn default_idle_heartbeat_ms() -> u64 {
        60 * 60 * 1_000
    }

    const fn default_max_stream_ms() -> u64 {
        MAX_TIME_MS
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        let EvidenceSettings {
            name: _,
            key_file: _,
            heartbeat_ms,
            idle_heartbeat_ms,
            max_stream_ms,
            // They are checked where they are used.
            witnesses: _,
        } = *self;
        within("evidence.heartbeat_ms", heartbeat_ms, 1_000, MAX_TIME_MS)?;
        within("evidence.idle_heartbeat_ms", idle_heartbeat_ms, heartbeat_ms, MAX_TIME_MS)?;
        within("evidence.max_stream_ms", max_stream_ms, 60_000, MAX_TIME_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough_and_every_bound_holds() {
        let settings: EvidenceSettings = serde_json::from_str(r#"{"name":"api"}"#).unwrap();
        assert_eq!(settings, EvidenceSettings::new("api"));
        assert_eq!(settings.check(), Ok(()));
        assert!(serde_json::from_str::<EvidenceSettings>("{}").is_err());
        assert!(serde_json::from_str::<EvidenceSettings>(r#"{"name":"api","key":"x"}"#).is_err());
        let refused = |change: fn(&mut EvidenceSettings)| {
            let mut settings = EvidenceSettings::new("api");
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(refused(|s| s.heartbeat_ms = 999).starts_with("evidence.heartbeat_ms is 999"));
        assert!(refused(|s| s.idle_heartbeat_ms = 1_000).contains("idle_heartbeat_ms"));
        assert!(refused(|s| s.max_stream_ms = MAX_TIME_MS + 1).contains("max_stream_ms"));
        assert!(refused(|s| s.max_stream_ms = 59_999).contains("max_stream_ms"));
    }
}
