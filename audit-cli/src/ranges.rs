//! The record numbers of a stream that were seen.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges of numbers that do not touch, by their starts. Memory grows with the number of
/// gaps, and time hardly with it: a range is merged into others once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range. Returns the parts that were already in the set.
    pub(crate) fn add(&mut self, new: Range<u64>) -> Vec<Range<u64>> {
        if new.is_empty() {
            return Vec::new();
        }
        let mut overlaps = Vec::new();
        let mut all = new.clone();
        // The ranges that touch the new one, from the last to the first.
        while let Some((&start, &end)) =
            self.0.range(..=new.end).next_back().filter(|(_, end)| new.start <= **end)
        {
            self.0.remove(&start);
            all = all.start.min(start)..all.end.max(end);
            let overlap = start.max(new.start)..end.min(new.end);
            overlaps.extend(Some(overlap).filter(|overlap| !overlap.is_empty()));
        }
        self.0.insert(all.start, all.end);
        overlaps.reverse();
        overlaps
    }

    fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// The gaps between the first and the last number.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.iter().zip(self.iter().skip(1)).map(|(range, next)| range.end..next.start)
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.0.keys().next().copied()
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
                ranges.iter().flatten().collect::<Vec<_>>(),
                set.iter().copied().collect::<Vec<_>>()
            );
            let whole = ranges.first().unwrap_or(0)..set.last().copied().unwrap_or(0);
            let missing: Vec<u64> = whole.filter(|number| !set.contains(number)).collect();
            assert_eq!(ranges.gaps().flatten().collect::<Vec<_>>(), missing);
            assert!(ranges.gaps().all(|gap| gap.start < gap.end));
        }
    }
}
