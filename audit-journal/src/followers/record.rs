//! The durable state of a follower: the file `<number>.follower`.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use audit_core::UniqueId;

use super::replayed::replayed;
use crate::disk::{Disk, read_whole, write_durably};
use crate::format::{Fields, MAX_ROUTE, seal};
use crate::recovery::{Recovered, RecoveredSegment};
use crate::recovery_error::RecoveryError;
use crate::watermark::{HeldRecords, Watermark};

/// The longest name of a follower, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// The contents of a follower's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FollowerRecord {
    /// Unique in the journal: no later follower gets this number.
    pub(crate) number: u32,
    /// The route that it follows, 0 for the default route.
    pub(crate) route: u32,
    /// Unique among the followers of its route that are not retired.
    pub(crate) name: String,
    pub(crate) state: FollowerState,
    /// The follower has everything before it, except what is missing.
    pub(crate) watermark: Watermark,
    /// The ends of the objects after `watermark` that may have been sent. A later process cuts them
    /// there again, so that a repeated request has the same id.
    pub(crate) cuts: VecDeque<(UniqueId, u64)>,
    /// Records that were removed from the journal before the follower had them.
    pub(crate) missing: Vec<(UniqueId, Range<u64>)>,
}

/// The state of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerState {
    /// It gets every record.
    Following,
    /// It lagged so far behind that records were removed before it had them. It gets later ones
    /// once it accepts records again.
    Paused,
    /// The journal, or its route, was opened without it.
    Retired,
}

impl FollowerState {
    const ALL: [FollowerState; 3] =
        [FollowerState::Following, FollowerState::Paused, FollowerState::Retired];

    fn as_str(self) -> &'static str {
        match self {
            FollowerState::Following => "f",
            FollowerState::Paused => "p",
            FollowerState::Retired => "r",
        }
    }
}

impl FollowerRecord {
    /// The number of missing records, including system records.
    pub(crate) fn missing_records(&self) -> u64 {
        self.missing.iter().map(|(_, records)| records.end - records.start).sum()
    }

    /// Adds missing records, which the follower will not get from the journal.
    pub(crate) fn miss(&mut self, stream: UniqueId, records: Range<u64>) {
        if records.is_empty() {
            return;
        }
        match self
            .missing
            .last_mut()
            .filter(|(of, last)| *of == stream && last.end == records.start)
        {
            Some((_, last)) => last.end = records.end,
            None => self.missing.push((stream, records)),
        }
    }

    /// Removes missing records that were replayed, and ends the pause if none is left. Returns
    /// whether anything changed.
    pub(crate) fn forget_replayed(&mut self, disk: &dyn Disk) -> io::Result<bool> {
        if self.missing.is_empty() {
            return Ok(false);
        }
        let replayed = replayed(disk, self.number, &self.name)?;
        let before = std::mem::take(&mut self.missing);
        let left = before.iter().flat_map(|(stream, records)| {
            replayed.lacks(*stream, records).into_iter().map(|left| (*stream, left))
        });
        self.missing = left.collect();
        if self.missing.is_empty() && self.state == FollowerState::Paused {
            self.state = FollowerState::Following;
        }
        Ok(self.missing != before)
    }

    /// Pauses the follower, and moves its watermark past the records that the oldest segment has
    /// for it and past each object that begins there.
    pub(crate) fn skip(&mut self, held: &[HeldRecords]) {
        for HeldRecords { ordinal, stream, records } in self.watermark.left(held) {
            let mut to = records.start;
            while let Some((_, end)) =
                self.cuts.pop_front_if(|(of, _)| *of == stream && to < records.end)
            {
                to = end;
            }
            let next = to.max(records.end);
            self.miss(stream, records.start..next);
            self.watermark = Watermark { ordinal: ordinal + 1, stream, next };
        }
        self.state = FollowerState::Paused;
    }

    /// Retires a follower that will get nothing more: the records of its route that it lacks are
    /// missing from now on. `held` are those in the segments, in order.
    pub(crate) fn retire(&mut self, held: &[HeldRecords]) {
        for HeldRecords { ordinal, stream, records } in self.watermark.left(held) {
            let next = records.end;
            self.miss(stream, records);
            self.watermark = Watermark { ordinal, stream, next };
        }
        self.cuts.clear();
        self.state = FollowerState::Retired;
    }

    fn file_name(&self) -> String {
        format!("{:08x}.follower", self.number)
    }

    /// Makes the record durable. A crash leaves the previous record or this one.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        write_durably(disk, &self.file_name(), [&self.encode()[..]])
    }

    fn encode(&self) -> Vec<u8> {
        let FollowerRecord { number, route, name, state, watermark, cuts, missing } = self;
        let Watermark { ordinal, stream, next } = watermark;
        let (version, route) = match route {
            0 => (1, String::new()),
            route => (2, format!("route {route:08x} ")),
        };
        let mut text = format!(
            "audit follower {version} number {number:08x} {route}name {:08x} {name} state {} segment \
             {ordinal:08x} stream {stream} next {next:016x} cuts {:08x} ",
            name.len(),
            state.as_str(),
            cuts.len()
        );
        for (stream, end) in cuts {
            text += &format!("{stream} {end:016x} ");
        }
        text += &format!("missing {:08x} ", missing.len());
        for (stream, records) in missing {
            text += &format!("{stream} {:016x}-{:016x} ", records.start, records.end);
        }
        let mut text = text.into_bytes();
        seal(&mut text, 0);
        text
    }

    pub(crate) fn decode(file: &[u8]) -> Option<FollowerRecord> {
        let mut fields = Fields::of(file, 0)?;
        fields.literal("audit follower ")?;
        let version = fields.text(1)?;
        fields.literal(" number ")?;
        let number = fields.hex32()?;
        let route = match version {
            "1" => 0,
            "2" => {
                fields.literal(" route ")?;
                fields.hex32().filter(|route| (1..MAX_ROUTE).contains(route))?
            }
            _ => return None,
        };
        fields.literal(" name ")?;
        let bytes = usize::try_from(fields.hex32()?).ok()?;
        fields.literal(" ")?;
        let name = fields.text(bytes)?.to_owned();
        fields.literal(" state ")?;
        let state = fields.text(1)?;
        let state = FollowerState::ALL.into_iter().find(|known| known.as_str() == state)?;
        fields.literal(" segment ")?;
        let ordinal = fields.hex32()?;
        fields.literal(" stream ")?;
        let stream = stream(&mut fields)?;
        fields.literal(" next ")?;
        let next = fields.hex64()?;
        fields.literal(" cuts ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut cuts = VecDeque::new();
        for _ in 0..count {
            let of = self::stream(&mut fields)?;
            fields.literal(" ")?;
            cuts.push_back((of, fields.hex64()?));
            fields.literal(" ")?;
        }
        fields.literal("missing ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut missing = Vec::new();
        for _ in 0..count {
            let of = self::stream(&mut fields)?;
            fields.literal(" ")?;
            let start = fields.hex64()?;
            fields.literal("-")?;
            let end = fields.hex64()?;
            if start >= end {
                return None;
            }
            missing.push((of, start..end));
            fields.literal(" ")?;
        }
        let watermark = Watermark { ordinal, stream, next };
        Some(FollowerRecord { number, route, name, state, watermark, cuts, missing })
    }
}

fn stream(fields: &mut Fields<'_>) -> Option<UniqueId> {
    fields.text(UniqueId::TEXT_BYTES)?.parse().ok()
}

/// Reads the records of all followers by number, without missing records that were replayed. Makes
/// them durable again, since a recovery acts on what it reads.
pub(crate) fn read_followers(
    disk: &dyn Disk,
    recovered: &Recovered,
) -> Result<Vec<FollowerRecord>, RecoveryError> {
    let mut records = Vec::new();
    for name in disk.list()?.iter().filter(|name| name.ends_with(".follower")) {
        let mut record = FollowerRecord::decode(&read_whole(disk, name)?)
            .filter(|record| record.file_name() == *name)
            .ok_or_else(|| RecoveryError::Damaged {
                file: name.clone(),
                offset: 0,
                what: "the file does not match its checksum".to_owned(),
            })?;
        record.watermark.ordinal = first_needed(&record, recovered);
        let is_changed = record.forget_replayed(disk)?;
        if is_changed || record.state != FollowerState::Retired {
            record.write(disk)?;
        }
        records.push(record);
    }
    records.sort_unstable_by_key(|record| record.number);
    Ok(records)
}

/// The followers of the default route of an opening with these names, in the same order. Its others
/// are retired.
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
    use proptest::prelude::*;

    use super::*;
    use crate::format::Position;
    use crate::segment::Segment;
    use crate::simulation::disk::SimulatedDisk;

    fn record() -> impl Strategy<Value = FollowerRecord> {
        let stream = || any::<u128>().prop_map(|bits| UniqueId::from_bits(bits >> 8));
        let cuts = prop::collection::vec((stream(), any::<u64>()), 0..4);
        let missing = prop::collection::vec((stream(), 0u64..9, 9u64..20), 0..4);
        let watermark = (any::<u32>(), stream(), any::<u64>());
        let route = prop_oneof![Just(0), 1..MAX_ROUTE];
        (any::<u32>(), route, "[a-z0-9_-]{1,64}", 0..3usize, watermark, cuts, missing).prop_map(
            |(number, route, name, state, (ordinal, stream, next), cuts, missing)| FollowerRecord {
                number,
                route,
                name,
                state: FollowerState::ALL[state],
                watermark: Watermark { ordinal, stream, next },
                cuts: cuts.into(),
                missing: missing.into_iter().map(|(of, from, to)| (of, from..to)).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn records_are_read_as_written_or_not_at_all(
            record in record(), bit: prop::sample::Index,
        ) {
            let mut file = record.encode();
            prop_assert_eq!(FollowerRecord::decode(&file), Some(record));
            let bit = bit.index(file.len() * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(FollowerRecord::decode(&file), None);
            prop_assert_eq!(FollowerRecord::decode(&file[..bit / 8]), None);
        }
    }

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
            // It is the only one of its segment, and the follower had read none of its stream.
            ((5, 6, 9), 0..1, 4),
            ((5, 7, 0), 0..1, 4),
            ((5, 7, 3), 3..4, 4),
            // The last segment has none.
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
