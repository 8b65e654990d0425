//! Gaps: records missing before an object.

use std::ops::Range;

use super::Fault;

/// Records of a stream that are in no object.
#[derive(Debug, Clone)]
pub(super) struct Gap {
    pub(super) records: Range<u64>,
    /// Whether no object precedes it, system objects aside.
    pub(super) is_prefix: bool,
    /// When the last system record before it was written, in milliseconds since the Unix epoch.
    pub(super) after: Option<u64>,
}

impl Gap {
    /// The parts of the gap outside these records.
    pub(super) fn without(self, records: &Range<u64>) -> impl Iterator<Item = Gap> {
        let Range { start, end } = self.records;
        let before = start..end.min(records.start);
        let behind = start.max(records.end)..end;
        let remaining = [before, behind].into_iter().filter(|records| !records.is_empty());
        remaining.map(move |records| Gap { records, ..self })
    }

    /// Splits the gap into pieces with one reason each. All records below `stable` were
    /// acknowledged. `may_have_expired` says whether the store may have removed records of this
    /// age.
    pub(super) fn faults(
        &self,
        stable: u64,
        acknowledged: &[Range<u64>],
        may_have_expired: bool,
    ) -> Vec<(Range<u64>, Fault)> {
        let Range { start, end } = self.records;
        // Between two of these bounds, all records have the same reason.
        let mut bounds: Vec<u64> = acknowledged
            .iter()
            .flat_map(|records| [records.start, records.end])
            .chain([stable, end])
            .filter(|bound| (start + 1..=end).contains(bound))
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut pieces: Vec<(Range<u64>, Fault)> = Vec::new();
        let mut from = start;
        for to in bounds {
            let was_acknowledged =
                from < stable || acknowledged.iter().any(|records| records.contains(&from));
            let fault = match (was_acknowledged, self.is_prefix && may_have_expired) {
                (true, false) => Fault::Deleted,
                (true, true) => Fault::Expired,
                (false, _) => Fault::Unacknowledged,
            };
            match pieces.last_mut() {
                Some((records, last)) if *last == fault => records.end = to,
                Some(_) | None => pieces.push((from..to, fault)),
            }
            from = to;
        }
        pieces
    }
}
