//! An interval tree, which finds the ranges that contain a key.

use std::cmp::Ordering;

use super::key::Key;

/// Ranges with their owners: a treap ordered by first key, in which each node stores the highest
/// end in its subtree. All operations take logarithmic time, plus the number of ranges found.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    root: Tree,
    /// The source of priorities. They must be independent of the keys, but may be predictable.
    state: u64,
}

type Tree = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Key,
    end: Key,
    owner: u64,
    highest_end: Key,
    priority: u64,
    left: Tree,
    right: Tree,
}

impl Node {
    fn refresh(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.highest_end);
        self.highest_end = below.chain([&self.end]).max().unwrap_or(&self.end).clone();
    }

    fn order(&self, start: &Key, owner: u64) -> Ordering {
        self.start.cmp(start).then(self.owner.cmp(&owner))
    }
}

impl Intervals {
    /// Adds `[start, end)`. An owner's ranges must begin at different keys.
    pub(super) fn insert(&mut self, start: Key, end: Key, owner: u64) {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let priority = self.state ^ self.state >> 32;
        let (left, right) = split(self.root.take(), &start, owner);
        let node =
            Node { highest_end: end.clone(), start, end, owner, priority, left: None, right: None };
        self.root = merge(merge(left, Some(Box::new(node))), right);
    }

    /// Removes the owner's range that begins at this key.
    pub(super) fn remove(&mut self, start: &Key, owner: u64) {
        let (left, rest) = split(self.root.take(), start, owner);
        let (_, right) = split(rest, start, owner + 1);
        self.root = merge(left, right);
    }

    /// Calls `found` with the owner of each range that contains the key.
    pub(super) fn find(&self, key: &Key, found: &mut impl FnMut(u64)) {
        find(&self.root, key, found);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }
}

fn find(tree: &Tree, key: &Key, found: &mut impl FnMut(u64)) {
    let Some(node) = tree else { return };
    if node.highest_end <= *key {
        return;
    }
    find(&node.left, key, found);
    if node.start <= *key {
        if node.end > *key {
            found(node.owner);
        }
        find(&node.right, key, found);
    }
}

/// Splits into the ranges before `(start, owner)` and the rest.
fn split(tree: Tree, start: &Key, owner: u64) -> (Tree, Tree) {
    let Some(mut node) = tree else { return (None, None) };
    if node.order(start, owner).is_lt() {
        let (middle, right) = split(node.right.take(), start, owner);
        node.right = middle;
        node.refresh();
        (Some(node), right)
    } else {
        let (left, middle) = split(node.left.take(), start, owner);
        node.left = middle;
        node.refresh();
        (left, Some(node))
    }
}

/// Joins two trees, all of whose first sorts before the second.
fn merge(left: Tree, right: Tree) -> Tree {
    match (left, right) {
        (None, tree) | (tree, None) => tree,
        (Some(mut left), Some(right)) if left.priority > right.priority => {
            left.right = merge(left.right.take(), Some(right));
            left.refresh();
            Some(left)
        }
        (Some(left), Some(mut right)) => {
            right.left = merge(Some(left), right.left.take());
            right.refresh();
            Some(right)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn find_returns_exactly_the_ranges_with_a_key(
            ranges in proptest::collection::vec((0_u8..30, 0_u8..30), 0..40),
            removed in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let key = |byte: u8| Key::from([byte]);
            let mut intervals = Intervals::default();
            for (owner, (start, length)) in ranges.iter().enumerate() {
                intervals.insert(key(*start), key(start + length + 1), owner as u64);
            }
            for (owner, (start, _)) in ranges.iter().enumerate().filter(|(owner, _)| removed[*owner]) {
                intervals.remove(&key(*start), owner as u64);
            }
            for at in 0..62 {
                let mut found = Vec::new();
                intervals.find(&key(at), &mut |owner| found.push(owner));
                found.sort_unstable();
                let expected = ranges.iter().enumerate().filter(|(owner, (start, length))| {
                    !removed[*owner] && *start <= at && at <= start + length
                });
                prop_assert_eq!(found, expected.map(|(owner, _)| owner as u64).collect::<Vec<_>>());
            }
            for (owner, (start, _)) in ranges.iter().enumerate().filter(|(owner, _)| !removed[*owner]) {
                intervals.remove(&key(*start), owner as u64);
            }
            prop_assert!(intervals.is_empty());
        }
    }
}
