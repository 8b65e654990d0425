//! The error of a recovery.

use std::fmt;
use std::io;

/// A failed recovery.
#[derive(Debug)]
pub(crate) enum RecoveryError {
    /// Acknowledged records are damaged or missing.
    Damaged {
        /// The file.
        file: String,
        /// The offset of the damage, in bytes.
        offset: u64,
        what: String,
    },
    /// The operating system failed.
    Io(io::Error),
}

impl From<io::Error> for RecoveryError {
    fn from(error: io::Error) -> RecoveryError {
        RecoveryError::Io(error)
    }
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Damaged { file, offset, what } => {
                write!(f, "the journal is damaged in {file} at byte {offset}: {what}")
            }
            RecoveryError::Io(_) => f.write_str("the journal cannot be read"),
        }
    }
}

impl std::error::Error for RecoveryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecoveryError::Damaged { .. } => None,
            RecoveryError::Io(error) => Some(error),
        }
    }
}
