//! Compact ranges: the hashes that suffice to append to a tree.

use crate::Hash;
use crate::tree::{Nodes, consistency_path, inclusion_path, subtree};

/// The leaves `[begin, end)` of a tree, reduced to the roots of the fewest complete subtrees that
/// cover them: at most 2 × 63 hashes.
///
/// A range that begins at 0 determines the root of its tree, and suffices to append to it. A writer
/// keeps one for the delivered records, and each object carries one for the records before it.
///
/// ```
/// use audit_evidence::{CompactRange, Hash};
///
/// let mut range = CompactRange::new(0);
/// for entry in ["a", "b", "c"] {
///     range.push(Hash::leaf(&[entry.as_bytes()]));
/// }
/// assert_eq!(range.end(), 3);
/// assert_eq!(range.hashes().count(), 2, "the subtree of `a` and `b`, and `c`");
/// assert_eq!(
///     range.root().map(|root| root.to_string()).as_deref(),
///     Some("NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE="),
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactRange {
    begin: u64,
    end: u64,
    /// From left to right.
    nodes: Vec<Node>,
}

/// The root of the complete subtree over the leaves `[start, start + 2^level)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    start: u64,
    level: u32,
    hash: Hash,
}

impl CompactRange {
    /// The maximum number of leaves: 2^63, so that no sum of two sizes overflows.
    pub const MAX_END: u64 = 1 << 63;

    /// An empty range, to which leaf `begin` can be appended.
    ///
    /// # Panics
    ///
    /// If `begin` exceeds [`MAX_END`](Self::MAX_END).
    pub fn new(begin: u64) -> CompactRange {
        assert!(begin <= Self::MAX_END, "a tree has at most 2^63 leaves");
        CompactRange { begin, end: begin, nodes: Vec::new() }
    }

    /// The range `[0, size)` that has these hashes, from left to right.
    ///
    /// # Errors
    ///
    /// [`WrongHashCount`] unless there is one hash for each bit set in `size`.
    pub fn from_hashes(size: u64, hashes: &[Hash]) -> Result<CompactRange, WrongHashCount> {
        let expected = size.count_ones() as usize;
        if hashes.len() != expected || size > Self::MAX_END {
            return Err(WrongHashCount { size, expected, actual: hashes.len() });
        }
        let mut start = 0;
        let levels = (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1);
        let nodes = levels.zip(hashes).map(|(level, &hash)| {
            let node = Node { start, level, hash };
            start += 1 << level;
            node
        });
        Ok(CompactRange { begin: 0, nodes: nodes.collect(), end: size })
    }

    /// The number of the first leaf.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// One past the number of the last leaf. For a range from 0, the size of the tree.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The roots of the subtrees, from left to right.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = &Hash> {
        self.nodes.iter().map(|node| &node.hash)
    }

    /// Appends leaf number [`end`](Self::end).
    ///
    /// # Panics
    ///
    /// If the range ends at [`MAX_END`](Self::MAX_END).
    pub fn push(&mut self, leaf: Hash) {
        assert!(self.end < Self::MAX_END, "a tree has at most 2^63 leaves");
        self.end += 1;
        self.push_node(Node { start: self.end - 1, level: 0, hash: leaf });
    }

    /// Appends a subtree whose leaves are already counted in `end`.
    fn push_node(&mut self, mut node: Node) {
        // Two sibling subtrees of one size combine to one of twice the size.
        while let Some(left) = self.nodes.last().copied() {
            let is_sibling = left.level == node.level && left.start >> left.level & 1 == 0;
            if !is_sibling {
                break;
            }
            self.nodes.pop();
            let hash = Hash::node(&left.hash, &node.hash);
            node = Node { start: left.start, level: left.level + 1, hash };
        }
        self.nodes.push(node);
    }

    /// This range followed by `later`. `None` unless `later` begins where this one ends.
    #[must_use]
    pub fn join(mut self, later: &CompactRange) -> Option<CompactRange> {
        if later.begin != self.end {
            return None;
        }
        self.end = later.end;
        later.nodes.iter().for_each(|&node| self.push_node(node));
        Some(self)
    }

    /// The root of the tree over the range. `None` if the range does not begin at 0.
    pub fn root(&self) -> Option<Hash> {
        if self.begin != 0 {
            return None;
        }
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return Some(Hash::empty()) };
        Some(nodes.fold(last.hash, |right, left| Hash::node(&left.hash, &right)))
    }

    /// Proves that the tree over `[0, m)` is a prefix of the tree over `[0, n)`, where this range
    /// is `[0, m)` and `later` is `[m, n)`. [`verify_consistency`](crate::verify_consistency)
    /// checks the proof.
    ///
    /// `None` if the two are not adjacent, or this one does not begin at 0.
    pub fn consistency(&self, later: &CompactRange) -> Option<Vec<Hash>> {
        if self.begin != 0 || later.begin != self.end {
            return None;
        }
        let complete = |start, level| self.node(start, level).or_else(|| later.node(start, level));
        consistency_path(self.end, later.end, &Nodes { boundary: self.end, complete: &complete })
    }

    /// Whether all subtrees in both ranges have equal roots. True for ranges of one tree; ranges of
    /// different trees may agree too, if they share no subtree.
    pub fn agrees_with(&self, other: &CompactRange) -> bool {
        self.nodes
            .iter()
            .all(|node| other.node(node.start, node.level).is_none_or(|hash| hash == node.hash))
    }

    fn node(&self, start: u64, level: u32) -> Option<Hash> {
        let at = self.nodes.binary_search_by_key(&start, |node| node.start).ok()?;
        let node = &self.nodes[at];
        (node.level == level).then_some(node.hash)
    }
}

impl Default for CompactRange {
    fn default() -> CompactRange {
        CompactRange::new(0)
    }
}

/// The number of hashes does not match the size of the tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {expected} hashes, not {actual}")]
pub struct WrongHashCount {
    size: u64,
    expected: usize,
    actual: usize,
}

/// A tree whose later leaves are known, with a [`CompactRange`] of the earlier ones: enough to
/// prove the inclusion of each known leaf.
///
/// Memory: two hashes for each known leaf.
#[derive(Debug, Clone)]
pub struct Tree {
    before: CompactRange,
    end: u64,
    /// `levels[l]` holds the complete subtrees of 2^l known leaves, from the first on.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// A tree that continues `before`. `None` unless `before` begins at 0.
    pub fn after(before: CompactRange) -> Option<Tree> {
        (before.begin == 0).then(|| Tree { end: before.end, before, levels: vec![Vec::new()] })
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Appends a leaf.
    ///
    /// # Panics
    ///
    /// If the tree has [`CompactRange::MAX_END`] leaves.
    pub fn push(&mut self, leaf: Hash) {
        assert!(self.end < CompactRange::MAX_END, "a tree has at most 2^63 leaves");
        self.end += 1;
        self.levels[0].push(leaf);
        let mut level = 0;
        // The new leaf completes a subtree at each level whose size divides the number of leaves.
        while self.end >> level & 1 == 0 {
            let known = &self.levels[level as usize];
            let &[.., left, right] = known.as_slice() else { break };
            level += 1;
            if self.levels.len() == level as usize {
                self.levels.push(Vec::new());
            }
            self.levels[level as usize].push(Hash::node(&left, &right));
        }
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let complete = |start, level| self.complete(start, level);
        let nodes = Nodes { boundary: self.before.end, complete: &complete };
        subtree(0, self.end, &nodes).unwrap_or_else(Hash::empty)
    }

    /// The path from the leaf of number `index` to the root, which
    /// [`verify_inclusion`](crate::verify_inclusion) checks. `None` unless that leaf is known.
    pub fn inclusion(&self, index: u64) -> Option<Vec<Hash>> {
        if index < self.before.end || index >= self.end {
            return None;
        }
        let complete = |start, level| self.complete(start, level);
        let nodes = Nodes { boundary: self.before.end, complete: &complete };
        inclusion_path(index, self.end, &nodes)
    }

    /// The root over `[start, start + 2^level)`, if it is known.
    fn complete(&self, start: u64, level: u32) -> Option<Hash> {
        let known_from = self.before.end;
        if start < known_from {
            return self.before.node(start, level);
        }
        let first = known_from.div_ceil(1 << level);
        let at = usize::try_from((start >> level) - first).ok()?;
        self.levels.get(level as usize)?.get(at).copied()
    }
}
