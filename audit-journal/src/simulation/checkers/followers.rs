//! Reads the files of followers as the format describes them, without sharing code with the writer.

use std::collections::BTreeMap;
use std::ops::Range;

use super::journal;

/// The contents of a follower's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerReading {
    pub number: u64,
    /// 0 for the default route.
    pub route: u64,
    pub writes: u64,
    pub name: String,
    pub is_retired: bool,
    pub ordinal: u64,
    pub stream: String,
    pub next: u64,
    pub missing: Vec<(String, Range<u64>)>,
}

/// Whether a file of this name has the state of followers.
pub fn is_state(name: &str) -> bool {
    name == "paused" || name.ends_with(".follower")
}

/// A cache of files that were read, by name, since equal bytes need not be read again.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, (Vec<u8>, Vec<FollowerReading>)>);

/// The newest state of the followers in these files, by number.
pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<FollowerReading>, String> {
    read_again(&mut Known::default(), files)
}

/// Like [`read`], with what was read before.
pub fn read_again(
    known: &mut Known,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<FollowerReading>, String> {
    let states = || files.iter().filter(|(name, _)| is_state(name));
    for (name, bytes) in states() {
        if known.0.get(name).is_none_or(|(before, _)| before != bytes) {
            let readings = all(bytes).ok_or_else(|| format!("{name} cannot be read"))?;
            known.0.insert(name.clone(), (bytes.clone(), readings));
        }
    }
    let mut newest: BTreeMap<u64, &FollowerReading> = BTreeMap::new();
    for reading in states().flat_map(|(name, _)| &known.0[name].1) {
        let before = newest.entry(reading.number).or_insert(reading);
        if before.writes < reading.writes {
            *before = reading;
        }
    }
    Ok(newest.into_values().cloned().collect())
}

/// The followers in one file.
fn all(bytes: &[u8]) -> Option<Vec<FollowerReading>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (before, sum) = text.strip_suffix('\n')?.split_at(text.len().checked_sub(9)?);
    if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(before.as_bytes()) {
        return None;
    }
    let mut parts = before.split("audit follower ");
    let count = match parts.next()?.split(' ').collect::<Vec<_>>()[..] {
        [""] => 1,
        ["audit", "paused", "1", "count", count, ""] => usize::from_str_radix(count, 16).ok()?,
        _ => return None,
    };
    let readings: Vec<_> = parts.map(one).collect::<Option<_>>()?;
    (readings.len() == count).then_some(readings)
}

fn one(text: &str) -> Option<FollowerReading> {
    let mut words: Vec<_> = text.strip_suffix(' ')?.split(' ').collect();
    let (route, writes) = match words.get(..7)? {
        ["1", ..] => ("0", "0"),
        ["2", "number", _, "route", route, "writes", writes] => (*route, *writes),
        _ => return None,
    };
    if words[0] == "2" {
        words.drain(3..7);
    }
    let [
        _,
        "number",
        number,
        "name",
        _,
        name,
        "state",
        state,
        "segment",
        ordinal,
        "stream",
        stream,
        "next",
        next,
        "cuts",
        cuts,
        rest @ ..,
    ] = &words[..]
    else {
        return None;
    };
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let cuts = usize::try_from(hex(cuts)?).ok()?;
    let ["missing", count, rest @ ..] = rest.get(2 * cuts..)? else { return None };
    let range = |pair: &[&str]| {
        let (start, end) = pair.get(1)?.split_once('-')?;
        Some((pair[0].to_owned(), hex(start)?..hex(end)?))
    };
    let missing: Vec<_> = rest.chunks(2).map(range).collect::<Option<_>>()?;
    (missing.len() as u64 == hex(count)?).then_some(())?;
    Some(FollowerReading {
        number: hex(number)?,
        route: hex(route)?,
        writes: hex(writes)?,
        name: (*name).to_owned(),
        is_retired: *state == "r",
        ordinal: hex(ordinal)?,
        stream: (*stream).to_owned(),
        next: hex(next)?,
        missing,
    })
}

impl FollowerReading {
    /// Whether the journal still has the record for this follower.
    pub fn is_due(&self, journal: &journal::Reading, stream: &str, number: u64) -> bool {
        journal.segments.iter().any(|segment| {
            u64::from(segment.ordinal) >= self.ordinal
                && segment.stream == stream
                && segment.sequences.contains(&number)
                && (stream != self.stream || number >= self.next)
        })
    }

    /// Whether the record is recorded as missing.
    pub fn is_missing(&self, stream: &str, number: u64) -> bool {
        self.missing.iter().any(|(of, records)| of == stream && records.contains(&number))
    }
}
