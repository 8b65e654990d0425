//! Damages a journal in each way that a disk or a person might. After each, all acknowledged
//! records are read, or the journal is refused with the file and offset.
//!
//! # Undetectable damage
//!
//! Later groups show that a group was acknowledged: they state how far the journal was durable. So
//! the following damage goes unnoticed:
//!
//! - Zeros in the newest group, if they replace at least two bytes or the header: it then looks
//!   like a group that was being written when the power failed. A flipped bit in it is detected,
//!   and so is any byte that becomes nonzero in a group without zeros.
//! - Zeros in place of the newest group, if a torn group without a header follows it.
//! - The loss of all segments from some ordinal on, including the prepared one, or their
//!   replacement by earlier versions, all together.
//! - Changes outside groups: to the rest of the block of a segment's header, or of a group's last
//!   block. Nothing is read there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::needless_range_loop, reason = "offsets are what these tests are about")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use audit_core::{Batch, UniqueId};
use proptest::prelude::*;

use crate::disk::Disk;
use crate::followers::ReplayLog;
use crate::format::{
    BLOCK_BYTES, EncodedBatch, FIRST_GROUP, Found, GROUP_HEADER_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader, look,
};
use crate::recovery_error::RecoveryError;
use crate::segment::{Segment, SegmentReader, Window, file_name};
use crate::segment_writer::SegmentWriter;
use crate::simulation::disk::{Dice, SimulatedDisk};
use crate::startup;

type Files = BTreeMap<String, Vec<u8>>;

/// A record, with its stream and its number.
type Records = Vec<(UniqueId, u64, Vec<u8>)>;

const BLOCK: usize = BLOCK_BYTES as usize;
const SEGMENT_BLOCKS: usize = 4;

/// A journal written by the journal's own code, and the acknowledged records.
struct Written {
    disk: SimulatedDisk,
    records: Records,
    /// The number of records in the last group.
    last: usize,
}

/// Writes streams with groups of these sizes, in records. A long group takes two blocks.
fn write(seed: u64, streams: &[&[usize]], prepares_ahead: bool) -> Written {
    let disk = SimulatedDisk::new(seed);
    let mut dice = Dice::new(seed);
    let (mut records, mut last) = (Records::new(), 0);
    for (n, groups) in streams.iter().enumerate() {
        let stream = UniqueId::from_bits((n as u128 + 1) << 64);
        let (recovered, _) = startup::read(&disk, stream, None, &[]).unwrap();
        let mut writer = SegmentWriter::new(stream, recovered.end, 1_000);
        let mut ordinal = recovered.next_ordinal;
        let mut prepare = || {
            let salt = u32::try_from(dice.draw() >> 32).unwrap();
            let segment =
                Segment::prepare(&disk, ordinal, (SEGMENT_BLOCKS * BLOCK) as u64, salt).unwrap();
            ordinal += 1;
            segment
        };
        let mut next = None;
        let mut sequence = 0;
        for count in *groups {
            let lines: Vec<_> = (0..*count as u64)
                .map(|record| {
                    format!("{{\"n\":{},\"@\":\"a b\"}}\n", sequence + record).into_bytes()
                })
                .collect();
            // Two batches, if there are enough records.
            let batches: Vec<_> = lines
                .chunks(count.div_ceil(2))
                .map(|lines| {
                    EncodedBatch::new(Batch::from_lines(7, lines.concat().into()).unwrap())
                })
                .collect();
            let committed =
                writer.commit(&batches, || Some(next.take().unwrap_or_else(&mut prepare))).unwrap();
            assert_eq!(committed.first_sequence, sequence);
            if prepares_ahead && next.is_none() {
                next = Some(prepare());
            }
            for line in lines {
                records.push((stream, sequence, line));
                sequence += 1;
            }
            last = *count;
        }
    }
    disk.crash();
    Written { disk, records, last }
}

/// All records, as the delivery reads them, or the reason why the journal is refused.
fn read(disk: &SimulatedDisk) -> Result<Records, RecoveryError> {
    let (recovered, _) = startup::read(disk, UniqueId::from_bits(9999), None, &[])?;
    let mut records = Records::new();
    for segment in recovered.segments {
        let mut reader =
            SegmentReader::new(segment.segment.clone(), FIRST_GROUP, Window::default());
        while reader.position().offset < segment.end {
            let Found::Group(header) = reader.look()? else { panic!("recovery saw a group here") };
            let (places, payload) = reader.batches(&header)?;
            for place in places {
                let lines = payload[place.lines].split_inclusive(|byte| *byte == b'\n');
                let numbered = (place.first_sequence..).zip(lines);
                records.extend(numbered.map(|(n, line)| (place.stream, n, line.to_vec())));
            }
            reader.step_over(&header);
        }
    }
    Ok(records)
}

/// Known-bad recoveries, which the tests must catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    AsItIs,
    /// Takes the first place without a complete group for the end of a segment.
    StopsAtDamage,
    /// Skips places without a complete group.
    AcceptsHoles,
    /// Trusts the headers of segments regardless of their names, and reads each group where it is.
    AcceptsAnyName,
}

impl Reader {
    fn read(self, disk: &SimulatedDisk) -> Result<Records, RecoveryError> {
        if self == Reader::AsItIs {
            return read(disk);
        }
        let mut records = Records::new();
        for (name, bytes) in disk.files().iter().filter(|(name, _)| name.ends_with(".journal")) {
            let refused =
                || RecoveryError::Damaged { file: name.clone(), offset: 0, what: String::new() };
            let header =
                SegmentHeader::decode(bytes).filter(|header| header.bytes == bytes.len() as u64);
            let SegmentHeader { salt, ordinal, .. } = header.ok_or_else(refused)?;
            if file_name(ordinal) != *name && self != Reader::AcceptsAnyName {
                return Err(refused());
            }
            let mut at = BLOCK;
            while at < bytes.len() {
                let header = match look(&bytes[at..], salt) {
                    Found::Group(header) => header,
                    Found::Damaged(_) if self == Reader::AcceptsAnyName => return Err(refused()),
                    Found::Nothing | Found::Torn | Found::Damaged(_)
                        if self == Reader::AcceptsHoles =>
                    {
                        at += BLOCK;
                        continue;
                    }
                    Found::Nothing | Found::Torn | Found::Damaged(_) => break,
                };
                let end = usize::try_from(at as u64 + header.group_bytes()).unwrap();
                let payload = &bytes[at + GROUP_HEADER_BYTES..end];
                let places = crate::format::batches(&header, payload, salt).unwrap();
                for place in places {
                    let lines = payload[place.lines].split_inclusive(|byte| *byte == b'\n');
                    let numbered = (place.first_sequence..).zip(lines);
                    records.extend(numbered.map(|(n, line)| (place.stream, n, line.to_vec())));
                }
                at = usize::try_from(header.end(at as u64)).unwrap();
            }
        }
        Ok(records)
    }
}

fn stream_of(segment: &[u8]) -> Option<UniqueId> {
    match look(&segment[BLOCK..], SegmentHeader::decode(segment)?.salt) {
        Found::Group(header) => Some(header.stream),
        Found::Nothing | Found::Torn | Found::Damaged(_) => None,
    }
}

/// Checks that all acknowledged records are read, or that the journal is refused with an offset
/// within a segment. Returns the file and offset of a refusal.
fn check(
    what: &str,
    result: Result<Records, RecoveryError>,
    acknowledged: &[(UniqueId, u64, Vec<u8>)],
) -> Result<Option<(String, u64)>, String> {
    match result {
        Ok(records) if records == acknowledged => Ok(None),
        Ok(records) => Err(format!(
            "{what}: {} records are read, {} were acknowledged",
            records.len(),
            acknowledged.len()
        )),
        Err(RecoveryError::Damaged { file, offset, .. }) => {
            if offset > (SEGMENT_BLOCKS * BLOCK) as u64 {
                return Err(format!("{what}: refused at byte {offset} of {file}"));
            }
            Ok(Some((file, offset)))
        }
        Err(RecoveryError::Io(error)) => Err(format!("{what}: {error}")),
    }
}

#[test]
fn any_flipped_bit_is_harmless_or_noticed() {
    let Written { disk, records, .. } = write(1, &[&[3, 1], &[2]], false);
    assert!(matches!(check("whole", read(&disk), &records), Ok(None)));
    let segments = disk.files().into_iter().filter(|(name, _)| name.ends_with(".journal"));
    let (mut harmless, mut noticed) = (0, 0);
    for (name, bytes) in segments {
        for at in 0..bytes.len() {
            // Between groups, bytes are read only to see whether a group's header begins there, so
            // one bit of each byte is enough.
            let written = bytes[at] != 0 || at % BLOCK < GROUP_HEADER_BYTES;
            let bits = if written { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << bit;
                disk.alter(&name, flip);
                match check(&format!("bit {bit} of byte {at} of {name}"), read(&disk), &records) {
                    Ok(None) => {
                        assert!(bytes[at] == 0, "bit {bit} of byte {at} of {name} is not noticed");
                        harmless += 1;
                    }
                    Ok(Some((file, offset))) => {
                        assert!(
                            file == name && offset <= at as u64,
                            "byte {at} of {name}: {file} {offset}"
                        );
                        noticed += 1;
                    }
                    Err(what) => panic!("{what}"),
                }
                disk.alter(&name, flip);
            }
        }
    }
    println!("{harmless} bits are harmless, {noticed} are noticed");
    assert!(matches!(check("whole again", read(&disk), &records), Ok(None)));
}

/// The records whose loss may go undetected: see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hides {
    Nothing,
    LastGroup,
    NewestSegment,
}

struct Damage {
    what: String,
    files: Files,
    hides: Hides,
    /// Whether it must be detected, since it changes what was written.
    must_be_noticed: bool,
}

fn damages(written: &Written) -> Vec<Damage> {
    let files = written.disk.files();
    let segments: Vec<_> =
        files.keys().filter(|name| name.ends_with(".journal")).cloned().collect();
    let used =
        |bytes: &[u8], block: usize| bytes[block * BLOCK..][..BLOCK].iter().any(|byte| *byte != 0);
    let last_used = segments.iter().rev().find(|name| used(&files[*name], 1)).unwrap();
    let last_group = {
        let salt = SegmentHeader::decode(&files[last_used]).unwrap().salt;
        let groups = (1..SEGMENT_BLOCKS).filter(|block| {
            matches!(look(&files[last_used][block * BLOCK..], salt), Found::Group(_))
        });
        groups.max().unwrap()
    };
    let mut damages = Vec::new();
    let mut add =
        |what: String, hides: Hides, must_be_noticed: bool, change: &dyn Fn(&mut Files)| {
            let mut files = files.clone();
            change(&mut files);
            damages.push(Damage { what, files, hides, must_be_noticed });
        };
    let streams: Vec<_> = segments.iter().map(|name| stream_of(&files[name])).collect();
    for (n, name) in segments.iter().enumerate() {
        for len in (0..SEGMENT_BLOCKS).map(|block| block * BLOCK).chain([
            79,
            5000,
            SEGMENT_BLOCKS * BLOCK - 1,
        ]) {
            add(format!("{name} cut off at {len}"), Hides::Nothing, true, &|files| {
                files.get_mut(name).unwrap().truncate(len)
            });
        }
        add(format!("{name} made longer"), Hides::Nothing, true, &|files| {
            files.get_mut(name).unwrap().push(0)
        });
        let hides = match streams[n] {
            None => Hides::Nothing,
            Some(_) if n + 1 == segments.len() => Hides::NewestSegment,
            Some(_) => Hides::Nothing,
        };
        let must_be_noticed = streams[n].is_some() && hides == Hides::Nothing;
        add(format!("{name} missing"), hides, must_be_noticed, &|files| {
            files.remove(name);
        });
        for other in &segments[n + 1..] {
            add(format!("{name} and {other} swapped"), Hides::Nothing, true, &|files| {
                let (one, two) = (files[name].clone(), files[other].clone());
                files.insert(name.clone(), two);
                files.insert(other.clone(), one);
            });
            add(format!("{name} under the name of {other}"), Hides::Nothing, true, &|files| {
                let bytes = files[name].clone();
                files.insert(other.clone(), bytes);
            });
        }
        add(format!("{name} twice"), Hides::Nothing, true, &|files| {
            let bytes = files[name].clone();
            files.insert(file_name(u32::try_from(segments.len()).unwrap() + 1), bytes);
        });
        for block in 0..SEGMENT_BLOCKS {
            let written = used(&files[name], block);
            let in_last = name == last_used && block >= last_group;
            let hides = if in_last { Hides::LastGroup } else { Hides::Nothing };
            add(format!("{name} block {block} zero"), hides, written && !in_last, &|files| {
                files.get_mut(name).unwrap()[block * BLOCK..][..BLOCK].fill(0);
            });
            for other in segments.iter().filter(|other| *other != name) {
                let same =
                    files[name][block * BLOCK..][..BLOCK] == files[other][block * BLOCK..][..BLOCK];
                add(
                    format!("{name} block {block} from {other}"),
                    hides,
                    written && !same && !in_last,
                    &|files| {
                        let bytes = files[other][block * BLOCK..][..BLOCK].to_vec();
                        files.get_mut(name).unwrap()[block * BLOCK..][..BLOCK]
                            .copy_from_slice(&bytes);
                    },
                );
            }
            for other in block + 1..SEGMENT_BLOCKS {
                add(
                    format!("{name} blocks {block} and {other} swapped"),
                    hides,
                    written && !in_last,
                    &|files| {
                        let bytes = files.get_mut(name).unwrap();
                        let (one, two) = bytes.split_at_mut(other * BLOCK);
                        one[block * BLOCK..][..BLOCK].swap_with_slice(&mut two[..BLOCK]);
                    },
                );
            }
        }
    }
    damages
}

/// Damages journals in all ways. The error names a change that was not detected.
fn damage_all(reader: Reader) -> Result<(usize, usize), String> {
    let (mut read_well, mut refused) = (0, 0);
    // Groups of 200 records take two blocks.
    let journals: [(&[&[usize]], bool); 5] = [
        (&[&[2]], false),
        (&[&[3, 1, 2, 200, 4], &[5, 1]], false),
        (&[&[3, 1, 2, 200, 4], &[5, 1]], true),
        (&[&[1, 200], &[], &[200, 1, 1, 2, 1]], true),
        (&[&[1, 1, 1, 1, 1, 1, 1, 200]], true),
    ];
    for (n, (streams, prepares_ahead)) in journals.iter().enumerate() {
        let written = write(n as u64, streams, *prepares_ahead);
        let all = &written.records[..];
        check("whole", reader.read(&written.disk), all)?;
        let but_last = &all[..all.len() - written.last];
        let own_segments = |name: &str| written.disk.files().contains_key(name);
        for Damage { what, files, hides, must_be_noticed } in damages(&written) {
            let result = reader.read(&SimulatedDisk::with_files(0, &files));
            let what = format!("journal {n}, {what}");
            let may_read = |records: &[(UniqueId, u64, Vec<u8>)]| match hides {
                Hides::Nothing => false,
                Hides::LastGroup => records == but_last,
                Hides::NewestSegment => all.starts_with(records),
            };
            match result {
                Ok(records) if may_read(&records) => {}
                result => match check(&what, result, all)? {
                    None if must_be_noticed => return Err(format!("{what}: not noticed")),
                    None => read_well += 1,
                    Some((file, _)) => {
                        assert!(own_segments(&file) || what.contains("twice"), "{what}: {file}");
                        refused += 1;
                    }
                },
            }
        }
    }
    Ok((read_well, refused))
}

#[test]
fn acknowledged_batches_are_read_or_refused_with_a_place() {
    let (read_well, refused) = damage_all(Reader::AsItIs).unwrap();
    println!("{read_well} damaged journals are read well, {refused} refused");
    assert!(read_well > 0 && refused > 300, "{read_well} {refused}");
}

#[test]
fn a_recovery_that_trusts_too_much_is_caught() {
    for reader in [Reader::StopsAtDamage, Reader::AcceptsHoles, Reader::AcceptsAnyName] {
        println!("{reader:?}: {}", damage_all(reader).unwrap_err());
    }
}

/// Journals after a power failure, with or without a torn group.
#[test]
fn damage_after_a_crash_is_noticed_too() {
    let (mut torn, mut refused) = (0, 0);
    for seed in 0..150 {
        let Written { disk, records, .. } = write(seed, &[&[3, 1, 2], &[2, 1]], false);
        let stream = UniqueId::from_bits(1 << 100);
        let (recovered, _) = startup::read(&disk, stream, None, &[]).unwrap();
        let mut writer = SegmentWriter::new(stream, recovered.end, 1_000);
        let bytes = (8 * BLOCK) as u64;
        let segment = Segment::prepare(&disk, recovered.next_ordinal, bytes, 77).unwrap();
        let group = |first: u64, count: u64| -> (Records, Vec<EncodedBatch>) {
            let record = |n| (stream, n, format!("{{\"n\":{n},\"@\":\"a b\"}}\n").into_bytes());
            let records: Records = (first..first + count).map(record).collect();
            let lines: Vec<u8> = records.iter().flat_map(|record| record.2.clone()).collect();
            (records, vec![EncodedBatch::new(Batch::from_lines(7, lines.into()).unwrap())])
        };
        // Two groups are acknowledged, and the third one is cut short.
        let (one, two, three) = (group(0, 2), group(2, 200), group(202, 250));
        let mut all = records;
        writer.commit(&one.1, || Some(segment)).unwrap();
        assert_eq!(writer.commit(&two.1, || None).unwrap().end, 4 * BLOCK_BYTES);
        all.extend(one.0.into_iter().chain(two.0));
        disk.stop_at(disk.operation() + 1);
        writer.commit(&three.1, || None).unwrap_err();
        disk.crash();
        let with_third: Records = all.iter().cloned().chain(three.0).collect();
        let is_well = |records: &Records| *records == all || *records == with_third;
        let name = file_name(recovered.next_ordinal);
        let image = disk.files();
        let whole = read(&SimulatedDisk::with_files(0, &image)).unwrap();
        assert!(is_well(&whole), "seed {seed}");
        torn +=
            usize::from(whole == all && image[&name][4 * BLOCK..].iter().any(|byte| *byte != 0));

        let mut dice = Dice::new(seed);
        let mut refuses = |what: &str, must_be_noticed: bool, change: &dyn Fn(&mut Vec<u8>)| {
            let mut files = image.clone();
            change(files.get_mut(&name).unwrap());
            match read(&SimulatedDisk::with_files(0, &files)) {
                Ok(records) => {
                    assert!(!must_be_noticed, "seed {seed}, {what} is not noticed");
                    assert!(is_well(&records), "seed {seed}, {what}: {} records", records.len());
                }
                Err(RecoveryError::Damaged { file, offset, .. }) => {
                    assert!(file == name && offset < bytes, "seed {seed}, {what}: {file} {offset}");
                    refused += 1;
                }
                Err(RecoveryError::Io(error)) => panic!("seed {seed}, {what}: {error}"),
            }
        };
        for _ in 0..10 {
            let (at, bit) = (dice.below(8 * BLOCK), dice.below(8));
            let acknowledged = at < 4 * BLOCK && image[&name][at] != 0;
            refuses(&format!("bit {bit} of byte {at}"), acknowledged, &|bytes| {
                bytes[at] ^= 1 << bit
            });
        }
        refuses("the first group zero", true, &|bytes| bytes[BLOCK..2 * BLOCK].fill(0));
        refuses("the header of the segment zero", true, &|bytes| bytes[..BLOCK].fill(0));
        refuses("cut off behind what was acknowledged", true, &|bytes| bytes.truncate(4 * BLOCK));
    }
    println!("{torn} torn groups, {refused} refused");
    assert!(torn > 50 && refused > 450, "{torn} {refused}");
}

/// Damaged versions of a file: each bit flipped, each length, a part zeroed, bytes appended.
pub(super) fn damaged(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            all.push((format!("bit {bit} of byte {at}"), flipped));
        }
        all.push((format!("cut off at {at}"), bytes[..at].to_vec()));
        for end in [bytes.len(), (at + 8).min(bytes.len())] {
            let mut zeroed = bytes.to_vec();
            zeroed[at..end].fill(0);
            all.push((format!("zeros from {at} to {end}"), zeroed));
        }
    }
    for more in [&b"\0"[..], b" ", b"\n", bytes] {
        all.push((format!("{} bytes more", more.len()), [bytes, more].concat()));
    }
    all
}

/// A damaged `.follower` file is refused by name. After a damaged `.replayed` file, the follower
/// gets records again. Neither it nor the bucket lacks a record.
#[test]
fn damaged_files_of_followers_lose_nothing() {
    let Written { disk, records, .. } = write(3, &[&[3, 1], &[2]], false);
    let (stream, names) = (records[0].0, ["siem".to_owned()]);
    let opened = UniqueId::from_bits(9999);
    let (_, decided) = startup::read(&disk, opened, None, &names).unwrap();
    let mut follower = decided.followers[0].clone();
    follower.cuts.push_back((opened, 7));
    follower.missing = vec![(stream, 0..20)];
    follower.write(&disk).unwrap();
    let of_follower: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut replayed = ReplayLog::of_follower_on(of_follower, follower.number, "siem").unwrap();
    replayed.note(&[(stream, 0..3), (stream, 5..8)]).unwrap();
    let files = disk.files();
    let missing = |files: &Files| -> Result<BTreeSet<u64>, RecoveryError> {
        let disk = SimulatedDisk::with_files(0, files);
        assert!(matches!(check("whole", read(&disk), &records), Ok(None)));
        let disk = SimulatedDisk::with_files(0, files);
        let (_, decided) = startup::read(&disk, opened, None, &names)?;
        assert_eq!(decided.followers.len(), 1);
        let missing = decided.followers[0].missing.iter();
        Ok(missing.flat_map(|(_, records)| records.clone()).collect())
    };
    let unsent: BTreeSet<u64> =
        (0..20).filter(|n| !(0..3).contains(n) && !(5..8).contains(n)).collect();
    assert_eq!(missing(&files).unwrap(), unsent);
    let mut refused = 0;
    for name in files.keys().filter(|name| name.ends_with(".replayed")) {
        for (what, bytes) in damaged(&files[name]) {
            let mut files = files.clone();
            files.insert(name.clone(), bytes);
            let missing = missing(&files).unwrap();
            assert_eq!(missing, (0..20).collect(), "{what} of {name} is believed");
        }
    }
    for name in files.keys().filter(|name| name.ends_with(".follower")) {
        for (what, bytes) in damaged(&files[name]).into_iter().filter(|(_, b)| *b != files[name]) {
            let disk = {
                let mut files = files.clone();
                files.insert(name.clone(), bytes);
                SimulatedDisk::with_files(0, &files)
            };
            match startup::read(&disk, opened, None, &names) {
                Err(RecoveryError::Damaged { file, .. }) => assert_eq!(file, *name, "{what}"),
                Err(RecoveryError::Io(error)) => panic!("{what} of {name}: {error}"),
                Ok(_) => panic!("{what} of {name} is not noticed"),
            }
            refused += 1;
        }
    }
    assert!(refused > 1_000, "{refused}");
}

/// A segment with the ordinal of its file name, and these bytes after its header.
fn segment_file(salt: u32, rest: &[u8]) -> Files {
    let bytes = (BLOCK + rest.len().next_multiple_of(BLOCK)) as u64;
    let mut file = SegmentHeader { ordinal: 1, salt, bytes }.encode();
    assert_eq!(file.len(), SEGMENT_HEADER_BYTES);
    file.resize(BLOCK, 0);
    file.extend_from_slice(rest);
    file.resize(usize::try_from(bytes).unwrap(), 0);
    Files::from([(file_name(1), file)])
}

proptest! {
    #[test]
    fn any_bytes_are_no_segment(bytes: Vec<u8>) {
        let disk = SimulatedDisk::with_files(0, &Files::from([(file_name(1), bytes)]));
        prop_assert!(read(&disk).is_err());
    }

    /// Arbitrary bytes after a header yield no record.
    #[test]
    fn any_bytes_are_no_group(salt: u32, bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let records = read(&SimulatedDisk::with_files(0, &segment_file(salt, &bytes)));
        prop_assert!(records.map_or(true, |records| records.is_empty()));
    }

    /// However blocks of a journal's files are moved, overwritten or cut, each record that is read
    /// was written, at its place.
    #[test]
    fn reads_return_what_was_written(
        edits in prop::collection::vec((any::<u64>(), 0usize..5), 1..6), seed in 0u64..20,
    ) {
        let Written { disk, records, .. } = write(seed, &[&[3, 1, 2, 200, 4], &[5, 1]], seed % 2 == 0);
        let mut files = disk.files();
        let names: Vec<_> = files.keys().cloned().collect();
        for (seed, kind) in edits {
            let mut dice = Dice::new(seed);
            let name = names[dice.below(names.len())].clone();
            let from = files[&names[dice.below(names.len())]].clone();
            let into = files.get_mut(&name).unwrap();
            if into.is_empty() || from.is_empty() {
                continue;
            }
            let at = dice.below(into.len());
            match kind {
                0 => into[at] = u8::try_from(dice.below(256)).unwrap(),
                1 => into.truncate(at),
                2 => {
                    let end = (at + dice.below(5000)).min(into.len());
                    into[at..end].fill(0);
                }
                3 => {
                    // A block of another file, or of this one.
                    let (to, from_at) = (at / BLOCK * BLOCK, dice.below(from.len()) / BLOCK * BLOCK);
                    let len = BLOCK.min(into.len() - to).min(from.len() - from_at);
                    into[to..to + len].copy_from_slice(&from[from_at..from_at + len]);
                }
                _ => *into = from,
            }
        }
        if let Ok(read) = read(&SimulatedDisk::with_files(0, &files)) {
            for record in &read {
                prop_assert!(records.contains(record), "{record:?} was never written");
            }
            prop_assert!(read.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
        }
    }
}
