//! Simulates the journal on a disk that fails and loses data as a seed decides. Every acknowledged
//! record is in the journal once, in order.
//!
//! A seed opens one journal several times in succession: it recovers, commits groups with faults,
//! stops anywhere, and loses the power or only the process. Before each opening, a checker that
//! shares no code with the journal reads what is left, and checks that:
//!
//! - Every record whose commit returned is there once, at its place. Nothing else is, except
//!   possibly the whole last group of an opening whose last commit did not return. A commit that
//!   found no space counts as not returned until a later commit returns.
//! - Recovery never changes its decision about such a group, which may be in the bucket by then, or
//!   counted as lost.
//! - Recovery succeeds, and reads what the checker reads.
//!
//! `cargo test -p audit-journal --lib simulation::journal` runs 300 seeds. For more or other
//! seeds:
//!
//! ```text
//! AUDIT_SIMULATION_FIRST_SEED=1000000 AUDIT_SIMULATION_SEEDS=2000000 \
//!     cargo test --release -p audit-journal --lib simulation::journal::acknowledged -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "most variants differ in one place from the journal as it is"
)]

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use audit_core::{Batch, UniqueId};

use crate::begin::note_begin;
use crate::disk::Disk;
use crate::format::{EncodedBatch, FIRST_GROUP, Group, Position, SegmentHeader};
use crate::recovery::{Recovered, recover};
use crate::recovery_error::RecoveryError;
use crate::segment::{Segment, file_name, preparing_name};
use crate::segment_writer::{CommitError, SegmentWriter};
use crate::simulation::checkers::journal::{Reading, StreamReading, read};
use crate::simulation::disk::{Calls, Dice, Fault, Mischief, SimulatedDisk};
use crate::simulation::each_seed;

/// The real journal, or a known-bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    AsItIs,
    /// A commit returns once the group is written.
    CommitDoesNotSync,
    /// A commit returns before its sync has completed.
    AcknowledgesBeforeSync,
    /// A failed sync is retried.
    RetriesFailedSync,
    /// The name of a new segment is not made durable.
    PreparesWithoutDirectorySync,
    /// A segment is renamed before its header is durable.
    PreparesWithoutFileSync,
    /// A segment has the bytes of an old one instead of zeros, and its salt.
    RecyclesSegments,
    /// Recovery does not make durable the names that it read and removed.
    RecoversWithoutDirectorySync,
    /// Recovery does not rewrite the last group.
    RecoversWithoutWritingAgain,
    /// An opening appends after the last group, in its stream, where a torn group may be.
    AppendsAfterTear,
    /// A failed commit does not stop the journal: the next group is written after it.
    GoesOnAfterFailure,
    /// The next commit overwrites one that found no space.
    OverwritesAfterNoSpace,
    /// The next commit takes one that found no space for written.
    CountsAfterNoSpace,
}

type Lines = Vec<Vec<u8>>;

/// The commits of one opening.
#[derive(Debug)]
struct Stream {
    id: UniqueId,
    /// Groups whose commit returned, or that a recovery has found.
    groups: Vec<Lines>,
    /// Groups whose commit did not return. One of them may be in the journal after `groups`.
    unknown: Vec<Lines>,
    /// Records below this number were in a removed segment.
    delivered: u64,
}

impl Stream {
    fn next_sequence(&self) -> u64 {
        self.groups.iter().map(|group| group.len() as u64).sum()
    }

    /// Checks that the acknowledged groups are in `there`, and returns the group after them, if
    /// there is one.
    fn found(&self, there: Option<&StreamReading>) -> Result<Option<&Lines>, String> {
        let Stream { id, groups, unknown, delivered } = self;
        let must = self.next_sequence();
        let Some(there) = there else {
            if must > *delivered {
                return Err(format!("stream {id} is lost: {must} records were acknowledged"));
            }
            return Ok(None);
        };
        if there.first > *delivered {
            return Err(format!("stream {id} begins with {}, not {delivered}", there.first));
        }
        let skipped = usize::try_from(there.first).unwrap();
        let acknowledged = groups.iter().flatten().skip(skipped);
        let left = acknowledged.clone().count();
        if there.records.len() < left {
            let end = there.first + there.records.len() as u64;
            return Err(format!("stream {id} ends at {end}; {must} records were acknowledged"));
        }
        let (records, behind) = there.records.split_at(left);
        if let Some(at) = acknowledged.zip(records).position(|(line, record)| line != record) {
            return Err(format!("stream {id}: record {} is not what was written", at + skipped));
        }
        match unknown.iter().find(|group| *group == behind) {
            None if !behind.is_empty() => {
                Err(format!("stream {id}: {} records behind {must} are there", behind.len()))
            }
            found => Ok(found),
        }
    }
}

/// Counts of what happened in a seed.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    /// The number of acknowledged records.
    acknowledged: u64,
    /// The number of groups for which there was no space.
    without_space: u64,
}

struct Simulation {
    disk: SimulatedDisk,
    dice: Dice,
    variant: Variant,
    streams: Vec<Stream>,
    records: u64,
    acknowledged: u64,
    /// The number of groups for which there was no space.
    without_space: u64,
    segment_bytes: u64,
}

impl Simulation {
    fn new(seed: u64, variant: Variant) -> Simulation {
        let mut dice = Dice::new(seed);
        let disk = SimulatedDisk::new(dice.draw());
        let honest = Mischief::default();
        match variant {
            Variant::CommitDoesNotSync => {
                disk.set_mischief(Mischief { no_sync_data: true, ..honest })
            }
            Variant::AcknowledgesBeforeSync => {
                disk.set_mischief(Mischief { late_sync_data: true, ..honest })
            }
            Variant::RetriesFailedSync => {
                disk.set_mischief(Mischief { retry_sync_data: true, ..honest })
            }
            _ => {}
        }
        let segment_bytes = dice.within(5..17) as u64 * 4096;
        Simulation {
            disk,
            dice,
            variant,
            streams: Vec::new(),
            records: 0,
            acknowledged: 0,
            without_space: 0,
            segment_bytes,
        }
    }

    fn run(mut self) -> Result<Figures, String> {
        for _ in 0..self.dice.within(2..6) {
            self.plan_trouble();
            if let Some(recovered) = self.open()? {
                self.work(&recovered)?;
            }
            if self.dice.chance(7, 10) { self.disk.crash() } else { self.disk.kill() }
        }
        self.disk.crash();
        self.open()?.ok_or("recovery does not succeed on a disk that works")?;
        Ok(Figures { acknowledged: self.acknowledged, without_space: self.without_space })
    }

    fn plan_trouble(&mut self) {
        let now = self.disk.operation();
        let ahead = |dice: &mut Dice| {
            let most = [12, 40, 90][dice.below(3)];
            now + dice.below(most) as u64
        };
        let tears = self.variant == Variant::AppendsAfterTear;
        if tears || self.dice.chance(1, 2) {
            let at = ahead(&mut self.dice);
            self.disk.stop_at(at);
        }
        if self.dice.chance(2, 5) {
            let from = ahead(&mut self.dice);
            let calls = if self.dice.chance(2, 3) { 1 } else { self.dice.within(1..6) as u64 };
            self.disk.fail(from..from + calls, Fault::any(&mut self.dice));
        }
        if !tears && self.dice.chance(1, 4) {
            let from = ahead(&mut self.dice);
            let calls = [1, 4, 20][self.dice.below(3)];
            self.disk.lack_space(from..from + calls);
        }
    }

    /// Runs `body` on a known-bad system.
    fn with_mischief<T>(
        &self,
        variant: Variant,
        mischief: Mischief,
        body: impl FnOnce() -> T,
    ) -> T {
        let kept = self.disk.mischief();
        if self.variant == variant {
            self.disk.set_mischief(mischief);
        }
        let result = body();
        self.disk.set_mischief(kept);
        result
    }

    /// Recovers, retrying if the disk fails. `None` if the process died.
    fn open(&mut self) -> Result<Option<Recovered>, String> {
        loop {
            let reading = read(&self.disk.files())?;
            self.compare(&reading)?;
            let (no_names, no_writing) = (
                Mischief { no_sync_directory: true, ..Mischief::default() },
                Mischief { no_sync_data: true, ..Mischief::default() },
            );
            let recovered =
                self.with_mischief(Variant::RecoversWithoutDirectorySync, no_names, || {
                    self.with_mischief(Variant::RecoversWithoutWritingAgain, no_writing, || {
                        recover(&self.disk)
                    })
                });
            match recovered {
                Ok(recovered) => {
                    agrees(&recovered, &reading)?;
                    let names = self.disk.names();
                    let taken = names.iter().any(|name| {
                        name.ends_with(".journal") && *name >= file_name(recovered.next_ordinal)
                    });
                    if taken {
                        return Err(format!(
                            "{names:?} are left, next is {}",
                            recovered.next_ordinal
                        ));
                    }
                    self.settle(&reading);
                    return Ok(Some(recovered));
                }
                Err(RecoveryError::Io(_)) if self.disk.is_stopped() => return Ok(None),
                Err(RecoveryError::Io(_)) => {}
                Err(error @ RecoveryError::Damaged { .. }) => {
                    return Err(format!("recovery refuses: {error}"));
                }
            }
        }
    }

    /// Checks that the journal has exactly what was acknowledged.
    fn compare(&self, reading: &Reading) -> Result<(), String> {
        let mut found = reading.streams.iter().peekable();
        for stream in &self.streams {
            let id = stream.id.to_string();
            stream.found(found.next_if(|there| there.stream == id))?;
        }
        match found.next() {
            Some(there) => Err(format!("stream {} was never written, or not there", there.stream)),
            None => Ok(()),
        }
    }

    /// Notes the decision of a recovery, which later ones must keep.
    fn settle(&mut self, reading: &Reading) {
        for stream in &mut self.streams {
            let id = stream.id.to_string();
            let there = reading.streams.iter().find(|there| there.stream == id);
            let found = stream.found(there).expect("compared before").cloned();
            stream.groups.extend(found);
            stream.unknown.clear();
        }
    }

    /// One opening: commits until something ends it.
    fn work(&mut self, recovered: &Recovered) -> Result<(), String> {
        let id =
            UniqueId::from_bits(u128::from(self.dice.draw()) << 64 | self.streams.len() as u128);
        let mut writer = Writer::new(self.variant, id, recovered);
        if let Writer::Bad(BadWriter { open: Some(_), stream, .. }) = &writer {
            let at = self.streams.iter().position(|known| known.id == *stream).unwrap();
            self.streams.truncate(at + 1);
        } else {
            let (groups, unknown) = (Vec::new(), Vec::new());
            self.streams.push(Stream { id, groups, unknown, delivered: 0 });
        }
        let mut next_ordinal = recovered.next_ordinal;
        let mut prepared = VecDeque::new();
        let mut oldest = recovered.segments.iter();
        let mut removes = self.dice.chance(1, 3) && self.variant != Variant::AppendsAfterTear;
        for _ in 0..self.dice.within(1..14) {
            if removes && self.dice.chance(1, 4) {
                removes = oldest.next().is_some_and(|segment| {
                    let stream =
                        self.streams.iter_mut().find(|stream| stream.id == segment.stream).unwrap();
                    stream.delivered = segment.next_sequence;
                    let ordinal = segment.segment.header.ordinal;
                    let noted = note_begin(&self.disk, ordinal + 1);
                    noted.and_then(|()| self.disk.remove(&file_name(ordinal))).is_ok()
                });
            }
            let batches = self.batches();
            let ahead = prepared.len() < 2 && self.dice.chance(1, 4);
            if ahead || (prepared.is_empty() && writer.needs_segment(&batches)) {
                if let Ok(segment) = self.prepare(next_ordinal) {
                    next_ordinal += 1;
                    prepared.push_back(segment);
                }
                if self.disk.is_stopped() {
                    return Ok(());
                }
            }
            let before = self.disk.calls();
            let result = writer.commit(&batches, || prepared.pop_front());
            let lines = batches.iter().flat_map(|batch| {
                batch
                    .batch()
                    .records()
                    .map(|record| [&record[..], b"\n"].concat())
                    .collect::<Vec<_>>()
            });
            let stream = self.streams.last_mut().unwrap();
            match result {
                Ok(first_sequence) => {
                    let after = self.disk.calls();
                    // Large batches are written without being copied.
                    let most = 1 + 2
                        * batches.iter().filter(|batch| batch.bytes() >= 1_000).count() as u64;
                    let expected =
                        Calls { data_syncs: before.data_syncs + 1, writes: after.writes, ..before };
                    if after != expected || !(1..=most).contains(&(after.writes - before.writes)) {
                        return Err(
                            "a commit is one write, or few, and one sync of data".to_owned()
                        );
                    }
                    if first_sequence != stream.next_sequence() {
                        return Err(format!(
                            "{first_sequence} where {} is next",
                            stream.next_sequence()
                        ));
                    }
                    stream.groups.push(lines.collect());
                    stream.unknown.clear();
                    self.acknowledged +=
                        u64::from(batches.iter().map(|batch| batch.batch().count()).sum::<u32>());
                }
                Err(CommitError::NoSegment | CommitError::StreamFull) => {}
                Err(CommitError::NoSpace { .. }) => {
                    if self.disk.calls().data_syncs != before.data_syncs {
                        return Err("what found no space is synced".to_owned());
                    }
                    stream.unknown.push(lines.collect());
                    self.without_space += 1;
                }
                Err(CommitError::Failed(_)) => {
                    if self.variant == Variant::GoesOnAfterFailure && !self.disk.is_stopped() {
                        continue;
                    }
                    stream.unknown.push(lines.collect());
                    if matches!(writer, Writer::Bad(_)) {
                        return Ok(());
                    }
                    let before = self.disk.calls();
                    let again = writer.commit(&batches, || None);
                    if !matches!(again, Err(CommitError::Stopped(_))) || self.disk.calls() != before
                    {
                        return Err("a journal went on after a commit that failed".to_owned());
                    }
                    return Ok(());
                }
                Err(CommitError::Stopped(_)) => {
                    return Err("a journal stopped on its own".to_owned());
                }
            }
        }
        Ok(())
    }

    /// From 1 to 20 records.
    fn batches(&mut self) -> Vec<EncodedBatch> {
        let batches = self.dice.within(1..5);
        let mut batches: Vec<_> = (0..batches)
            .map(|_| {
                let mut lines = Vec::new();
                for _ in 0..self.dice.within(1..6) {
                    // Some groups take several blocks, and more groups take several sectors.
                    let most = if self.dice.chance(1, 30) {
                        3000
                    } else {
                        [20, 20, 20, 20, 200][self.dice.below(5)]
                    };
                    let padding = self.dice.below(most);
                    lines.extend_from_slice(
                        format!("{{\"id\":{},\"@\":\"", self.records).as_bytes(),
                    );
                    lines.extend_from_slice(&[b' '; 3000][..padding]);
                    lines.extend_from_slice(b"\"}\n");
                    self.records += 1;
                }
                EncodedBatch::new(
                    Batch::from_lines(self.records.cast_signed(), lines.into()).unwrap(),
                )
            })
            .collect();
        // Each batch fits by itself.
        while FIRST_GROUP + Group::new(&batches, |_| 0).space() > self.segment_bytes {
            batches.pop();
        }
        batches
    }

    fn prepare(&mut self, ordinal: u32) -> io::Result<Segment> {
        let salt = u32::try_from(self.dice.draw() >> 32).unwrap();
        let bytes = self.segment_bytes;
        if self.variant == Variant::RecyclesSegments
            && let Some((_, old)) =
                self.disk.files().iter().find(|(name, _)| name.ends_with(".journal"))
            && let Some(header) = SegmentHeader::decode(old)
        {
            let file = self.disk.create(&preparing_name(ordinal))?;
            file.write_all_at(old, 0)?;
            let header = SegmentHeader { ordinal, ..header };
            file.write_all_at(&header.encode(), 0)?;
            file.sync_all()?;
            self.disk.rename(&preparing_name(ordinal), &file_name(ordinal))?;
            self.disk.sync_directory()?;
            return Ok(Segment { header, file });
        }
        let (no_names, no_bytes) = (
            Mischief { no_sync_directory: true, ..Mischief::default() },
            Mischief { no_sync_all: true, ..Mischief::default() },
        );
        self.with_mischief(Variant::PreparesWithoutDirectorySync, no_names, || {
            self.with_mischief(Variant::PreparesWithoutFileSync, no_bytes, || {
                Segment::prepare(&self.disk, ordinal, bytes, salt)
            })
        })
    }
}

/// Checks that recovery and the checker agree.
fn agrees(recovered: &Recovered, reading: &Reading) -> Result<(), String> {
    let Position { ordinal, offset } = recovered.end;
    if (ordinal, offset) != reading.end {
        return Err(format!(
            "recovery ends at {:?}, the checker at {:?}",
            recovered.end, reading.end
        ));
    }
    if recovered.segments.len() != reading.segments.len() {
        return Err(format!(
            "recovery reads {:?}, the checker {:?}",
            recovered.segments, reading.segments
        ));
    }
    for (ours, theirs) in recovered.segments.iter().zip(&reading.segments) {
        let same = ours.segment.header.ordinal == theirs.ordinal
            && ours.stream.to_string() == theirs.stream
            && (ours.first_sequence..ours.next_sequence) == theirs.sequences
            && ours.end == theirs.end;
        if !same {
            return Err(format!("recovery reads {ours:?}, the checker {theirs:?}"));
        }
    }
    Ok(())
}

/// The real writer, or a known-bad one.
enum Writer {
    AsItIs(SegmentWriter),
    Bad(BadWriter),
}

/// Writes what the real writer does, at a wrong place or time.
struct BadWriter {
    variant: Variant,
    stream: UniqueId,
    next_sequence: u64,
    /// The current segment, and the offset of the next group.
    open: Option<(Segment, u64)>,
    durable: Position,
}

impl Writer {
    fn new(variant: Variant, stream: UniqueId, recovered: &Recovered) -> Writer {
        let durable = recovered.end;
        match variant {
            Variant::AppendsAfterTear => {
                let last = recovered.segments.last();
                let (stream, next_sequence) =
                    last.map_or((stream, 0), |last| (last.stream, last.next_sequence));
                let open = last.map(|last| (last.segment.clone(), last.end));
                Writer::Bad(BadWriter { variant, stream, next_sequence, open, durable })
            }
            Variant::GoesOnAfterFailure
            | Variant::OverwritesAfterNoSpace
            | Variant::CountsAfterNoSpace => {
                Writer::Bad(BadWriter { variant, stream, next_sequence: 0, open: None, durable })
            }
            _ => Writer::AsItIs(SegmentWriter::new(stream, durable, 1_000)),
        }
    }

    fn needs_segment(&self, batches: &[EncodedBatch]) -> bool {
        match self {
            Writer::AsItIs(writer) => writer.needs_segment(batches),
            Writer::Bad(writer) => writer.needs_segment(batches),
        }
    }

    /// Returns the number of the first record.
    fn commit(
        &mut self,
        batches: &[EncodedBatch],
        next_segment: impl FnOnce() -> Option<Segment>,
    ) -> Result<u64, CommitError> {
        match self {
            Writer::AsItIs(writer) => Ok(writer.commit(batches, next_segment)?.first_sequence),
            Writer::Bad(writer) => writer.commit(batches, next_segment),
        }
    }
}

impl BadWriter {
    fn needs_segment(&self, batches: &[EncodedBatch]) -> bool {
        let space = Group::new(batches, |_| 0).space();
        self.open.as_ref().is_none_or(|(segment, offset)| offset + space > segment.header.bytes)
    }

    fn commit(
        &mut self,
        batches: &[EncodedBatch],
        next_segment: impl FnOnce() -> Option<Segment>,
    ) -> Result<u64, CommitError> {
        if self.needs_segment(batches) {
            self.open = Some((next_segment().ok_or(CommitError::NoSegment)?, FIRST_GROUP));
        }
        let (segment, offset) = self.open.as_mut().unwrap();
        let first = self.next_sequence;
        let group = Group::new(batches, |_| 0);
        let (header, text) = group.header(segment.header.salt, self.stream, first, self.durable);
        let bytes = std::iter::once(&text[..]).chain(group.parts()).collect::<Vec<_>>().concat();
        let begin = *offset;
        *offset = header.end(begin);
        let written = segment.file.write_all_at(&bytes, begin);
        if let Err(error) = written.as_ref().map_err(io::Error::kind)
            && error == io::ErrorKind::StorageFull
        {
            let error = Arc::new(io::Error::from(error));
            let (sealed, next_sequence) = (segment.clone(), first);
            match self.variant {
                Variant::OverwritesAfterNoSpace => *offset = begin,
                Variant::CountsAfterNoSpace => {
                    self.durable = segment.position(*offset);
                    self.open = None;
                }
                _ => return Err(CommitError::Failed(error)),
            }
            return Err(CommitError::NoSpace { error, sealed, next_sequence });
        }
        let written = written.and_then(|()| segment.file.sync_data());
        written.map_err(|error| CommitError::Failed(Arc::new(error)))?;
        self.durable = segment.position(*offset);
        self.next_sequence += u64::from(header.count);
        Ok(first)
    }
}

/// Runs one seed. A panic counts as a failure.
fn run(seed: u64, variant: Variant) -> Result<Figures, String> {
    let simulation = Simulation::new(seed, variant);
    catch_unwind(AssertUnwindSafe(|| simulation.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    })
}

#[test]
fn acknowledged_batches_are_there_once_and_in_order() {
    let figures =
        each_seed("-p audit-journal --lib simulation::journal::acknowledged", 300, |seed| {
            run(seed, Variant::AsItIs)
        });
    let seeds = figures.len() as u64;
    let acknowledged: u64 = figures.iter().map(|of_seed| of_seed.acknowledged).sum();
    let without_space: u64 = figures.iter().map(|of_seed| of_seed.without_space).sum();
    println!(
        "{seeds} seeds, {acknowledged} records acknowledged, {without_space} groups without space"
    );
    let much = acknowledged > seeds && (seeds < 100 || without_space > seeds / 10);
    assert!(much, "a simulation in which little happens shows little");
}

/// Each known-bad journal is caught within this many seeds. The simulation is credible as far as it
/// catches them.
#[test]
fn every_journal_that_breaks_its_word_is_caught() {
    let bad = [
        (Variant::CommitDoesNotSync, 100),
        (Variant::AcknowledgesBeforeSync, 100),
        (Variant::RetriesFailedSync, 2_000),
        (Variant::GoesOnAfterFailure, 2_000),
        (Variant::PreparesWithoutDirectorySync, 100),
        (Variant::PreparesWithoutFileSync, 100),
        (Variant::RecyclesSegments, 100),
        (Variant::RecoversWithoutDirectorySync, 4_000),
        (Variant::RecoversWithoutWritingAgain, 4_000),
        (Variant::AppendsAfterTear, 4_000),
        (Variant::OverwritesAfterNoSpace, 2_000),
        (Variant::CountsAfterNoSpace, 2_000),
    ];
    for (variant, seeds) in bad {
        let caught = (0..seeds).find_map(|seed| Some((seed, run(seed, variant).err()?)));
        let Some((seed, what)) = caught else {
            panic!("{variant:?} is not caught in {seeds} seeds")
        };
        println!("{variant:?} is caught by seed {seed}: {what}");
    }
}
