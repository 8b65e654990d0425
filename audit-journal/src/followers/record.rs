//! The durable state of a follower: the file `<number>.follower`.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use audit_core::UniqueId;

use super::replayed::replayed;
use crate::disk::{Disk, write_durably};
use crate::format::{Fields, MAX_ROUTE, seal};
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
    /// The number of writes of the record of a route's follower: of two records, the one with more
    /// writes is newer.
    pub(crate) writes: u64,
    pub(crate) state: FollowerState,
    /// The follower has everything before this, except the missing records.
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

    /// Retires a follower, which gets nothing more. The records of its route that it lacks become
    /// missing. `held` are the route's records in the segments, in order.
    pub(crate) fn retire(&mut self, held: &[HeldRecords]) {
        for HeldRecords { ordinal, stream, records } in self.watermark.left(held) {
            let next = records.end;
            self.miss(stream, records);
            self.watermark = Watermark { ordinal, stream, next };
        }
        self.cuts.clear();
        self.state = FollowerState::Retired;
    }

    pub(super) fn file_name(&self) -> String {
        format!("{:08x}.follower", self.number)
    }

    /// Makes the record durable. A crash leaves the previous record or this one.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        write_durably(disk, &self.file_name(), [&self.encode()[..]])
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = self.text().into_bytes();
        seal(&mut text, 0);
        text
    }

    /// The text of its file without the checksum.
    pub(super) fn text(&self) -> String {
        let FollowerRecord { number, route, name, writes, state, watermark, cuts, missing } = self;
        let Watermark { ordinal, stream, next } = watermark;
        let (version, route) = match route {
            0 => (1, String::new()),
            route => (2, format!("route {route:08x} writes {writes:016x} ")),
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
        text
    }

    pub(crate) fn decode(file: &[u8]) -> Option<FollowerRecord> {
        FollowerRecord::read(&mut Fields::of(file, 0)?)
    }

    /// Reads what [`text`](Self::text) returned.
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<FollowerRecord> {
        fields.literal("audit follower ")?;
        let version = fields.text(1)?;
        fields.literal(" number ")?;
        let number = fields.hex32()?;
        let (route, writes) = match version {
            "1" => (0, 0),
            "2" => {
                fields.literal(" route ")?;
                let route = fields.hex32().filter(|route| (1..MAX_ROUTE).contains(route))?;
                fields.literal(" writes ")?;
                (route, fields.hex64()?)
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
        let stream = stream(fields)?;
        fields.literal(" next ")?;
        let next = fields.hex64()?;
        fields.literal(" cuts ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut cuts = VecDeque::new();
        for _ in 0..count {
            let of = self::stream(fields)?;
            fields.literal(" ")?;
            cuts.push_back((of, fields.hex64()?));
            fields.literal(" ")?;
        }
        fields.literal("missing ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut missing = Vec::new();
        for _ in 0..count {
            let of = self::stream(fields)?;
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
        Some(FollowerRecord { number, route, name, writes, state, watermark, cuts, missing })
    }
}

fn stream(fields: &mut Fields<'_>) -> Option<UniqueId> {
    fields.text(UniqueId::TEXT_BYTES)?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn record() -> impl Strategy<Value = FollowerRecord> {
        let stream = || any::<u128>().prop_map(|bits| UniqueId::from_bits(bits >> 8));
        let cuts = prop::collection::vec((stream(), any::<u64>()), 0..4);
        let missing = prop::collection::vec((stream(), 0u64..9, 9u64..20), 0..4);
        let watermark = (any::<u32>(), stream(), any::<u64>());
        let route = prop_oneof![Just((0, 0)), (1..MAX_ROUTE, any::<u64>())];
        (any::<u32>(), route, "[a-z0-9_-]{1,64}", 0..3usize, watermark, cuts, missing).prop_map(
            |(number, route, name, state, (ordinal, stream, next), cuts, missing)| FollowerRecord {
                number,
                route: route.0,
                name,
                writes: route.1,
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
}
