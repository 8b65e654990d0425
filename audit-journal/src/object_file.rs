//! Object files: each holds an object as it will be sent, with everything its destination needs.
//!
//! An object file is durable before the first request, so that every later request, by any process,
//! sends the same bytes to the same place.

use std::io;

use audit_core::{BufferPool, UniqueId};
use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::destination::{Encoded, Encoding, Plan};
use crate::disk::{Disk, DiskFile, read_whole, write_durably};
use crate::format::{Fields, seal};
use crate::shared::pieces::Pieces;
use crate::vouching::Seal;

impl Plan {
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{:012}.object", self.stream, self.first_sequence)
    }

    /// The name under which a set-aside object is kept.
    pub(crate) fn conflict_name(&self) -> String {
        format!("{}-{:012}.conflict", self.stream, self.first_sequence)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It holds committed records.
    Records,
    /// It declares the first range of set-aside records of its stream as missing.
    Void,
    /// It is the last object of its stream.
    Closed,
}

impl Role {
    const ALL: [Role; 3] = [Role::Records, Role::Void, Role::Closed];

    fn as_str(self) -> &'static str {
        match self {
            Role::Records => "r",
            Role::Void => "v",
            Role::Closed => "c",
        }
    }
}

/// The header of an object that is not bound to others (version 1), in bytes.
pub(crate) const HEADER_BYTES: usize = 242;

/// The header of an object that is bound to those before it (version 2), in bytes.
const SEALED_HEADER_BYTES: usize = HEADER_BYTES + 56;

/// Writes an object file. It is durable when this returns.
///
/// Before that, nothing was sent. After a crash, recovery finds the file complete or not at all; in
/// the latter case the records are cut again.
pub(crate) fn write_object(
    disk: &dyn Disk,
    plan: &Plan,
    role: Role,
    object: &Encoded,
) -> io::Result<()> {
    write_object_as(disk, &plan.file_name(), plan, role, object)
}

/// Like [`write_object`], under this name.
pub(crate) fn write_object_as(
    disk: &dyn Disk,
    name: &str,
    plan: &Plan,
    role: Role,
    object: &Encoded,
) -> io::Result<()> {
    let header = object_header(plan, role, object);
    write_durably(disk, name, [&header[..]].into_iter().chain(body(object)))
}

pub(crate) fn file_bytes(object: &Encoded) -> u64 {
    let header = if object.seal.is_some() { SEALED_HEADER_BYTES } else { HEADER_BYTES };
    (header + body(object).map(<[u8]>::len).sum::<usize>()) as u64
}

/// The parts after the header: the object's seal and its bytes.
fn body(object: &Encoded) -> impl Iterator<Item = &[u8]> {
    let seal = object.seal.iter().flat_map(|seal| [&seal.before, &seal.after, &seal.metadata]);
    seal.chain(&object.pieces).map(|piece| &piece[..])
}

/// Durably keeps an object that met a conflict under another name. The file under its own name is
/// then no longer needed.
///
/// After a crash before this returns, the next recovery finds the object set aside, or the object
/// is sent again and meets the conflict again.
pub(crate) fn set_aside(disk: &dyn Disk, plan: &Plan) -> io::Result<()> {
    write_durably(disk, &plan.conflict_name(), [&read_whole(disk, &plan.file_name())?[..]])
}

fn object_header(plan: &Plan, role: Role, object: &Encoded) -> Vec<u8> {
    let Plan { stream, first_sequence, count, time_ms, encoding } = plan;
    let sum = body(object).fold(0, crc32c::crc32c_append);
    let version = if object.seal.is_some() { 2 } else { 1 };
    let mut header = format!(
        "audit object {version} stream {stream} first {first_sequence:016x} count {count:016x} \
         time {:016x} as {encoding} bytes {:016x} sum {sum:08x} sha256 ",
        time_ms.cast_unsigned(),
        object.bytes(),
    );
    HEXLOWER.encode_append(&object.sha256, &mut header);
    header.push(' ');
    if let Some(Seal { before, after, metadata }) = &object.seal {
        header += &format!(
            "role {} before {:08x} after {:08x} metadata {:08x} ",
            role.as_str(),
            before.len(),
            after.len(),
            metadata.len()
        );
    }
    let mut header = header.into_bytes();
    seal(&mut header, 0);
    debug_assert_eq!(header.len(), [HEADER_BYTES, SEALED_HEADER_BYTES][version - 1]);
    header
}

type StoredObject = (Plan, Role, Encoded);

/// Reads an object file into pieces from this pool. The inner error says what is damaged.
pub(crate) fn read_object(
    disk: &dyn Disk,
    name: &str,
    pool: &BufferPool,
) -> io::Result<Result<StoredObject, &'static str>> {
    let file = disk.open(name)?;
    let len = file.len()?;
    let mut header = vec![0; HEADER_BYTES];
    if len < header.len() as u64 {
        return Ok(Err("the file was cut off"));
    }
    file.read_exact_at(&mut header, 0)?;
    if header.starts_with(b"audit object 2 ") {
        header.resize(SEALED_HEADER_BYTES, 0);
        if len < header.len() as u64 {
            return Ok(Err("the file was cut off"));
        }
        file.read_exact_at(&mut header, 0)?;
    }
    let Some(fields) = Fields::of(&header, 0) else {
        return Ok(Err("the header of the object does not match its checksum"));
    };
    let Some(ObjectHeader { plan, role, bytes, sum, sha256, seal }) = ObjectHeader::read(fields)
    else {
        return Ok(Err("the header of the object cannot be read"));
    };
    let sealed_bytes: u64 = seal.iter().flatten().map(|part| u64::from(*part)).sum();
    if bytes.checked_add(sealed_bytes) != Some(len - header.len() as u64) {
        return Ok(Err("the bytes of the object do not match their checksum"));
    }
    let mut at = header.len() as u64;
    let seal = match seal {
        None => None,
        Some([before, after, metadata]) => {
            let mut part = |bytes| read_part(&*file, &mut at, bytes);
            Some(Seal { before: part(before)?, after: part(after)?, metadata: part(metadata)? })
        }
    };
    let mut pieces = Pieces::new(pool);
    while at < len {
        at += pieces.fill(|piece| {
            let filled = piece.len();
            let room = (piece.capacity() - filled) as u64;
            let read = room.min(len - at);
            piece.resize(filled + usize::try_from(read).expect("at most the room of a piece"), 0);
            file.read_exact_at(&mut piece[filled..], at).map(|()| read)
        })?;
    }
    let object = Encoded { pieces: pieces.into_bytes(), sha256, seal };
    if body(&object).fold(0, crc32c::crc32c_append) != sum {
        return Ok(Err("the bytes of the object do not match their checksum"));
    }
    Ok(Ok((plan, role, object)))
}

fn read_part(file: &dyn DiskFile, at: &mut u64, bytes: u32) -> io::Result<Bytes> {
    let mut part = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut part, *at)?;
    *at += u64::from(bytes);
    Ok(part.into())
}

struct ObjectHeader {
    plan: Plan,
    role: Role,
    /// The size of the object without its seal.
    bytes: u64,
    /// The checksum of everything after the header.
    sum: u32,
    sha256: [u8; 32],
    /// The sizes of the parts of its seal.
    seal: Option<[u32; 3]>,
}

impl ObjectHeader {
    fn read(mut fields: Fields<'_>) -> Option<ObjectHeader> {
        fields.literal("audit object ")?;
        let version = fields.text(1)?;
        fields.literal(" stream ")?;
        let stream = fields.text(UniqueId::TEXT_BYTES)?.parse().ok()?;
        fields.literal(" first ")?;
        let first_sequence = fields.hex64()?;
        fields.literal(" count ")?;
        let count = fields.hex64().filter(|count| *count > 0)?;
        fields.literal(" time ")?;
        let time_ms = fields.hex64()?.cast_signed();
        fields.literal(" as ")?;
        let encoding = Encoding::read(fields.text(Encoding::BYTES)?)?;
        fields.literal(" bytes ")?;
        let bytes = fields.hex64()?;
        fields.literal(" sum ")?;
        let sum = fields.hex32()?;
        fields.literal(" sha256 ")?;
        let mut sha256 = [0; 32];
        for byte in &mut sha256 {
            *byte = u8::try_from(fields.hex(2)?).ok()?;
        }
        fields.literal(" ")?;
        let plan = Plan { stream, first_sequence, count, time_ms, encoding };
        let (role, seal) = match version {
            "1" => (Role::Records, None),
            "2" => {
                fields.literal("role ")?;
                let role = fields.text(1)?;
                let role = Role::ALL.into_iter().find(|known| known.as_str() == role)?;
                fields.literal(" before ")?;
                let before = fields.hex32()?;
                fields.literal(" after ")?;
                let after = fields.hex32()?;
                fields.literal(" metadata ")?;
                let metadata = fields.hex32()?;
                (role, Some([before, after, metadata]))
            }
            _ => return None,
        };
        Some(ObjectHeader { plan, role, bytes, sum, sha256, seal })
    }
}

/// Parses the name of an object's file: its stream, its first record, and whether it was set aside.
/// Of two files of the same object, the set-aside one sorts first.
pub(crate) fn object_of(name: &str) -> Option<(UniqueId, u64, bool)> {
    let (object, set_aside) = match (name.strip_suffix(".object"), name.strip_suffix(".conflict")) {
        (Some(object), _) => (object, false),
        (None, Some(object)) => (object, true),
        (None, None) => return None,
    };
    let (stream, first_sequence) = object.split_once('-')?;
    Some((stream.parse().ok()?, first_sequence.parse().ok()?, set_aside))
}
