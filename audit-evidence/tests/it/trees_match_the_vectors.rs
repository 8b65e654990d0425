//! All roots, inclusion proofs and consistency proofs of trees of 0 to 300 leaves match the second
//! implementation, and verify only what they prove.

use audit_evidence::{CompactRange, Hash, Tree, verify_consistency, verify_inclusion};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::vectors::{Vectors, leaf};

/// One hash for many proofs, as in `make.py`.
fn digest<'a>(proofs: impl IntoIterator<Item = &'a Vec<Hash>>) -> String {
    let mut hasher = Sha256::new();
    for proof in proofs {
        for hash in proof {
            hasher.update(format!("{hash}\n"));
        }
        hasher.update("\n");
    }
    Hash::from_bytes(hasher.finalize().into()).to_string()
}

fn range(begin: u64, end: u64) -> CompactRange {
    let mut range = CompactRange::new(begin);
    (begin..end).for_each(|index| range.push(leaf(index)));
    range
}

fn tree(known_from: u64, size: u64) -> Tree {
    let mut tree = Tree::after(range(0, known_from)).unwrap();
    (known_from..size).for_each(|index| tree.push(leaf(index)));
    tree
}

#[test]
fn roots_and_proofs_match_the_vectors() {
    let vectors = Vectors::read();
    assert_eq!(vectors.trees.len(), 301);
    let roots: Vec<Hash> =
        vectors.trees.iter().map(|tree| Hash::from_base64(&tree.root).unwrap()).collect();
    // As in a log, each tree grows by one leaf.
    let mut tree = tree(0, 0);
    let (mut before, mut later) = (vec![range(0, 0)], vec![range(0, 0)]);
    for vector in &vectors.trees {
        let size = vector.size;
        if let Some(last) = size.checked_sub(1) {
            let leaf = leaf(last);
            tree.push(leaf);
            later.iter_mut().for_each(|range| range.push(leaf));
            later.push(CompactRange::new(size));
            before.push(before[last as usize].clone());
            before[size as usize].push(leaf);
        }
        let root = roots[size as usize];
        assert_eq!((tree.root(), before[size as usize].root()), (root, Some(root)), "of {size}");

        let inclusion: Vec<_> = (0..size).map(|index| tree.inclusion(index).unwrap()).collect();
        assert_eq!(digest(&inclusion), vector.inclusion, "inclusion in {size}");
        for (index, path) in (0..).zip(&inclusion) {
            verify_inclusion(&leaf(index), index, size, &root, path).unwrap();
        }

        let pairs = before.iter().zip(&later).skip(1);
        let consistency: Vec<_> =
            pairs.map(|(before, later)| before.consistency(later).unwrap()).collect();
        assert_eq!(digest(&consistency), vector.consistency, "consistency with {size}");
        for (old, path) in (1..).zip(&consistency) {
            verify_consistency(old, &roots[old as usize], size, &root, path).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn partial_trees_make_the_same_proofs(
        size in 1u64..300, known_from in 0u64..300, at in any::<prop::sample::Index>(),
    ) {
        let known_from = known_from.min(size - 1);
        let (whole, part) = (tree(0, size), tree(known_from, size));
        prop_assert_eq!(whole.root(), part.root());
        let index = at.index(size as usize) as u64;
        let expected = (index >= known_from).then(|| whole.inclusion(index).unwrap());
        prop_assert_eq!(part.inclusion(index), expected);
        prop_assert_eq!(part.inclusion(size), None);
    }

    #[test]
    fn proofs_verify_nothing_else(
        size in 1u64..300, old in 0u64..300, index in 0u64..300, other in 0u64..600,
        flipped in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (old, index) = (old.min(size), index.min(size - 1));
        let (tree, old_range) = (tree(0, size), range(0, old));
        let (root, old_root) = (tree.root(), old_range.root().unwrap());
        let path = tree.inclusion(index).unwrap();
        let holds = |leaf: &Hash, index, size, root: &Hash, path: &[Hash]| {
            verify_inclusion(leaf, index, size, root, path).is_ok()
        };
        prop_assert!(holds(&leaf(index), index, size, &root, &path));
        prop_assert!(other == index || !holds(&leaf(other), index, size, &root, &path));
        prop_assert!(other == index || !holds(&leaf(index), other, size, &root, &path));
        prop_assert!(!holds(&leaf(index), index, size, &old_root, &path) || old == size);
        prop_assert!(!holds(&leaf(index), index, size, &root, &[&path[..], &[root]].concat()));

        let proof = old_range.consistency(&range(old, size)).unwrap();
        let follows = |old, old_root: &Hash, size, root: &Hash, proof: &[Hash]| {
            verify_consistency(old, old_root, size, root, proof).is_ok()
        };
        prop_assert!(follows(old, &old_root, size, &root, &proof));
        prop_assert!(!follows(old, &leaf(999), size, &root, &proof));
        prop_assert!(!follows(old, &old_root, size, &leaf(999), &proof) || old == 0);
        prop_assert!(!follows(old, &old_root, size, &root, &[&proof[..], &[root]].concat()));
        prop_assert!(other == old || !follows(other, &old_root, size, &root, &proof));

        for (proof, is_consistency) in [(&proof, true), (&path, false)] {
            if proof.is_empty() {
                continue;
            }
            let mut changed = proof.clone();
            let at = flipped.index(changed.len() * Hash::BYTES);
            let mut bytes = *changed[at / Hash::BYTES].as_bytes();
            bytes[at % Hash::BYTES] ^= 1 << bit;
            changed[at / Hash::BYTES] = Hash::from_bytes(bytes);
            for proof in [&changed[..], &proof[1..]] {
                let holds = if is_consistency {
                    follows(old, &old_root, size, &root, proof)
                } else {
                    holds(&leaf(index), index, size, &root, proof)
                };
                prop_assert!(!holds);
            }
        }
    }
}

#[test]
fn ranges_apart_prove_nothing() {
    assert_eq!(range(0, 3).consistency(&range(4, 9)), None);
    assert_eq!(range(1, 3).consistency(&range(3, 9)), None);
    assert_eq!(range(1, 3).root(), None);
    assert!(Tree::after(range(1, 3)).is_none());
    for (size, hashes) in [(3, 1), (3, 3), (0, 1), (8, 0), (u64::MAX, 64)] {
        assert!(CompactRange::from_hashes(size, &vec![leaf(0); hashes]).is_err(), "{size}");
    }
}

#[test]
fn ranges_follow_from_their_hashes() {
    for size in 0..300 {
        let range = range(0, size);
        let hashes: Vec<Hash> = range.hashes().copied().collect();
        assert_eq!(CompactRange::from_hashes(size, &hashes), Ok(range));
    }
}
