//! The selection of a command: a range of times, and a stream.

use std::ops::Range;

use audit_core::UniqueId;
use audit_sink_s3::layout::Partition;

use crate::arguments::Selection;
use crate::units::HOUR_MS;

/// The selected range of times, and the selected stream, if any.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) times_ms: Range<i64>,
    pub(crate) stream: Option<UniqueId>,
    /// The distance from the range within which an hour may still hold records of the range.
    margin_ms: i64,
}

impl Wanted {
    pub(crate) fn new(times_ms: Range<i64>, stream: Option<UniqueId>) -> Wanted {
        Wanted { times_ms, stream, margin_ms: 0 }
    }

    /// The selection of the command line. With `is_timed`, records are selected by their own times.
    pub(crate) fn selected(selection: &Selection, is_timed: bool) -> Wanted {
        Wanted::new(selection.times_ms(), selection.stream).with_margin(is_timed)
    }

    /// Includes the hours before and after if records are selected by their own times: an object is
    /// filed under the hour of its first record, but it may hold records of the next hour, and of
    /// the end of the hour before, since concurrent records are written in any order.
    pub(crate) fn with_margin(self, is_timed: bool) -> Wanted {
        Wanted { margin_ms: if is_timed { HOUR_MS } else { 0 }, ..self }
    }

    /// All times, all streams.
    pub(crate) fn all() -> Wanted {
        Wanted::new(i64::MIN..i64::MAX, None)
    }

    /// The range of hours to read.
    pub(crate) fn read_ms(&self) -> Range<i64> {
        let Range { start, end } = self.times_ms;
        start.saturating_sub(self.margin_ms)..end.saturating_add(self.margin_ms)
    }

    /// Whether the range itself, without its margin, includes a part of this partition.
    pub(crate) fn names(&self, partition: &Partition) -> bool {
        partition.begin_ms() < self.times_ms.end && self.times_ms.start < partition.end_ms()
    }

    pub(super) fn overlaps(&self, partition: &Partition) -> bool {
        let read = self.read_ms();
        partition.begin_ms() < read.end && read.start < partition.end_ms()
    }

    pub(super) fn covers(&self, partition: &Partition) -> bool {
        let read = self.read_ms();
        read.start <= partition.begin_ms() && partition.end_ms() <= read.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partially_selected_partitions_are_read() {
        let hour = Partition::hour_of(0);
        let wanted = |times_ms| Wanted::new(times_ms, None);
        assert!(wanted(0..1).overlaps(&hour) && !wanted(0..1).covers(&hour));
        assert!(wanted(HOUR_MS - 1..HOUR_MS).overlaps(&hour));
        assert!(!wanted(HOUR_MS..HOUR_MS + 1).overlaps(&hour));
        assert!(!wanted(-5..0).overlaps(&hour));
        assert!(wanted(i64::MIN..i64::MAX).covers(&hour) && wanted(0..HOUR_MS).covers(&hour));
        for times_ms in [-5..-1, HOUR_MS..HOUR_MS + 1] {
            let timed = wanted(times_ms).with_margin(true);
            assert!(timed.overlaps(&hour) && !timed.names(&hour), "{timed:?}");
        }
        for times_ms in [-HOUR_MS - 5..-HOUR_MS, 2 * HOUR_MS..2 * HOUR_MS + 1] {
            assert!(!wanted(times_ms).with_margin(true).overlaps(&hour));
        }
    }
}
