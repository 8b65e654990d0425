//! [`ReadSet`].

use std::collections::BTreeMap;

use super::key::{self, Key};

/// The reads of a transaction: disjoint, non-adjacent ranges of keys.
///
/// It includes ranges without rows, so that a new row in one is detected.
#[derive(Debug, Clone, Default)]
pub struct ReadSet {
    /// The first key of each range, with the first key after it.
    ranges: BTreeMap<Key, Key>,
}

impl ReadSet {
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// An upper estimate of its memory while it is watched, in bytes.
    pub fn bytes(&self) -> usize {
        // A watch stores the ranges a second time; the keys are shared.
        const RANGE: usize = 4 * size_of::<Key>() + 64;
        self.ranges.iter().map(|(start, end)| start.len() + end.len() + RANGE).sum()
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
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
