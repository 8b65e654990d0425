//! A log stream as the destination of a journal.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{BufferPool, async_trait};
use audit_journal::shared::pieces::Pieces;
use audit_journal::{Destination, Encoded, Encoding, Link, Plan, RecordTime, Records, Unsealed};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::delivery::{Delivery, Rejects};
use crate::event::{Event, Events};

/// A line of times, and the unchanged lines of the records. Requests are built when they are sent,
/// with the current secrets, limits and format, which a restart may have changed.
const LINES: Encoding = Encoding::new(*b"evts");

/// The first line: the times, each with the first record that has it.
#[derive(Serialize, Deserialize)]
struct Head {
    times: Vec<(u64, i64)>,
}

/// Sends the journal's objects to the receiver.
pub(crate) struct StreamDestination {
    delivery: Arc<Delivery>,
    /// The treatment of rejected records, which do not fail the delivery.
    rejects: Rejects,
}

impl StreamDestination {
    pub(crate) fn new(delivery: Arc<Delivery>, rejects: Rejects) -> StreamDestination {
        StreamDestination { delivery, rejects }
    }
}

#[async_trait]
impl Destination for StreamDestination {
    fn encoding(&self) -> Encoding {
        LINES
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        encoding == LINES
    }

    fn encode(
        &self,
        _plan: &Plan,
        _link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Unsealed {
        let times = records.times.iter().map(|time| (time.first_sequence, time.time_ms)).collect();
        let mut head = serde_json::to_vec(&Head { times }).expect("numbers are JSON");
        head.push(b'\n');
        let mut pieces = Pieces::new(pool);
        pieces.extend(&head);
        pieces.extend(records.lines);
        let sha256 = Sha256::digest(records.lines).into();
        Unsealed { pieces: pieces.into_bytes(), sha256, seal: None }
    }

    /// After a crash before the receiver has accepted everything, the next process sends the object
    /// again from its file, with the same ids.
    async fn send(&self, plan: &Plan, object: Encoded) -> audit_journal::Delivery {
        let bytes = object.pieces.concat().into();
        drop(object);
        let events = read(plan, &bytes);
        let delivered = self.delivery.deliver(&events, self.rejects).await;
        delivered.expect("what is rejected is set aside");
        audit_journal::Delivery::Delivered
    }

    fn backoff_after_panic(&self, retries: u32) -> Duration {
        self.delivery.backoff(true, retries)
    }
}

impl fmt::Debug for StreamDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamDestination")
            .field("receiver", &self.delivery.receiver)
            .finish_non_exhaustive()
    }
}

/// Reads the records that [`StreamDestination::encode`] wrote. The journal has verified their
/// checksum.
fn read(plan: &Plan, bytes: &Bytes) -> Events {
    let head_end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let head: Option<Head> = serde_json::from_slice(&bytes[..head_end]).ok();
    let times = head.map_or_else(Vec::new, |head| head.times);
    let mut times = times
        .into_iter()
        .map(|(first_sequence, time_ms)| RecordTime { first_sequence, time_ms })
        .peekable();
    let (mut at, mut time_ms) = (head_end + 1, plan.time_ms);
    let mut events = Vec::new();
    for sequence in plan.first_sequence..plan.next_sequence() {
        while let Some(time) = times.next_if(|time| time.first_sequence <= sequence) {
            time_ms = time.time_ms;
        }
        let rest = &bytes[at.min(bytes.len())..];
        let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        events.push(Event { sequence, time_ms, line: bytes.slice(at.min(end)..end) });
        at = end + 1;
    }
    Events { stream: plan.stream, events }
}

#[cfg(test)]
mod tests {
    use audit_core::UniqueId;
    use audit_journal::shared::pieces::pieces;

    use super::*;
    use crate::sink::LogStream;
    use crate::{Format, Settings};

    #[test]
    fn encoded_requests_round_trip() {
        let stream = LogStream::open(Settings::new("https://example.com", Format::Ndjson)).unwrap();
        let destination = StreamDestination::new(stream.delivery(), Rejects::Only);
        let plan = Plan {
            stream: UniqueId::from_bits(1),
            first_sequence: 10,
            count: 4,
            time_ms: 100,
            encoding: LINES,
        };
        let time = |first_sequence, time_ms| RecordTime { first_sequence, time_ms };
        let times = [time(10, 100), time(11, 107), time(13, 90)];
        let records = Records { lines: b"{}\n{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n", times: &times };
        let encoded = destination.encode(&plan, None, records, &pieces());
        let events = read(&plan, &encoded.pieces.concat().into());
        let told: Vec<_> = events
            .events
            .iter()
            .map(|event| (event.sequence, event.time_ms, std::str::from_utf8(&event.line).unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                (10, 100, "{}"),
                (11, 107, "{\"a\":1}"),
                (12, 107, "{\"b\":2}"),
                (13, 90, "{\"c\":3}"),
            ]
        );
        assert!(destination.accepts(destination.encoding()));
        assert!(!destination.accepts(Encoding::new(*b"zstd")));
    }
}
