//! Whether a directory holds a journal, and whether a process has it open.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use audit_core::{FileLock, open_regular};

use crate::disk::{LOCK, named};
use crate::segment::ordinal_of;
use crate::startup::cannot_open;
use crate::{OpenError, OpenErrorKind};

/// Whether this directory holds a journal.
pub(super) fn finds(directory: &Path) -> io::Result<bool> {
    let names = fs::read_dir(directory)?;
    let mut names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.any(|name| name == LOCK || ordinal_of(&name).is_some()))
}

/// Checks that the directory holds a journal.
pub(crate) fn exists(directory: &Path) -> Result<(), OpenError> {
    if finds(directory).map_err(|error| cannot_open(directory, error))? {
        return Ok(());
    }
    let message = format!("there is no journal in {}", directory.display());
    Err(OpenError::new(OpenErrorKind::Configuration, message))
}

/// Whether a process has the journal open. It has locked a file and, since somebody may remove
/// that, the directory.
pub(super) fn in_use(directory: &Path) -> io::Result<bool> {
    let is_file_locked = match open_regular(&directory.join(LOCK)).and_then(is_locked) {
        // A copied journal may lack the file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        locked => locked.map_err(|error| named(LOCK, error))?,
    };
    // Not every file system locks directories.
    Ok(is_file_locked || File::open(directory).and_then(is_locked).unwrap_or(false))
}

fn is_locked(file: File) -> io::Result<bool> {
    match FileLock::shared(file) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}
