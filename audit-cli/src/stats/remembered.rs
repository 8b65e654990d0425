//! Recently read objects, by the hash of their lines.

use std::collections::{HashMap, VecDeque};

use audit_sink_s3::layout::ObjectKey;

/// The maximum number of remembered objects, at about 110 bytes each. They serve to find copies in
/// other streams.
const REMEMBERED: usize = 1 << 20;

/// Recently read objects. Each has a number: that of the object before it plus one.
pub(super) struct Remembered {
    order: VecDeque<(u64, ObjectKey)>,
    /// The number of the oldest one.
    oldest: usize,
    by_hash: HashMap<u64, Latest>,
    max: usize,
}

/// The numbers of the latest objects with the same lines.
struct Latest {
    latest: usize,
    /// The latest one that is of another stream than `latest`.
    other: Option<usize>,
}

impl Default for Remembered {
    fn default() -> Remembered {
        Remembered::new(REMEMBERED)
    }
}

impl Remembered {
    fn new(max: usize) -> Remembered {
        Remembered { order: VecDeque::new(), oldest: 0, by_hash: HashMap::new(), max }
    }

    /// Remembers an object. Returns one of another stream with the same lines.
    pub(super) fn add(&mut self, sha256: &[u8; 32], key: ObjectKey) -> Option<ObjectKey> {
        let hash = u64::from_le_bytes(*sha256.first_chunk().expect("a hash has 32 bytes"));
        if self.order.len() == self.max {
            self.forget_oldest();
        }
        let number = self.oldest + self.order.len();
        self.order.push_back((hash, key));
        let (order, oldest) = (&self.order, self.oldest);
        let key_of = |number: usize| order[number - oldest].1;
        let same = self.by_hash.entry(hash).or_insert(Latest { latest: number, other: None });
        if key_of(same.latest).stream() != key.stream() {
            same.other = Some(same.latest);
        }
        same.latest = number;
        same.other.map(key_of)
    }

    fn forget_oldest(&mut self) {
        let Some((hash, _)) = self.order.pop_front() else { return };
        let forgotten = self.oldest;
        self.oldest += 1;
        let Some(same) = self.by_hash.get_mut(&hash) else { return };
        // If the oldest object is the latest with its lines, it is the only one.
        if same.latest == forgotten {
            self.by_hash.remove(&hash);
        } else if same.other == Some(forgotten) {
            same.other = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use audit_core::testing::SeededRandom;
    use audit_core::{Random, UniqueId};
    use audit_sink_s3::Compression;

    use super::*;

    #[test]
    fn a_copy_is_found_as_long_as_its_original_is_remembered() {
        let random = SeededRandom::new(7);
        let below = |bound| random.next_u64() % bound;
        let mut found = 0;
        for max in [1, 2, 3, 5, 40] {
            let (mut remembered, mut all) = (Remembered::new(max), Vec::<([u8; 32], _)>::new());
            for sequence in 0..2_000 {
                let sha256 = [u8::try_from(below(4)).unwrap(); 32];
                let stream = UniqueId::from_bits(u128::from(below(3)));
                let key = ObjectKey::new(0, stream, sequence, Compression::None);
                let kept = &all[all.len().saturating_sub(max - 1)..];
                let is_copy = |(hash, known): &&([u8; 32], ObjectKey)| {
                    *hash == sha256 && known.stream() != stream
                };
                let expected = kept.iter().rfind(is_copy).map(|(_, known)| *known);
                assert_eq!(remembered.add(&sha256, key), expected, "{max}: {sequence}");
                found += u32::from(expected.is_some());
                all.push((sha256, key));
            }
            assert!(remembered.order.len() <= max && remembered.by_hash.len() <= 4);
        }
        assert!(found > 1_000);
    }
}
