//! Proves records of one object.

use std::str::FromStr;

use audit_core::UniqueId;
use audit_evidence::{ObjectHead, Proof, Salts, TrustedKey};
use audit_sink_s3::layout::{DecodeError, LineDecoder, ObjectKey};
use futures::StreamExt;
use memchr::memmem::Finder;
use object_store::{GetOptions, ObjectStore};

use crate::bucket::Reader;
use crate::failure::Failure;
use crate::object::{REPLACED, ReadError, chunks};
use crate::query::Pointer;
use crate::units::Count;
use crate::verify::inventory::Entry;

/// Why an object proves nothing.
pub(crate) enum NoProof {
    /// The store did not return the object, or a proof could not be written.
    Failed(Failure),
    /// The object has no evidence, cannot be read, or contradicts its evidence.
    Useless(Failure),
}

impl From<NoProof> for Failure {
    fn from(none: NoProof) -> Failure {
        let (NoProof::Failed(failure) | NoProof::Useless(failure)) = none;
        failure
    }
}

/// An object's evidence, and the object itself unless `alone`.
pub(super) async fn head(
    reader: &Reader,
    stream: UniqueId,
    entry: &Entry,
    alone: bool,
) -> Result<(ObjectHead, object_store::GetResult), NoProof> {
    let key = entry.key(stream);
    let name = key.to_string();
    let failed = |error: object_store::Error| {
        let what = format!("cannot read {name}");
        match ReadError::of(reader, &error) {
            ReadError::Store(said) => NoProof::Failed(Failure::new(what).because(said)),
            error @ (ReadError::Damaged(_)
            | ReadError::Gone
            | ReadError::Refused(_)
            | ReadError::Unwanted) => NoProof::Useless(Failure::new(what).because(error.said())),
        }
    };
    let options = GetOptions::new().with_head(alone);
    let found = reader.store().get_opts(&reader.location(&name), options).await.map_err(failed)?;
    let metadata = reader.metadata(&key, found.attributes.clone()).await.map_err(failed)?;
    let head = ObjectHead::from_metadata(&stream.to_string(), |name| metadata.get(name));
    let head = head.map_err(|error| {
        NoProof::Useless(Failure::new(format!("{name} proves nothing")).because(error))
    })?;
    Ok((head, found))
}

/// The maximum number of records of an object, several times as many as the smallest records that
/// fit into an object of a host. Each takes 64 bytes of memory here.
const MAX_RECORDS: u64 = 4 << 20;

/// A proven record.
pub(crate) struct Proven<'a> {
    pub(crate) sequence: u64,
    pub(crate) proof: Proof,
    /// Its line without the line feed.
    pub(crate) line: &'a [u8],
}

/// The records of an object that are proven.
pub(crate) enum Which<'a> {
    Record(u64),
    Execution(&'a Execution),
}

/// Proves records of one object, in order, and calls `take` with each. Returns their number. If
/// there are keys, one of them must have certified the object's stream.
///
/// The object is read twice, so that no line is held in memory except the one that is taken: its
/// author may be anyone. First its tree is compared with its root, then its lines are proven.
pub(crate) async fn prove(
    reader: &Reader,
    stream: UniqueId,
    entry: &Entry,
    which: &Which<'_>,
    keys: &[TrustedKey],
    mut take: impl FnMut(Proven<'_>) -> Result<(), Failure>,
) -> Result<u64, NoProof> {
    let (head, found) = head(reader, stream, entry, false).await?;
    let key = entry.key(stream);
    let name = key.to_string();
    let useless = |what: &str| NoProof::Useless(useless(&name, what));
    let replaced = || useless(&format!("it {REPLACED}"));
    if !keys.is_empty() && !keys.iter().any(|trusted| head.verify(&trusted.key).is_ok()) {
        return Err(useless("none of the given keys certified its stream and its root"));
    }
    if head.count > MAX_RECORDS {
        let claimed =
            format!("its claim of {} records exceeds limit of {MAX_RECORDS}", Count(head.count));
        return Err(useless(&claimed));
    }
    let salts = Salts::new(&name, head.stable, &head.seed);
    let is_wanted = |sequence: u64, line: &[u8]| match which {
        Which::Record(wanted) => *wanted == sequence,
        Which::Execution(execution) => execution.has(line),
    };
    let (mut tree, mut wanted) = (head.empty_tree(), 0);
    let read = each_line(reader, &key, found, |line| {
        // Stops at the first line beyond the claimed number, which `check_tree` then refuses.
        if tree.size() <= head.end() {
            wanted += u64::from(is_wanted(tree.size(), line));
            tree.push(salts.leaf(tree.size(), line));
        }
        tree.size() <= head.end()
    });
    let ended = read.await?;
    head.check_tree(&tree).map_err(|error| {
        NoProof::Useless(self::useless(&name, "it was tampered with").because(error))
    })?;
    ended.map_err(|error| unread(&name, error))?;
    let mut note = head.note();
    if note.verify(head.certificate.stream_key()) != Ok(true) {
        return Err(useless("the stream's key did not sign its root"));
    }
    note.add(head.certificate.to_note_signature());

    let prove_line = |sequence: u64, line: &[u8]| {
        let path = tree.inclusion(sequence).ok_or_else(|| useless("it lacks the record"))?;
        let proof = Proof::new(Some(&salts.salt(sequence)), sequence, path, note.clone());
        let proof = proof.map_err(|error| {
            NoProof::Useless(self::useless(&name, "its checkpoint is invalid").because(error))
        })?;
        match proof.verify_record(line) {
            Ok(_) => Ok(proof),
            Err(_another_line) => Err(replaced()),
        }
    };
    let (_, found) = self::head(reader, stream, entry, false).await?;
    let (mut sequence, mut count, mut failed) = (head.first, 0, None);
    let read = each_line(reader, &key, found, |line| {
        let is_wanted = is_wanted(sequence, line);
        if is_wanted {
            let taken = prove_line(sequence, line)
                .and_then(|proof| take(Proven { sequence, proof, line }).map_err(NoProof::Failed));
            failed = taken.err();
            count += 1;
        }
        sequence += 1;
        failed.is_none() && !(is_wanted && matches!(which, Which::Record(_)))
    });
    let ended = read.await?;
    if let Some(none) = failed {
        return Err(none);
    }
    ended.map_err(|error| unread(&name, error))?;
    // The caller knows that the object has a wanted record, and the first reading counted those
    // under the signed root. Any other number means that the object was replaced between the
    // readings.
    if count == 0 || count != wanted { Err(replaced()) } else { Ok(count) }
}

fn useless(name: &str, what: &str) -> Failure {
    Failure::new(format!("{name} proves nothing: {what}"))
}

fn unread(name: &str, error: DecodeError) -> NoProof {
    NoProof::Useless(useless(name, "it cannot be read to its end").because(error))
}

/// Calls `each` with the lines of an object until it returns `false`. Returns how the object ended.
async fn each_line(
    reader: &Reader,
    key: &ObjectKey,
    found: object_store::GetResult,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<Result<(), DecodeError>, NoProof> {
    let failure = |what: &str| useless(&key.to_string(), what);
    let mut decoder = LineDecoder::unhashed(key.compression());
    let mut body = chunks(reader, found);
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| match error {
            ReadError::Store(said) => NoProof::Failed(failure(&said)),
            error @ (ReadError::Damaged(_)
            | ReadError::Gone
            | ReadError::Refused(_)
            | ReadError::Unwanted) => NoProof::Useless(failure(&error.said())),
        })?;
        let (mut left, mut goes_on, mut is_wanted) = (&bytes[..], true, true);
        while goes_on && is_wanted {
            let some = decoder.push_some(&mut left, |line| is_wanted = is_wanted && each(line));
            match some {
                Ok(more) => goes_on = more,
                Err(error) => return Ok(Err(error)),
            }
        }
        if !is_wanted {
            return Ok(Ok(()));
        }
    }
    Ok(decoder.finish().map(drop))
}

/// The records that name an execution.
#[derive(Clone)]
pub(crate) struct Execution {
    id: String,
    finder: Finder<'static>,
    member: Option<Pointer>,
}

/// The member in which records name their execution.
const EXECUTION: &str = "/$audit/execution";

impl Execution {
    pub(super) fn new(id: &str) -> Execution {
        let finder = Finder::new(id).into_owned();
        Execution { id: id.to_owned(), finder, member: Pointer::from_str(EXECUTION).ok() }
    }

    pub(super) fn has(&self, line: &[u8]) -> bool {
        let member = self.member.as_ref().filter(|_| self.finder.find(line).is_some());
        member.and_then(|member| member.find(line)).is_some_and(|value| {
            serde_json::from_str::<&str>(value.get()).is_ok_and(|text| text == self.id)
        })
    }
}
