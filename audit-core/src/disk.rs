//! The free space of a disk.

use std::io;
use std::path::Path;

/// How many bytes an unprivileged process can still write to the disk of this file or directory.
/// `u64::MAX` on operating systems that are not Unix.
///
/// # Errors
///
/// If the path does not exist or the disk cannot be queried.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        path.metadata().map(|_| u64::MAX)
    }
}
