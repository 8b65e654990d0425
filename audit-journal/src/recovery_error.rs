//! The error of a recovery.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// Acknowledged records are damaged or missing.
    #[error("the journal is damaged in {file} at byte {offset}: {what}")]
    Damaged {
        file: String,
        /// The offset of the damage, in bytes.
        offset: u64,
        what: String,
    },
    /// The operating system failed.
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
}
