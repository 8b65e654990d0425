//! The file `paused`: the newest records of routes' followers that were paused.
//!
//! A segment may have records of a thousand followers that are away. Before the segment is removed,
//! one file names what all of them miss, with one sync for any number of followers. A follower's
//! own file gets its record with the next change that the follower itself makes, and at the next
//! opening.

use std::io;
use std::sync::Arc;

use super::Standing;
use super::record::FollowerRecord;
use super::standing::{Change, Requires};
use crate::disk::{Disk, read_whole, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;
use crate::watermark::HeldRecords;

pub(crate) const PAUSED: &str = "paused";

/// Whether the oldest segment may be removed with regard to all followers of routes: see
/// [`Standing::may_go`]. `followed` pairs each follower with the records that the segment has of
/// its route.
///
/// The followers that still need the segment, but may keep it no longer, are paused with one write.
/// A crash before this returns leaves the segment, and either none or all of them paused. After a
/// later crash, the file says what they miss.
pub(super) fn may_go(
    disk: &dyn Disk,
    followed: &[(Vec<HeldRecords>, Arc<Standing>)],
    kept: u64,
    must_go: bool,
) -> io::Result<bool> {
    let (mut may_go, mut changes, mut records) = (true, Vec::new(), Vec::new());
    for (held, standing) in followed {
        match standing.removal_requires(held, kept, must_go) {
            Requires::Change(change) => changes.push(change),
            Requires::Nothing => records.extend(standing.in_paused()),
            Requires::Segment => {
                may_go = false;
                records.extend(standing.in_paused());
            }
        }
    }
    if !changes.is_empty() {
        records.extend(changes.iter_mut().map(|change| change.begin_write().clone()));
        write_paused(disk, &records)?;
        changes.into_iter().for_each(Change::end_write);
    }
    Ok(may_go)
}

/// Makes these records durable. A crash leaves the previous file or this one. Of a record here and
/// the one in the follower's own file, the newer one counts.
pub(crate) fn write_paused(disk: &dyn Disk, records: &[FollowerRecord]) -> io::Result<()> {
    let mut text = format!("audit paused 1 count {:08x} ", records.len());
    records.iter().for_each(|record| text += &record.text());
    let mut text = text.into_bytes();
    seal(&mut text, 0);
    write_durably(disk, PAUSED, [&text[..]])
}

/// Reads the file, which exists.
pub(crate) fn read_paused(disk: &dyn Disk) -> Result<Vec<FollowerRecord>, RecoveryError> {
    let file = read_whole(disk, PAUSED)?;
    decode(&file).ok_or_else(|| RecoveryError::unreadable(PAUSED, &file, "audit paused "))
}

fn decode(file: &[u8]) -> Option<Vec<FollowerRecord>> {
    let mut fields = Fields::of(file, 0)?;
    fields.literal("audit paused 1 count ")?;
    let count = fields.hex32()?;
    fields.literal(" ")?;
    (0..count).map(|_| FollowerRecord::read(&mut fields)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Mutex;

    use audit_core::UniqueId;
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::*;
    use crate::followers::{FollowerState, read_followers};
    use crate::format::Position;
    use crate::recovery::Recovered;
    use crate::simulation::disk::SimulatedDisk;
    use crate::simulation::disk::faulty::{Call, FaultyDisk, Injected};
    use crate::watermark::Watermark;

    proptest! {
        #[test]
        fn records_are_read_as_written_or_not_at_all(
            records in prop::collection::vec(record(), 0..5), bit: prop::sample::Index,
        ) {
            let disk = SimulatedDisk::new(1);
            write_paused(&disk, &records).unwrap();
            prop_assert_eq!(read_paused(&disk).unwrap(), records);
            disk.alter(PAUSED, |file| {
                let bit = bit.index(file.len() * 8);
                file[bit / 8] ^= 1 << (bit % 8);
            });
            let is_noticed = matches!(read_paused(&disk), Err(RecoveryError::Damaged { .. }));
            prop_assert!(is_noticed);
        }
    }

    fn stream() -> UniqueId {
        UniqueId::from_bits(7)
    }

    /// Segment `n` has records `10 * n` to `10 * n + 9` of each route.
    fn held(ordinal: u32) -> Vec<HeldRecords> {
        let first = u64::from(ordinal) * 10;
        vec![HeldRecords { ordinal, stream: stream(), records: first..first + 10 }]
    }

    /// Creates `count` followers, each of a route of its own, at the beginning of segment 1.
    fn followers(disk: &dyn Disk, count: u32) -> Vec<Arc<Standing>> {
        let standing = |number| {
            let record = FollowerRecord {
                number,
                route: number,
                name: "siem".to_owned(),
                writes: 0,
                state: FollowerState::Following,
                watermark: Watermark { ordinal: 1, stream: stream(), next: 10 },
                cuts: VecDeque::new(),
                missing: Vec::new(),
            };
            let standing = Standing::of_route(record, format!("siem@{number}"), 0, false);
            standing.settle(disk).map(|()| Arc::new(standing))
        };
        (1..=count).map(standing).collect::<io::Result<_>>().unwrap()
    }

    fn remove(disk: &dyn Disk, ordinal: u32, followers: &[Arc<Standing>]) -> io::Result<bool> {
        let followed: Vec<_> =
            followers.iter().map(|standing| (held(ordinal), Arc::clone(standing))).collect();
        may_go(disk, &followed, 1, false)
    }

    /// The first record that each follower may still get, and the number of those that it misses,
    /// as the next opening finds them.
    fn found(disk: &SimulatedDisk) -> BTreeMap<u32, (u64, u64)> {
        let end = Position { ordinal: 9, offset: 0 };
        let recovered = Recovered { segments: Vec::new(), end, next_ordinal: 9 };
        let records = read_followers(disk, &recovered).unwrap();
        let place = |record: &FollowerRecord| (record.watermark.next, record.missing_records());
        records.iter().map(|record| (record.number, place(record))).collect()
    }

    #[test]
    fn one_sync_pauses_all() {
        let simulated = SimulatedDisk::new(1);
        let all = followers(&simulated, 1_000);
        let synced: Arc<Mutex<BTreeMap<Call, u32>>> = Arc::default();
        let counted = Arc::clone(&synced);
        let disk = FaultyDisk::new(Arc::new(simulated.clone()), move |call, _| {
            *counted.lock().unwrap().entry(call).or_default() += 1;
            None
        });
        for ordinal in 1..4 {
            synced.lock().unwrap().clear();
            assert!(remove(&disk, ordinal, &all).unwrap());
            let synced = synced.lock().unwrap();
            assert_eq!((synced[&Call::SyncAll], synced[&Call::SyncDirectory]), (1, 1));
        }
        simulated.crash();
        assert_eq!(found(&simulated), (1..=1_000).map(|number| (number, (40, 30))).collect());
        assert!(!simulated.files().contains_key(PAUSED), "each has its own file");
        assert_eq!(found(&simulated).len(), 1_000);
    }

    /// The first follower continues after each pause, and the others do not. The disk stops at each
    /// step.
    #[test]
    fn crashes_leave_the_newest_records() {
        let mut steps = 0;
        for stop_at in 0.. {
            let disk = SimulatedDisk::new(stop_at);
            let all = followers(&disk, 3);
            disk.stop_at(disk.operation() + stop_at);
            // The last states known to be durable, and the state that is being written.
            let place = |first, others| BTreeMap::from([(1, first), (2, others), (3, others)]);
            let mut places = vec![place((10, 0), (10, 0))];
            let ended = (|| {
                for (ordinal, next, missing) in [(1, 20, 10), (2, 30, 15), (3, 40, 20)] {
                    places.push(place((next, missing), (next, next - 10)));
                    assert!(remove(&disk, ordinal, &all)?);
                    places.drain(..places.len() - 1);
                    // The first follower gets the first half of the next segment.
                    places.push(place((next + 5, missing), (next, next - 10)));
                    let (_, generation) = all[0].durable();
                    assert!(all[0].change(&disk, generation, |record| {
                        record.watermark.next = next + 5;
                        record.state = FollowerState::Following;
                    })?);
                    places.drain(..places.len() - 1);
                }
                Ok::<_, io::Error>(())
            })();
            if stop_at % 2 == 0 {
                disk.kill()
            } else {
                disk.crash()
            }
            let after = found(&disk);
            assert!(
                places.contains(&after),
                "{stop_at}: found {after:?}, expected one of {places:?}"
            );
            assert_eq!(found(&disk), after);
            if ended.is_ok() {
                steps = stop_at;
                break;
            }
        }
        assert!(steps > 30, "{steps} steps");
    }

    /// A record that a failed write may have left on the disk must not hide what the follower got
    /// afterwards.
    #[test]
    fn a_failed_pause_is_older_than_what_follows() {
        let simulated = SimulatedDisk::new(1);
        let all = followers(&simulated, 2);
        // The rename takes effect, but the write fails at the sync of the directory.
        let disk = FaultyDisk::new(Arc::new(simulated.clone()), |call, _| {
            (call == Call::SyncDirectory).then_some(Injected::Fails(5))
        });
        assert!(remove(&disk, 1, &all).is_err());
        simulated.sync_directory().unwrap();
        let (_, generation) = all[0].durable();
        assert!(
            all[0].change(&simulated, generation, |record| record.watermark.next = 15).unwrap()
        );
        simulated.crash();
        assert_eq!(found(&simulated), BTreeMap::from([(1, (15, 0)), (2, (20, 10))]));
    }
}
