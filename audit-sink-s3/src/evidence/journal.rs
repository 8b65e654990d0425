//! The system records of a stream that is written through a journal.

use std::sync::Arc;

use audit_core::UniqueId;
use audit_evidence::{StreamEnd, SystemRecord};
use audit_journal::{LastRecord, SystemRecords};

use super::{Evidence, FULL, Heartbeats, MAX_RECORDS, frontier, time};

#[derive(Debug)]
pub(crate) struct StreamRecords {
    evidence: Arc<Evidence>,
    stream: UniqueId,
    /// The time of the first record, and the schedule of heartbeats. `None` before that record.
    opened: Option<(i64, Heartbeats)>,
}

impl StreamRecords {
    pub(crate) fn new(evidence: Arc<Evidence>, stream: UniqueId) -> StreamRecords {
        StreamRecords { evidence, stream, opened: None }
    }
}

fn end(previous: &audit_journal::StreamEnd) -> StreamEnd {
    let audit_journal::StreamEnd { stream, size, state } = previous;
    let root = frontier::read(*size, state).and_then(|range| range.root());
    StreamEnd {
        stream: stream.to_string(),
        size: *size,
        root: root.expect("the state of a stream that has records"),
    }
}

impl SystemRecords for StreamRecords {
    fn opened(&mut self, now_ms: i64, previous: Option<&audit_journal::StreamEnd>) -> String {
        self.opened = Some((now_ms, Heartbeats::opened(now_ms, self.evidence.settings())));
        self.evidence.opened(now_ms, previous.map(end)).to_line()
    }

    fn note_records(&mut self, now_ms: i64) {
        if let Some((_, heartbeats)) = &mut self.opened {
            heartbeats.record(now_ms);
        }
    }

    fn due_in_ms(&self, now_ms: i64) -> u64 {
        let opened = self.opened.as_ref();
        opened.map_or(u64::MAX, |(_, heartbeats)| heartbeats.due_in_ms(now_ms))
    }

    fn heartbeat(&mut self, now_ms: i64, previous: Option<&audit_journal::StreamEnd>) -> String {
        let settings = self.evidence.settings();
        let (_, heartbeats) =
            self.opened.get_or_insert_with(|| (now_ms, Heartbeats::opened(now_ms, settings)));
        let previous = previous.map(end);
        self.evidence.heartbeat(self.stream, heartbeats, now_ms, previous).to_line()
    }

    fn is_over(&self, now_ms: i64, records: u64) -> bool {
        let is_old = |(at_ms, _): &(i64, Heartbeats)| self.evidence.over_in_ms(*at_ms, now_ms) == 0;
        records > FULL || self.opened.as_ref().is_some_and(is_old)
    }

    fn max_records(&self) -> u64 {
        MAX_RECORDS
    }
}

/// The delivery's last record for a stream that gets no more commits. It does not need the host's
/// key: without the key, `evidence` is `None`.
pub(crate) fn last_record(
    evidence: Option<&Evidence>,
    stream: UniqueId,
    now_ms: i64,
    record: &LastRecord,
) -> String {
    let at = time(now_ms);
    let record = match record {
        LastRecord::Void(records) => SystemRecord::Void {
            at,
            first: records.start,
            count: records.end - records.start,
            reason: "other objects stand where these records should".to_owned(),
        },
        LastRecord::Closed => match evidence {
            Some(evidence) => evidence.closed(stream, now_ms),
            None => SystemRecord::Closed { at, cosigned: Vec::new() },
        },
    };
    record.to_line()
}
