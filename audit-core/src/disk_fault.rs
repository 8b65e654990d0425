//! Faults of a disk that an operator can help with.

use std::error::Error;
use std::io;

use crate::sources::with_wrapped;

/// Why a disk refuses an operation, and goes on refusing it until somebody acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// There is no space.
    Full,
    /// A quota is used up.
    Quota,
    /// The file system is mounted for reading only.
    ReadOnly,
    /// This process lacks a permission.
    Permission,
    /// The directory was moved, another one has its place, or its disk was unmounted. It may come
    /// back.
    Moved,
    /// The directory was removed, with everything in it, and never comes back.
    Removed,
}

impl DiskFault {
    /// The fault that this error, or one of its sources, reports. `None` for other errors, which
    /// may pass without an operator.
    pub fn of(error: &(dyn Error + 'static)) -> Option<DiskFault> {
        with_wrapped(error).find_map(|error| {
            let fault = error.downcast_ref::<Faulty>().map(|faulty| faulty.fault);
            fault.or_else(|| of_kind(error.downcast_ref::<io::Error>()?.kind()))
        })
    }

    /// What to do about it, as the end of a sentence.
    pub fn advice(self) -> &'static str {
        match self {
            DiskFault::Full => "make room on its disk",
            DiskFault::Quota => "make room, or raise the quota",
            DiskFault::ReadOnly => "mount its disk for writing",
            DiskFault::Permission => "allow this process to write to the directory",
            DiskFault::Moved => "move it back",
            DiskFault::Removed => "restart this process, which makes it again",
        }
    }

    /// An error with this text that reports the fault.
    pub(crate) fn with(self, what: String) -> io::Error {
        io::Error::other(Faulty { fault: self, what })
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and may grow")]
fn of_kind(kind: io::ErrorKind) -> Option<DiskFault> {
    match kind {
        io::ErrorKind::StorageFull => Some(DiskFault::Full),
        io::ErrorKind::QuotaExceeded => Some(DiskFault::Quota),
        io::ErrorKind::ReadOnlyFilesystem => Some(DiskFault::ReadOnly),
        io::ErrorKind::PermissionDenied => Some(DiskFault::Permission),
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Faulty {
    fault: DiskFault,
    what: String,
}
