//! Refused commits, of which nothing is stored.

use super::*;

fn insert(store: &Store) -> Result<Timestamp, CommitError> {
    let mut tx = store.begin(&store.latest(), 1);
    tx.insert(&root(), "t", value(json!({ "a": 1 }))).unwrap();
    tx.commit()
}

#[track_caller]
fn assert_refused(store: &Store) {
    let before = store.latest().ts();
    let error = insert(store).unwrap_err();
    assert!(matches!(error, CommitError::Refused(_)), "{error:?}");
    assert!(error.is_rolled_back() && !error.is_retryable());
    assert_eq!(store.latest().ts(), before);
}

#[test]
fn commits_are_refused_while_the_disk_lacks_space() {
    let (directory, store) = open();
    insert(&store).unwrap();
    for _ in 0..3 {
        store.set_reserve(u64::MAX);
        assert_refused(&store);
        let Commits::Refused { reason } = store.commits() else { panic!("{:?}", store.commits()) };
        assert!(reason.contains("bytes free") && reason.contains("make room"), "{reason}");
        // The state changes without a commit.
        store.set_reserve(0);
        assert_eq!(store.commits(), Commits::Accepted);
        store.set_reserve(u64::MAX);
        assert_refused(&store);
        store.set_reserve(0);
        insert(&store).unwrap();
    }
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let mut tx = store.begin(&store.latest(), 1);
    assert_eq!(tx.count(&root(), "t").unwrap(), 4);
}

/// Whatever a start does with a store that is as the program wants it, so that a host on a full
/// disk serves queries.
#[test]
fn a_start_that_changes_nothing_needs_no_space() {
    let schema = |indexes: &[&str]| {
        let index = |field: &&str| json!({ "indexDescriptor": field, "fields": [field] });
        let indexes: Vec<_> = indexes.iter().map(index).collect();
        let table = json!({ "tableName": "t", "indexes": indexes, "documentType": null });
        let schema = json!({ "tables": [table], "schemaValidation": false });
        BTreeMap::from([(root(), Some(schema))])
    };
    let entries = |store: &Store| {
        let (from, view) = (Key::from(key::all_entries()), store.latest());
        store.range_at(&view, from.clone()..key::after_prefix(&from)).count()
    };
    let (_directory, store) = open();
    store.set_reserve(0);
    store.set_schema(&schema(&["a", "b"])).unwrap();
    insert(&store).unwrap();
    let before = (entries(&store), store.latest().ts());

    store.set_reserve(u64::MAX);
    store.drop_unknown_indexes().unwrap();
    store.set_schema(&schema(&["a", "b"])).unwrap();
    for changed in [&["a", "b", "c"][..], &["a"]] {
        let error = store.set_schema(&schema(changed)).unwrap_err();
        let SchemaError::Store(error) = error else { panic!("{error}") };
        assert!(error.lacks_room(), "{error}");
    }
    assert_eq!((entries(&store), store.latest().ts()), before);

    // Entries of no index wait for space.
    store.set_reserve(0);
    let unknown = Key::from(key::entries(store.new_number()));
    store.write(BTreeMap::from([(unknown, Some(Key::from([])))]), None).unwrap();
    insert(&store).unwrap();
    let with_unknown = entries(&store);
    store.set_reserve(u64::MAX);
    store.drop_unknown_indexes().unwrap();
    insert(&store).unwrap_err();
    assert_eq!(entries(&store), with_unknown);
    store.set_reserve(0);
    store.set_schema(&schema(&["a", "b"])).unwrap();
    insert(&store).unwrap();
    assert_eq!(entries(&store), with_unknown - 1 + with_unknown - 1 - before.0);
}

/// A schema and writes are one commit: both are there or neither, also after a restart.
#[test]
fn a_schema_is_stored_with_its_writes_or_not_at_all() {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let schemas = |index: &str| {
        let index = json!({ "indexDescriptor": index, "fields": ["a"] });
        let table = json!({ "tableName": "t", "indexes": [index], "documentType": null });
        let schema = json!({ "tables": [table], "schemaValidation": false });
        BTreeMap::from([(root(), Some(schema))])
    };
    let note = |tx: &mut Tx| {
        tx.as_host(|tx| tx.insert(&root(), "_notes", value(json!({ "n": 1 })))).map(drop)
    };
    let state = |store: &Store| {
        let latest = store.latest();
        let table = latest.catalog().table(&root(), "t").unwrap();
        let indexes: Vec<_> = table.indexes[1..].iter().map(|it| it.name.clone()).collect();
        let notes = store.begin(&latest, 1).as_host(|tx| tx.count(&root(), "_notes")).unwrap();
        (indexes.concat(), notes)
    };
    let (directory, store) = open();
    insert(&store).unwrap();
    store.set_schema_with(&schemas("one"), 1, note, || ()).unwrap();
    assert_eq!(state(&store), ("one".to_owned(), 1));

    let never = || panic!("nothing is durable");
    let fails = |tx: &mut Tx| note(tx).and(Err(StoreError::failed("a test's failure")));
    store.set_schema_with(&schemas("two"), 2, fails, never).unwrap_err();
    let panics = |tx: &mut Tx| panic!("a test's panic: {:?}", note(tx));
    let deployed = || store.set_schema_with(&schemas("two"), 3, panics, never).unwrap();
    catch_unwind(AssertUnwindSafe(deployed)).unwrap_err();
    let full = |tx: &mut Tx| {
        store.set_reserve(u64::MAX);
        note(tx)
    };
    store.set_schema_with(&schemas("two"), 4, full, never).unwrap_err();
    store.set_reserve(0);
    assert_eq!(state(&store), ("one".to_owned(), 1));
    insert(&store).unwrap();

    // What is durable is unseen until the closure has returned.
    let before = std::cell::RefCell::new(None);
    let seen = || before.replace(Some(state(&store))).map_or((), |_| panic!("once"));
    store.set_schema_with(&schemas("three"), 5, note, seen).unwrap();
    assert_eq!(before.take(), Some(("one".to_owned(), 1)));
    assert_eq!(state(&store), ("three".to_owned(), 2));

    let deployed = || store.set_schema_with(&schemas("four"), 6, note, || panic!("a test's panic"));
    catch_unwind(AssertUnwindSafe(deployed)).unwrap_err();
    assert_refused(&store);
    assert_eq!(state(&store), ("three".to_owned(), 2));
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(state(&store), ("four".to_owned(), 3));
    insert(&store).unwrap();
}

#[tokio::test]
async fn commits_are_refused_for_good_after_a_failed_write() {
    let (directory, store) = open();
    insert(&store).unwrap();
    let stopped = store.stopped();
    store.0.committer.lock().fail();
    assert_refused(&store);
    let Commits::Stopped { reason } = store.commits() else { panic!("{:?}", store.commits()) };
    assert!(reason.contains("restart to recover"), "{reason}");
    assert_eq!(stopped.await, reason);
    store.set_reserve(0);
    assert_refused(&store);
    drop(store);
    insert(&Store::open(directory.path()).unwrap()).unwrap();
}

/// Once the store's directory was moved or removed, its path may hold a restored backup or another
/// process's store.
#[cfg(unix)]
#[test]
fn nothing_is_committed_once_the_directory_is_gone_or_another() {
    use std::{fs, path::Path};

    use audit_core::testing::remove_directory_in_use;

    let backup = |path: &Path| drop(Store::open(path).unwrap());
    let took_its_place: [&dyn Fn(&Path); 3] =
        [&|_| (), &|path| fs::create_dir_all(path).unwrap(), &backup];
    for (case, take_place) in took_its_place.into_iter().enumerate() {
        for moved in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let directory = root.path().join("store");
            let store = Store::open(&directory).unwrap();
            insert(&store).unwrap();
            match moved {
                true => fs::rename(&directory, root.path().join("moved")).unwrap(),
                false => remove_directory_in_use(&directory).unwrap(),
            }
            take_place(&directory);
            for _ in 0..2 {
                assert_refused(&store);
                assert!(matches!(store.commits(), Commits::Stopped { .. }), "{case}, {moved}");
                // A new directory of the same name does not have the store's files.
                fs::create_dir_all(&directory).unwrap();
            }
        }
    }
}
