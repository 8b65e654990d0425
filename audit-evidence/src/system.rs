//! What a host says about a stream, in records of the stream itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Hash;

/// A record that the host writes about its stream, as a line that has the member `$audit` only.
///
/// System records are numbered and hashed like all others, in objects of their own below
/// `_audit/`. Members that a later version adds are skipped.
///
/// ```
/// use audit_evidence::SystemRecord;
///
/// let closed = SystemRecord::Closed { at: 1_764_000_000_000 };
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
        /// What wrote the stream, with its version.
        software: String,
        /// The host's verifier key.
        key: String,
        /// The next system record comes before this time, in milliseconds since the Unix epoch.
        next: u64,
        /// The bucket that the stream was written to, without credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
        /// The stream before it, when that had been delivered whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<StreamEnd>,
    },
    /// The host lives, and nothing behind this record is missing until `next`.
    Heartbeat {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The next system record comes before this time, in milliseconds since the Unix epoch.
        next: u64,
        /// How far the host's clock is behind the store's, in milliseconds, when known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_offset: Option<i64>,
        /// Earlier checkpoints of the stream with what witnesses signed, each as a note.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cosigned: Vec<String>,
        /// The stream before it, if that was delivered whole since the record before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<StreamEnd>,
    },
    /// Records that are not in the bucket, since their object's key held something else.
    Void {
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// The number of the first of them.
        first: u64,
        /// How many they are.
        count: u64,
        /// What happened.
        reason: String,
    },
    /// The stream's last record.
    Closed {
        /// Milliseconds since the Unix epoch.
        at: u64,
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
    /// [`InvalidSystemRecord`], also for an event that this version does not know.
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
            | SystemRecord::Closed { at } => at,
        }
    }

    /// Before when the next one was promised, in milliseconds since the Unix epoch.
    pub fn next(&self) -> Option<u64> {
        match *self {
            SystemRecord::Opened { next, .. } | SystemRecord::Heartbeat { next, .. } => Some(next),
            SystemRecord::Void { .. } | SystemRecord::Closed { .. } => None,
        }
    }

    /// What it says of the stream before.
    pub fn previous(&self) -> Option<&StreamEnd> {
        match self {
            SystemRecord::Opened { previous, .. } | SystemRecord::Heartbeat { previous, .. } => {
                previous.as_ref()
            }
            SystemRecord::Void { .. } | SystemRecord::Closed { .. } => None,
        }
    }
}

/// The line is no system record that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSystemRecord;

impl fmt::Display for InvalidSystemRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is not a system record")
    }
}

impl std::error::Error for InvalidSystemRecord {}
