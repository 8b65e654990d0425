//! The beginning of the verified time range.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::UniqueId;
use audit_evidence::{BucketReport, Fault, State};

use crate::arguments::Verify;
use crate::units::HOUR_MS;

/// The longest time between the first and the last hour under which objects of a stream are filed:
/// a stream ends after a day at most, and clocks may differ by an hour.
const LONGEST_STREAM_MS: i64 = 25 * HOUR_MS;

/// The beginning of the verified time range.
pub(super) struct Begin {
    /// Streams that were opened earlier are examined only if they are filed [too
    /// late](Self::is_filed_late), and earlier hours are not listed unless something is missing. In
    /// milliseconds since the Unix epoch.
    pub(super) list_ms: i64,
    /// Records from this time on must exist and have evidence.
    pub(super) since_ms: Option<i64>,
    /// The streams of the last run, if they are not examined again.
    passed: Option<State>,
}

impl Begin {
    pub(super) fn new(arguments: &Verify, state: &State) -> Begin {
        let since_ms = arguments.since.map(|since| since.0);
        let by_since = since_ms.map(|since| since.saturating_sub(LONGEST_STREAM_MS));
        let by_state = arguments.incremental.then(|| oldest_open_ms(state)).flatten();
        let passed = arguments.incremental.then(|| state.clone());
        Begin { list_ms: by_since.max(by_state).unwrap_or(i64::MIN), since_ms, passed }
    }

    /// From the beginning of the bucket on.
    pub(super) fn of_all() -> Begin {
        Begin { list_ms: i64::MIN, since_ms: None, passed: None }
    }

    /// Whether the stream was opened within the range.
    pub(super) fn is_recent(&self, stream: &str) -> bool {
        opened_ms(stream).is_none_or(|opened| opened >= self.list_ms)
    }

    /// Whether a stream is examined. `last_hour_ms` is the last hour under which its objects are
    /// filed.
    pub(super) fn is_examined(&self, stream: &str, last_hour_ms: i64) -> bool {
        self.is_recent(stream) || self.is_filed_late(stream, last_hour_ms)
    }

    /// Whether an object of a stream that was opened before the range is filed within it. Anybody
    /// may name an object for an old stream, and query engines take its lines for recent records.
    fn is_filed_late(&self, stream: &str, last_hour_ms: i64) -> bool {
        match (&self.passed, self.since_ms) {
            // A stream that had ended at the last run may reach into the range, but was examined
            // then.
            (Some(passed), _) if passed.get(stream).is_some_and(|seen| seen.has_ended) => false,
            (Some(_), None) => last_hour_ms >= self.list_ms,
            (_, since) => since.is_some_and(|since| last_hour_ms >= since),
        }
    }

    /// The time from which records must exist, for the verifier.
    pub(super) fn retained_since(&self) -> Option<u64> {
        self.since_ms.and_then(|since| u64::try_from(since).ok())
    }

    /// Removes findings about records before the range. `late` are the streams with an object
    /// within it. Returns the number of explained streams by finding.
    pub(super) fn explain(
        &self,
        report: &mut BucketReport,
        late: &BTreeSet<String>,
    ) -> BTreeMap<&'static str, u64> {
        let mut explained = BTreeMap::new();
        report.findings.retain(|finding| {
            let opened = opened_ms(&finding.stream).unwrap_or(i64::MIN);
            let is_before = self.since_ms.is_some_and(|since| opened < since);
            let is_over = is_before && !late.contains(&finding.stream);
            let is_explained = is_over && finding.fault == Fault::NoEvidence
                || (is_before || opened < self.list_ms)
                    && matches!(finding.fault, Fault::Expired | Fault::Unopened);
            if is_explained {
                *explained.entry(finding.fault.code()).or_default() += 1;
            }
            !is_explained
        });
        explained
    }
}

/// An hour before the opening of the first stream that had not ended at the last run. If all had
/// ended, an hour before the opening of the last stream.
fn oldest_open_ms(state: &State) -> Option<i64> {
    let open = state.streams().find(|(_, seen)| !seen.has_ended);
    let (stream, _) = open.or_else(|| state.streams().last())?;
    Some(opened_ms(stream)?.saturating_sub(HOUR_MS))
}

pub(super) fn opened_ms(stream: &str) -> Option<i64> {
    let stream: UniqueId = stream.parse().ok()?;
    i64::try_from(stream.time_ms()).ok()
}
