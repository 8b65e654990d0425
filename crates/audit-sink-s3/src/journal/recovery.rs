//! What a journal was left with: read whole, or refused where acknowledged records are damaged.
//!
//! Each group says up to where the journal was durable when it was written, which is where the group before it ended. So what was
//! acknowledged is a chain, and a link that is missing in the middle of it shows. At the end of the chain stands at most one group that was
//! not acknowledged; if the power was cut while it was written, pieces of it are zero.

use std::fmt;
use std::io;

use audit_core::UniqueId;

use super::disk::Disk;
use super::format::{FIRST_GROUP, Found, Position};
use super::segment::{Segment, SegmentReader, ordinal_of};

/// A journal that was read whole.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The segments that hold records, in order.
    pub(crate) segments: Vec<RecoveredSegment>,
    /// Where the last group ends. What was acknowledged is before this.
    pub(crate) end: Position,
    /// The ordinal of the next segment to be made.
    pub(crate) next_ordinal: u32,
}

/// A segment that holds records, all of one stream.
#[derive(Debug)]
pub(crate) struct RecoveredSegment {
    pub(crate) segment: Segment,
    pub(crate) stream: UniqueId,
    /// The number of its first record.
    pub(crate) first_sequence: u64,
    /// The number after that of its last record.
    pub(crate) next_sequence: u64,
    /// Where its last group ends.
    pub(crate) end: u64,
}

/// A journal that cannot be opened.
#[derive(Debug)]
pub(crate) enum RecoveryError {
    /// Records that were acknowledged are damaged or missing.
    Damaged {
        /// The file.
        file: String,
        /// In bytes.
        offset: u64,
        what: String,
    },
    /// The operating system failed.
    Io(io::Error),
}

impl From<io::Error> for RecoveryError {
    fn from(error: io::Error) -> RecoveryError {
        RecoveryError::Io(error)
    }
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Damaged { file, offset, what } => {
                write!(f, "the journal is damaged in {file} at byte {offset}: {what}")
            }
            RecoveryError::Io(_) => f.write_str("the journal cannot be read"),
        }
    }
}

impl std::error::Error for RecoveryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecoveryError::Damaged { .. } => None,
            RecoveryError::Io(error) => Some(error),
        }
    }
}

fn damaged(position: Position, what: impl Into<String>) -> RecoveryError {
    let file = super::segment::file_name(position.ordinal);
    RecoveryError::Damaged { file, offset: position.offset, what: what.into() }
}

/// Reads a journal, and removes what was being prepared in it.
///
/// Names and contents are synced before they are believed: they may be in the kernel's memory alone, and another power cut would take back
/// what this decided by.
///
/// A crash in here changes nothing that the next recovery would read otherwise: what is removed holds no records.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Recovered, RecoveryError> {
    disk.sync_directory()?;
    let mut ordinals = Vec::new();
    for name in disk.list()? {
        if name.ends_with(".preparing") {
            disk.remove(&name)?;
        } else if let Some(ordinal) = ordinal_of(&name) {
            ordinals.push(ordinal);
        }
    }
    ordinals.sort_unstable();
    if let Some(gap) = ordinals.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(damaged(Position { ordinal: gap[0] + 1, offset: 0 }, "the segment is missing"));
    }

    let mut segments: Vec<RecoveredSegment> = Vec::new();
    // Unknown before the first group: what came before that may have been delivered and removed.
    let mut end: Option<Position> = None;
    let mut empty_from = None;
    for ordinal in &ordinals {
        let segment = match Segment::open(disk, *ordinal)? {
            Ok(segment) => segment,
            Err(what) => return Err(damaged(Position { ordinal: *ordinal, offset: 0 }, what)),
        };
        match (read_segment(segment, &mut end)?, empty_from) {
            (Some(_), Some(empty)) => {
                let what = "the segment is empty, and later ones are not";
                return Err(damaged(Position { ordinal: empty, offset: FIRST_GROUP }, what));
            }
            (Some(recovered), None) => segments.push(recovered),
            (None, _) => empty_from = empty_from.or(Some(*ordinal)),
        }
    }

    // Segments without a whole group are made anew: nothing in them was acknowledged, and none is then older than the
    // opening that writes to it.
    let next_ordinal = empty_from.or_else(|| Some(ordinals.last()? + 1)).unwrap_or(1);
    for ordinal in ordinals.iter().rev().filter(|ordinal| **ordinal >= next_ordinal) {
        disk.remove(&super::segment::file_name(*ordinal))?;
    }
    disk.sync_directory()?;
    Ok(Recovered { segments, end: end.unwrap_or(Position { ordinal: 0, offset: 0 }), next_ordinal })
}

/// Reads one segment, and moves `end` behind its last group. `None` if it has none.
fn read_segment(
    segment: Segment,
    end: &mut Option<Position>,
) -> Result<Option<RecoveredSegment>, RecoveryError> {
    let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP);
    let mut recovered: Option<RecoveredSegment> = None;
    loop {
        let here = reader.position();
        if here.offset >= segment.header.bytes {
            return Ok(recovered);
        }
        let header = match reader.look()? {
            Found::Group(header) => header,
            Found::Damaged(what) => return Err(damaged(here, what)),
            // Each group was written when the one before it was durable.
            Found::Nothing | Found::Torn if reader.has_group_behind()? => {
                return Err(damaged(here, "a group that was acknowledged is not there, and later ones are"));
            }
            Found::Nothing | Found::Torn => return Ok(recovered),
        };
        match *end {
            Some(end) if header.durable > end => {
                return Err(damaged(
                    end,
                    format!("what was acknowledged up to {} is not there", header.durable),
                ));
            }
            Some(end) if header.durable < end => {
                return Err(damaged(
                    here,
                    format!("a group that followed {} stands behind {end}", header.durable),
                ));
            }
            Some(_) => {}
            None if header.durable >= here => {
                return Err(damaged(here, "a group says that it was written after itself"));
            }
            None => {}
        }
        match &mut recovered {
            None => {
                recovered = Some(RecoveredSegment {
                    segment: segment.clone(),
                    stream: header.stream,
                    first_sequence: header.first_sequence,
                    next_sequence: header.first_sequence,
                    end: here.offset,
                });
            }
            Some(recovered) if recovered.stream != header.stream => {
                return Err(damaged(here, "a group of another stream stands in the segment"));
            }
            Some(_) => {}
        }
        reader.step_over(&header);
        if let Some(recovered) = &mut recovered {
            if recovered.next_sequence != header.first_sequence {
                let expected = recovered.next_sequence;
                return Err(damaged(
                    here,
                    format!("record {} stands where record {expected} should", header.first_sequence),
                ));
            }
            recovered.next_sequence += u64::from(header.count);
            recovered.end = reader.position().offset;
        }
        *end = Some(reader.position());
    }
}
