use std::sync::{Arc, Mutex};

use super::*;
use crate::disk::{LOCK, LocalDisk};
use crate::simulation::disk::SimulatedDisk;
use crate::simulation::disk::faulty::{Call, FaultyDisk, Injected};

const ENOENT: i32 = 2;

/// A host that starts after the lock was probed may remove files that were listed.
#[test]
fn a_host_that_starts_meanwhile_damages_nothing() {
    use OpenErrorKind::{Blocked, Unavailable};
    // Whether each probe finds the journal in use (the last result repeats), the number of readings
    // that fail, and the expected `in_use` or error.
    let table: [(&[bool], usize, Result<bool, OpenErrorKind>); 9] = [
        (&[false], 0, Ok(false)),
        (&[true], 0, Ok(true)),
        (&[false, true], 0, Ok(true)),
        (&[false, true], 1, Ok(true)),
        (&[false, true, true, false], 2, Ok(false)),
        (&[true], 9, Ok(true)),
        (&[true], 10, Err(Unavailable)),
        // A host started and died between two probes.
        (&[false], 1, Ok(false)),
        (&[false], 2, Err(Blocked)),
    ];
    for (probes, failures, expected) in table {
        let left = Mutex::new(failures);
        let disk = FaultyDisk::new(Arc::new(SimulatedDisk::new(1)), move |call, _| {
            let mut left = left.lock().unwrap();
            let fails = call == Call::List && *left > 0;
            *left -= usize::from(fails);
            fails.then_some(Injected::Fails(ENOENT))
        });
        let (mut found, mut last) = (probes.iter().copied(), false);
        let probe = || {
            last = found.next().unwrap_or(last);
            Ok(last)
        };
        let opened = JournalReader::open_on(Path::new("journal"), &disk, probe);
        let opened = opened.map(|reader| reader.state.in_use).map_err(|error| error.kind());
        assert_eq!(opened, expected, "{probes:?}, {failures} failures");
    }
}

/// People remove a lock file that they take for a leftover, and whoever then tries to open the
/// journal makes another.
#[test]
fn a_journal_without_its_lock_file_is_in_use_nevertheless() {
    let root = tempfile::tempdir().unwrap();
    let is_in_use = || in_use(root.path()).unwrap();
    let disk = LocalDisk::open(root.path()).unwrap();
    assert!(is_in_use());
    std::fs::remove_file(root.path().join(LOCK)).unwrap();
    assert!(is_in_use());
    LocalDisk::open(root.path()).unwrap_err();
    assert!(root.path().join(LOCK).exists() && is_in_use());
    drop(disk);
    assert!(!is_in_use());
}
