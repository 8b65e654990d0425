//! Writing objects to a directory, and removing what dead writers left.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Mutex, PoisonError};

use audit_core::durable::{create_directory, create_unfinished, remove_unfinished, sync_directory};
use audit_core::{PlacedDirectory, SystemClock, SystemRandom, UniqueId};
use object_store::PutPayload;

use super::directory_below;
use crate::object::key::UNFINISHED;

/// The directories below the root whose names this process has made durable. That a directory
/// exists is not enough: a process may have been killed before it synced the name.
#[derive(Debug, Default)]
pub(super) struct Prepared(Mutex<HashSet<PathBuf>>);

/// Directories beyond this number are forgotten and prepared again: there is one for each hour.
const MAX_PREPARED: usize = 64;

impl Prepared {
    fn create(&self, directory: &FilePath) -> io::Result<()> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The directory may have been removed after it was prepared.
        if lock().contains(directory) && directory.is_dir() {
            return Ok(());
        }
        create_directory(directory)?;
        let mut prepared = lock();
        if prepared.len() == MAX_PREPARED {
            prepared.clear();
        }
        prepared.insert(directory.to_owned());
        Ok(())
    }
}

/// Writes an object and syncs the file, its name and new directories.
///
/// A crash before the file has its final name leaves an unfinished file without a lock. A crash
/// between that and the sync of the directory may undo the name, but no success was reported. A
/// crash before the unfinished name is removed leaves a second name.
pub(super) fn write(
    prepared: &Prepared,
    root: &PlacedDirectory,
    path: &FilePath,
    payload: &PutPayload,
    replace: bool,
) -> io::Result<()> {
    // Another directory at the bucket's path may be the mount point of an unmounted disk, where
    // nobody looks for records.
    root.check("the bucket")?;
    let root = root.path();
    let unfinished = root.join(UNFINISHED);
    prepared.create(&unfinished)?;
    let directory = path.parent().unwrap_or(root);
    prepared.create(directory)?;
    let id = || UniqueId::generate(&SystemClock, &SystemRandom);
    let (mut file, unfinished) = create_unfinished(|| unfinished.join(id().to_string()))?;
    let written = payload
        .iter()
        .try_for_each(|piece| file.write_all(piece))
        .and_then(|()| file.sync_all())
        .and_then(|()| match replace {
            true => std::fs::rename(&unfinished, path),
            // Fails if a file has that name, so exactly one of several writers wins.
            false => std::fs::hard_link(&unfinished, path),
        });
    if written.is_err() || !replace {
        // If this fails, the file loses its lock soon and is removed at the next opening.
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    sync_directory(directory)
}

/// Removes the unfinished objects of dead writers and returns their number.
pub(in crate::bucket) fn remove_leftovers(root: &FilePath) -> io::Result<u64> {
    // A link would lead to files that are not ours.
    let Some(directory) = directory_below(root, UNFINISHED)? else { return Ok(0) };
    remove_unfinished(&directory, |_| true)
}
