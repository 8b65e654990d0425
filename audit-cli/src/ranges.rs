//! The record numbers of a stream that were seen.

use std::ops::Range;

/// Disjoint ranges of numbers, in order. Memory grows with the number of gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range. Returns the parts that were already in the set.
    pub(crate) fn add(&mut self, new: Range<u64>) -> Vec<Range<u64>> {
        if new.is_empty() {
            return Vec::new();
        }
        // The first range that touches the new one, and the first range beyond it.
        let from = self.0.partition_point(|range| range.end < new.start);
        let to = self.0.partition_point(|range| range.start <= new.end);
        let touched = &self.0[from..to];
        let overlaps =
            touched.iter().map(|range| range.start.max(new.start)..range.end.min(new.end));
        let overlaps = overlaps.filter(|overlap| !overlap.is_empty()).collect();
        let start = touched.first().map_or(new.start, |first| first.start.min(new.start));
        let end = touched.last().map_or(new.end, |last| last.end.max(new.end));
        self.0.splice(from..to, std::iter::once(start..end));
        overlaps
    }

    /// The gaps between the first and the last number.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.windows(2).map(|pair| pair[0].end..pair[1].start)
    }

    pub(crate) fn first(&self) -> Option<u64> {
        Some(self.0.first()?.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_a_set_of_numbers() {
        // The model is a set of numbers.
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let (mut ranges, mut set) = (Ranges::default(), std::collections::BTreeSet::new());
            for _ in 0..20 {
                let start = next(60);
                let new = start..start + next(12);
                let expected: Vec<u64> =
                    new.clone().filter(|number| set.contains(number)).collect();
                let overlaps: Vec<u64> = ranges.add(new.clone()).into_iter().flatten().collect();
                assert_eq!(overlaps, expected);
                set.extend(new);
            }
            assert_eq!(
                ranges.0.iter().cloned().flatten().collect::<Vec<_>>(),
                set.iter().copied().collect::<Vec<_>>()
            );
            let whole = ranges.first().unwrap_or(0)..set.last().copied().unwrap_or(0);
            let missing: Vec<u64> = whole.filter(|number| !set.contains(number)).collect();
            assert_eq!(ranges.gaps().flatten().collect::<Vec<_>>(), missing);
            assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
