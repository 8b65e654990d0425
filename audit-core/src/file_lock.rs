//! Locks of files against other processes.

use std::fs::{File, TryLockError};
use std::io;

/// A lock of a file against other processes, until it is dropped.
///
/// It does not rest on the file being closed. A process that is being started has copies of its
/// parent's files until it runs its own program, and would hold the lock until then.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
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
