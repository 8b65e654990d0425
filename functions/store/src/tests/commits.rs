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
