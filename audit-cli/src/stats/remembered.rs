//! Recently read objects, by the hash of their lines.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use audit_sink_s3::layout::ObjectKey;

/// The maximum number of remembered objects, at about 100 bytes each. They serve to find copies in
/// other streams.
const REMEMBERED: usize = 1 << 20;

/// Recently read objects.
#[derive(Default)]
pub(super) struct Remembered {
    order: VecDeque<(u64, ObjectKey, u64)>,
    by_hash: HashMap<u64, ObjectKey>,
}

impl Remembered {
    /// Remembers an object. Returns one of another stream with the same lines.
    pub(super) fn add(
        &mut self,
        sha256: &[u8; 32],
        key: ObjectKey,
        count: u64,
    ) -> Option<ObjectKey> {
        let hash = u64::from_le_bytes(*sha256.first_chunk().expect("a hash has 32 bytes"));
        if self.order.len() == REMEMBERED
            && let Some((oldest, ..)) = self.order.pop_front()
        {
            self.by_hash.remove(&oldest);
        }
        self.order.push_back((hash, key, count));
        let known = *self.by_hash.entry(hash).or_insert(key);
        (known.stream() != key.stream()).then_some(known)
    }

    /// Another object of the stream of `than` that holds some of these records.
    pub(super) fn with(&self, records: &Range<u64>, than: &ObjectKey) -> Option<ObjectKey> {
        let mut known =
            self.order.iter().filter(|(_, key, _)| key.stream() == than.stream() && key != than);
        let overlaps = |(_, key, count): &&(u64, ObjectKey, u64)| {
            let end = key.first_sequence().saturating_add(*count);
            key.first_sequence() < records.end && records.start < end
        };
        known.find(overlaps).map(|(_, key, _)| *key)
    }
}
