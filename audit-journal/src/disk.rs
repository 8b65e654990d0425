//! The file operations that a journal needs, within one directory.
//!
//! The journal and its delivery access the disk only through these traits, so that a simulation can
//! lose unsynced data, fail any call, and stop at any point.

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use audit_core::durable::{self, create_directory};
use audit_core::{FileLock, PlacedDirectory, descriptors_advice, open_regular, open_regular_with};

/// A directory without subdirectories.
///
/// # Durability
///
/// The creation, change or removal of a name survives a power cut once `sync_directory` has
/// returned. Data written to a file survives once `sync_data` or `sync_all` of that file has
/// returned. A failed call may have had any part of its effect.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Lists the files' names, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file that did not exist, open for reading and writing.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing any file with the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// A hint that all of a file will be read soon.
    fn read_ahead(&self, _name: &str) {}
}

/// An open file. Different threads may write to different places.
pub(crate) trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes all bytes at this offset.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer with the bytes from this offset.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Makes written data durable, along with the file's length if reading the data needs it. After
    /// an error, the state of all data written before is unknown: the kernel may have dropped it
    /// and may report success later.
    fn sync_data(&self) -> io::Result<()>;
    /// Like `sync_data`, including all metadata of the file.
    fn sync_all(&self) -> io::Result<()>;
}

/// Removes a file that a failed call or another caller may already have removed.
pub(crate) fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The limit on a file that is read whole, in bytes: far more than any file of a journal has,
/// except its segments. A damaged file may claim a size that exceeds the memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

pub(crate) fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let bytes = file.len()?;
    if bytes > MAX_FILE_BYTES {
        let what =
            format!("{name}: a file of {bytes} bytes exceeds limit of {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Atomically and durably replaces a file by one with these parts. A crash or an error leaves the
/// old file or the new one.
pub(crate) fn write_durably<'a>(
    disk: &dyn Disk,
    name: &str,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let preparing = format!("{name}.preparing");
    // An earlier process or a failed attempt may have left this file.
    let _ = disk.remove(&preparing);
    let put = (|| {
        let file = disk.create(&preparing)?;
        let mut at = 0;
        for part in parts {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        file.sync_all()?;
        disk.rename(&preparing, name)?;
        disk.sync_directory()
    })();
    if put.is_err() {
        // Frees the space of the unfinished file: the disk may have run out.
        let _ = disk.remove(&preparing);
    }
    put
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads a file on a separate thread, so that a later read finds it in the page cache.
///
/// Disks have a higher throughput when several files are read at once, and the system's own hints
/// (`posix_fadvise`) cover only about a MiB.
pub(crate) fn read_ahead(path: PathBuf) {
    const PIECE_BYTES: usize = 256 << 10;
    let read = move || {
        let mut memory = vec![0; PIECE_BYTES];
        // The later read reports errors.
        let Ok(mut file) = open_regular(&path) else { return };
        while file.read(&mut memory).is_ok_and(|read| read > 0) {}
    };
    // If no thread can be started, the file is read when it is needed.
    let _ = thread::Builder::new().name("audit-read".to_owned()).spawn(read);
}

/// Adds the file's name to the error of an operation on it. A lack of file descriptors concerns the
/// process and not the file, so that error is returned unchanged.
pub(crate) fn named(name: &str, error: io::Error) -> io::Error {
    match descriptors_advice(&error) {
        Some(_) => error,
        None => io::Error::new(error.kind(), format!("{name}: {error}")),
    }
}

/// A directory of the operating system, locked against other processes while this lives.
#[derive(Debug)]
pub(crate) struct LocalDisk {
    directory: PlacedDirectory,
    _locks: (FileLock, Option<FileLock>),
}

pub(crate) const LOCK: &str = "LOCK";

impl LocalDisk {
    /// Opens a directory, creating it if it does not exist. Only its owner can access it, since it
    /// holds logged records.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if another process has it open.
    pub(crate) fn open(path: &Path) -> io::Result<LocalDisk> {
        // Makes the directory's own name durable: a power cut that undid it would undo what was
        // acknowledged in the directory.
        create_directory(path)?;
        let path = path.canonicalize()?;
        let file = held(FileLock::create(&path.join(LOCK)), LOCK)?;
        // The directory is locked as well, since somebody may remove the lock file. Not every file
        // system or operating system supports that.
        let directory = PlacedDirectory::open(path.clone())?;
        let locked = File::open(&path).and_then(FileLock::exclusive);
        let locked = match held(locked, ".") {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if descriptors_advice(&error).is_some() => return Err(error),
            locked => locked.ok(),
        };
        Ok(LocalDisk { directory, _locks: (file, locked) })
    }

    /// Opens an existing directory to write one file in it, and locks that file against other
    /// processes. Another process may have the journal in the directory open.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another process writes that file.
    pub(crate) fn beside(path: &Path, file: &str) -> io::Result<LocalDisk> {
        let path = path.canonicalize()?;
        let lock = format!("{file}.lock");
        let locked = FileLock::create(&path.join(&lock)).map_err(|error| {
            if error.kind() != io::ErrorKind::WouldBlock {
                return named(&lock, error);
            }
            let message = format!("another process writes {}", path.join(file).display());
            io::Error::new(io::ErrorKind::WouldBlock, message)
        })?;
        Ok(LocalDisk { directory: PlacedDirectory::open(path)?, _locks: (locked, None) })
    }

    /// Calls `operation` with the path of a file.
    ///
    /// # Errors
    ///
    /// Those of `operation`, and an error if the directory is no longer at its path. A directory
    /// that is there instead may be the journal of another process, which must not be changed.
    /// Nothing is lost: the journal continues once its directory is back.
    fn with<T>(&self, name: &str, operation: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        self.check()?;
        operation(&self.path().join(name)).map_err(|error| named(name, error))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn check(&self) -> io::Result<()> {
        self.directory.check("the journal")
    }
}

fn held(locked: io::Result<FileLock>, name: &str) -> io::Result<FileLock> {
    locked.map_err(|error| {
        if error.kind() != io::ErrorKind::WouldBlock {
            return named(name, error);
        }
        io::Error::new(io::ErrorKind::WouldBlock, "another process has this journal open")
    })
}

/// The options for opening files, which only their owner can access.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl Disk for LocalDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.check()?;
        let entries = fs::read_dir(self.path())?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.with(name, |path| options().create_new(true).open(path))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.with(name, |path| open_regular_with(&options(), path))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(from, |path| fs::rename(path, self.path().join(to)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(name, |path| fs::remove_file(path))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.check()?;
        durable::sync_directory(self.path())
    }

    fn read_ahead(&self, name: &str) {
        read_ahead(self.path().join(name));
    }
}

#[cfg(unix)]
impl DiskFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)?;
        // Syncing an unlinked file succeeds, but the file disappears with the process.
        match std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) {
            0 => Err(io::Error::other("the file was removed while it was written to")),
            _ => Ok(()),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

/// A file whose syncs do nothing and report success: for a simulation that must detect this, and
/// for measurements without the disk.
#[cfg(any(test, feature = "simulation", feature = "bench_internals"))]
#[derive(Debug)]
pub(crate) struct UnsyncedFile(pub(crate) Arc<dyn DiskFile>);

#[cfg(any(test, feature = "simulation", feature = "bench_internals"))]
impl DiskFile for UnsyncedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}
