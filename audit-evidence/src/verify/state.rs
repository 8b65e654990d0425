//! What an auditor remembers between verifications of a bucket.

use std::collections::BTreeMap;
use std::fmt;

use crate::Hash;
use crate::checkpoint::parse_decimal;

/// The size and root of each stream when an auditor last saw it. It reveals a cut tail, a removed
/// stream, and an old copy of the bucket, which the bucket alone cannot show.
///
/// Its text has about 110 bytes per stream:
///
/// ```text
/// audit state 1
/// 01M86YQH3BN92MTRKE2RS1CKJ5 1204311 NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE= open
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    streams: BTreeMap<String, Remembered>,
}

/// A stream as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The number of its records.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
    /// Whether it had ended.
    pub has_ended: bool,
}

const HEADER: &str = "audit state 1";

impl State {
    /// Parses the text that [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    ///
    /// [`InvalidState`] with the number of the line.
    pub fn parse(text: &str) -> Result<State, InvalidState> {
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, line)| line != HEADER) {
            return Err(InvalidState { line: 1 });
        }
        let mut streams = BTreeMap::new();
        for (line, text) in lines {
            let (stream, seen) = parse_line(text).ok_or(InvalidState { line })?;
            if streams.insert(stream.to_owned(), seen).is_some() {
                return Err(InvalidState { line });
            }
        }
        Ok(State { streams })
    }

    /// The remembered state of a stream.
    pub fn get(&self, stream: &str) -> Option<Remembered> {
        self.streams.get(stream).copied()
    }

    /// The remembered streams, by name.
    pub fn streams(&self) -> impl Iterator<Item = (&str, Remembered)> {
        self.streams.iter().map(|(stream, seen)| (stream.as_str(), *seen))
    }

    /// The state of only those streams for which `is_wanted` holds, to verify part of a bucket.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(&str) -> bool) -> State {
        let wanted = self.streams.iter().filter(|(stream, _)| is_wanted(stream));
        State { streams: wanted.map(|(stream, seen)| (stream.clone(), *seen)).collect() }
    }

    /// Remembers a stream, in place of what was remembered of it.
    pub fn remember(&mut self, stream: String, seen: Remembered) {
        self.streams.insert(stream, seen);
    }
}

fn parse_line(text: &str) -> Option<(&str, Remembered)> {
    let mut parts = text.split(' ');
    let (stream, size, root) = (parts.next()?, parts.next()?, parts.next()?);
    let has_ended = match (parts.next()?, parts.next()) {
        ("open", None) => false,
        ("ended", None) => true,
        _ => return None,
    };
    let (size, root) = (parse_decimal(size)?, Hash::from_base64(root).ok()?);
    (!stream.is_empty()).then_some((stream, Remembered { size, root, has_ended }))
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        for (stream, Remembered { size, root, has_ended }) in &self.streams {
            let is = if *has_ended { "ended" } else { "open" };
            writeln!(f, "{stream} {size} {root} {is}")?;
        }
        Ok(())
    }
}

/// The text is not a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the verifier's state is malformed")]
pub struct InvalidState {
    /// The line, from 1.
    pub line: usize,
}
