//! The types with which a destination vouches for streams: it attests that nothing in them was
//! altered or omitted.
//!
//! Such a destination binds each object to those before it. The journal stores the state for that
//! durably together with the object's bytes and does not interpret it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use bytes::Bytes;

/// A stream's secret, as text. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamSecret(Arc<str>);

impl StreamSecret {
    /// Wraps the text of a secret.
    pub fn new(text: impl Into<Arc<str>>) -> StreamSecret {
        StreamSecret(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamSecret(..)")
    }
}

/// A new stream that the destination vouches for, before its first record.
#[derive(Debug)]
pub struct NewStream {
    /// The stream's secret. It is durable in the journal's directory, readable only by its owner,
    /// from before the first record until the last one is delivered.
    pub secret: StreamSecret,
    /// The host's own records in the stream.
    pub records: Box<dyn SystemRecords>,
}

/// The records that a host writes about its own stream, called on the committing thread. Each is
/// one line without a line feed; times are in milliseconds since the Unix epoch by the host's
/// clock.
pub trait SystemRecords: fmt::Debug + Send {
    /// The stream's first record. It may be requested repeatedly until one is durable. `previous`
    /// is a completely delivered stream.
    fn opened(&mut self, now_ms: i64, previous: Option<&StreamEnd>) -> String;

    /// Called when records are about to be committed.
    fn note_records(&mut self, now_ms: i64);

    /// The time until the next heartbeat is due, in milliseconds.
    fn due_in_ms(&self, now_ms: i64) -> u64;

    /// The heartbeat that is due.
    fn heartbeat(&mut self, now_ms: i64, previous: Option<&StreamEnd>) -> String;

    /// Whether another stream is to follow this one, which has `records` records.
    fn is_over(&self, now_ms: i64, records: u64) -> bool;

    /// The maximum number of records in a stream.
    fn max_records(&self) -> u64;
}

/// A completely delivered stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEnd {
    /// The stream.
    pub stream: UniqueId,
    /// The number of its records.
    pub size: u64,
    /// The destination's state after its last record.
    pub state: Bytes,
}

/// A record that the delivery writes to a stream once nothing more is committed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastRecord {
    /// These records are not at the destination, because other objects have their places.
    Void(Range<u64>),
    /// The stream's last record: no record before it is missing except those declared missing.
    Closed,
}

/// The place of an object in a stream that is vouched for.
#[derive(Debug, Clone)]
pub struct Link {
    /// The stream's secret.
    pub secret: StreamSecret,
    /// All records below this number are at the destination or declared missing.
    pub stable: u64,
}

/// The binding of an object to those before it. It is durable with the object's bytes, before the
/// first request, so that no crash leads to two bindings of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The state after the object before it, empty before the first one.
    pub before: Bytes,
    /// The state that the next object is bound to.
    pub after: Bytes,
    /// The metadata that is sent with the object.
    pub metadata: Bytes,
}
