//! Which followers a journal has when it is opened.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use audit_core::UniqueId;

use super::paused::{PAUSED, read_paused};
use super::record::{FollowerRecord, FollowerState};
use crate::disk::{Disk, read_whole, remove_if_there};
use crate::recovery::{Recovered, RecoveredSegment};
use crate::recovery_error::RecoveryError;
use crate::watermark::Watermark;

/// Reads the records of all followers by number, without missing records that were replayed. Makes
/// those of followers that are not retired durable again, each in its own file, since a recovery
/// acts on what it reads.
///
/// A crash in here changes nothing for the next recovery: each record that it finds, in either
/// file, is as new as before.
pub(crate) fn read_followers(
    disk: &dyn Disk,
    recovered: &Recovered,
) -> Result<Vec<FollowerRecord>, RecoveryError> {
    let names = disk.list()?;
    let mut records = BTreeMap::new();
    for name in names.iter().filter(|name| name.ends_with(".follower")) {
        let file = read_whole(disk, name)?;
        let record = FollowerRecord::decode(&file);
        if let Some(other) = record.as_ref().filter(|record| record.file_name() != *name) {
            let what = format!("the file is that of follower number {}", other.number);
            return Err(RecoveryError::Damaged { file: name.clone(), offset: 0, what });
        }
        let unreadable = || RecoveryError::unreadable(name, &file, "audit follower ");
        let record = record.ok_or_else(unreadable)?;
        records.insert(record.number, record);
    }
    let has_paused = names.iter().any(|name| name == PAUSED);
    let paused = if has_paused { read_paused(disk)? } else { Vec::new() };
    for record in paused {
        let own = records.get(&record.number);
        if own.is_none_or(|own| own.writes < record.writes) {
            records.insert(record.number, record);
        }
    }
    for record in records.values_mut() {
        record.watermark.ordinal = first_needed(record, recovered);
        let is_changed = record.forget_replayed(disk)?;
        if is_changed || record.state != FollowerState::Retired {
            record.write(disk)?;
        }
    }
    if has_paused {
        // A crash may bring the file back. The followers' own files have records at least as new.
        remove_if_there(disk, PAUSED)?;
    }
    Ok(records.into_values().collect())
}

/// Returns the records of the default route's followers with these names, in the same order, and
/// retires the default route's other followers.
///
/// A known follower continues from its watermark if the journal still has everything after it.
/// Otherwise it was retired for too long, or an earlier version of this library removed segments
/// without regard to it: it then gets a new number, and the record of the old number keeps what it
/// had. A new follower begins with the first record of this opening's stream, `stream`.
///
/// After a crash in here, the next opening does the rest.
pub(crate) fn adopt(
    disk: &dyn Disk,
    known: &[FollowerRecord],
    names: &[String],
    recovered: &Recovered,
    stream: UniqueId,
) -> io::Result<Vec<FollowerRecord>> {
    let next_ordinal = recovered.next_ordinal;
    let oldest = recovered.segments.first();
    let oldest_ordinal = oldest.map_or(next_ordinal, |oldest| oldest.segment.header.ordinal);
    let mut last = known.last().map_or(0, |record| record.number);
    let mut adopted: Vec<FollowerRecord> = Vec::new();
    for name in names {
        let before = known.iter().rev().find(|record| record.route == 0 && record.name == *name);
        let record = match before.filter(|before| before.watermark.ordinal >= oldest_ordinal) {
            Some(before) => {
                let mut again = before.clone();
                if again.state == FollowerState::Retired {
                    again.state = FollowerState::Following;
                }
                if again != *before {
                    again.write(disk)?;
                }
                again
            }
            None => {
                last += 1;
                let ordinal = if before.is_some() { oldest_ordinal } else { next_ordinal };
                let new = FollowerRecord {
                    number: last,
                    route: 0,
                    name: name.clone(),
                    writes: 0,
                    state: FollowerState::Following,
                    watermark: Watermark { ordinal, stream, next: 0 },
                    cuts: VecDeque::new(),
                    missing: Vec::new(),
                };
                new.write(disk)?;
                new
            }
        };
        adopted.push(record);
    }
    for record in known.iter().filter(|record| record.route == 0) {
        let is_adopted = adopted.iter().any(|adopted| adopted.number == record.number);
        if !is_adopted && record.state != FollowerState::Retired {
            FollowerRecord { state: FollowerState::Retired, ..record.clone() }.write(disk)?;
        }
    }
    Ok(adopted)
}

/// The first segment that a follower with this watermark needs.
///
/// The watermark may be past the last recovered segment, if a crash came after the segment was
/// recorded as no longer needed and before its removal. The earlier process did not count the
/// segment's last group if it was never acknowledged. Recovery does count it, so the follower needs
/// it. Segments without records are created again under their numbers.
fn first_needed(record: &FollowerRecord, recovered: &Recovered) -> u32 {
    let FollowerRecord { route, watermark, .. } = record;
    let is_beyond = |last: &&RecoveredSegment| {
        let at_last = Watermark { ordinal: last.segment.header.ordinal, ..*watermark };
        !at_last.left(&last.of_route(*route)).is_empty()
    };
    let needed = recovered.segments.last().filter(is_beyond);
    let first = needed.map_or(recovered.next_ordinal, |last| last.segment.header.ordinal);
    watermark.ordinal.min(first)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::format::Position;
    use crate::segment::Segment;
    use crate::simulation::disk::SimulatedDisk;

    fn id(bits: u128) -> UniqueId {
        UniqueId::from_bits(bits)
    }

    /// A recovered journal whose last segment is number 4 and has these records of stream 7. Two
    /// segments without records may have followed it.
    fn recovered(disk: &SimulatedDisk, records: Range<u64>) -> Recovered {
        let segment = |ordinal, stream, records: Range<u64>| RecoveredSegment {
            segment: Segment::prepare(disk, ordinal, 4096, 1).unwrap(),
            stream: id(stream),
            first_sequence: records.start,
            next_sequence: records.end,
            routed: Default::default(),
            end: 0,
        };
        let segments = vec![segment(3, 6, 0..9), segment(4, 7, records)];
        Recovered { segments, end: Position { ordinal: 4, offset: 100 }, next_ordinal: 5 }
    }

    #[test]
    fn followers_need_what_a_crash_kept() {
        // The watermark before the crash, the records that were recovered, and the first segment
        // that the follower needs.
        let table = [
            // The follower has everything.
            ((5, 7, 6), 0..6, 5),
            ((6, 7, 6), 0..6, 5),
            ((4, 7, 6), 0..6, 4),
            ((3, 6, 4), 0..6, 3),
            // The last record was not acknowledged.
            ((5, 7, 6), 0..7, 4),
            ((6, 7, 6), 0..7, 4),
            ((7, 7, 6), 0..7, 4),
            ((4, 7, 2), 0..7, 4),
            ((3, 6, 9), 0..7, 3),
            // The unacknowledged record is the only one of its segment, and the follower had read
            // none of its stream.
            ((5, 6, 9), 0..1, 4),
            ((5, 7, 0), 0..1, 4),
            ((5, 7, 3), 3..4, 4),
            // The last segment has no records.
            ((5, 6, 9), 0..0, 5),
            ((5, 7, 3), 3..3, 5),
        ];
        for ((ordinal, stream, next), records, needed) in table {
            let disk = SimulatedDisk::new(1);
            let watermark = Watermark { ordinal, stream: id(stream), next };
            let known = FollowerRecord {
                number: 1,
                route: 0,
                name: "a".to_owned(),
                writes: 0,
                state: FollowerState::Paused,
                watermark,
                cuts: VecDeque::new(),
                missing: vec![(id(2), 0..9)],
            };
            known.write(&disk).unwrap();
            let recovered = recovered(&disk, records.clone());
            let read = read_followers(&disk, &recovered).unwrap();
            let expected = Watermark { ordinal: needed, ..watermark };
            let what = format!("{watermark:?}, {records:?}");
            assert_eq!(read, [FollowerRecord { watermark: expected, ..known }], "{what}");
            assert_eq!(disk.files()["00000001.follower"], read[0].encode(), "{what}");
            let adopted = adopt(&disk, &read, &["a".to_owned()], &recovered, id(9));
            assert_eq!(adopted.unwrap(), read, "{what}");
        }
    }
}
