//! [`ReadSet`].

use std::collections::BTreeMap;

use super::key::{self, Key};

/// What a transaction read: ranges of keys, disjoint and apart from each other.
///
/// A range that was read and found empty is in it too, so that something new in the range is
/// noticed.
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

    /// How much memory it takes while it is watched, in bytes, and rather more than less.
    pub fn bytes(&self) -> usize {
        // A watch keeps the ranges by their number too; the keys are shared.
        const RANGE: usize = 4 * size_of::<Key>() + 64;
        self.ranges.iter().map(|(start, end)| start.len() + end.len() + RANGE).sum()
    }

    /// How many separate ranges there are.
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

    /// Adds all that another transaction read.
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

    /// The first of these keys that lies in what was read.
    pub(super) fn find<'a>(&self, keys: &'a [Key]) -> Option<&'a Key> {
        keys.iter().find(|key| self.contains(key))
    }
}
