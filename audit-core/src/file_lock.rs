//! Locks of files against other processes.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::regular_file::open_or_create_regular;

/// A lock of a file against other processes, until it is dropped.
///
/// It does not rest on the file being closed. A process that is being started has copies of its
/// parent's files until it runs its own program, and would hold the lock until then.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks the file at this path, which nobody else has locked. It is created if it is missing,
    /// accessible only to its owner.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if it is locked. Also if it is not a regular file: opening a
    /// pipe may wait, and a link may lead to another process's lock.
    pub fn create(path: &Path) -> io::Result<FileLock> {
        FileLock::exclusive(open_or_create_regular(path)?)
    }

    /// Locks a file that nobody else has locked.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if it is locked.
    pub fn exclusive(file: File) -> io::Result<FileLock> {
        FileLock::taken(file.try_lock(), file)
    }

    /// Locks a file that nobody else has locked but in this way.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if it is locked exclusively.
    pub fn shared(file: File) -> io::Result<FileLock> {
        FileLock::taken(file.try_lock_shared(), file)
    }

    fn taken(locked: Result<(), TryLockError>, file: File) -> io::Result<FileLock> {
        match locked {
            Ok(()) => Ok(FileLock(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // If this fails, closing the file releases the lock.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_a_regular_file_is_locked() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for _created_and_found in 0..2 {
            let lock = FileLock::create(&at("LOCK")).unwrap();
            let error = FileLock::create(&at("LOCK")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            drop(lock);
        }
        let mode = at("LOCK").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        std::fs::create_dir(at("directory")).unwrap();
        symlink(at("LOCK"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        for (name, what) in [
            ("directory", "a directory"),
            ("link", "a link"),
            ("dangling", "a link"),
            ("pipe", "a pipe"),
        ] {
            let error = FileLock::create(&at(name)).unwrap_err();
            assert_eq!(error.to_string(), format!("it is {what}, not a regular file"), "{name}");
        }
        assert!(!at("nothing").exists());
    }

    #[test]
    fn a_lock_ends_although_a_copy_of_the_file_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let file = File::create(&path).unwrap();
        // Such as a process has that is being started.
        let _copy = file.try_clone().unwrap();
        let open = || File::open(&path).unwrap();
        let lock = FileLock::exclusive(file).unwrap();
        for refused in [FileLock::exclusive(open()), FileLock::shared(open())] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        drop(lock);
        let shared = [FileLock::shared(open()).unwrap(), FileLock::shared(open()).unwrap()];
        assert_eq!(FileLock::exclusive(open()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(shared);
        FileLock::exclusive(open()).unwrap();
    }
}
