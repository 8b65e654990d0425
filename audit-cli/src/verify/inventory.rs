//! The listed objects of a bucket, by stream.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::UniqueId;
use audit_sink_s3::layout::{Compression, ObjectKey};
use futures::StreamExt;

use crate::arguments::Common;
use crate::bucket::{Reader, Wanted};
use crate::failure::Failure;
use crate::progress::PartitionProgress;
use crate::units::HOUR_MS;

/// An object of a stream, in 16 bytes, since a bucket may have millions.
///
/// The order is that of the first record and then of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) first: u64,
    is_data: bool,
    /// The hour under which it is filed, counted from the Unix epoch.
    hour: i32,
    suffix: u8,
}

/// The suffixes of keys, in the order of their text.
const SUFFIXES: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

impl Entry {
    pub(crate) fn new(key: &ObjectKey) -> Entry {
        let suffix = SUFFIXES.iter().position(|suffix| *suffix == key.compression());
        Entry {
            first: key.first_sequence(),
            is_data: !key.is_system(),
            hour: i32::try_from(key.hour_ms() / HOUR_MS).expect("years have four digits"),
            suffix: suffix.map_or(0, |at| at as u8),
        }
    }

    pub(crate) fn key(&self, stream: UniqueId) -> ObjectKey {
        let hour_ms = i64::from(self.hour) * HOUR_MS;
        if !self.is_data {
            return ObjectKey::system(hour_ms, stream, self.first);
        }
        ObjectKey::new(hour_ms, stream, self.first, SUFFIXES[usize::from(self.suffix)])
    }

    pub(crate) fn is_system(&self) -> bool {
        !self.is_data
    }
}

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// The objects of each stream, in the order of its records.
    pub(crate) streams: BTreeMap<UniqueId, Vec<Entry>>,
    pub(crate) objects: u64,
}

impl Inventory {
    /// Lists the wanted objects of a bucket.
    pub(crate) async fn list(
        reader: &Reader,
        wanted: &Wanted,
        common: &Common,
    ) -> Result<Inventory, Failure> {
        let mut inventory = Inventory::default();
        for reader in [reader.clone(), reader.system()] {
            let partitions = reader.partitions(wanted).await?;
            let mut progress = PartitionProgress::new(common, partitions.clone());
            let mut objects = std::pin::pin!(reader.objects_in(partitions, wanted.stream));
            while let Some(object) = objects.next().await.transpose()? {
                progress.object(&object.key);
                let entries = inventory.streams.entry(object.key.stream()).or_default();
                entries.push(Entry::new(&object.key));
                inventory.objects += 1;
            }
        }
        inventory.streams.values_mut().for_each(|entries| entries.sort_unstable());
        Ok(inventory)
    }

    /// The hours under which each stream's objects are filed, in milliseconds since the Unix epoch.
    pub(crate) fn hours(&self) -> BTreeMap<String, Vec<i64>> {
        let of = |entries: &Vec<Entry>| {
            let mut hours: Vec<i64> =
                entries.iter().map(|entry| i64::from(entry.hour) * HOUR_MS).collect();
            hours.sort_unstable();
            hours.dedup();
            hours
        };
        self.streams.iter().map(|(stream, entries)| (stream.to_string(), of(entries))).collect()
    }

    /// The streams with an object that is filed under an hour from this time on.
    pub(crate) fn filed_since(&self, since_ms: i64) -> BTreeSet<String> {
        let is_filed = |entries: &[Entry]| last_hour_ms(entries) >= since_ms;
        let streams = self.streams.iter().filter(|(_, entries)| is_filed(entries));
        streams.map(|(stream, _)| stream.to_string()).collect()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        self.streams.iter().flat_map(|(stream, entries)| {
            entries.iter().filter(|entry| !entry.is_system()).map(|entry| entry.key(*stream))
        })
    }

    /// Keeps the streams that are wanted, given the last hour under which their objects are filed,
    /// in milliseconds since the Unix epoch.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&UniqueId, i64) -> bool) {
        self.streams.retain(|stream, entries| is_wanted(stream, last_hour_ms(entries)));
        self.objects = self.streams.values().map(|entries| entries.len() as u64).sum();
    }
}

fn last_hour_ms(entries: &[Entry]) -> i64 {
    entries.iter().map(|entry| i64::from(entry.hour) * HOUR_MS).max().unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_sort_as_their_records_and_keys_do() {
        let stream = UniqueId::from_bits(77);
        let mut entries = Vec::new();
        for first in [0, 7, 1_000_000_000_000] {
            for hour in [-5, 0, 490_000] {
                let keys =
                    SUFFIXES.map(|suffix| ObjectKey::new(hour * HOUR_MS, stream, first, suffix));
                for key in
                    keys.into_iter().chain([ObjectKey::system(hour * HOUR_MS, stream, first)])
                {
                    let entry = Entry::new(&key);
                    assert_eq!(entry.key(stream), key);
                    entries.push((entry, key.to_string()));
                }
            }
        }
        entries.sort_by(|one, other| (one.0.first, &one.1).cmp(&(other.0.first, &other.1)));
        // Years have four digits, also before 1970, so text sorts as time.
        assert!(entries.is_sorted_by_key(|(entry, _)| *entry));
        assert_eq!(size_of::<Entry>(), 16);
    }
}
