//! Decisions about delivery, which are durable before they are carried out.
//!
//! - An *object file* holds an object as it is to be sent, with all that its destination needs to
//!   know. It is durable before the first request for it is sent, so that every later request, by
//!   whatever process, sends the same bytes to the same place.
//! - A *delivered file* says how far a stream is delivered (`progress`). There is one for each
//!   stream from before its first record on.
//! - A *secret file* holds what is needed to vouch for a stream (`secret`).

use std::collections::BTreeMap;
use std::io;

use audit_core::{BufferPool, UniqueId};
use bytes::Bytes;

use crate::destination::{Encoded, Encoding, Plan};
use crate::disk::{Disk, DiskFile, read_whole, remove_if_there, write_durably};
use crate::followers::FollowerRecord;
use crate::format::{Fields, seal};
use crate::progress::{self, Progress, read_progress, write_progress};
use crate::recovery_error::RecoveryError;
use crate::secret::{self, read_secret};
use crate::shared::pieces::{Pieces, pieces};
use crate::vouching::{Seal, StreamSecret};

impl Plan {
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{:012}.object", self.stream, self.first_sequence)
    }

    /// The name under which an object is kept that cannot be delivered, since another one has its
    /// place.
    pub(crate) fn conflict_name(&self) -> String {
        format!("{}-{:012}.conflict", self.stream, self.first_sequence)
    }
}

/// The role of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It holds records that were committed.
    Records,
    /// It declares the first range of set-aside records of its stream as missing.
    Void,
    /// It is the last of its stream.
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

/// Of an object that nothing binds to others: version 1.
const HEADER_BYTES: usize = 242;

/// Of one that is bound to those before it: version 2.
const SEALED_HEADER_BYTES: usize = HEADER_BYTES + 56;

/// Writes an object file. It is durable when this returns.
///
/// A crash before that: nothing was sent. Recovery finds the file whole or not at all, and the
/// records are cut anew in the second case.
pub(crate) fn write_object(
    disk: &dyn Disk,
    plan: &Plan,
    role: Role,
    object: &Encoded,
) -> io::Result<()> {
    write_object_as(disk, &plan.file_name(), plan, role, object)
}

fn write_object_as(
    disk: &dyn Disk,
    name: &str,
    plan: &Plan,
    role: Role,
    object: &Encoded,
) -> io::Result<()> {
    let header = object_header(plan, role, object);
    write_durably(disk, name, [&header[..]].into_iter().chain(body(object)))
}

/// What follows the header: what binds the object to others, and its bytes.
fn body(object: &Encoded) -> impl Iterator<Item = &[u8]> {
    let seal = object.seal.iter().flat_map(|seal| [&seal.before, &seal.after, &seal.metadata]);
    seal.chain(&object.pieces).map(|piece| &piece[..])
}

/// Keeps an object that met a conflict under another name, durably. The file with its own name is
/// not needed then.
///
/// A crash before that: the object is sent again, and meets the conflict again.
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
    header.extend(object.sha256.iter().map(|byte| format!("{byte:02x}")));
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

/// An object in its file.
pub(crate) type PlannedObject = (Plan, Role, Encoded);

/// Reads an object file, the object in pieces of this pool. The inner error says what is damaged.
pub(crate) fn read_object(
    disk: &dyn Disk,
    name: &str,
    pool: &BufferPool,
) -> io::Result<Result<PlannedObject, &'static str>> {
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
    /// Of the object alone.
    bytes: u64,
    /// Of all that follows the header.
    sum: u32,
    sha256: [u8; 32],
    /// How long the parts of its seal are.
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

/// The decisions about delivery that an earlier process made.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// How far each stream is delivered.
    pub(crate) delivered: Vec<(UniqueId, Progress)>,
    /// The objects behind that, in order within each stream.
    pub(crate) objects: Vec<DecidedObject>,
    /// The secrets of streams that are vouched for.
    pub(crate) secrets: BTreeMap<UniqueId, StreamSecret>,
    /// All followers, those that were retired included; of an opening, its own.
    pub(crate) followers: Vec<FollowerRecord>,
}

/// An object that was planned.
#[derive(Debug, Clone)]
pub(crate) struct DecidedObject {
    pub(crate) plan: Plan,
    pub(crate) role: Role,
    /// The destination's state behind it, in a stream that is vouched for.
    pub(crate) after: Option<Bytes>,
    /// It met a conflict and will not be sent again.
    pub(crate) set_aside: bool,
}

/// Reads all plans, and removes those that are done. `has_records` says whether the segments hold
/// records of a stream.
///
/// Recovery acts on what it reads, so that is made durable first: if the sync of the directory
/// failed when a file got its name, and only the process ended, the name may be in the kernel's
/// memory alone.
///
/// A crash in here changes nothing for the next recovery: files are replaced by equal ones, and
/// removed objects are at their destination.
pub(crate) fn recover(
    disk: &dyn Disk,
    has_records: impl Fn(UniqueId) -> bool,
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
        let Some(stream) = progress::stream_of(name) else { continue };
        let progress = read_progress(disk, name)?;
        let progress =
            progress.ok_or_else(|| damaged(name, "the file does not match its checksum"))?;
        write_progress(disk, stream, &progress)?;
        decided.delivered.push((stream, progress));
    }
    for name in &names {
        let Some((stream, first_sequence, set_aside)) = object_of(name) else { continue };
        let known = decided.delivered.iter().find(|(known, _)| *known == stream);
        let known = known.map(|(_, progress)| progress);
        let next = match known {
            Some(progress) => progress.next,
            None if has_records(stream) => {
                return Err(damaged(
                    name,
                    "nothing says how far the stream of this object is delivered",
                ));
            }
            // The file of a stream that was delivered and removed: a crash brought it back.
            None => u64::MAX,
        };
        // An object is delivered whole or not at all.
        if first_sequence < next {
            if !set_aside {
                disk.remove(name)?;
            }
            continue;
        }
        let (plan, role, object) =
            read_object(disk, name, &pool)?.map_err(|what| damaged(name, what))?;
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
        // Two of one number would be two histories of one stream.
        let chain = known.and_then(|progress| progress.chain.as_ref());
        let state = match before {
            Some(before) => before.after.as_ref(),
            None => chain.map(|chain| &chain.state),
        };
        if object.seal.as_ref().map(|seal| &seal.before) != state {
            return Err(damaged(name, "the object is not bound to those before it"));
        }
        write_object_as(disk, name, &plan, role, &object)?;
        let after = object.seal.map(|seal| seal.after);
        decided.objects.push(DecidedObject { plan, role, after, set_aside });
    }
    for (stream, progress) in &decided.delivered {
        let Some(chain) = &progress.chain else { continue };
        let name = secret::file_name(*stream);
        if names.binary_search(&name).is_ok() {
            let secret = read_secret(disk, &name)?;
            let secret =
                secret.ok_or_else(|| damaged(&name, "the file does not match its checksum"))?;
            decided.secrets.insert(*stream, secret);
        } else if !chain.is_closed && (progress.next > 0 || has_records(*stream)) {
            return Err(damaged(&name, "the secret of a stream that is not closed is missing"));
        }
    }
    // Those of streams that never began, or that were removed before a crash.
    let is_known = |stream| decided.secrets.contains_key(&stream);
    for name in names.iter().filter(|name| secret::stream_of(name).is_some_and(|s| !is_known(s))) {
        remove_if_there(disk, name)?;
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
        // A file that was truncated by hand is useless.
        if let Ok((plan, ..)) = read_object(disk, &name, &pool)? {
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
