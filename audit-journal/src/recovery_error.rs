//! The error of a recovery.

use std::io;

use crate::format::Fields;

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

impl RecoveryError {
    /// The error of a file that cannot be read. `begin` is how files of its kind begin, up to their
    /// version.
    ///
    /// A file of a version that this one does not know is intact: after a return to an earlier
    /// version, nothing is damaged.
    pub(crate) fn unreadable(name: &str, file: &[u8], begin: &str) -> RecoveryError {
        let is_intact = Fields::of(file, 0).and_then(|mut fields| fields.literal(begin)).is_some();
        if is_intact {
            let what = format!("{name} was written by a later version: use that version");
            return RecoveryError::Io(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let what = "the file does not match its checksum".to_owned();
        RecoveryError::Damaged { file: name.to_owned(), offset: 0, what }
    }
}
