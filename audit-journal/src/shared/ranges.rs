//! Ranges of records.

use std::ops::Range;

/// The number of records in a range.
pub fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The rest of `all` without these ranges, in order.
pub fn without(all: &Range<u64>, taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut taken = taken.to_vec();
    taken.sort_unstable_by_key(|taken| taken.start);
    let (mut left, mut at) = (Vec::new(), all.start);
    for taken in taken {
        if at < taken.start.min(all.end) {
            left.push(at..taken.start.min(all.end));
        }
        at = at.max(taken.end);
    }
    if at < all.end {
        left.push(at..all.end);
    }
    left
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn remaining_ranges_are_ordered_and_within() {
        for (taken, left) in [
            ("", "3..9"),
            ("0..3 9..12", "3..9"),
            ("0..4 8..12", "4..8"),
            ("5..7 4..6", "3..4 7..9"),
            ("2..10", ""),
            ("6..7 3..4 8..9", "4..6 7..8"),
        ] {
            let ranges = taken.split_whitespace().map(|range| {
                let (start, end) = range.split_once("..").unwrap();
                start.parse().unwrap()..end.parse().unwrap()
            });
            let found = without(&(3..9), &ranges.collect::<Vec<_>>());
            let found: Vec<_> = found.iter().map(|range| format!("{range:?}")).collect();
            assert_eq!(found.join(" "), left, "{taken}");
        }
    }
}
