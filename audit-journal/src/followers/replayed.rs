//! The missing records of a follower that were replayed: the file `<number>.replayed`.
//!
//! Only a replay writes the file, possibly while a host has the journal open. Readers of a
//! follower's missing records subtract those in the file. Its entries never become wrong, since
//! numbers of records and followers are never reused.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use audit_core::UniqueId;

use crate::disk::{Disk, LocalDisk, read_whole, write_durably};
use crate::format::{Fields, seal};
use crate::shared::ranges::without;

/// The replayed records, and the name of the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    name: String,
    /// In order, disjoint and not adjacent.
    ranges: Vec<(UniqueId, Range<u64>)>,
}

impl Replayed {
    fn none(name: &str) -> Replayed {
        Replayed { name: name.to_owned(), ranges: Vec::new() }
    }

    fn add(&mut self, stream: UniqueId, records: Range<u64>) {
        if records.is_empty() {
            return;
        }
        self.ranges.push((stream, records));
        self.ranges.sort_unstable_by_key(|(stream, records)| (*stream, records.start));
        self.ranges.dedup_by(|(stream, next), (of, last)| {
            let touches = stream == of && next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
    }

    /// The part of these records that was not replayed.
    pub(crate) fn lacks(&self, stream: UniqueId, records: &Range<u64>) -> Vec<Range<u64>> {
        let sent = self.ranges.iter().filter(|(of, _)| *of == stream);
        let sent: Vec<_> = sent.map(|(_, sent)| sent.clone()).collect();
        without(records, &sent)
    }

    fn encode(&self) -> Vec<u8> {
        let Replayed { name, ranges } = self;
        let (bytes, count) = (name.len(), ranges.len());
        let mut text = format!("audit replayed 1 name {bytes:08x} {name} records {count:08x} ");
        for (stream, records) in ranges {
            text += &format!("{stream} {:016x}-{:016x} ", records.start, records.end);
        }
        let mut text = text.into_bytes();
        seal(&mut text, 0);
        text
    }

    fn decode(file: &[u8]) -> Option<Replayed> {
        let mut fields = Fields::of(file, 0)?;
        fields.literal("audit replayed 1 name ")?;
        let bytes = usize::try_from(fields.hex32()?).ok()?;
        fields.literal(" ")?;
        let name = fields.text(bytes)?.to_owned();
        fields.literal(" records ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let stream = fields.text(UniqueId::TEXT_BYTES)?.parse().ok()?;
            fields.literal(" ")?;
            let start = fields.hex64()?;
            fields.literal("-")?;
            let end = fields.hex64()?;
            if start >= end {
                return None;
            }
            ranges.push((stream, start..end));
            fields.literal(" ")?;
        }
        Some(Replayed { name, ranges })
    }
}

fn file_name(number: u32) -> String {
    format!("{number:08x}.replayed")
}

/// The replayed records of a follower. A file that is damaged, unreadable or another destination's
/// counts as empty: the records in it are then still missing and can be replayed again. So no such
/// file keeps a host from starting.
pub(crate) fn replayed(disk: &dyn Disk, number: u32, name: &str) -> io::Result<Replayed> {
    let read = match read_whole(disk, &file_name(number)) {
        Ok(file) => Replayed::decode(&file),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
            ) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    Ok(read.filter(|read| read.name == name).unwrap_or_else(|| Replayed::none(name)))
}

/// A durable log of the records that were replayed to a destination. One process at a time can open
/// it.
///
/// The replayed records stop counting as missing: for a reader of the journal at once; for an open
/// journal once it writes the follower's state again; otherwise at the next opening.
#[derive(Debug)]
pub struct ReplayLog {
    disk: Arc<dyn Disk>,
    file: String,
    replayed: Replayed,
}

impl ReplayLog {
    /// Opens the log of a follower of the journal in a directory, which a host may have open.
    /// Blocks on the disk, as do all methods that return an error.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to, or another process has the file open
    /// ([`io::ErrorKind::WouldBlock`]).
    pub fn of_follower(directory: &Path, number: u32, name: &str) -> io::Result<ReplayLog> {
        let file = file_name(number);
        let disk = Arc::new(LocalDisk::beside(directory, &file)?);
        ReplayLog::of_follower_on(disk, number, name)
    }

    pub(crate) fn of_follower_on(
        disk: Arc<dyn Disk>,
        number: u32,
        name: &str,
    ) -> io::Result<ReplayLog> {
        let replayed = replayed(&*disk, number, name)?;
        Ok(ReplayLog { disk, file: file_name(number), replayed })
    }

    /// Opens a log at any path, for a destination of this name. The file is created with the first
    /// record.
    ///
    /// # Errors
    ///
    /// As [`of_follower`](Self::of_follower), or if the file is another destination's, or not such
    /// a log.
    pub fn open(path: &Path, name: &str) -> io::Result<ReplayLog> {
        let file = path.file_name().and_then(|file| file.to_str());
        let file = file.ok_or_else(|| io::Error::other("it is not the name of a file"))?.to_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let disk = LocalDisk::beside(directory.unwrap_or(Path::new(".")), &file)?;
        let replayed = match read_whole(&disk, &file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Replayed::none(name),
            read => {
                let replayed = Replayed::decode(&read?);
                let what = match &replayed {
                    Some(replayed) if replayed.name == name => None,
                    Some(replayed) => Some(format!(
                        "it lists the records that were sent to {:?}: name another file for \
                         {name:?}",
                        replayed.name
                    )),
                    None => Some(
                        "it is damaged, or no list of records that were sent: name another file"
                            .to_owned(),
                    ),
                };
                if let Some(what) = what {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                replayed.unwrap_or_else(|| Replayed::none(name))
            }
        };
        Ok(ReplayLog { disk: Arc::new(disk), file, replayed })
    }

    /// The part of these records that was not replayed yet, in order.
    pub fn lacks(&self, stream: UniqueId, records: &Range<u64>) -> Vec<Range<u64>> {
        self.replayed.lacks(stream, records)
    }

    /// Records durably that these records are at the destination. Call it once they have arrived.
    /// After a crash before it returns, they may be sent again.
    ///
    /// # Errors
    ///
    /// If the disk fails. Earlier entries are kept, and a later call adds these records too.
    pub fn note(&mut self, records: &[(UniqueId, Range<u64>)]) -> io::Result<()> {
        for (stream, records) in records {
            self.replayed.add(*stream, records.clone());
        }
        let text = self.replayed.encode();
        let write = || write_durably(&*self.disk, &self.file, [&text[..]]);
        // A host that opens the journal removes unfinished files, possibly this one: retry once.
        match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(),
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::followers::{FollowerRecord, FollowerState, read_followers};
    use crate::format::Position;
    use crate::recovery::Recovered;
    use crate::recovery_error::RecoveryError;
    use crate::simulation::disk::SimulatedDisk;
    use crate::simulation::disk::faulty::{Call, FaultyDisk, Injected};
    use crate::watermark::Watermark;

    fn id(bits: u128) -> UniqueId {
        UniqueId::from_bits(bits)
    }

    proptest! {
        #[test]
        fn noted_records_are_a_set_and_read_as_written(
            added in prop::collection::vec((0u128..3, 0u64..30, 0u64..8), 0..12),
            whole in 0u64..40,
            bit: prop::sample::Index,
        ) {
            let (mut replayed, mut set) = (Replayed::none("siem"), BTreeSet::new());
            for (stream, from, count) in added {
                replayed.add(id(stream), from..from + count);
                set.extend((from..from + count).map(|sequence| (stream, sequence)));
            }
            for stream in 0..3 {
                let lacks: Vec<u64> =
                    replayed.lacks(id(stream), &(0..whole)).into_iter().flatten().collect();
                let expected: Vec<u64> =
                    (0..whole).filter(|sequence| !set.contains(&(stream, *sequence))).collect();
                prop_assert_eq!(lacks, expected);
            }
            for pair in replayed.ranges.windows(2) {
                prop_assert!((pair[0].0, pair[0].1.end) < (pair[1].0, pair[1].1.start));
            }
            let mut file = replayed.encode();
            prop_assert_eq!(Replayed::decode(&file), Some(replayed));
            let bit = bit.index(file.len() * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Replayed::decode(&file), None);
        }
    }

    fn follower(state: FollowerState) -> FollowerRecord {
        FollowerRecord {
            number: 2,
            route: 0,
            name: "siem".to_owned(),
            writes: 0,
            state,
            watermark: Watermark { ordinal: 5, stream: id(7), next: 9 },
            cuts: VecDeque::new(),
            missing: vec![(id(6), 0..20), (id(7), 0..9)],
        }
    }

    /// The followers of a journal without records.
    fn read(disk: &dyn Disk) -> Result<Vec<FollowerRecord>, RecoveryError> {
        let end = Position { ordinal: 4, offset: 0 };
        read_followers(disk, &Recovered { segments: Vec::new(), end, next_ordinal: 5 })
    }

    /// The records that the follower misses, as the next opening finds them.
    fn missing(disk: &SimulatedDisk) -> BTreeSet<(u128, u64)> {
        let followers = read(disk).unwrap();
        let missing = followers[0].missing.iter();
        let records =
            missing.flat_map(|(stream, records)| records.clone().map(|n| (stream.to_bits(), n)));
        records.collect()
    }

    #[test]
    fn crashes_leave_missing_records_named_until_they_were_sent() {
        let pieces = [(id(6), 0..8), (id(7), 0..9), (id(6), 8..20)];
        for state in [FollowerState::Following, FollowerState::Paused, FollowerState::Retired] {
            let mut steps = 0;
            for stop_at in 0.. {
                let disk = SimulatedDisk::new(stop_at);
                follower(state).write(&disk).unwrap();
                let all = missing(&disk);
                let mut sent = BTreeSet::new();
                disk.stop_at(disk.operation() + stop_at);
                let ended = (|| {
                    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
                    let mut log = ReplayLog::of_follower_on(Arc::clone(&disk), 2, "siem")?;
                    for (stream, records) in &pieces {
                        sent.extend(records.clone().map(|n| (stream.to_bits(), n)));
                        log.note(&[(*stream, records.clone())])?;
                    }
                    read(&*disk).map(drop).map_err(io::Error::other)
                })();
                // Either only the process dies, or the power fails too.
                if stop_at % 2 == 0 {
                    disk.kill()
                } else {
                    disk.crash()
                }
                let left = missing(&disk);
                assert!(left.iter().all(|record| all.contains(record)));
                let unsent: BTreeSet<_> = all.difference(&sent).copied().collect();
                assert!(unsent.is_subset(&left), "unsent records are not named: {stop_at}");
                // Another opening finds the same.
                assert_eq!(missing(&disk), left);
                if ended.is_ok() {
                    assert!(left.is_empty());
                    disk.remove(&file_name(2)).unwrap();
                    assert!(missing(&disk).is_empty(), "only the file said so");
                    steps = stop_at;
                    break;
                }
            }
            assert!(steps > 15, "{steps} steps");
        }
    }

    #[test]
    fn damaged_or_foreign_files_hide_nothing() {
        let disk = Arc::new(SimulatedDisk::new(1));
        follower(FollowerState::Following).write(&*disk).unwrap();
        let all = missing(&disk);
        for file in [
            &b"audit replayed 1 torn"[..],
            &Replayed { name: "other".to_owned(), ranges: vec![(id(6), 0..20)] }.encode(),
        ] {
            write_durably(&*disk, &file_name(2), [file]).unwrap();
            assert_eq!(missing(&disk), all);
        }
        let log: Arc<dyn Disk> = Arc::<SimulatedDisk>::clone(&disk);
        let mut log = ReplayLog::of_follower_on(log, 2, "siem").unwrap();
        log.note(&[(id(6), 5..20)]).unwrap();
        // Owned by another user.
        const EACCES: i32 = 13;
        let denied = |call, name: &str| {
            (call == Call::Open && name == file_name(2)).then_some(Injected::Fails(EACCES))
        };
        let foreign: Arc<dyn Disk> = Arc::<SimulatedDisk>::clone(&disk);
        let read = read(&FaultyDisk::new(foreign, denied)).unwrap();
        assert_eq!(read[0].missing_records(), 29);
        assert_eq!(missing(&disk).len(), 14);
        assert_eq!(log.lacks(id(6), &(0..30)), [0..5, 20..30]);
    }

    #[test]
    fn a_host_that_opens_meanwhile_disturbs_no_replay() {
        const ENOENT: i32 = 2;
        let inner: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(1));
        let removed = Arc::new(AtomicBool::new(false));
        let once = Arc::clone(&removed);
        // The host removes the unfinished file before the replay renames it.
        let disk = FaultyDisk::new(Arc::clone(&inner), move |call, name| {
            let removes = call == Call::Rename && name.starts_with("00000002.replayed");
            let is_first = removes && !once.swap(true, Ordering::SeqCst);
            is_first.then_some(Injected::Fails(ENOENT))
        });
        let mut log = ReplayLog::of_follower_on(Arc::new(disk), 2, "siem").unwrap();
        log.note(&[(id(1), 0..3)]).unwrap();
        assert!(removed.load(Ordering::SeqCst));
        assert!(replayed(&*inner, 2, "siem").unwrap().lacks(id(1), &(0..3)).is_empty());

        // The replay renames the file before the host removes it.
        inner.create("00000002.replayed.preparing").unwrap();
        let disk = FaultyDisk::new(inner, |call, name: &str| {
            let removes = call == Call::Remove && name.ends_with(".replayed.preparing");
            removes.then_some(Injected::Fails(ENOENT))
        });
        assert!(crate::recovery::recover(&disk).unwrap().segments.is_empty());
    }

    #[test]
    fn one_process_writes_a_log_of_one_destination() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("progress");
        let mut log = ReplayLog::open(&path, "siem").unwrap();
        let error = ReplayLog::open(&path, "siem").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        log.note(&[(id(1), 3..5)]).unwrap();
        drop(log);
        let log = ReplayLog::open(&path, "siem").unwrap();
        assert_eq!(log.lacks(id(1), &(0..9)), [0..3, 5..9]);
        drop(log);
        let error = ReplayLog::open(&path, "other").unwrap_err();
        assert!(error.to_string().contains("\"siem\""), "{error}");
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(ReplayLog::open(&path, "siem").unwrap_err().kind(), io::ErrorKind::InvalidData);
        let of_follower = ReplayLog::of_follower(directory.path(), 1, "siem");
        assert!(of_follower.is_ok(), "beside another log");
    }
}
