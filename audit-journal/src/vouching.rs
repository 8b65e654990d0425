//! The state with which a destination vouches for streams: that nothing in them was altered or left
//! out.
//!
//! Such a destination binds each object to those before it. The journal keeps the state for that
//! durable together with the object's bytes, without interpreting it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use bytes::Bytes;

/// A stream's secret, as text. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamSecret(Arc<str>);

impl StreamSecret {
    /// A secret.
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

/// A stream that is to be vouched for, before its first record.
#[derive(Debug)]
pub struct NewStream {
    /// The secret with which it is vouched for. It is durable in the journal's directory, readable
    /// by its owner only, from before the first record until the last one is delivered.
    pub secret: StreamSecret,
    /// The host's own records in it.
    pub records: Box<dyn SystemRecords>,
}

/// The records that a host writes about its own stream, on the thread that commits. Each is a line
/// without its line feed; times are in milliseconds since the Unix epoch, by the host's clock.
pub trait SystemRecords: fmt::Debug + Send {
    /// The stream's first record, before any other. It may be requested more than once, until one
    /// is durable. `previous` is a stream that was delivered whole.
    fn opened(&mut self, now_ms: i64, previous: Option<&StreamEnd>) -> String;

    /// Records are about to be committed.
    fn note_records(&mut self, now_ms: i64);

    /// How long until the next heartbeat is due, in milliseconds.
    fn due_in_ms(&self, now_ms: i64) -> u64;

    /// The heartbeat that is due.
    fn heartbeat(&mut self, now_ms: i64, previous: Option<&StreamEnd>) -> String;

    /// Whether another stream is to follow this one, which has so many records.
    fn is_over(&self, now_ms: i64, records: u64) -> bool;

    /// The most records that a stream may have.
    fn max_records(&self) -> u64;
}

/// A stream that was delivered whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEnd {
    /// The stream.
    pub stream: UniqueId,
    /// How many records it has.
    pub size: u64,
    /// The destination's state after them.
    pub state: Bytes,
}

/// A record that the delivery writes to a stream once nothing more is committed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastRecord {
    /// These records are not at the destination: other objects have their places.
    Void(Range<u64>),
    /// The stream's last record: nothing before it is missing, except what was declared so.
    Closed,
}

/// The place of an object in a stream that is vouched for.
#[derive(Debug, Clone)]
pub struct Link {
    /// The stream's secret.
    pub secret: StreamSecret,
    /// The state after the object before it, empty before the first one.
    pub before: Bytes,
    /// All records below this number are at the destination, or declared as missing.
    pub stable: u64,
}

/// The binding of an object to those before it. It is durable with the object's bytes, before the
/// first request, so that no crash leads to two bindings of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// As in the [`Link`] that it was made with.
    pub before: Bytes,
    /// The state that the next object is bound to.
    pub after: Bytes,
    /// The metadata that is sent with the object.
    pub metadata: Bytes,
}
