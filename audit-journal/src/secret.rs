//! The secret of a stream that the destination vouches for, in a file that only its owner can read.
//!
//! The file exists from before the stream's first record until the last one is delivered, so that a
//! process that delivers the journal in the host's place can vouch for the remaining records. After
//! that nobody can sign anything in the stream's name.

use std::io;

use audit_core::UniqueId;

use crate::destination::StreamSecret;
use crate::disk::{Disk, read_whole, remove_if_there, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;

pub(crate) fn file_name(stream: UniqueId) -> String {
    format!("{stream}.secret")
}

/// The stream whose secret this file holds, or `None` for any other file name.
pub(crate) fn stream_of(name: &str) -> Option<UniqueId> {
    name.strip_suffix(".secret")?.parse().ok()
}

/// Writes the secret durably.
///
/// After a crash before this returns, the stream has no records. If the secret is there, the next
/// process removes it.
pub(crate) fn write_secret(
    disk: &dyn Disk,
    stream: UniqueId,
    secret: &StreamSecret,
) -> io::Result<()> {
    let text = secret.as_str();
    let mut file = format!("audit secret 1 bytes {:08x} {text} ", text.len()).into_bytes();
    seal(&mut file, 0);
    write_durably(disk, &file_name(stream), [&file[..]])
}

/// Reads a secret.
pub(crate) fn read_secret(disk: &dyn Disk, name: &str) -> Result<StreamSecret, RecoveryError> {
    let file = read_whole(disk, name)?;
    let text = Fields::of(&file, 0).and_then(|mut fields| {
        fields.literal("audit secret 1 bytes ")?;
        let bytes = fields.hex32()?;
        fields.literal(" ")?;
        fields.text(usize::try_from(bytes).ok()?)
    });
    let unreadable = || RecoveryError::unreadable(name, &file, "audit secret ");
    text.map(StreamSecret::new).ok_or_else(unreadable)
}

/// Removes the secret, durably.
///
/// After a crash before this returns, the secret may still be there. The next process removes it:
/// the delivery finds that the stream needs no more records, or recovery that it has no progress
/// file.
pub(crate) fn destroy_secret(disk: &dyn Disk, stream: UniqueId) -> io::Result<()> {
    remove_if_there(disk, &file_name(stream))?;
    disk.sync_directory()
}
