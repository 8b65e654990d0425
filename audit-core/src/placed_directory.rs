//! Directories that are moved or replaced while a process uses them.

#[cfg(unix)]
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::DiskFault;

/// A directory at a path. [`check`](Self::check) finds out whether the path now leads elsewhere:
/// what is there may belong to another process, and must not be changed.
///
/// The directory stays open as long as this value exists, so that its inode number remains its own:
/// the file system neither gives the number to another directory nor renumbers this one. An open
/// directory keeps its disk in use, so an ordinary `umount` is refused.
#[derive(Debug)]
pub struct PlacedDirectory {
    path: PathBuf,
    directory: Held,
}

/// A handle on the directory, wherever it is moved to. Operating systems other than Unix do not
/// open directories: there it goes unnoticed if the directory is moved and another one gets its
/// path.
#[cfg(unix)]
type Held = File;
#[cfg(not(unix))]
type Held = std::fs::Metadata;

#[cfg(unix)]
fn hold(path: &Path) -> io::Result<Held> {
    File::open(path)
}

#[cfg(not(unix))]
fn hold(path: &Path) -> io::Result<Held> {
    path.metadata()
}

impl PlacedDirectory {
    /// The directory that is at this path now.
    ///
    /// # Errors
    ///
    /// If it cannot be opened: it does not exist, or this process may not read it or may open no
    /// more files.
    pub fn open(path: PathBuf) -> io::Result<PlacedDirectory> {
        Ok(PlacedDirectory { directory: hold(&path)?, path })
    }

    /// The path, at which another directory may be by now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the directory is still at its path. `whose` names its owner in the error, as in
    /// "the journal".
    ///
    /// # Errors
    ///
    /// If it was moved, replaced or removed, for which there is a [`DiskFault`], or if the path
    /// cannot be read.
    pub fn check(&self, whose: &str) -> io::Result<()> {
        let Some(fault) = self.displaced()? else { return Ok(()) };
        let path = self.path.display();
        let what = if fault == DiskFault::Removed {
            format!("the directory of {whose}, {path}, was removed")
        } else {
            format!("the directory of {whose} was moved away from {path}")
        };
        Err(fault.with(what))
    }

    #[cfg(unix)]
    fn displaced(&self) -> io::Result<Option<DiskFault>> {
        use std::os::unix::fs::MetadataExt as _;
        let held = self.directory.metadata()?;
        // Some file systems keep a count of 1 for all directories; there, a removed one counts as
        // moved.
        if held.nlink() == 0 {
            return Ok(Some(DiskFault::Removed));
        }
        match std::fs::metadata(&self.path) {
            Ok(there) if (held.dev(), held.ino()) == (there.dev(), there.ino()) => Ok(None),
            Ok(_another) => Ok(Some(DiskFault::Moved)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Some(DiskFault::Moved))
            }
            Err(error) => {
                let what = format!("{} cannot be found: {error}", self.path.display());
                Err(io::Error::new(error.kind(), what))
            }
        }
    }

    #[cfg(not(unix))]
    fn displaced(&self) -> io::Result<Option<DiskFault>> {
        let is_there = self.directory.is_dir() && self.path.is_dir();
        Ok(if is_there { None } else { Some(DiskFault::Moved) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is done to the directory, and the fault that the check reports.
    #[cfg(unix)]
    #[test]
    fn each_way_to_lose_a_directory_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let [path, moved] = ["of", "moved"].map(|name| root.path().join(name));
        type Change<'a> = &'a dyn Fn() -> io::Result<()>;
        let table: [(&str, Change<'_>, Option<DiskFault>); 6] = [
            ("nothing", &|| Ok(()), None),
            ("moved", &|| fs::rename(&path, &moved), Some(DiskFault::Moved)),
            (
                "replaced",
                &|| fs::rename(&path, &moved).and_then(|()| fs::create_dir(&path)),
                Some(DiskFault::Moved),
            ),
            (
                "replaced by a file",
                &|| fs::rename(&path, &moved).and_then(|()| fs::write(&path, "")),
                Some(DiskFault::Moved),
            ),
            ("removed", &|| fs::remove_dir(&path), Some(DiskFault::Removed)),
            (
                "removed and made again",
                &|| fs::remove_dir(&path).and_then(|()| fs::create_dir(&path)),
                Some(DiskFault::Removed),
            ),
        ];
        for (what, change, fault) in table {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&moved);
            fs::create_dir_all(&path).unwrap();
            let placed = PlacedDirectory::open(path.clone()).unwrap();
            change().unwrap();
            let checked = placed.check("the journal");
            let found = checked.as_ref().err().and_then(|error| DiskFault::of(error));
            assert_eq!(found, fault, "{what}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("the directory of the journal"), "{error}");
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_opened_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let error = PlacedDirectory::open(root.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
