//! Reading the lines of an object.

mod body;
mod content;

use audit_sink_s3::layout::{DecodeError, LineDecoder, ObjectMetadata};
use futures::StreamExt;
use object_store::{GetOptions, ObjectMeta, ObjectStore};
use tokio::sync::mpsc;

pub(crate) use self::body::chunks;
pub(crate) use self::content::{Content, InvalidLines, no_record};
use crate::bucket::{Listed, Reader};
use crate::failure::Failure;

pub(crate) const GONE: &str = "was removed after it was listed";

/// An object that could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Its content is not what a sink wrote.
    Damaged(String),
    /// It was listed and no longer exists.
    Gone,
    /// The store responded but refused it.
    Refused(String),
    /// The store did not respond.
    Store(String),
    /// The receiver of the results is gone, so reading ended early.
    Unwanted,
}

impl From<DecodeError> for ReadError {
    fn from(error: DecodeError) -> ReadError {
        ReadError::Damaged(audit_core::with_sources(&error))
    }
}

impl ReadError {
    pub(crate) fn said(self) -> String {
        match self {
            ReadError::Damaged(said) | ReadError::Refused(said) | ReadError::Store(said) => said,
            ReadError::Gone => GONE.to_owned(),
            ReadError::Unwanted => "is not wanted".to_owned(),
        }
    }

    pub(crate) fn of(reader: &Reader, error: &object_store::Error) -> ReadError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return ReadError::Gone;
        }
        let said = reader.describe(error);
        match reader.is_refusal(error) {
            true => ReadError::Refused(said),
            // A later request may succeed.
            false => ReadError::Store(said),
        }
    }
}

/// The maximum number of an object's first record. Its records then have numbers below 2^63, which
/// Parquet and other languages can hold. No sink comes near it.
const MAX_FIRST_SEQUENCE: u64 = 1 << 62;

/// Rejects an object whose records would have impossible numbers.
pub(crate) fn check_numbers(object: &Listed) -> Result<(), ReadError> {
    if object.key.first_sequence() <= MAX_FIRST_SEQUENCE {
        return Ok(());
    }
    let what = format!("the number in its key exceeds limit of {MAX_FIRST_SEQUENCE}");
    Err(ReadError::Damaged(what))
}

/// After this many invalid lines the rest of an object is not read.
const MAX_INVALID_LINES: u64 = 1 << 20;

pub(crate) const REPLACED: &str = "was replaced while it was read";

/// Whether these describe the same version of an object. A directory has no entity tags.
pub(crate) fn is_same(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| (meta.e_tag.clone(), meta.size, meta.last_modified);
    version(one) == version(other)
}

/// How many bytes of an object are decoded before results are passed on.
pub(crate) const PIECE_BYTES: usize = 16 << 10;

const CHUNK_BYTES: usize = 128 << 10;

/// The result of an object's records, passed on in parts of bounded size.
pub(crate) trait Part: Default + Send + 'static {
    fn is_empty(&self) -> bool;

    /// Whether the part must be passed on.
    fn is_full(&self) -> bool;
}

impl Part for Chunk {
    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes.len() + self.ends.len() * size_of::<usize>() >= CHUNK_BYTES
    }
}

/// Whole records, ready to print.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<usize>,
}

impl Chunk {
    pub(crate) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// The first `n` records, if there are that many.
    pub(crate) fn first(&self, records: u64) -> Option<&[u8]> {
        let last = usize::try_from(records.checked_sub(1)?).ok()?;
        Some(&self.bytes[..*self.ends.get(last)?])
    }
}

/// The results of reading an object: parts, then the outcome.
#[derive(Debug)]
pub(crate) enum Read<P> {
    Part(P),
    Ended(Box<Listed>, Result<Content, ReadError>),
}

/// When the lines of an object are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Always,
    /// Only if the object's metadata has a hash, with which it is then compared. A directory keeps
    /// no metadata.
    IfCompared,
}

/// Reads an object, and hashes its lines. `take` is called with each record and its number.
pub(crate) async fn read(
    reader: &Reader,
    object: &Listed,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<Content, ReadError> {
    let take = |sequence, line: &[u8], _: &mut Chunk| take(sequence, line);
    read_parts(reader, object, None, Hash::Always, take).await
}

/// Reads an object. `take` is called with each record and its number and adds it to the part, which
/// is passed on once it is full. The records before any damage are passed on, too.
pub(crate) async fn read_parts<P: Part>(
    reader: &Reader,
    object: &Listed,
    sender: Option<&mpsc::Sender<Result<Read<P>, Failure>>>,
    hash: Hash,
    take: impl FnMut(u64, &[u8], &mut P),
) -> Result<Content, ReadError> {
    let mut parts = Parts { part: P::default(), sender };
    let read = read_into(reader, object, &mut parts, hash, take).await;
    if !matches!(read, Err(ReadError::Unwanted)) {
        parts.pass_on().await?;
    }
    read
}

/// Where the results of an object's records go.
struct Parts<'a, P> {
    part: P,
    sender: Option<&'a mpsc::Sender<Result<Read<P>, Failure>>>,
}

impl<P: Part> Parts<'_, P> {
    async fn pass_on(&mut self) -> Result<(), ReadError> {
        let Some(sender) = self.sender.filter(|_| !self.part.is_empty()) else { return Ok(()) };
        let part = Read::Part(std::mem::take(&mut self.part));
        sender.send(Ok(part)).await.map_err(|_gone| ReadError::Unwanted)
    }
}

async fn read_into<P: Part>(
    reader: &Reader,
    object: &Listed,
    parts: &mut Parts<'_, P>,
    hash: Hash,
    mut take: impl FnMut(u64, &[u8], &mut P),
) -> Result<Content, ReadError> {
    check_numbers(object)?;
    let failed = |error: object_store::Error| ReadError::of(reader, &error);
    let found =
        reader.store().get_opts(&object.location, GetOptions::new()).await.map_err(failed)?;
    let metadata = ObjectMetadata::from_attributes(&found.attributes);
    let mut decoder = match (hash, &metadata) {
        (Hash::IfCompared, None) => LineDecoder::unhashed(object.key.compression()),
        (Hash::Always, _) | (Hash::IfCompared, Some(_)) => {
            LineDecoder::new(object.key.compression())
        }
    };
    let first_sequence = object.key.first_sequence();
    let mut sequence = first_sequence;
    let mut invalid: Option<InvalidLines> = None;
    let mut chunks = chunks(reader, found);
    while let Some(bytes) = chunks.next().await {
        let bytes = bytes?;
        for mut piece in bytes.chunks(PIECE_BYTES) {
            loop {
                // Parts are passed on in between, since few bytes may hold gigabytes of lines.
                let has_more = decoder.push_some(&mut piece, |line| {
                    match no_record(line) {
                        None => take(sequence, line, &mut parts.part),
                        Some(what) => {
                            let line = sequence - first_sequence + 1;
                            invalid.get_or_insert(InvalidLines { line, what, count: 0 }).count += 1;
                        }
                    }
                    sequence += 1;
                })?;
                if parts.part.is_full() {
                    parts.pass_on().await?;
                }
                if let Some(invalid) = invalid.take_if(|found| found.count > MAX_INVALID_LINES) {
                    let what = format!("{invalid}, and the rest was not read");
                    return Err(ReadError::Damaged(what));
                }
                if !has_more {
                    break;
                }
            }
        }
    }
    let lines = decoder.finish()?;
    Ok(Content { lines, metadata, invalid })
}
