//! The delivery progress of a stream, stored in its `delivered` file.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use audit_core::UniqueId;
use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::disk::{Disk, read_whole, remove_if_there, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The route of the stream, 0 for the default route.
    pub(crate) route: u32,
    /// The first undelivered record. All below it are at the destination or set aside.
    pub(crate) next: u64,
    /// Present if the destination vouches for the stream.
    pub(crate) chain: Option<ChainProgress>,
}

/// The state that a destination needs to continue vouching for a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChainProgress {
    /// The destination's state at `next`.
    pub(crate) state: Bytes,
    /// Set-aside records that no system record of the stream has declared yet, in order.
    pub(crate) asides: VecDeque<Range<u64>>,
    /// Whether the stream's last record is delivered.
    pub(crate) is_closed: bool,
    /// Whether a later stream names this one, or was about to when its process ended. It is durably
    /// set before the later stream names this one: two streams that name it would look like two
    /// copies of one journal.
    pub(crate) is_told: bool,
}

impl Progress {
    /// The progress of a new stream of this route, 0 for the default route.
    pub(crate) fn begin(route: u32, is_vouched_for: bool) -> Progress {
        Progress { route, next: 0, chain: is_vouched_for.then(ChainProgress::default) }
    }

    /// All records below this number are at the destination or declared missing.
    pub(crate) fn stable(&self) -> u64 {
        let asides = self.chain.iter().flat_map(|chain| chain.asides.front());
        asides.map(|aside| aside.start).fold(self.next, u64::min)
    }
}

impl ChainProgress {
    pub(crate) fn set_aside(&mut self, records: Range<u64>) {
        match self.asides.back_mut().filter(|last| last.end == records.start) {
            Some(last) => last.end = records.end,
            None => self.asides.push_back(records),
        }
    }
}

fn file_name(stream: UniqueId) -> String {
    format!("{stream}.delivered")
}

/// The stream whose progress this file holds, or `None` for any other file name.
pub(crate) fn stream_of(name: &str) -> Option<UniqueId> {
    name.strip_suffix(".delivered")?.parse().ok()
}

/// Writes the progress of a stream durably.
///
/// A crash before this returns leaves the previous progress or this one. With the previous one,
/// objects that have arrived since are sent again and found at the destination.
pub(crate) fn write_progress(
    disk: &dyn Disk,
    stream: UniqueId,
    progress: &Progress,
) -> io::Result<()> {
    write_durably(disk, &file_name(stream), [&encode(progress)[..]])
}

/// Removes the progress of a stream that has no segment left. A crash may bring the file back; a
/// later process then removes it again.
pub(crate) fn remove_progress(disk: &dyn Disk, stream: UniqueId) -> io::Result<()> {
    remove_if_there(disk, &file_name(stream))
}

/// Reads a progress file.
pub(crate) fn read_progress(disk: &dyn Disk, name: &str) -> Result<Progress, RecoveryError> {
    let file = read_whole(disk, name)?;
    decode(&file).ok_or_else(|| RecoveryError::unreadable(name, &file, "audit delivered "))
}

/// Encodes the file. Its version depends on whether the stream is of a route, and vouched for.
fn encode(progress: &Progress) -> Vec<u8> {
    let Progress { route, next, chain } = progress;
    let version = match (route, chain) {
        (0, None) => 1,
        (0, Some(_)) => 2,
        (_, None) => 3,
        (_, Some(_)) => 4,
    };
    let mut text = format!("audit delivered {version} next {next:016x} ");
    if *route > 0 {
        text += &format!("route {route:08x} ");
    }
    if let Some(ChainProgress { state, asides, is_closed, is_told }) = chain {
        let (closed, told) = (u8::from(*is_closed), u8::from(*is_told));
        text += &format!("closed {closed} told {told} aside {:08x} ", asides.len());
        for aside in asides {
            text += &format!("{:016x}-{:016x} ", aside.start, aside.end);
        }
        text += &format!("state {:08x} {} ", state.len(), HEXLOWER.encode(state));
    }
    let mut text = text.into_bytes();
    seal(&mut text, 0);
    text
}

fn decode(file: &[u8]) -> Option<Progress> {
    let mut fields = Fields::of(file, 0)?;
    fields.literal("audit delivered ")?;
    let version = fields.text(1)?;
    fields.literal(" next ")?;
    let next = fields.hex64()?;
    let (has_route, has_chain) = match version {
        "1" => (false, false),
        "2" => (false, true),
        "3" => (true, false),
        "4" => (true, true),
        _ => return None,
    };
    let route = match has_route {
        true => {
            fields.literal(" route ")?;
            fields.hex32().filter(|route| *route > 0)?
        }
        false => 0,
    };
    if !has_chain {
        return Some(Progress { route, next, chain: None });
    }
    fields.literal(" closed ")?;
    let is_closed = flag(&mut fields)?;
    fields.literal(" told ")?;
    let is_told = flag(&mut fields)?;
    fields.literal(" aside ")?;
    let count = fields.hex32()?;
    fields.literal(" ")?;
    let mut asides = VecDeque::new();
    for _ in 0..count {
        let start = fields.hex64()?;
        fields.literal("-")?;
        let end = fields.hex64()?;
        fields.literal(" ")?;
        let is_in_order = asides.back().is_none_or(|last: &Range<u64>| last.end < start);
        if start >= end || end > next || !is_in_order {
            return None;
        }
        asides.push_back(start..end);
    }
    fields.literal("state ")?;
    let bytes = fields.hex32()?;
    fields.literal(" ")?;
    let state = (0..bytes).map(|_| u8::try_from(fields.hex(2)?).ok());
    let state: Bytes = state.collect::<Option<Vec<u8>>>()?.into();
    let chain = ChainProgress { state, asides, is_closed, is_told };
    Some(Progress { route, next, chain: Some(chain) })
}

fn flag(fields: &mut Fields<'_>) -> Option<bool> {
    match fields.text(1)? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_stream_has_a_version() {
        for (route, is_vouched_for, expected) in [
            (0, false, "1 next 0000000000001234 "),
            (0, true, "2 next 0000000000001234 closed 0 told 0 aside 00000000 state 00000000  "),
            (7, false, "3 next 0000000000001234 route 00000007 "),
            (7, true, "4 next 0000000000001234 route 00000007 closed 0 told 0 aside 00000000 "),
        ] {
            let progress = Progress { next: 0x1234, ..Progress::begin(route, is_vouched_for) };
            let file = encode(&progress);
            let text = String::from_utf8_lossy(&file);
            assert!(text.starts_with(&format!("audit delivered {expected}")), "{text}");
            assert_eq!(decode(&file), Some(progress));
        }
    }

    #[test]
    fn adjacent_asides_merge_and_bound_the_stable_records() {
        let mut chain = ChainProgress::default();
        for records in [3..5, 5..6, 9..10] {
            chain.set_aside(records);
        }
        assert_eq!(chain.asides, [3..6, 9..10]);
        let mut progress = Progress { next: 20, chain: Some(chain), ..Progress::default() };
        assert_eq!(progress.stable(), 3);
        if let Some(chain) = &mut progress.chain {
            chain.asides.clear();
        }
        assert_eq!(progress.stable(), 20);
    }

    proptest! {
        #[test]
        fn progress_round_trips_and_damage_is_detected(
            state: Vec<u8>, gaps in prop::collection::vec((1u64..9, 1u64..9), 0..5),
            is_closed: bool, is_told: bool, route in 0u32..3, bit: prop::sample::Index,
        ) {
            let mut chain = ChainProgress { state: state.into(), is_closed, is_told, ..Default::default() };
            let mut next = 0;
            for (gap, length) in gaps {
                chain.set_aside(next + gap..next + gap + length);
                next += gap + length;
            }
            let progress = Progress { route, next, chain: Some(chain) };
            let mut file = encode(&progress);
            prop_assert_eq!(decode(&file), Some(progress));
            let bit = bit.index(file.len() * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&file), None);
            prop_assert_eq!(decode(&file[..bit / 8]), None);
        }
    }
}
