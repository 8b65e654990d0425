//! The evidence of the simulation's own destination, where each object has a hash over everything
//! before it, and an auditor that verifies it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use audit_core::UniqueId;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::bucket::{SEAL, Shown, Stored};
use crate::{LastRecord, NewStream, Seal, StreamEnd, StreamSecret, SystemRecords};

pub(super) const ATTRIBUTE: &str = SEAL;

/// The beginning of every system record.
pub const OWN: &str = "{\"$audit\":";

/// Short, for a simulation of minutes.
const HEARTBEAT_MS: i64 = 20_000;
const MAX_STREAM_MS: i64 = 200_000;
const MAX_RECORDS: u64 = 1_000;

pub(super) fn secret(stream: UniqueId) -> StreamSecret {
    StreamSecret::new(format!("secret of {stream}"))
}

pub(crate) fn begin(stream: UniqueId) -> NewStream {
    let records = Box::new(Records { opened_ms: 0, due_ms: 0 });
    NewStream { secret: secret(stream), records }
}

/// The seal that binds an object to those before it, with the secret of its stream. Different
/// nonces give different objects.
pub(super) fn seal(
    secret: &StreamSecret,
    state: Bytes,
    stable: u64,
    lines: &[u8],
    nonce: u64,
) -> Seal {
    let before = String::from_utf8(state.to_vec()).unwrap();
    let after = after(secret, &before, stable, nonce, lines);
    let metadata = format!("{before} {after} {stable} {nonce}").into();
    Seal { before: state, after: after.into(), metadata }
}

fn after(secret: &StreamSecret, before: &str, stable: u64, nonce: u64, lines: &[u8]) -> String {
    let secret = secret.as_str();
    hex(&[format!("{secret} {before} {stable} {nonce} ").as_bytes(), lines].concat())
}

#[derive(Debug)]
struct Records {
    opened_ms: i64,
    due_ms: i64,
}

fn previous(previous: Option<&StreamEnd>) -> String {
    previous.map_or_else(String::new, |StreamEnd { stream, size, state }| {
        format!("{stream} {size} {}", std::str::from_utf8(state).unwrap())
    })
}

impl SystemRecords for Records {
    fn opened(&mut self, now_ms: i64, before: Option<&StreamEnd>) -> String {
        (self.opened_ms, self.due_ms) = (now_ms, now_ms + HEARTBEAT_MS);
        format!("{OWN}\"opened\",\"previous\":\"{}\"}}", previous(before))
    }

    fn note_records(&mut self, _: i64) {}

    fn due_in_ms(&self, now_ms: i64) -> u64 {
        u64::try_from(self.due_ms - now_ms).unwrap_or(0)
    }

    fn heartbeat(&mut self, now_ms: i64, before: Option<&StreamEnd>) -> String {
        self.due_ms = now_ms + HEARTBEAT_MS;
        format!("{OWN}\"lives\",\"previous\":\"{}\"}}", previous(before))
    }

    fn is_over(&self, now_ms: i64, records: u64) -> bool {
        records > 0 && now_ms - self.opened_ms > MAX_STREAM_MS
    }

    fn max_records(&self) -> u64 {
        MAX_RECORDS
    }
}

pub(super) fn last_record(record: &LastRecord) -> String {
    match record {
        LastRecord::Void(Range { start, end }) => format!("{OWN}\"void\",\"of\":[{start},{end}]}}"),
        LastRecord::Closed => format!("{OWN}\"closed\"}}"),
    }
}

/// An auditor's state of one stream.
#[derive(Default)]
struct Audit {
    next: u64,
    state: String,
    /// After each object, by the number of records.
    states: BTreeMap<u64, String>,
    stable: u64,
    gaps: Vec<Range<u64>>,
    voids: Vec<Range<u64>>,
    is_closed: bool,
    previous: Vec<String>,
}

/// Verifies the objects that the host wrote.
pub(super) fn verify(
    objects: &BTreeMap<String, Stored>,
    shown: &Shown,
    is_whole: bool,
) -> Result<(), String> {
    let mut streams: BTreeMap<&str, Vec<(u64, &Stored)>> = BTreeMap::new();
    for (key, stored) in objects {
        let (name, _) = key.split_once('.').ok_or(key.as_str())?;
        let (stream, first) = name.split_once('-').ok_or(key.as_str())?;
        if stored.attributes.contains_key(ATTRIBUTE) {
            let first = first.parse().map_err(|_| key.clone())?;
            streams.entry(stream).or_default().push((first, stored));
        }
    }
    let mut audits = BTreeMap::new();
    for (stream, mut objects) in streams {
        objects.sort_by_key(|(first, _)| *first);
        let mut audit = Audit::default();
        let secret = secret(stream.parse().map_err(|_| format!("{stream} is no stream"))?);
        for (first, stored) in objects {
            audit
                .add(&secret, first, stored)
                .map_err(|what| format!("{stream} at {first}: {what}"))?;
        }
        audit.finish(is_whole).map_err(|what| format!("{stream}: {what}"))?;
        audits.insert(stream, audit);
    }
    for (stream, states) in shown {
        let known = audits.get(&**stream).map(|audit| &audit.states);
        let is_known = |(size, state)| known.and_then(|known| known.get(size)) == Some(state);
        if !states.iter().all(is_known) {
            return Err(format!("a witness was shown {states:?} of {stream}, which has {known:?}"));
        }
    }
    let mut named = BTreeSet::new();
    for previous in audits.values().flat_map(|audit| &audit.previous) {
        let [stream, size, state] = previous.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("{previous:?} names no stream"));
        };
        if !named.insert(stream) {
            return Err(format!("two streams follow {stream}"));
        }
        let known = audits.get(stream).map(|audit| (audit.next.to_string(), &*audit.state));
        if known.as_ref().map(|(size, state)| (&**size, *state)) != Some((size, state)) {
            return Err(format!("{stream} is {known:?}, and was {size} {state}"));
        }
    }
    Ok(())
}

impl Audit {
    fn add(&mut self, secret: &StreamSecret, first: u64, stored: &Stored) -> Result<(), String> {
        let mut lines = stored.bytes.to_vec();
        // Lines that do not begin as JSON are in the encoding that reverses all bytes.
        if lines.first() != Some(&b'{') {
            lines.reverse();
        }
        let fields = stored.attributes[ATTRIBUTE].split(' ').collect::<Vec<_>>();
        let [before, state, stable, nonce] = fields[..] else { return Err("no seal".to_owned()) };
        let (stable, nonce) = (stable.parse().unwrap(), nonce.parse().unwrap());
        if after(secret, before, stable, nonce, &lines) != state {
            return Err("the seal is another object's".to_owned());
        }
        if self.is_closed {
            return Err("it stands behind the end".to_owned());
        }
        if first < self.next {
            return Err("it stands twice".to_owned());
        }
        if first > self.next {
            self.gaps.push(self.next..first);
        } else if before != self.state {
            return Err("it was bound to others than those before it".to_owned());
        }
        let text = String::from_utf8(lines).map_err(|error| error.to_string())?;
        self.next = first + text.lines().count() as u64;
        self.state = state.to_owned();
        self.states.insert(self.next, self.state.clone());
        self.stable = self.stable.max(stable);
        for line in text.lines().filter_map(|line| line.strip_prefix(OWN)) {
            self.is_closed |= line.starts_with("\"closed\"");
            let part = |begin, end| line.split_once(begin)?.1.split_once(end).map(|part| part.0);
            if let Some(previous) = part("\"previous\":\"", "\"").filter(|p| !p.is_empty()) {
                self.previous.push(previous.to_owned());
            }
            if let Some((start, end)) = part("[", "]").and_then(|void| void.split_once(',')) {
                self.voids.push(start.parse().unwrap()..end.parse().unwrap());
            }
        }
        Ok(())
    }

    fn finish(&self, is_whole: bool) -> Result<(), String> {
        for number in self.gaps.iter().cloned().flatten() {
            let is_said = self.voids.iter().any(|void| void.contains(&number));
            if !is_said && (is_whole || number < self.stable) {
                return Err(format!("record {number} is missing, and nothing says so"));
            }
        }
        if is_whole && !self.is_closed {
            return Err("it is not closed".to_owned());
        }
        Ok(())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}
