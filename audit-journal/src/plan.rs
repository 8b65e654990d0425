//! What is decided about delivery, durable before it is acted on.
//!
//! - An *object file* holds an object as it is to be put, with all that its key and metadata say.
//!   It is durable before the first request for it is sent, so that every later request, by
//!   whatever process, sends the same bytes to the same key.
//! - A *delivered file* says up to which record a stream is delivered. There is one for each stream
//!   from before its first record on.

use std::io;

use audit_core::{BufferPool, UniqueId};

use crate::destination::{Encoded, Encoding, Plan};
use crate::disk::{Disk, read_whole, remove_if_there, write_durably};
use crate::format::{Fields, seal};
use crate::recovery_error::RecoveryError;
use crate::shared::pieces::{Pieces, pieces};

impl Plan {
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{:012}.object", self.stream, self.first_sequence)
    }

    /// The name under which an object is kept that cannot be delivered, since another one stands
    /// under its key.
    pub(crate) fn conflict_name(&self) -> String {
        format!("{}-{:012}.conflict", self.stream, self.first_sequence)
    }
}

const OBJECT_HEADER_BYTES: usize = 242;

/// Writes an object file. It is durable when this returns.
///
/// A crash before that: nothing was sent. Recovery finds the file whole or not at all, and the
/// records are cut anew in the second case.
pub(crate) fn write_object(disk: &dyn Disk, plan: &Plan, object: &Encoded) -> io::Result<()> {
    write_object_as(disk, &plan.file_name(), plan, object)
}

fn write_object_as(disk: &dyn Disk, name: &str, plan: &Plan, object: &Encoded) -> io::Result<()> {
    let header = object_header(plan, object);
    let pieces = object.pieces.iter().map(|piece| &piece[..]);
    write_durably(disk, name, [&header[..]].into_iter().chain(pieces))
}

/// Keeps an object that will not be sent again under the name of its conflict, durably. The file by
/// its own name is done with then.
///
/// A crash before that: the object is sent again, and meets the conflict again.
pub(crate) fn set_aside(disk: &dyn Disk, plan: &Plan) -> io::Result<()> {
    write_durably(disk, &plan.conflict_name(), [&read_whole(disk, &plan.file_name())?[..]])
}

fn object_header(plan: &Plan, object: &Encoded) -> Vec<u8> {
    let Plan { stream, first_sequence, count, time_ms, encoding } = plan;
    let sum = object.pieces.iter().fold(0, |sum, piece| crc32c::crc32c_append(sum, piece));
    let mut header = format!(
        "audit object 1 stream {stream} first {first_sequence:016x} count {count:016x} time {:016x} as {encoding} bytes {:016x} \
         sum {sum:08x} sha256 ",
        time_ms.cast_unsigned(),
        object.bytes(),
    )
    .into_bytes();
    for byte in object.sha256 {
        header.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    header.push(b' ');
    seal(&mut header, 0);
    debug_assert_eq!(header.len(), OBJECT_HEADER_BYTES);
    header
}

/// Reads an object file, the object in pieces of this pool. The inner error says what is damaged.
pub(crate) fn read_object(
    disk: &dyn Disk,
    name: &str,
    pool: &BufferPool,
) -> io::Result<Result<(Plan, Encoded), &'static str>> {
    let file = disk.open(name)?;
    let len = file.len()?;
    let mut header = [0; OBJECT_HEADER_BYTES];
    if len < header.len() as u64 {
        return Ok(Err("the file was cut off"));
    }
    file.read_exact_at(&mut header, 0)?;
    let Some(fields) = Fields::of(&header, 0) else {
        return Ok(Err("the header of the object does not match its checksum"));
    };
    let Some((plan, bytes, sum, sha256)) = read_object_header(fields) else {
        return Ok(Err("the header of the object cannot be read"));
    };
    let mut pieces = Pieces::new(pool);
    let mut at = header.len() as u64;
    while at < len {
        at += pieces.fill(|piece| {
            let filled = piece.len();
            let room = (piece.capacity() - filled) as u64;
            let read = room.min(len - at);
            piece.resize(filled + usize::try_from(read).expect("at most the room of a piece"), 0);
            file.read_exact_at(&mut piece[filled..], at).map(|()| read)
        })?;
    }
    let pieces = pieces.into_bytes();
    let found = pieces.iter().fold(0, |sum, piece| crc32c::crc32c_append(sum, piece));
    if len - header.len() as u64 != bytes || found != sum {
        return Ok(Err("the bytes of the object do not match their checksum"));
    }
    Ok(Ok((plan, Encoded { pieces, sha256 })))
}

fn read_object_header(mut fields: Fields<'_>) -> Option<(Plan, u64, u32, [u8; 32])> {
    fields.literal("audit object 1 stream ")?;
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
    let len = fields.hex64()?;
    fields.literal(" sum ")?;
    let sum = fields.hex32()?;
    fields.literal(" sha256 ")?;
    let mut sha256 = [0; 32];
    for byte in &mut sha256 {
        *byte = u8::try_from(fields.hex(2)?).ok()?;
    }
    Some((Plan { stream, first_sequence, count, time_ms, encoding }, len, sum, sha256))
}

fn delivered_name(stream: UniqueId) -> String {
    format!("{stream}.delivered")
}

/// Says, durably, that a stream is delivered up to before record `next_sequence`.
///
/// A crash before that: the object is in the bucket and nobody here knows. It is sent again, and
/// found there.
pub(crate) fn write_delivered(
    disk: &dyn Disk,
    stream: UniqueId,
    next_sequence: u64,
) -> io::Result<()> {
    let mut file = format!("audit delivered 1 next {next_sequence:016x} ").into_bytes();
    seal(&mut file, 0);
    write_durably(disk, &delivered_name(stream), [&file[..]])
}

/// Forgets a stream of which no segment is left here.
pub(crate) fn remove_delivered(disk: &dyn Disk, stream: UniqueId) -> io::Result<()> {
    remove_if_there(disk, &delivered_name(stream))
}

fn read_delivered(disk: &dyn Disk, name: &str) -> io::Result<Option<u64>> {
    let file = read_whole(disk, name)?;
    let next = Fields::of(&file, 0).and_then(|mut fields| {
        fields.literal("audit delivered 1 next ")?;
        fields.hex64()
    });
    Ok(next)
}

/// What was decided about delivery before the process that decided it ended.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Up to before which record each stream is delivered.
    pub(crate) delivered: Vec<(UniqueId, u64)>,
    /// The objects behind that, in order within each stream.
    pub(crate) objects: Vec<DecidedObject>,
}

/// An object that was planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecidedObject {
    pub(crate) plan: Plan,
    /// It met a conflict and will not be sent again.
    pub(crate) set_aside: bool,
}

/// Reads all plans, and removes those that are done. `has_segments` says whether the journal holds
/// records of a stream.
///
/// What is read is acted on, so it is made durable first: if the sync of the directory failed when
/// a file got its name, and only the process ended, the name may be in the kernel's memory alone.
///
/// A crash in here changes nothing that the next recovery would read otherwise: files are replaced
/// by the same, and what is removed is in the bucket.
pub(crate) fn recover(
    disk: &dyn Disk,
    has_segments: impl Fn(UniqueId) -> bool,
) -> Result<Decided, RecoveryError> {
    let damaged = |file: &str, what: &str| RecoveryError::Damaged {
        file: file.to_owned(),
        offset: 0,
        what: what.to_owned(),
    };
    let mut decided = Decided::default();
    let pool = pieces();
    let mut names = disk.list()?;
    names.sort_unstable();
    for name in &names {
        let Some(stream) = name.strip_suffix(".delivered").and_then(|stream| stream.parse().ok())
        else {
            continue;
        };
        let next = read_delivered(disk, name)?;
        let next = next.ok_or_else(|| damaged(name, "the file does not match its checksum"))?;
        write_delivered(disk, stream, next)?;
        decided.delivered.push((stream, next));
    }
    for name in &names {
        let Some((stream, first_sequence, set_aside)) = object_of(name) else { continue };
        let known = decided.delivered.iter().find(|(known, _)| *known == stream);
        let next = match known {
            Some((_, next)) => *next,
            None if has_segments(stream) => {
                return Err(damaged(
                    name,
                    "nothing says how far the stream of this object is delivered",
                ));
            }
            // Of a stream that was delivered and forgotten: a crash brought back its file.
            None => u64::MAX,
        };
        // An object is delivered whole or not at all.
        if first_sequence < next {
            if !set_aside {
                disk.remove(name)?;
            }
            continue;
        }
        let (plan, object) = read_object(disk, name, &pool)?.map_err(|what| damaged(name, what))?;
        if (plan.stream, plan.first_sequence) != (stream, first_sequence) {
            return Err(damaged(name, "the file is another object's, under this one's name"));
        }
        let before = decided.objects.last().filter(|before| before.plan.stream == plan.stream);
        if before.is_some_and(|before| before.set_aside && before.plan == plan) {
            disk.remove(name)?;
            continue;
        }
        let expected = before.map_or(next, |before| before.plan.next_sequence());
        if plan.first_sequence != expected {
            return Err(damaged(name, "the object before this one is missing"));
        }
        write_object_as(disk, name, &plan, &object)?;
        decided.objects.push(DecidedObject { plan, set_aside });
    }
    Ok(decided)
}

/// The objects that met a conflict, whenever that was: their files stay until an operator removes
/// them.
pub(crate) fn conflicts(disk: &dyn Disk) -> io::Result<Vec<Plan>> {
    let mut names = disk.list()?;
    names.retain(|name| object_of(name).is_some_and(|(_, _, set_aside)| set_aside));
    names.sort_unstable();
    let mut plans = Vec::new();
    let pool = pieces();
    for name in names {
        // One that was cut off by hand is of no use to anybody.
        if let Ok((plan, _)) = read_object(disk, &name, &pool)? {
            plans.push(plan);
        }
    }
    Ok(plans)
}

/// The stream and first record of the object whose file has this name, and whether it was set
/// aside. Of two files of one object the one that was set aside comes first by name.
fn object_of(name: &str) -> Option<(UniqueId, u64, bool)> {
    let (object, set_aside) = match (name.strip_suffix(".object"), name.strip_suffix(".conflict")) {
        (Some(object), _) => (object, false),
        (None, Some(object)) => (object, true),
        (None, None) => return None,
    };
    let (stream, first_sequence) = object.split_once('-')?;
    Some((stream.parse().ok()?, first_sequence.parse().ok()?, set_aside))
}
