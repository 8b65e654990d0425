//! [`ReadSet`].

use std::collections::BTreeMap;

use super::key::{self, Key};

/// The reads of a transaction: disjoint, non-adjacent ranges of keys.
///
/// It includes ranges without rows, so that a row inserted there is detected.
#[derive(Debug, Clone, Default)]
pub struct ReadSet {
    /// The first key of each range, with the first key after it.
    ranges: BTreeMap<Key, Key>,
}

impl ReadSet {
    /// An upper estimate of the memory of a watched read set, in bytes.
    pub fn bytes(&self) -> usize {
        // A watch stores the ranges a second time and shares the keys.
        const RANGE: usize = 4 * size_of::<Key>() + 64;
        self.ranges.iter().map(|(start, end)| start.len() + end.len() + RANGE).sum()
    }

    pub(super) fn add_key(&mut self, key: &Key) {
        if !self.contains(key) {
            self.add(key.clone(), key::after(key));
        }
    }

    /// Adds `[start, end)`, merging overlapping and adjacent ranges.
    pub(super) fn add(&mut self, mut start: Key, mut end: Key) {
        if start >= end {
            return;
        }
        if let Some((first, last)) = self.ranges.range::<Key, _>(..=&start).next_back()
            && *last >= start
        {
            if *last >= end {
                return;
            }
            start = first.clone();
        }
        while let Some((first, last)) = self.ranges.range::<Key, _>(&start..=&end).next() {
            let (first, last) = (first.clone(), last.clone());
            self.ranges.remove(&first);
            end = end.max(last);
        }
        self.ranges.insert(start, end);
    }

    /// Adds the reads of another transaction.
    pub fn extend(&mut self, other: &ReadSet) {
        for (start, end) in &other.ranges {
            self.add(start.clone(), end.clone());
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.ranges.range::<Key, _>(..=key).next_back().is_some_and(|(_, end)| key < end)
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = (&Key, &Key)> {
        self.ranges.iter()
    }

    /// The first of these keys that was read.
    pub(super) fn find<'a>(&self, keys: &'a [Key]) -> Option<&'a Key> {
        keys.iter().find(|key| self.contains(key))
    }
}
