//! The file that says with which segment a journal begins.

use std::io;

use crate::disk::{Disk, read_whole, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;

/// Its name. Without it, the journal begins with the first segment ever made.
pub(crate) const BEGIN: &str = "begin";

/// Notes, durably, that segments before `ordinal` are not needed any more. They may be removed
/// after that, in any order.
///
/// A crash before that: they are there, and needed as before. After it, a recovery removes what is
/// left of them. So it can tell a segment that was removed from one that is missing.
pub(crate) fn note_begin(disk: &dyn Disk, ordinal: u32) -> io::Result<()> {
    let mut file = format!("audit begin 1 segment {ordinal:08x} ").into_bytes();
    seal(&mut file, 0);
    write_durably(disk, BEGIN, [&file[..]])
}

/// The ordinal of the segment that the journal begins with.
pub(crate) fn read_begin(disk: &dyn Disk) -> Result<u32, RecoveryError> {
    let file = read_whole(disk, BEGIN)?;
    let ordinal = Fields::of(&file, 0).and_then(|mut fields| {
        fields.literal("audit begin 1 segment ")?;
        fields.hex32()
    });
    let what = "the file does not match its checksum";
    ordinal.ok_or_else(|| RecoveryError::Damaged {
        file: BEGIN.to_owned(),
        offset: 0,
        what: what.to_owned(),
    })
}
