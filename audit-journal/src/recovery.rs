//! Recovers the journal of an earlier process, and fails if acknowledged records are damaged.
//!
//! Each group records the end of the durable journal when it was written, which is the end of the
//! previous group. The acknowledged groups therefore form a chain, in which a missing link is
//! detected. At most one group at the end of the chain was not acknowledged; if the power was cut
//! while it was written, pieces of it are zero.
//!
//! There is another kind of unacknowledged group: one that found no space. It is the last of its
//! segment, complete or torn, and the next group, in a later segment, names the same predecessor.
//! It is therefore not a link of the chain and is skipped. If it is the only group of its segment,
//! the segment has no records although later ones do.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use audit_core::UniqueId;

use crate::begin::{BEGIN, read_begin};
use crate::disk::{Disk, remove_if_there};
use crate::format::{BatchPlace, FIRST_GROUP, Found, GroupHeader, Position, look};
use crate::recovery_error::RecoveryError;
use crate::segment::{Segment, SegmentReader, Window, file_name, ordinal_of};
use crate::watermark::HeldRecords;

/// A completely read journal.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The segments that hold records, in order.
    pub(crate) segments: Vec<RecoveredSegment>,
    /// The end of the last group, after all acknowledged records.
    pub(crate) end: Position,
    pub(crate) next_ordinal: u32,
}

/// A segment with records, of one stream of the default route and any number of other routes'.
#[derive(Debug, Clone)]
pub(crate) struct RecoveredSegment {
    pub(crate) segment: Segment,
    /// The stream of the default route.
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    /// The sequence number after its last record.
    pub(crate) next_sequence: u64,
    /// The end of its last group.
    pub(crate) end: u64,
    /// The streams of each other route, in their order.
    pub(crate) routed: BTreeMap<u32, Vec<RoutedRecords>>,
}

/// The records of one stream of a route in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoutedRecords {
    pub(crate) stream: UniqueId,
    /// The number of the first record.
    pub(crate) first: u64,
    /// The sequence number after the last record.
    pub(crate) next: u64,
    /// The records without the system records at either end.
    pub(crate) logged: Range<u64>,
}

impl RecoveredSegment {
    /// A segment without records yet, up to the offset `end`.
    fn empty(segment: Segment, stream: UniqueId, first_sequence: u64, end: u64) -> Self {
        let (next_sequence, routed) = (first_sequence, BTreeMap::new());
        RecoveredSegment { segment, stream, first_sequence, next_sequence, end, routed }
    }

    /// Its streams of other routes than the default one.
    pub(crate) fn all_routed(&self) -> impl Iterator<Item = &RoutedRecords> {
        self.routed.values().flatten()
    }

    /// The records that it holds for the followers of a route, 0 for the default route.
    pub(crate) fn of_route(&self, route: u32) -> Vec<HeldRecords> {
        let ordinal = self.segment.header.ordinal;
        let held = |stream, records| HeldRecords { ordinal, stream, records };
        if route == 0 {
            return vec![held(self.stream, self.first_sequence..self.next_sequence)];
        }
        let of_route = self.routed.get(&route).into_iter().flatten();
        let logged = of_route.filter(|of| !of.logged.is_empty());
        logged.map(|of| held(of.stream, of.logged.clone())).collect()
    }

    /// Adds the default route's records in a group at `here` that ends at `end`.
    fn add(&mut self, header: &GroupHeader, here: Position, end: u64) -> Result<(), RecoveryError> {
        let GroupHeader { first_sequence: first, count, .. } = *header;
        if self.next_sequence != first {
            let expected = self.next_sequence;
            let what = format!("record {first} follows, but record {expected} is next");
            return Err(damaged(here, what));
        }
        self.next_sequence = first
            .checked_add(u64::from(count))
            .ok_or_else(|| damaged(here, "the numbers of its records are too large"))?;
        self.end = end;
        Ok(())
    }

    /// Adds the routes' records in a group. Returns the records that the segment had of these
    /// routes before.
    fn add_routed(
        &mut self,
        places: &[BatchPlace],
        here: Position,
    ) -> Result<BTreeMap<u32, Vec<RoutedRecords>>, RecoveryError> {
        let mut before = BTreeMap::new();
        for place in places.iter().filter(|place| place.route > 0) {
            let BatchPlace { route, stream, first_sequence: first, count, is_system, .. } = *place;
            let of_route = self.routed.entry(route).or_default();
            before.entry(route).or_insert_with(|| of_route.clone());
            if of_route.last().is_none_or(|last| last.stream != stream) {
                if of_route.iter().any(|known| known.stream == stream) {
                    let what = format!(
                        "route {route} has records of stream {stream} after those of the next"
                    );
                    return Err(damaged(here, what));
                }
                let logged = first..first;
                of_route.push(RoutedRecords { stream, first, next: first, logged });
            }
            let records = of_route.last_mut().expect("pushed above");
            if records.next != first {
                let expected = records.next;
                let what = format!(
                    "record {first} of route {route} follows, but record {expected} is next"
                );
                return Err(damaged(here, what));
            }
            records.next += u64::from(count);
            if !is_system {
                if records.logged.is_empty() {
                    records.logged.start = first;
                }
                records.logged.end = records.next;
            }
        }
        Ok(before)
    }

    /// Removes its last group, which was abandoned.
    fn remove_last(&mut self, last: &LastGroup) {
        (self.next_sequence, self.end) = (last.header.first_sequence, last.offset);
        self.routed.extend(last.routed_before.clone());
        self.routed.retain(|_, streams| !streams.is_empty());
    }
}

fn damaged(position: Position, what: impl Into<String>) -> RecoveryError {
    let file = file_name(position.ordinal);
    RecoveryError::Damaged { file, offset: position.offset, what: what.into() }
}

const FIRST_ORDINAL: u32 = 1;

/// The number of segments read ahead of the current one: enough to keep a disk busy, and small
/// compared with a host's memory.
const SEGMENTS_AHEAD: usize = 3;

/// Reads a journal and removes unfinished files.
///
/// Names and contents are synced before they are trusted: they may be only in the kernel's memory,
/// and another power cut would undo the basis of this recovery's decisions. The last group is also
/// [rewritten](rewrite).
///
/// A crash in here changes nothing for the next recovery. Segments before `begin` are no longer
/// needed. Other removed segments hold no records, and they are removed one by one from the end, so
/// that no gap appears.
pub(crate) fn recover(disk: &dyn Disk) -> Result<Recovered, RecoveryError> {
    disk.sync_directory()?;
    let (begin, ordinals) = find_segments(disk)?;
    let mut chain = Chain { begin, last: None, before: None };
    let (segments, empty_from) = read_segments(disk, &ordinals, &mut chain)?;
    // Segments without a complete group are prepared again: nothing in them was acknowledged, and
    // each opening then writes only to its own segments.
    let next_ordinal = empty_from.or_else(|| Some(ordinals.last()? + 1)).unwrap_or(begin);
    for ordinal in ordinals.iter().rev().filter(|ordinal| **ordinal >= next_ordinal) {
        disk.remove(&file_name(*ordinal))?;
        disk.sync_directory()?;
    }
    if let Some(last) = &chain.last {
        rewrite(last)?;
    }
    let end = chain.last.map_or(Position { ordinal: 0, offset: 0 }, |last| last.end);
    Ok(Recovered { segments, end, next_ordinal })
}

/// Returns the first ordinal that is still needed, and the ordinals of the segments from there on,
/// which have no gap. Removes earlier segments and unfinished ones.
fn find_segments(disk: &dyn Disk) -> Result<(u32, Vec<u32>), RecoveryError> {
    let mut ordinals = Vec::new();
    let mut begin = FIRST_ORDINAL;
    for name in disk.list()? {
        if name.ends_with(".preparing") {
            // A concurrent replay may have renamed it since.
            remove_if_there(disk, &name)?;
        } else if name == BEGIN {
            begin = read_begin(disk)?;
        } else if let Some(ordinal) = ordinal_of(&name) {
            ordinals.push(ordinal);
        }
    }
    ordinals.sort_unstable();
    // Segments before `begin` are no longer needed. That is durable, since the directory was synced
    // before.
    let removed = ordinals.partition_point(|ordinal| *ordinal < begin);
    for ordinal in ordinals.drain(..removed) {
        disk.remove(&file_name(ordinal))?;
    }
    if let Some((_, missing)) =
        ordinals.iter().zip(begin..).find(|(ordinal, expected)| *ordinal != expected)
    {
        return Err(damaged(Position { ordinal: missing, offset: 0 }, "the segment is missing"));
    }
    Ok((begin, ordinals))
}

/// Reads the segments up to the last one with a complete group. Also returns the ordinal of the
/// first one after it.
fn read_segments(
    disk: &dyn Disk,
    ordinals: &[u32],
    chain: &mut Chain,
) -> Result<(Vec<RecoveredSegment>, Option<u32>), RecoveryError> {
    let mut segments: Vec<RecoveredSegment> = Vec::new();
    // The segments without a complete group so far.
    let mut empty: Vec<Segment> = Vec::new();
    let mut window = Window::default();
    let mut ahead = ordinals.iter();
    ahead.by_ref().take(SEGMENTS_AHEAD).for_each(|ordinal| disk.read_ahead(&file_name(*ordinal)));
    for ordinal in ordinals {
        if let Some(ordinal) = ahead.next() {
            disk.read_ahead(&file_name(*ordinal));
        }
        let segment = match Segment::open(disk, *ordinal)? {
            Ok(segment) => segment,
            Err(what) => return Err(damaged(Position { ordinal: *ordinal, offset: 0 }, what)),
        };
        let recovered;
        let last_segment = segments.last_mut();
        (recovered, window) = read_segment(segment.clone(), chain, last_segment, window)?;
        let Some(recovered) = recovered else {
            empty.push(segment);
            continue;
        };
        // The chain continues after these segments, so they had no acknowledged records.
        let RecoveredSegment { stream, first_sequence, .. } = recovered;
        segments.extend(
            empty.drain(..).map(|segment| {
                RecoveredSegment::empty(segment, stream, first_sequence, FIRST_GROUP)
            }),
        );
        segments.push(recovered);
    }
    Ok((segments, empty.first().map(|segment| segment.header.ordinal)))
}

/// The end of the chain of groups, as far as it was read.
struct Chain {
    /// Segments before this one were delivered and removed.
    begin: u32,
    /// Unknown before the first group.
    last: Option<LastGroup>,
    /// The group before the last one, in case the last was not acknowledged.
    before: Option<LastGroup>,
}

#[derive(Clone)]
struct LastGroup {
    segment: Segment,
    offset: u64,
    header: GroupHeader,
    end: Position,
    /// The records that its segment had, before this group, of each route in the group.
    routed_before: BTreeMap<u32, Vec<RoutedRecords>>,
}

impl Chain {
    /// Skips the last group and returns it if this header, of a later segment's first group, shows
    /// that it was abandoned.
    fn skip_abandoned(&mut self, header: &GroupHeader) -> Option<LastGroup> {
        let GroupHeader { stream, first_sequence, durable, .. } = header;
        let last = self.last.take_if(|last| {
            (last.header.durable, last.header.stream, last.header.first_sequence)
                == (*durable, *stream, *first_sequence)
        })?;
        self.last = self.before.take();
        Some(last)
    }

    /// Checks that a group with this header, at `here`, follows the last one.
    fn check(&self, header: &GroupHeader, here: Position) -> Result<(), RecoveryError> {
        match self.last.as_ref().map(|last| last.end) {
            Some(end) if header.durable > end => {
                let what = format!("acknowledged groups up to {} are missing", header.durable);
                Err(damaged(end, what))
            }
            Some(end) if header.durable < end => {
                let what = format!("a group that should follow {} follows {end}", header.durable);
                Err(damaged(here, what))
            }
            None if header.durable.ordinal >= self.begin => {
                let what = "an acknowledged group before this one is missing";
                Err(damaged(here, what))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Makes the last group durable if it is not.
///
/// If its sync failed and only the process ended, the kernel may hold the group in memory marked as
/// clean: it can be read, but no sync writes it, and a power cut removes it, possibly after it was
/// delivered and later groups were acknowledged. Rewriting marks the pages as dirty. Only the last
/// group can be in this state, since nothing is committed after a failed sync.
///
/// After a crash in here, a durable group is still intact, since its sectors are overwritten with
/// the same bytes. A group that was not durable is complete or torn, and no caller has a receipt
/// for it.
fn rewrite(last: &LastGroup) -> io::Result<()> {
    let LastGroup { segment, offset, header, end: _, routed_before: _ } = last;
    let len = usize::try_from(header.group_bytes()).map_err(io::Error::other)?;
    let mut group = vec![0; len];
    segment.file.read_exact_at(&mut group, *offset)?;
    // The kernel may have read the group from the disk again.
    match look(&group, segment.header.salt) {
        Found::Group(found) if found == *header => {}
        Found::Group(_) | Found::Nothing | Found::Torn | Found::Damaged(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a group changed while it was read",
            ));
        }
    }
    segment.file.write_all_at(&group, *offset)?;
    segment.file.sync_data()
}

/// Reads one segment up to its last group. Returns `None` if it has no groups. `before` is the
/// previous segment with groups.
fn read_segment(
    segment: Segment,
    chain: &mut Chain,
    mut before: Option<&mut RecoveredSegment>,
    window: Window,
) -> Result<(Option<RecoveredSegment>, Window), RecoveryError> {
    let mut reader = SegmentReader::new(segment.clone(), FIRST_GROUP, window);
    let mut recovered: Option<RecoveredSegment> = None;
    loop {
        let here = reader.position();
        if here.offset >= segment.header.bytes {
            return Ok((recovered, reader.into_window()));
        }
        let header = match reader.look()? {
            Found::Group(header) => header,
            Found::Damaged(what) => return Err(damaged(here, what)),
            // Each group was written when the one before it was durable.
            Found::Nothing | Found::Torn if reader.has_group_behind()? => {
                return Err(damaged(
                    here,
                    "an acknowledged group is missing, although later ones exist",
                ));
            }
            Found::Nothing | Found::Torn => return Ok((recovered, reader.into_window())),
        };
        if recovered.is_none()
            && let Some(before) = &mut before
            && let Some(abandoned) = chain.skip_abandoned(&header)
        {
            before.remove_last(&abandoned);
        }
        chain.check(&header, here)?;
        let GroupHeader { stream, first_sequence, .. } = header;
        let recovered = recovered.get_or_insert_with(|| {
            RecoveredSegment::empty(segment.clone(), stream, first_sequence, here.offset)
        });
        if recovered.stream != stream {
            return Err(damaged(here, "the segment holds a group of another stream"));
        }
        let places = reader.routed(&header)?;
        reader.step_over(&header);
        let end = reader.position();
        let routed_before = recovered.add_routed(&places, here)?;
        recovered.add(&header, here, end.offset)?;
        let offset = here.offset;
        let group = LastGroup { segment: segment.clone(), offset, header, end, routed_before };
        chain.before = chain.last.replace(group);
    }
}
