//! What a destination needs to vouch for streams: that nothing in them was altered or left out.
//!
//! It writes beside each object what binds it to those before it. The journal keeps what that takes
//! durable with the object's bytes, and knows nothing of what it means.

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
    /// What is needed to vouch for it. It is durable in the journal's directory, for its owner
    /// alone, from before the first record until the last one is delivered.
    pub secret: StreamSecret,
    /// The host's own records in it.
    pub records: Box<dyn SystemRecords>,
}

/// The records that a host writes about its own stream, on the thread that commits. Each is a line
/// without its line feed; times are in milliseconds since the Unix epoch, by the host's clock.
pub trait SystemRecords: fmt::Debug + Send {
    /// The stream's first record, before any other. It may be asked for more than once, until one
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
    /// What the destination gave as its state behind them.
    pub state: Bytes,
}

/// What the delivery writes into a stream when nobody commits to it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastRecord {
    /// These records are not at the destination, since other objects stand in their place.
    Void(Range<u64>),
    /// The stream's last record: nothing is missing before it but what is said to be.
    Closed,
}

/// Where an object stands in a stream that is vouched for.
#[derive(Debug, Clone)]
pub struct Link {
    /// The stream's secret.
    pub secret: StreamSecret,
    /// The state that the object before it left, empty before the first one.
    pub before: Bytes,
    /// All records below this number are at the destination, or said not to be.
    pub stable: u64,
}

/// What binds an object to those before it. It is durable with the object's bytes, before the first
/// request: so a crash cannot show two for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// As in the [`Link`] that it was made with.
    pub before: Bytes,
    /// The state that the next object is bound to.
    pub after: Bytes,
    /// What goes with the object to its destination.
    pub metadata: Bytes,
}
