//! The beginning of the verified time range.

use std::collections::BTreeMap;

use audit_core::UniqueId;
use audit_evidence::{BucketReport, Fault, State};

use crate::arguments::Verify;
use crate::units::HOUR_MS;

/// The longest time between the first and the last hour under which objects of a stream are filed:
/// a stream ends after a day at most, and clocks may differ by an hour.
const LONGEST_STREAM_MS: i64 = 25 * HOUR_MS;

/// The beginning of the verified time range.
pub(super) struct Begin {
    /// Streams that were opened earlier are not examined, and earlier hours are not listed unless
    /// something is missing. In milliseconds since the Unix epoch.
    pub(super) list_ms: i64,
    /// Records from this time on must exist and have evidence.
    pub(super) since_ms: Option<i64>,
}

impl Begin {
    pub(super) fn new(arguments: &Verify, state: &State) -> Begin {
        let since_ms = arguments.since.map(|since| since.0);
        let by_since = since_ms.map(|since| since.saturating_sub(LONGEST_STREAM_MS));
        let by_state = arguments.incremental.then(|| oldest_open_ms(state)).flatten();
        Begin { list_ms: by_since.max(by_state).unwrap_or(i64::MIN), since_ms }
    }

    pub(super) fn is_examined(&self, stream: &str) -> bool {
        opened_ms(stream).is_none_or(|opened| opened >= self.list_ms)
    }

    /// The time from which records must exist, for the verifier.
    pub(super) fn retained_since(&self) -> Option<u64> {
        self.since_ms.and_then(|since| u64::try_from(since).ok())
    }

    /// Removes findings about records before the range. Returns the number of such streams by
    /// finding.
    pub(super) fn explain(&self, report: &mut BucketReport) -> BTreeMap<&'static str, u64> {
        let mut explained = BTreeMap::new();
        report.findings.retain(|finding| {
            let opened = opened_ms(&finding.stream).unwrap_or(i64::MIN);
            let is_before = self.since_ms.is_some_and(|since| opened < since);
            let is_explained = is_before && finding.fault == Fault::NoEvidence
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

/// The time at which the first stream was opened that had not ended at the last run or, if all had
/// ended, the last stream.
fn oldest_open_ms(state: &State) -> Option<i64> {
    let open = state.streams().find(|(_, seen)| !seen.has_ended);
    let (stream, _) = open.or_else(|| state.streams().last())?;
    Some(opened_ms(stream)?.saturating_sub(HOUR_MS))
}

pub(super) fn opened_ms(stream: &str) -> Option<i64> {
    let stream: UniqueId = stream.parse().ok()?;
    i64::try_from(stream.time_ms()).ok()
}
