//! A host's statements about a stream, as records of the stream itself.

use serde::{Deserialize, Serialize};

use crate::Hash;

/// A record that the host writes about its stream: a line with `$audit` as its only member.
///
/// System records are numbered and hashed like all others, in separate objects below `_audit/`.
/// Unknown members, which later versions may add, are skipped.
///
/// ```
/// use audit_evidence::SystemRecord;
///
/// let closed = SystemRecord::Closed { at: 1_764_000_000_000, cosigned: Vec::new() };
/// let line = r#"{"$audit":{"event":"closed","at":1764000000000}}"#;
/// assert_eq!(closed.to_line(), line);
/// assert_eq!(SystemRecord::parse(line.as_bytes()), Ok(closed));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum SystemRecord {
    /// The stream's record of number 0.
    Opened {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The name of the host's key.
        host: String,
        /// The software that wrote the stream, with its version.
        software: String,
        /// The host's verifier key.
        key: String,
        /// The deadline for the next system record, in milliseconds since the Unix epoch.
        next: u64,
        /// The bucket that the stream was written to, without credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
        /// The end of the previous stream, if that was fully delivered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<StreamEnd>,
    },
    /// The host is alive. Until `next`, records after this one may still be on their way.
    Heartbeat {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The deadline for the next system record, in milliseconds since the Unix epoch.
        next: u64,
        /// How far the host's clock is behind the store's, in milliseconds, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_offset: Option<i64>,
        /// Earlier checkpoints of the stream with their cosignatures, each as a note.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cosigned: Vec<String>,
        /// The end of the previous stream, if that was fully delivered since the last system
        /// record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<StreamEnd>,
    },
    /// Records that are not in the bucket because another object had their key.
    Void {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The number of the first such record.
        first: u64,
        /// The number of such records.
        count: u64,
        /// What happened.
        reason: String,
    },
    /// The stream's last record.
    Closed {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// Checkpoints of the stream with their cosignatures, as in a heartbeat.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cosigned: Vec<String>,
    },
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// The stream.
    pub stream: String,
    /// The number of its records.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<T> {
    #[serde(rename = "$audit")]
    record: T,
}

impl SystemRecord {
    /// The record as a line, without its line feed.
    pub fn to_line(&self) -> String {
        let line = Line { record: self };
        serde_json::to_string(&line).expect("strings and numbers are serialized without failure")
    }

    /// Parses a line, given without its line feed.
    ///
    /// # Errors
    ///
    /// [`InvalidSystemRecord`], also for unknown events.
    pub fn parse(line: &[u8]) -> Result<SystemRecord, InvalidSystemRecord> {
        let line: Line<SystemRecord> =
            serde_json::from_slice(line).map_err(|_| InvalidSystemRecord)?;
        Ok(line.record)
    }

    /// When it was written, in milliseconds since the Unix epoch, by the host's clock.
    pub fn at(&self) -> u64 {
        match *self {
            SystemRecord::Opened { at, .. }
            | SystemRecord::Heartbeat { at, .. }
            | SystemRecord::Void { at, .. }
            | SystemRecord::Closed { at, .. } => at,
        }
    }

    /// The deadline for the next one, in milliseconds since the Unix epoch.
    pub fn next(&self) -> Option<u64> {
        match *self {
            SystemRecord::Opened { next, .. } | SystemRecord::Heartbeat { next, .. } => Some(next),
            SystemRecord::Void { .. } | SystemRecord::Closed { .. } => None,
        }
    }

    /// Checkpoints with cosignatures, each as a note that nobody has verified yet.
    pub fn cosigned(&self) -> &[String] {
        match self {
            SystemRecord::Heartbeat { cosigned, .. } | SystemRecord::Closed { cosigned, .. } => {
                cosigned
            }
            SystemRecord::Opened { .. } | SystemRecord::Void { .. } => &[],
        }
    }

    /// The end of the previous stream, if it states one.
    pub fn previous(&self) -> Option<&StreamEnd> {
        match self {
            SystemRecord::Opened { previous, .. } | SystemRecord::Heartbeat { previous, .. } => {
                previous.as_ref()
            }
            SystemRecord::Void { .. } | SystemRecord::Closed { .. } => None,
        }
    }
}

/// The line is not a system record known to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the line is not a system record")]
pub struct InvalidSystemRecord;
