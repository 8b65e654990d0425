//! Creating a store, whole or not at all.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use audit_core::FileLock;
use audit_core::durable::sync_name;

use super::error::StoreError;
use super::make_private;

pub(super) fn is_new(directory: &Path) -> io::Result<bool> {
    Ok(std::fs::read_dir(directory)?.next().is_none())
}

/// Creates a database in an empty directory.
///
/// The database is created in a directory beside this one, on the same file system, and then moved
/// into its place, since a database whose creation was interrupted can never be opened. A crash or
/// a failure before the move leaves an unfinished directory, which the next creation empties. A
/// crash before the move is durable may bring the empty directory back. Nothing was acknowledged in
/// either case.
pub(super) fn create(directory: &Path) -> Result<(), StoreError> {
    let unfinished = beside(directory);
    let failed = |error: io::Error| {
        if error.kind() == ErrorKind::WouldBlock {
            return fjall::Error::Locked.into();
        }
        let directory = directory.display();
        StoreError::damaged(format!("the store in {directory} cannot be created: {error}"))
    };
    // Another process that creates the same store holds this lock until it has moved its directory
    // into place.
    let lock = File::open(directory).map_err(failed)?;
    let _lock = FileLock::exclusive(lock).map_err(failed)?;
    if !is_new(directory).map_err(failed)? {
        return Err(fjall::Error::Locked.into());
    }
    make_private(&unfinished).map_err(failed)?;
    empty(&unfinished).map_err(failed)?;
    drop(fjall::Database::builder(&unfinished).open()?);
    std::fs::rename(&unfinished, directory).map_err(failed)?;
    sync_name(directory).map_err(failed)
}

fn beside(directory: &Path) -> PathBuf {
    let mut path = directory.as_os_str().to_owned();
    path.push(".creating");
    path.into()
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    /// A process may be killed after the store was moved and before its name was durable.
    #[test]
    fn the_name_of_a_store_is_durable_before_a_commit() {
        use audit_core::testing::synced_directories;
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for _ in 0..2 {
            drop(Store::open(&root.join("data/documents")).unwrap());
            for synced in [root.join("data"), root.clone()] {
                assert!(synced_directories().remove(&synced), "{}", synced.display());
            }
        }
    }

    #[test]
    fn an_interrupted_creation_is_repeated() {
        let root = tempfile::tempdir().unwrap();
        // The state after each step of the database's own creation, and a complete store before it
        // is moved.
        let whole = root.path().join("whole");
        drop(Store::open(&whole).unwrap());
        for (number, left) in
            [&[][..], &["lock"], &["lock", "0.jnl"], &["lock", "0.jnl", "version"]]
                .into_iter()
                .enumerate()
        {
            let directory = root.path().join(number.to_string());
            let unfinished = beside(&directory);
            std::fs::create_dir_all(unfinished.join("keyspaces/0")).unwrap();
            for name in left {
                std::fs::write(unfinished.join(name), "").unwrap();
            }
            let store = Store::open(&directory).unwrap();
            let created = store.latest().ts();
            drop(store);
            assert!(!unfinished.exists());
            assert!(Store::open(&directory).unwrap().latest().ts() >= created);
        }
        let moved = root.path().join("moved");
        std::fs::rename(&whole, beside(&moved)).unwrap();
        Store::open(&moved).unwrap();
    }

    #[test]
    fn one_process_creates_a_store() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("store");
        make_private(&directory).unwrap();
        let other = File::open(&directory).unwrap();
        other.lock().unwrap();
        let refused = Store::open(&directory).unwrap_err();
        assert_eq!(refused.to_string(), "another process has the store open");
        drop(other);
        Store::open(&directory).unwrap();
        // Another process created the store after this one had found the directory new.
        let refused = create(&directory).unwrap_err();
        assert_eq!(refused.to_string(), "another process has the store open");
        assert!(!beside(&directory).exists());
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("0.jnl"), "a journal").unwrap();
        Store::open(root.path()).unwrap_err();
        assert_eq!(std::fs::read(root.path().join("0.jnl")).unwrap(), b"a journal");
    }
}
