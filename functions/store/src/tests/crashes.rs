//! The store after a crash.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use functions_value::Value;
use serde_json::json;

use super::{open, root, value};
use crate::Store;
use crate::key::{self, Key};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if !is_journal(&entry.path()) {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jnl")
}

fn journal(directory: &Path) -> PathBuf {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| is_journal(path))
        .unwrap()
}

/// The number of documents of each commit.
fn documents(store: &Store) -> BTreeMap<u64, usize> {
    let mut tx = store.begin(&store.latest(), 0);
    let query = json!({ "source": { "type": "FullTableScan", "tableName": "t", "order": null }, "operators": [] });
    let stream = tx.query(&root(), &query).unwrap();
    let mut found = BTreeMap::new();
    while let Some(document) = tx.query_next(stream).unwrap() {
        let Some(Value::Int64(commit)) = document.at(&["commit"]) else { panic!("{document:?}") };
        *found.entry(commit.cast_unsigned()).or_default() += 1;
    }
    assert_eq!(tx.count(&root(), "t").unwrap(), found.values().sum::<usize>() as u64);
    found
}

/// After a kill or a power loss, the journal may end anywhere in the last write: truncated there,
/// or filled up with zeros where the file's space was already allocated.
#[test]
fn a_truncated_journal_holds_a_prefix_of_whole_commits() {
    const COMMITS: u64 = 8;
    let (directory, store) = open();
    let size = |commit: u64| 1 + commit as usize % 3;
    let mut times = vec![store.latest().ts()];
    for commit in 0..COMMITS {
        let mut tx = store.begin(&store.latest(), commit);
        for _ in 0..size(commit) {
            let mut fields = value(json!({ "text": "x".repeat(3_000 * (commit as usize % 4)) }))
                .into_object()
                .unwrap();
            fields.insert("commit".to_owned(), Value::Int64(commit.cast_signed()));
            tx.insert(&root(), "t", Value::Object(fields)).unwrap();
        }
        times.push(tx.commit().unwrap());
    }
    let written = fs::read(journal(directory.path())).unwrap();
    let end = written.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let name = journal(directory.path()).file_name().unwrap().to_owned();
    let mut seen = 0;
    for step in 0..48 {
        let cut = end * step / 47;
        let copied = tempfile::tempdir().unwrap();
        copy(directory.path(), copied.path());
        let mut torn = written[..cut].to_vec();
        if step % 2 == 0 {
            torn.resize(end + 4_096, 0);
        }
        fs::write(copied.path().join(&name), torn).unwrap();
        let store = Store::open(copied.path()).unwrap();
        let found = documents(&store);
        let expected = (0..found.len() as u64).map(|commit| (commit, size(commit))).collect();
        assert_eq!(found, expected, "cut off at {cut} of {end}");
        assert!(found.len() >= seen);
        seen = found.len();
        // A store whose very first write was torn starts afresh.
        assert!(store.latest().ts() >= times[0]);
        if seen > 0 {
            assert_eq!(store.latest().ts(), times[seen]);
        }
        // The history continues from there.
        let mut tx = store.begin(&store.latest(), 99);
        tx.insert(&root(), "t", Value::Object([("commit".to_owned(), Value::Int64(99))].into()))
            .unwrap();
        tx.commit().unwrap();
        drop(store);
        assert_eq!(documents(&Store::open(copied.path()).unwrap()).len(), seen + 1);
    }
    assert_eq!(seen as u64, COMMITS);
}

/// As a crash leaves them that comes after a part of a new index, and before the schema that lists
/// it.
#[test]
fn entries_of_an_index_that_no_table_lists_are_removed_at_the_next_start() {
    let entries = |store: &Store| {
        let from = Key::from(key::all_entries());
        store.range_at(&store.latest(), from.clone()..key::after_prefix(&from)).count()
    };
    let insert = |store: &Store| {
        let mut tx = store.begin(&store.latest(), 0);
        tx.insert(&root(), "t", value(json!({}))).unwrap();
        tx.commit().unwrap();
    };
    let (directory, store) = open();
    insert(&store);
    let of_one = entries(&store);
    assert!(of_one > 0);
    let entry = [key::entries(store.new_number()), vec![1]].concat();
    store.write_part(BTreeMap::from([(Key::from(entry), Some(Key::from([])))])).unwrap();
    // Makes the entry durable and visible.
    insert(&store);
    assert_eq!(entries(&store), 2 * of_one + 1);
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    // The latest snapshot is of the latest commit.
    insert(&store);
    assert_eq!(entries(&store), 3 * of_one);
}

#[test]
fn a_store_cannot_be_opened_twice_at_once() {
    let (directory, store) = open();
    let error = Store::open(directory.path()).unwrap_err();
    assert_eq!(error.to_string(), "another process has the store open");
    drop(store);
    Store::open(directory.path()).unwrap();
}

/// A link may lead to the lock of another store, which would then seem open.
#[cfg(unix)]
#[test]
fn a_lock_that_is_no_regular_file_is_refused() {
    let (directory, store) = open();
    drop(store);
    let lock = directory.path().join("lock");
    let moved = directory.path().join("moved");
    std::fs::rename(&lock, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &lock).unwrap();
    let refused = || Store::open(directory.path()).unwrap_err().to_string();
    assert!(refused().ends_with("its file `lock`: it is a link, not a regular file"));
    std::fs::remove_file(&lock).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&lock).status().unwrap();
    assert!(made.success());
    assert!(refused().ends_with("its file `lock`: it is a pipe, not a regular file"));
    std::fs::remove_file(&lock).unwrap();
    std::fs::rename(&moved, &lock).unwrap();
    Store::open(directory.path()).unwrap();
}
