//! The journal's directory, as the operating system and people may leave it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_core::testing::synced_directories;

use super::*;

/// Opening a pipe would block, and a link may lead to another journal's lock.
#[cfg(unix)]
#[test]
fn a_lock_that_is_no_regular_file_is_refused() {
    type Make = fn(&Path);
    let table: [(&str, Make); 3] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link", |path| std::os::unix::fs::symlink("elsewhere", path).unwrap()),
        ("a pipe", |path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
    ];
    for (what, make) in table {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join(LOCK);
        make(&lock);
        make(&root.path().join("file.lock"));
        let says = |error: io::Error, name: &str| {
            assert_eq!(error.to_string(), format!("{name}: it is {what}, not a regular file"));
        };
        says(LocalDisk::open(root.path()).unwrap_err(), LOCK);
        says(LocalDisk::beside(root.path(), "file").unwrap_err(), "file.lock");
        assert!(!root.path().join("elsewhere").exists());
    }
}

/// The directory that is at the path now may be the journal of a process that started since.
#[test]
fn a_directory_that_took_the_place_of_the_journals_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let [journal, moved] = ["journal", "moved"].map(|name| root.path().join(name));
    let disk = LocalDisk::open(&journal).unwrap();
    fs::write(journal.join("a"), "ours").unwrap();
    type Operation = fn(&LocalDisk) -> io::Result<()>;
    let operations: [Operation; 6] = [
        |disk| disk.list().map(drop),
        |disk| disk.open("a").map(drop),
        |disk| disk.create("b").map(drop),
        |disk| disk.rename("a", "c"),
        |disk| remove_if_there(disk, "a"),
        |disk| disk.sync_directory(),
    ];
    for is_replaced in [false, true] {
        fs::rename(&journal, &moved).unwrap();
        if is_replaced {
            drop(LocalDisk::open(&journal).unwrap());
            fs::write(journal.join("a"), "theirs").unwrap();
        }
        for (n, operation) in operations.iter().enumerate() {
            let error = operation(&disk).unwrap_err();
            assert!(error.to_string().contains("moved away from"), "operation {n}: {error}");
        }
        if is_replaced {
            let mut files: Vec<_> = LocalDisk::open(&journal).unwrap().list().unwrap();
            files.sort_unstable();
            assert_eq!(files, ["LOCK", "a"]);
            assert_eq!(fs::read(journal.join("a")).unwrap(), b"theirs");
            fs::remove_dir_all(&journal).unwrap();
        }
        fs::rename(&moved, &journal).unwrap();
        assert_eq!(read_whole(&disk, "a").unwrap(), b"ours");
    }
    // The journal is still locked.
    let error = LocalDisk::open(&journal).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    drop(disk);
}

#[test]
fn what_is_no_file_of_a_journal_is_named() {
    let root = tempfile::tempdir().unwrap();
    let disk = LocalDisk::open(root.path()).unwrap();
    fs::create_dir(root.path().join("begin")).unwrap();
    File::create(root.path().join("routes")).unwrap().set_len(1 << 31).unwrap();
    let pipe = root.path().join("1.follower");
    let made = std::process::Command::new("mkfifo").arg(pipe).status().unwrap();
    assert!(made.success());
    for (name, what) in [
        ("begin", "begin: it is a directory, not a regular file"),
        ("routes", "routes: a file of 2147483648 bytes exceeds limit of 1073741824 bytes"),
        ("1.follower", "1.follower: it is a pipe, not a regular file"),
    ] {
        let error = read_whole(&disk, name).unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (io::ErrorKind::InvalidData, what));
    }
    let error = remove_if_there(&disk, "begin").unwrap_err();
    assert!(error.to_string().starts_with("begin: "), "{error}");
}

/// A killed process may leave directories whose names are not durable.
#[test]
fn the_name_of_the_directory_is_durable_before_a_commit() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    for _ in 0..2 {
        drop(LocalDisk::open(&root.join("data/journal")).unwrap());
        for synced in [root.join("data"), root.clone()] {
            assert!(synced_directories().remove(&synced), "{}", synced.display());
        }
    }
}
