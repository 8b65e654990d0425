//! Records in the form that log streams use.

use audit_core::{Batch, Place, UniqueId};
use bytes::Bytes;

/// A record, with its number in its stream and its time.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) time_ms: i64,
    /// A JSON object, without its line feed.
    pub(crate) line: Bytes,
}

/// Records of one stream, in order.
#[derive(Clone)]
pub(crate) struct Events {
    pub(crate) stream: UniqueId,
    pub(crate) events: Vec<Event>,
}

impl Events {
    pub(crate) fn of_batch(batch: &Batch, place: Place) -> Events {
        let time_ms = batch.time_ms();
        let events = (place.first_sequence..).zip(batch.records());
        let events = events.map(|(sequence, line)| Event { sequence, time_ms, line }).collect();
        Events { stream: place.stream, events }
    }
}

/// Shows the number and not the content.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
