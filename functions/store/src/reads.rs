//! [`ReadSet`].

use std::collections::BTreeMap;

use super::key::{self, Key};

/// What a transaction read: disjoint ranges of keys that do not touch.
///
/// Empty ranges that were read are in it too, so that a new row in one is noticed.
#[derive(Debug, Clone, Default)]
pub struct ReadSet {
    /// From each range's first key to the first key after it.
    ranges: BTreeMap<Key, Key>,
}

impl ReadSet {
    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// An upper estimate, in bytes, of the memory it takes while it is watched.
    pub fn bytes(&self) -> usize {
        // A watch keeps the ranges by their number too; the keys are shared.
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

    /// Adds `[start, end)`, joining what overlaps or touches.
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
