//! Reads a journal without changing it and without disturbing the process that has it open.

mod presence;
mod read_only;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use audit_core::UniqueId;
use bytes::Bytes;

pub(crate) use self::presence::exists;
use self::presence::in_use;
use self::read_only::ReadOnlyDisk;
use crate::disk::Disk;
use crate::followers::{FollowerRecord, FollowerState};
use crate::format::{BatchPlace, FIRST_GROUP, Found};
use crate::plan::{self, Decided, DecidedObject};
use crate::recovery::{Recovered, RecoveredSegment};
use crate::routes::RouteName;
use crate::segment::{SegmentReader, Window};
use crate::startup::{cannot_open, cannot_recover, read_whole};
use crate::watermark::Watermark;
use crate::{OpenError, OpenErrorKind, Plan};

/// The current contents of a journal, as a recovery would find them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalState {
    /// Whether a process has it open. The contents may then change at any time.
    pub in_use: bool,
    /// The number of segment files.
    pub segments: u64,
    /// The disk space that they take, in bytes.
    pub bytes: u64,
    /// The streams in the journal, in the order in which they began.
    pub streams: Vec<JournalStream>,
    /// The planned objects that are not known to be in the bucket, and the set-aside objects.
    pub objects: Vec<PlannedObject>,
    /// The followers by number, including retired ones.
    pub followers: Vec<JournalFollower>,
    /// The routes by number, including retired ones, without the default route.
    pub routes: Vec<JournalRoute>,
}

impl JournalState {
    /// The number of records that are not known to be in the bucket.
    pub fn undelivered(&self) -> u64 {
        self.streams.iter().map(JournalStream::undelivered).sum()
    }

    /// The number of a route's records that are not known to be in its bucket.
    pub fn undelivered_of(&self, route: u32) -> u64 {
        let streams = self.streams.iter().filter(|stream| stream.route == route);
        streams.map(JournalStream::undelivered).sum()
    }

    /// Whether a stream of this route with evidence still lacks its last record, or its secret is
    /// still to be destroyed.
    pub fn is_ending(&self, route: u32) -> bool {
        self.streams.iter().any(|stream| stream.route == route && stream.has_secret)
    }
}

/// The records of one stream in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStream {
    /// The stream's name.
    pub stream: UniqueId,
    /// The number of its route, 0 for the default route.
    pub route: u32,
    /// Records below this number are in the bucket or were set aside after a conflict.
    pub delivered_to: u64,
    /// The sequence number after the last record.
    pub next_sequence: u64,
    /// Whether the journal holds its secret: whoever delivers the stream completes its evidence.
    pub has_secret: bool,
}

impl JournalStream {
    /// The number of records that are not known to be in the bucket.
    pub fn undelivered(&self) -> u64 {
        self.next_sequence.saturating_sub(self.delivered_to)
    }
}

/// A route in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRoute {
    /// Its number, which no other route of the journal ever gets.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Where its records go, without secrets.
    pub destination: String,
    /// Whether it is retired: everything is delivered, and nothing will be added.
    pub is_retired: bool,
}

/// A follower in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFollower {
    /// Its number, which no other follower of the journal ever gets.
    pub number: u32,
    /// The number of the route that it follows, 0 for the default route.
    pub route: u32,
    /// Its name.
    pub name: String,
    /// Whether records are delivered to it.
    pub state: FollowerState,
    /// A stream and a sequence number. The follower has the stream's records below this number and
    /// everything committed before, except the missing records.
    pub delivered_to: (UniqueId, u64),
    /// Records that were removed from the journal before the follower received them, including
    /// system records.
    pub missing: Vec<(UniqueId, Range<u64>)>,
    pub(crate) watermark: Watermark,
}

/// An object whose bytes are durable in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedObject {
    /// The records that it holds.
    pub plan: Plan,
    /// Whether it was set aside because another object has its place. It will not be sent.
    pub set_aside: bool,
    /// The file that holds it.
    pub file: PathBuf,
}

/// A batch in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalBatch {
    /// The stream of its records.
    pub stream: UniqueId,
    /// The number of the first record.
    pub first_sequence: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The records, each followed by one line feed.
    pub lines: Bytes,
}

impl JournalBatch {
    /// The number of records.
    pub fn records(&self) -> u64 {
        memchr::memchr_iter(b'\n', &self.lines).count() as u64
    }
}

/// A selection of a journal's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalRecords {
    /// Records that are not known to be in the bucket.
    Undelivered,
    /// Records that were delivered, or set aside after a conflict, and are still in the journal.
    Delivered,
    /// All records.
    All,
    /// Records that the follower with this number may lack.
    UndeliveredTo(u32),
}

/// A read-only view of a journal. It holds no lock, repairs and removes nothing, and does not
/// disturb a process that has the journal open. The lock is only probed for an instant, which a
/// host that starts meanwhile waits for.
///
/// Its methods do blocking I/O.
#[derive(Debug)]
pub struct JournalReader {
    state: JournalState,
    recovered: Recovered,
}

/// How often the journal is read while a process keeps changing it.
const TRIES: u32 = 10;

impl JournalReader {
    /// Whether this directory holds a journal, damaged or not. Other files may be in it.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn finds(directory: &Path) -> io::Result<bool> {
        presence::finds(directory)
    }

    /// Reads the current contents.
    ///
    /// # Errors
    ///
    /// [`Configuration`](OpenErrorKind::Configuration) if there is no journal,
    /// [`Unavailable`](OpenErrorKind::Unavailable) if a process changes it faster than it can be
    /// read, [`Damaged`](OpenErrorKind::Damaged) if acknowledged records are damaged or missing,
    /// and [`Blocked`](OpenErrorKind::Blocked) if a file cannot be read.
    pub fn open(directory: &Path) -> Result<JournalReader, OpenError> {
        exists(directory)?;
        let disk = ReadOnlyDisk(directory.to_owned());
        JournalReader::open_on(directory, &disk, || in_use(directory))
    }

    /// Like [`open`](Self::open), on this disk. `in_use` probes whether a process has it open.
    fn open_on(
        directory: &Path,
        disk: &dyn Disk,
        mut in_use: impl FnMut() -> io::Result<bool>,
    ) -> Result<JournalReader, OpenError> {
        let mut probe = || in_use().map_err(|error| cannot_open(directory, error));
        let mut tries = 0;
        loop {
            let was_in_use = probe()?;
            let read = read_whole(disk);
            // A host may have started since the first probe.
            let in_use = was_in_use || probe()?;
            let read = read.and_then(|(recovered, decided)| {
                let state = state(directory, disk, in_use, &recovered, &decided)?;
                Ok(JournalReader { state, recovered })
            });
            tries += 1;
            match read {
                Ok(reader) => return Ok(reader),
                // Meanwhile a segment was removed, or a group was written after the end that was
                // found. A host that did so may have started and died since.
                Err(_) if tries < if in_use { TRIES } else { 2 } => {}
                Err(error) if in_use => {
                    let message = format!(
                        "the journal in {} could not be read while a process writes to it: try again",
                        directory.display()
                    );
                    return Err(
                        OpenError::new(OpenErrorKind::Unavailable, message).with_source(error)
                    );
                }
                Err(error) => return Err(cannot_recover(directory, error)),
            }
        }
    }

    /// The journal's contents.
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Passes the batches of these records to `take` in order, until it returns false. System
    /// records are skipped. Batches are read from the disk one at a time.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, for example because the process that has the journal open has
    /// delivered and removed it.
    pub fn batches(
        &self,
        records: JournalRecords,
        mut take: impl FnMut(JournalBatch) -> bool,
    ) -> io::Result<()> {
        let mut window = Window::default();
        for recovered in &self.recovered.segments {
            let routed = recovered.all_routed().map(|of| (of.stream, of.first..of.next));
            let default = (recovered.stream, recovered.first_sequence..recovered.next_sequence);
            let selected = std::iter::once(default).chain(routed).filter_map(|(stream, held)| {
                let wanted = self.selected(records, recovered, stream);
                (held.end > wanted.start && wanted.end > held.start).then_some((stream, wanted))
            });
            let selected: BTreeMap<_, _> = selected.collect();
            if selected.is_empty() {
                continue;
            }
            let mut reader = SegmentReader::new(recovered.segment.clone(), FIRST_GROUP, window);
            reader.limit(recovered.end);
            while reader.position().offset < recovered.end {
                let Found::Group(header) = reader.look()? else {
                    let what = format!("a group has disappeared at {}", reader.position());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                };
                let (places, payload) = reader.batches(&header)?;
                for place in places.into_iter().filter(|place| !place.is_system) {
                    let BatchPlace { stream, first_sequence, time_ms, count, lines, .. } = place;
                    let next = first_sequence + u64::from(count);
                    let is_selected = selected
                        .get(&stream)
                        .is_some_and(|wanted| next > wanted.start && first_sequence < wanted.end);
                    if is_selected {
                        let lines = Bytes::copy_from_slice(&payload[lines]);
                        if !take(JournalBatch { stream, first_sequence, time_ms, lines }) {
                            return Ok(());
                        }
                    }
                }
                reader.step_over(&header);
            }
            window = reader.into_window();
        }
        Ok(())
    }

    /// The selected records of a stream in a segment.
    fn selected(
        &self,
        records: JournalRecords,
        segment: &RecoveredSegment,
        stream: UniqueId,
    ) -> Range<u64> {
        let known = self.state.streams.iter().find(|known| known.stream == stream);
        let delivered_to = known.map_or(0, |known| known.delivered_to);
        match records {
            JournalRecords::Undelivered => delivered_to..u64::MAX,
            JournalRecords::Delivered => 0..delivered_to,
            JournalRecords::All => 0..u64::MAX,
            JournalRecords::UndeliveredTo(number) => {
                let mut followers = self.state.followers.iter();
                let Some(follower) = followers.find(|known| known.number == number) else {
                    return 0..0;
                };
                // A follower gets only the records of its route.
                let mut left = follower.watermark.left(&segment.of_route(follower.route));
                left.retain(|left| left.stream == stream);
                left.pop().map_or(0..0, |left| left.records.start..u64::MAX)
            }
        }
    }
}

pub(crate) fn state(
    directory: &Path,
    disk: &dyn Disk,
    in_use: bool,
    recovered: &Recovered,
    decided: &Decided,
) -> io::Result<JournalState> {
    let mut streams: BTreeMap<UniqueId, JournalStream> = BTreeMap::new();
    for (stream, progress) in &decided.delivered {
        let (stream, route, delivered_to) = (*stream, progress.route, progress.next);
        let (next_sequence, has_secret) = (delivered_to, decided.secrets.contains_key(&stream));
        let known = JournalStream { stream, route, delivered_to, next_sequence, has_secret };
        streams.insert(stream, known);
    }
    let in_segments = recovered.segments.iter().flat_map(|segment| {
        let routed = segment.all_routed().map(|records| (records.stream, records.next));
        std::iter::once((segment.stream, segment.next_sequence)).chain(routed)
    });
    // A route's records that are in objects may be in no segment any more.
    let planned = decided.planned_to().into_iter();
    let planned = planned.filter(|(stream, _)| decided.route_of(*stream) > 0);
    for (stream, next) in in_segments.chain(planned) {
        if let Some(known) = streams.get_mut(&stream) {
            known.next_sequence = known.next_sequence.max(next);
        }
    }
    let planned = decided.objects.iter().filter(|object| !object.set_aside);
    let planned = planned.map(|DecidedObject { plan, .. }| (*plan, false));
    let conflicts = plan::conflicts(disk)?.into_iter().map(|plan| (plan, true));
    let objects = conflicts.chain(planned).map(|(plan, set_aside)| {
        let name = if set_aside { plan.conflict_name() } else { plan.file_name() };
        PlannedObject { plan, set_aside, file: directory.join(name) }
    });
    Ok(JournalState {
        in_use,
        segments: recovered.segments.len() as u64,
        bytes: recovered.segments.iter().map(|segment| segment.segment.header.bytes).sum(),
        // Streams without records are left out.
        streams: streams.into_values().filter(|stream| stream.next_sequence > 0).collect(),
        objects: objects.collect(),
        followers: decided.followers.iter().map(JournalFollower::of).collect(),
        routes: decided.routes.iter().map(JournalRoute::of).collect(),
    })
}

impl JournalRoute {
    pub(crate) fn of((number, row): (u32, &RouteName)) -> JournalRoute {
        let RouteName { name, destination, is_retired } = row.clone();
        JournalRoute { number, name, destination, is_retired }
    }
}

impl JournalFollower {
    fn of(record: &FollowerRecord) -> JournalFollower {
        let FollowerRecord { number, route, name, writes: _, state, watermark, cuts: _, missing } =
            record.clone();
        let delivered_to = (watermark.stream, watermark.next);
        JournalFollower { number, route, name, state, delivered_to, missing, watermark }
    }
}
