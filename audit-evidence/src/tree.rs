//! The shape of an RFC 6962 tree, and its proofs.

use crate::Hash;

/// The known nodes of a tree: complete subtrees on both sides of a boundary.
pub(crate) struct Nodes<'a> {
    /// The leaf number that divides the known nodes. On each side of it, either only the largest
    /// complete subtrees are known, or also all subtrees below them.
    pub(crate) boundary: u64,
    /// The root over `[start, start + 2^level)`, where `start` is a multiple of 2^level.
    pub(crate) complete: &'a dyn Fn(u64, u32) -> Option<Hash>,
}

/// Where a tree of `size` leaves divides: at the largest power of two below `size`.
///
/// `size` is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root over the leaves `[lo, hi)`, which form a subtree. `None` if too little is known.
pub(crate) fn subtree(lo: u64, hi: u64, nodes: &Nodes<'_>) -> Option<Hash> {
    let size = hi.checked_sub(lo).filter(|&size| size > 0)?;
    if size.is_power_of_two() {
        let known = (nodes.complete)(lo, size.ilog2());
        let reaches_across = lo < nodes.boundary && nodes.boundary < hi;
        // On one side of the boundary, nothing below an unknown subtree is known.
        if known.is_some() || !reaches_across {
            return known;
        }
    }
    let middle = lo + split(size);
    Some(Hash::node(&subtree(lo, middle, nodes)?, &subtree(middle, hi, nodes)?))
}

/// PATH of RFC 6962, section 2.1.1.
pub(crate) fn inclusion_path(index: u64, size: u64, nodes: &Nodes<'_>) -> Option<Vec<Hash>> {
    let (mut lo, mut hi, mut path) = (0, size, Vec::new());
    while hi - lo > 1 {
        let middle = lo + split(hi - lo);
        if index < middle {
            path.push(subtree(middle, hi, nodes)?);
            hi = middle;
        } else {
            path.push(subtree(lo, middle, nodes)?);
            lo = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// PROOF of RFC 6962, section 2.1.2.
pub(crate) fn consistency_path(old: u64, size: u64, nodes: &Nodes<'_>) -> Option<Vec<Hash>> {
    if old == 0 || old == size {
        return Some(Vec::new());
    }
    let (mut lo, mut hi, mut path) = (0, size, Vec::new());
    while old != hi {
        let middle = lo + split(hi - lo);
        if old <= middle {
            path.push(subtree(middle, hi, nodes)?);
            hi = middle;
        } else {
            path.push(subtree(lo, middle, nodes)?);
            lo = middle;
        }
    }
    // The verifier knows the old root, so a proof contains only a part of the old tree.
    if lo != 0 {
        path.push(subtree(lo, hi, nodes)?);
    }
    path.reverse();
    Some(path)
}

/// Checks that `leaf` has number `index` in the tree of `size` leaves with this `root`, by the
/// algorithm of RFC 9162, section 2.1.3.2.
///
/// # Errors
///
/// [`InvalidProof`] if `path` does not prove it.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    path: &[Hash],
) -> Result<(), InvalidProof> {
    if index >= size {
        return Err(InvalidProof);
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return Err(InvalidProof);
        }
        if at & 1 == 1 || at == last {
            hash = Hash::node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(InvalidProof) }
}

/// Checks that the tree of `old_size` leaves with `old_root` is a prefix of that of `size` leaves
/// with `root`, by the algorithm of RFC 9162, section 2.1.4.2. An empty tree is a prefix of every
/// tree.
///
/// # Errors
///
/// [`InvalidProof`] if `path` does not prove it.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    size: u64,
    root: &Hash,
    path: &[Hash],
) -> Result<(), InvalidProof> {
    let holds = |holds: bool| if holds { Ok(()) } else { Err(InvalidProof) };
    if old_size == 0 {
        return holds(path.is_empty() && *old_root == Hash::empty());
    }
    if old_size >= size {
        return holds(old_size == size && path.is_empty() && old_root == root);
    }
    let mut path = path.iter();
    // If the old tree is complete it is a node of the new one, and not part of the path.
    let first = if old_size.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(&first) = first else { return Err(InvalidProof) };
    let skipped = (old_size - 1).trailing_ones();
    let (mut at, mut last) = ((old_size - 1) >> skipped, (size - 1) >> skipped);
    let (mut old_hash, mut hash) = (first, first);
    for sibling in path {
        if last == 0 {
            return Err(InvalidProof);
        }
        if at & 1 == 1 || at == last {
            old_hash = Hash::node(sibling, &old_hash);
            hash = Hash::node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    holds(last == 0 && old_hash == *old_root && hash == *root)
}

/// A proof does not lead to the claimed root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Merkle proof does not lead to the root")]
pub struct InvalidProof;
