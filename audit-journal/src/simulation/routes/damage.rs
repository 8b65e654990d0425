//! Damage to a journal with routes: it is refused by the file's name, or each record goes to the
//! route that it was acknowledged on.

use std::collections::{BTreeMap, BTreeSet};

use audit_core::{Batch, UniqueId};

use crate::destination::{Encoded, Encoding, Plan};
use crate::followers::{FollowerRecord, FollowerState, PAUSED, write_paused};
use crate::format::{EncodedBatch, FIRST_GROUP, Found, RouteStream, seal};
use crate::object_file::{Role, read_object, write_object};
use crate::progress::{Progress, write_progress};
use crate::recovery_error::RecoveryError;
use crate::routes::{MAX_PLACES, RouteNames};
use crate::segment::{Segment, SegmentReader, Window};
use crate::segment_writer::SegmentWriter;
use crate::segments::LiveSegments;
use crate::shared::pieces::pieces;
use crate::simulation::corruption::damaged;
use crate::simulation::disk::SimulatedDisk;
use crate::startup;
use crate::watermark::Watermark;

type Files = BTreeMap<String, Vec<u8>>;

/// The bucket that a record goes to, and the record.
type Places = BTreeSet<(String, Vec<u8>)>;

const OWN: &str = "own";
const SEGMENT_BYTES: u64 = 12 << 10;

/// The endings of the names of files that only a checksum protects.
const ENDINGS: [&str; 4] = [".delivered", ".object", ".follower", PAUSED];

struct Written {
    files: Files,
    /// All acknowledged records.
    places: Places,
    /// Those in the last group, which a cut of the power could have torn.
    last: Places,
}

/// A journal of two routes with two segments, an object of one route, and progress of the other.
fn write() -> Written {
    let disk = SimulatedDisk::new(1);
    let streams = [1_u128, 2, 3].map(|n| UniqueId::from_bits(n << 64));
    let (recovered, _) = startup::read(&disk, streams[0], None, &[]).unwrap();
    let mut names = RouteNames::default();
    for name in ["acme", "globex"] {
        names = names.with(name, &format!("s3://{name}")).unwrap().0;
    }
    names.write(&disk).unwrap();
    for route in [1, 2] {
        let progress = Progress::begin(route, false);
        write_progress(&disk, streams[route as usize], &progress).unwrap();
    }
    let mut writer = SegmentWriter::new(streams[0], recovered.end, 1_000);
    let mut ordinal = recovered.next_ordinal;
    let (mut places, mut last) = (Places::new(), Places::new());
    let bucket_of = |route: usize| [OWN, "s3://acme", "s3://globex"][route].to_owned();
    for group in 0..3 {
        last.clear();
        let batches = [0, 1, 2, 1].into_iter().enumerate().map(|(n, route)| {
            let line = format!("{{\"group\":{group},\"batch\":{n},\"of\":{route}}}\n").into_bytes();
            last.insert((bucket_of(route), line.clone()));
            let batch = Batch::from_lines(7, line.into()).unwrap();
            match route {
                0 => EncodedBatch::new(batch),
                _ => EncodedBatch::routed(
                    batch,
                    RouteStream { route: route as u32, stream: streams[route] },
                ),
            }
        });
        let batches: Vec<_> = batches.collect();
        let mut prepare = || {
            let segment = Segment::prepare(&disk, ordinal, SEGMENT_BYTES, 77).unwrap();
            ordinal += 1;
            Some(segment)
        };
        writer.commit(&batches, &mut prepare).unwrap();
        places.extend(last.clone());
    }
    // Acme's first record is in an object, and globex's first one is delivered.
    let first = |route: usize| {
        let is_its = |(bucket, line): &&(String, Vec<u8>)| {
            *bucket == bucket_of(route) && line.starts_with(b"{\"group\":0")
        };
        places.iter().find(is_its).unwrap().clone()
    };
    let (acme, globex) = (first(1), first(2));
    let encoding = Encoding::new(*b"none");
    let plan = Plan { stream: streams[1], first_sequence: 0, count: 1, time_ms: 7, encoding };
    let object = Encoded { pieces: vec![acme.1.into()], sha256: [7; 32], seal: None };
    write_object(&disk, &plan, Role::Records, &object).unwrap();
    write_progress(&disk, streams[2], &Progress { next: 1, ..Progress::begin(2, false) }).unwrap();
    let follower = FollowerRecord {
        number: 1,
        route: 1,
        name: "siem".to_owned(),
        writes: 1,
        state: FollowerState::Paused,
        watermark: Watermark { ordinal: 1, stream: streams[1], next: 1 },
        cuts: [(streams[1], 3)].into(),
        missing: vec![(streams[1], 0..1)],
    };
    follower.write(&disk).unwrap();
    write_paused(&disk, &[FollowerRecord { writes: 2, ..follower }]).unwrap();
    places.remove(&globex);
    disk.crash();
    Written { files: disk.files(), places, last }
}

/// Where a delivery of these files puts each record.
fn deliver(files: &Files) -> Result<Places, RecoveryError> {
    let disk = SimulatedDisk::with_files(0, files);
    let (recovered, mut decided) = startup::read_whole(&disk)?;
    let live = LiveSegments::recovered(&recovered.segments, &decided.planned_to(), MAX_PLACES)?;
    let names = std::mem::take(&mut decided.routes);
    let mut places = Places::new();
    let mut put = |bucket: &str, lines: &[u8]| {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            assert!(places.insert((bucket.to_owned(), line.to_vec())), "a record is there twice");
        }
    };
    for (number, of_route) in decided.take_routes() {
        let bucket = &names.get(number).expect("recovery checks it").destination;
        for object in of_route.objects {
            let read = read_object(&disk, &object.plan.file_name(), &pieces())?;
            let (_, _, object) = read.expect("recovery read it");
            object.pieces.iter().for_each(|piece| put(bucket, piece));
        }
    }
    for (number, row) in names.iter() {
        while let Some(run) = live.routes().front(number, u64::MAX) {
            let records = live.routes().read_run(run)?;
            put(&row.destination, &records.lines);
            let next = records.first_sequence + records.count;
            live.routes().planned(number, records.stream, next);
        }
    }
    for segment in recovered.segments {
        let mut reader = SegmentReader::new(segment.segment, FIRST_GROUP, Window::default());
        while reader.position().offset < segment.end {
            let Found::Group(header) = reader.look()? else { panic!("recovery saw a group here") };
            let (batches, payload) = reader.batches(&header)?;
            for batch in batches.into_iter().filter(|batch| batch.route == 0) {
                put(OWN, &payload[batch.lines]);
            }
            reader.step_over(&header);
        }
    }
    Ok(places)
}

/// Checks what a delivery of damaged files does. Returns whether the damage is noticed.
fn check(written: &Written, name: &str, what: &str, files: &Files) -> bool {
    match deliver(files) {
        Ok(places) => {
            let (missing, foreign) = (&written.places - &places, &places - &written.places);
            assert_eq!(foreign, Places::new(), "{what} of {name}: not in their own bucket");
            let hidden = missing.is_subset(&written.last) && name.ends_with(".journal");
            assert!(missing.is_empty() || hidden, "{what} of {name} hides {missing:?}");
            false
        }
        // The error names the damaged segment, or a missing one beside it.
        Err(RecoveryError::Damaged { file, .. }) => {
            assert!(file == name || files.get(name).is_none(), "{what} of {name} names {file}");
            true
        }
        Err(RecoveryError::Io(error)) => panic!("{what} of {name}: {error}"),
    }
}

#[test]
fn damaged_files_send_no_record_to_another_route() {
    let written = write();
    assert_eq!(deliver(&written.files).unwrap(), written.places);
    let mut noticed = BTreeMap::new();
    for (name, bytes) in &written.files {
        let with = |bytes: Vec<u8>| {
            let mut files = written.files.clone();
            files.insert(name.clone(), bytes);
            files
        };
        let mut count = 0;
        if name.ends_with(".journal") {
            for at in 0..bytes.len() {
                // Between groups, bytes are read only to see whether a group's header begins there.
                if bytes[at] == 0 && at % 61 > 0 {
                    continue;
                }
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                count += u32::from(check(&written, name, "a flipped bit", &with(flipped)));
                let mut zeroed = bytes.clone();
                zeroed[at..(at + 8).min(bytes.len())].fill(0);
                count += u32::from(check(&written, name, "zeros", &with(zeroed)));
                let cut = bytes[..at].to_vec();
                assert!(check(&written, name, "a cut", &with(cut)), "cut off at {at}");
            }
        } else if name == "routes" || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            for (what, damaged) in damaged(bytes).into_iter().filter(|(_, to)| to != bytes) {
                assert!(check(&written, name, &what, &with(damaged)), "{what} of {name}");
                count += 1;
            }
            let mut files = written.files.clone();
            files.remove(name);
            check(&written, name, "the loss", &files);
        }
        noticed.insert(name.clone(), count);
    }
    println!("{noticed:?}");
    assert!(noticed["routes"] > 1_000 && noticed.values().sum::<u32>() > 8_000, "{noticed:?}");
}

/// A host that returned to an earlier version must not be told that its journal is damaged.
#[test]
fn files_of_a_later_version_are_named_and_left_alone() {
    let Written { files, .. } = write();
    let mut versions = 0;
    for (name, file) in &files {
        let Some(at) =
            [" delivered ", " follower ", " paused ", " routes "].iter().find_map(|kind| {
                let text = std::str::from_utf8(file).ok()?;
                text.starts_with(&format!("audit{kind}")).then_some(5 + kind.len())
            })
        else {
            continue;
        };
        let mut later = file[..file.len() - 9].to_vec();
        later[at] = b'9';
        seal(&mut later, 0);
        let mut files = files.clone();
        files.insert(name.clone(), later);
        let disk = SimulatedDisk::with_files(0, &files);
        let Err(RecoveryError::Io(error)) = startup::read_whole(&disk) else { panic!("{name}") };
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(disk.files(), files, "{name}");
        versions += 1;
    }
    assert!(versions > 4, "{versions}");
}
