//! An independent crate accepts the proofs.

use audit_evidence::{CompactRange, Hash, Tree};
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use sha2::Sha256;

/// An entry, since the other crate hashes the leaves itself.
fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn ranges(old: u64, size: u64) -> (CompactRange, CompactRange) {
    let range = |begin, end| {
        let mut range = CompactRange::new(begin);
        (begin..end).for_each(|index| range.push(Hash::leaf(&[&entry(index)])));
        range
    };
    (range(0, old), range(old, size))
}

fn bytes(path: &[Hash]) -> Vec<u8> {
    path.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

fn root_hash(root: &Hash, size: u64) -> RootHash<Sha256> {
    RootHash::new((*root.as_bytes()).into(), size)
}

#[test]
fn inclusion_proofs_are_accepted_elsewhere() {
    let mut tree = Tree::after(CompactRange::default()).unwrap();
    for size in 1..130 {
        tree.push(Hash::leaf(&[&entry(size - 1)]));
        let root = root_hash(&tree.root(), size);
        for index in 0..size {
            let path = bytes(&tree.inclusion(index).unwrap());
            let proof = InclusionProof::<Sha256>::try_from_bytes(path).unwrap();
            root.verify_inclusion(&entry(index), index, &proof).unwrap();
        }
    }
}

#[test]
fn consistency_proofs_are_accepted_elsewhere() {
    for size in 2..130 {
        let root = root_hash(&ranges(size, size).0.root().unwrap(), size);
        for old in 1..size {
            let (before, later) = ranges(old, size);
            let path = bytes(&before.consistency(&later).unwrap());
            let proof = ConsistencyProof::<Sha256>::try_from_bytes(path).unwrap();
            let old_root = root_hash(&before.root().unwrap(), old);
            root.verify_consistency(&old_root, &proof).unwrap();
        }
    }
}
