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
    pub name: String,
    pub is_retired: bool,
    pub ordinal: u64,
    pub stream: String,
    pub next: u64,
    pub missing: Vec<(String, Range<u64>)>,
}

/// The followers in these files, by number.
pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<FollowerReading>, String> {
    let named = files.iter().filter(|(name, _)| name.ends_with(".follower"));
    named.map(|(name, bytes)| one(bytes).ok_or_else(|| format!("{name} cannot be read"))).collect()
}

fn one(bytes: &[u8]) -> Option<FollowerReading> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut words: Vec<_> = text.strip_suffix('\n')?.split(' ').collect();
    let route = match words.get(2..7)? {
        ["1", ..] => None,
        ["2", "number", _, "route", route] => Some(*route),
        _ => return None,
    };
    if route.is_some() {
        words.drain(5..7);
    }
    let [
        "audit",
        "follower",
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
        sum,
    ] = &words[..]
    else {
        return None;
    };
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let before = text.len().checked_sub(9)?;
    if hex(sum)? != u64::from(crc32c::crc32c(&bytes[..before])) {
        return None;
    }
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
        route: route.map_or(Some(0), hex)?,
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
