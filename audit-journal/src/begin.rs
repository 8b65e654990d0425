//! The `begin` file, which names the first segment of a journal.

use std::io;

use crate::disk::{Disk, read_whole, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;

/// The file's name. Without the file, the journal begins with the first segment ever made.
pub(crate) const BEGIN: &str = "begin";

/// Records durably that segments before `ordinal` are no longer needed. They may then be removed in
/// any order.
///
/// A crash before this returns leaves them needed, as before. After it, recovery removes the
/// remaining ones, and so can tell a removed segment from a missing one.
pub(crate) fn note_begin(disk: &dyn Disk, ordinal: u32) -> io::Result<()> {
    let mut file = format!("audit begin 1 segment {ordinal:08x} ").into_bytes();
    seal(&mut file, 0);
    write_durably(disk, BEGIN, [&file[..]])
}

/// The ordinal of the journal's first segment.
pub(crate) fn read_begin(disk: &dyn Disk) -> Result<u32, RecoveryError> {
    let file = read_whole(disk, BEGIN)?;
    let ordinal = Fields::of(&file, 0).and_then(|mut fields| {
        fields.literal("audit begin 1 segment ")?;
        fields.hex32()
    });
    ordinal.ok_or_else(|| RecoveryError::unreadable(BEGIN, &file, "audit begin "))
}
