//! Directories that are moved or replaced while a process uses them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A directory at a path. It notices if the path leads elsewhere: what is there then may be another
/// process's, which must not be changed.
#[derive(Debug)]
pub struct PlacedDirectory {
    path: PathBuf,
    /// The directory itself, wherever somebody moves it. Not every operating system opens
    /// directories; there, a moved one goes unnoticed if another has its path.
    directory: Option<File>,
}

impl PlacedDirectory {
    /// The directory that is at this path now.
    pub fn new(path: PathBuf) -> PlacedDirectory {
        let directory = File::open(&path).ok();
        PlacedDirectory { path, directory }
    }

    /// The path, at which another directory may be by now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is still at its path: not if it was removed, moved or replaced, or if
    /// the path cannot be read.
    pub fn is_in_place(&self) -> bool {
        match &self.directory {
            Some(directory) => is_same(directory, &self.path).unwrap_or(false),
            None => self.path.is_dir(),
        }
    }
}

#[cfg(unix)]
fn is_same(directory: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let [held, there] = [directory.metadata()?, std::fs::metadata(path)?];
    Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> io::Result<bool> {
    Ok(path.is_dir())
}
