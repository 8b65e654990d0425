//! Locks of files against other processes.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::regular_file::open_or_create_regular;

/// A lock of a file against other processes, until it is dropped.
///
/// Dropping it unlocks the file explicitly, since closing the file may not suffice: a child process
/// that is being started has copies of its parent's open files until it runs its own program, and
/// these copies hold the lock too.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    /// The path of the locked file, if it is removed when the lock is dropped.
    removed: Option<PathBuf>,
}

/// How long [`FileLock::exclusive`] waits for holders of a shared lock, in total and between
/// attempts. They hold it for microseconds, unless their process is stopped meanwhile.
const SHARED_WAIT: Duration = Duration::from_secs(5);
const SHARED_PAUSE: Duration = Duration::from_millis(5);

impl FileLock {
    /// Locks the file at this path exclusively. Creates it if it is missing, accessible only to its
    /// owner.
    ///
    /// # Errors
    ///
    /// Those of [`exclusive`](Self::exclusive). Also if the path is not that of a regular file:
    /// opening a pipe may wait, and a link may lead to another process's lock.
    pub fn create(path: &Path) -> io::Result<FileLock> {
        FileLock::exclusive(open_or_create_regular(path)?)
    }

    /// Locks out other processes that write the file at this path, by locking a file beside it,
    /// `<name>.lock`. If another process has the lock, calls `wait` and then waits for the lock.
    ///
    /// The file at the path may be replaced while the lock is held. The lock file is removed when
    /// the lock is dropped; a process that is killed leaves it.
    ///
    /// # Errors
    ///
    /// If the lock file cannot be opened or examined, or if waiting for the lock fails.
    pub fn beside(path: &Path, wait: impl FnOnce()) -> io::Result<FileLock> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let mut wait = Some(wait);
        loop {
            let file = open_or_create_regular(&lock)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    wait.take().into_iter().for_each(|wait| wait());
                    file.lock()?;
                }
                // On a file system without locks, processes are not kept apart.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // The previous holder removed the file, and another process may have created and locked
            // a new one: retry.
            if is_at(&file, &lock)? {
                return Ok(FileLock { file, removed: Some(lock) });
            }
        }
    }

    /// Locks a file exclusively. Waits for processes that hold a [shared](Self::shared) lock, which
    /// they take only to find out whether the file is locked.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if the file is locked exclusively, or is still shared after 5
    /// seconds.
    pub fn exclusive(file: File) -> io::Result<FileLock> {
        for _ in 0..SHARED_WAIT.as_millis() / SHARED_PAUSE.as_millis() {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if file.try_lock_shared().is_ok() => file.unlock()?,
                locked => return FileLock::taken(locked, file),
            }
            pause();
        }
        FileLock::taken(file.try_lock(), file)
    }

    /// Takes a shared lock on a file: several processes may hold it at once, but none beside an
    /// exclusive lock.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if the file is locked exclusively.
    pub fn shared(file: File) -> io::Result<FileLock> {
        FileLock::taken(file.try_lock_shared(), file)
    }

    fn taken(locked: Result<(), TryLockError>, file: File) -> io::Result<FileLock> {
        match locked {
            Ok(()) => Ok(FileLock { file, removed: None }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "files are locked by blocking calls, none of which has a time limit"
)]
fn pause() {
    std::thread::sleep(SHARED_PAUSE);
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Removed before others can take the lock, so that nobody keeps a lock on a removed file. A
        // file that remains does no harm.
        if let Some(path) = &self.removed {
            let _ = std::fs::remove_file(path);
        }
        // If this fails, closing the file releases the lock.
        let _ = self.file.unlock();
    }
}

/// Whether an open file is still the one at this path.
#[cfg(unix)]
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let there = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let held = file.metadata()?;
    Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
}

/// Operating systems other than Unix do not remove open files.
#[cfg(not(unix))]
pub(crate) fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
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

    /// A shared lock lasts for an instant, and does not make an exclusive one fail.
    #[test]
    fn those_who_look_whether_a_file_is_locked_are_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        drop(FileLock::create(&path).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    // Fails while the file is locked exclusively.
                    drop(FileLock::shared(File::open(&path).unwrap()));
                }
            });
            let locked = (0..500).map(|_| FileLock::create(&path).map(drop));
            let locked = locked.collect::<io::Result<()>>();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            locked.unwrap();
        });
    }

    /// Each holder removes the lock file, so the next one may have opened a file that is gone.
    #[test]
    fn one_process_at_a_time_has_the_lock_beside_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (waits, waiting) = std::sync::mpsc::channel();
        let lock = FileLock::beside(&path, || panic!("nobody else has it")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (path, waits) = (&path, waits.clone());
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _lock = FileLock::beside(path, || waits.send(()).unwrap()).unwrap();
                        // Fails if another thread is between these two lines.
                        drop(File::create_new(path).unwrap());
                        std::fs::remove_file(path).unwrap();
                    }
                });
            }
            waiting.recv().unwrap();
            drop(lock);
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_ends_although_a_copy_of_the_file_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let file = File::create(&path).unwrap();
        // A copy such as a child process has while it is being started.
        let _copy = file.try_clone().unwrap();
        let open = || File::open(&path).unwrap();
        let lock = FileLock::exclusive(file).unwrap();
        for refused in [FileLock::exclusive(open()), FileLock::shared(open())] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        drop(lock);
        let shared = [FileLock::shared(open()).unwrap(), FileLock::shared(open()).unwrap()];
        drop(shared);
        FileLock::exclusive(open()).unwrap();
    }
}
