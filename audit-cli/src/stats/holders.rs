//! Which object was the first to hold each record.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use audit_core::UniqueId;
use audit_sink_s3::layout::ObjectKey;

/// The maximum number of remembered ranges, at about 140 bytes each. An object has one, unless some
/// of its records were in earlier objects. They serve to name the other object of a duplicate.
const REMEMBERED: usize = 1 << 20;

/// The first holders of recently read records. A range that is held is found by its place, since a
/// bucket may hold any number of copies of one object.
pub(super) struct Holders {
    /// Disjoint ranges, by their starts: the end and the object of each.
    streams: BTreeMap<UniqueId, BTreeMap<u64, (u64, ObjectKey)>>,
    /// The stream and start of each range, from the oldest.
    order: VecDeque<(UniqueId, u64)>,
    max: usize,
}

impl Default for Holders {
    fn default() -> Holders {
        Holders::new(REMEMBERED)
    }
}

impl Holders {
    fn new(max: usize) -> Holders {
        Holders { streams: BTreeMap::new(), order: VecDeque::new(), max }
    }

    /// Adds an object with these records. `held` are those of them that earlier objects hold, in
    /// order.
    pub(super) fn add(&mut self, key: &ObjectKey, records: &Range<u64>, held: &[Range<u64>]) {
        let starts = std::iter::once(records.start).chain(held.iter().map(|held| held.end));
        let ends = held.iter().map(|held| held.start).chain([records.end]);
        for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
            if self.order.len() == self.max {
                self.forget_oldest();
            }
            self.order.push_back((key.stream(), start));
            self.streams.entry(key.stream()).or_default().insert(start, (end, *key));
        }
    }

    fn forget_oldest(&mut self) {
        let Some((stream, start)) = self.order.pop_front() else { return };
        let Some(held) = self.streams.get_mut(&stream) else { return };
        held.remove(&start);
        if held.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// The object that holds the first of these records that has a remembered holder.
    pub(super) fn of(&self, stream: UniqueId, records: &Range<u64>) -> Option<ObjectKey> {
        let held = self.streams.get(&stream)?;
        let before = held.range(..=records.start).next_back();
        let before = before.filter(|(_, (end, _))| records.start < *end);
        let first = before.or_else(|| held.range(records.clone()).next());
        first.map(|(_, (_, key))| *key)
    }
}

#[cfg(test)]
mod tests {
    use audit_core::Random;
    use audit_core::testing::SeededRandom;
    use audit_sink_s3::Compression;

    use super::*;
    use crate::ranges::Ranges;

    #[test]
    fn a_record_is_held_by_the_first_remembered_object_with_it() {
        let random = SeededRandom::new(7);
        let below = |bound| random.next_u64() % bound;
        for max in [1, 2, 7, 1_000] {
            for _ in 0..100 {
                let (mut holders, mut ranges) =
                    (Holders::new(max), [(); 2].map(|()| Ranges::default()));
                // The model: the holder of each record, and the order in which ranges were added.
                let mut model = BTreeMap::<(u64, u64), ObjectKey>::new();
                let mut added = Vec::<Vec<(u64, u64)>>::new();
                for hour in 0..30 {
                    let (stream, start) = (below(2), below(60));
                    let records = start..start + below(12);
                    let id = UniqueId::from_bits(u128::from(stream));
                    let key = ObjectKey::new(hour * 3_600_000, id, start, Compression::None);
                    let doubles = ranges[usize::from(stream == 1)].add(records.clone());
                    for double in &doubles {
                        let of = |number| model.get(&(stream, number)).copied();
                        assert_eq!(holders.of(id, double), double.clone().find_map(of));
                    }
                    holders.add(&key, &records, &doubles);
                    let mut is_next = false;
                    for number in records {
                        if doubles.iter().any(|double| double.contains(&number)) {
                            is_next = false;
                            continue;
                        }
                        if !std::mem::replace(&mut is_next, true) {
                            added.push(Vec::new());
                        }
                        added.last_mut().unwrap().push((stream, number));
                        model.insert((stream, number), key);
                    }
                    let forgotten = added.len().saturating_sub(max);
                    added[..forgotten].iter().flatten().for_each(|record| _ = model.remove(record));
                    let remembered: usize = holders.streams.values().map(BTreeMap::len).sum();
                    assert_eq!(remembered, added.len().min(max));
                }
            }
        }
    }

    /// With time that grows with the square of the number, this would take minutes.
    #[test]
    fn many_copies_take_no_longer_than_as_many_other_objects() {
        const OBJECTS: u64 = 1 << 17;
        let (mut holders, mut ranges) = (Holders::default(), Ranges::default());
        let id = UniqueId::from_bits(1);
        let mut key = |hour: i64, first| {
            let key = ObjectKey::new(hour * 3_600_000, id, first, Compression::None);
            let doubles = ranges.add(first..first + 1);
            let of: Vec<_> = doubles.iter().map(|double| holders.of(id, double)).collect();
            holders.add(&key, &(first..first + 1), &doubles);
            (key, of)
        };
        for first in 0..OBJECTS {
            let (original, of) = key(0, 2 * first);
            assert!(of.is_empty());
            assert_eq!(key(1, 2 * first).1, [Some(original)]);
        }
        // The newest first, so that each would be found last.
        for first in (0..OBJECTS).rev() {
            assert_eq!(key(2, 2 * first).1.len(), 1);
        }
        assert_eq!(key(3, 0).1.len(), 1);
    }
}
