//! Reading the lines of an object.

use std::borrow::Cow;
use std::fmt;

use audit_sink_s3::layout::{DecodeError, DecodedLines, LineDecoder, ObjectMetadata};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetResult, ObjectMeta, ObjectStore};
use tokio::sync::mpsc;

use crate::bucket::{Listed, Reader};
use crate::failure::Failure;
use crate::plain::is_plain;
use crate::units::{Count, counted};

/// The content of an object that was read to its end.
#[derive(Debug)]
pub(crate) struct Content {
    /// The count, size and hash of its lines.
    pub(crate) lines: DecodedLines,
    /// Its metadata. A directory keeps none.
    pub(crate) metadata: Option<ObjectMetadata>,
    /// The lines that are not records.
    pub(crate) invalid: Option<InvalidLines>,
}

/// Lines that are not JSON objects, which no sink writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidLines {
    /// The number of the first of them, from 1.
    pub(crate) line: u64,
    what: Cow<'static, str>,
    pub(crate) count: u64,
}

impl fmt::Display for InvalidLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidLines { line, what, count } = self;
        write!(f, "line {line} {what}")?;
        match count {
            1 => Ok(()),
            count => write!(f, "; {} lines in total are not records", Count(*count)),
        }
    }
}

impl Content {
    /// What is damaged, if anything.
    pub(crate) fn contradiction(&self, object: &Listed) -> Option<String> {
        let invalid = self.invalid.as_ref().map(ToString::to_string);
        let found = self.lines.metadata(object.key.first_sequence());
        let by_metadata =
            self.metadata.as_ref().zip(found).and_then(|(said, found)| contradiction(&found, said));
        match (by_metadata, invalid) {
            (Some(one), Some(other)) => Some(format!("{one}; {other}")),
            (one, other) => one.or(other),
        }
    }

    /// How many lines are records.
    pub(crate) fn records(&self) -> u64 {
        self.lines.count - self.invalid.as_ref().map_or(0, |invalid| invalid.count)
    }
}

/// Why a line is not a record, or `None` if it is one.
pub(crate) fn no_record(line: &[u8]) -> Option<Cow<'static, str>> {
    if line.is_empty() {
        return Some("is empty".into());
    }
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            return Some(format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1).into());
        }
    };
    if text.starts_with('\u{feff}') {
        return Some("begins with a byte order mark, and is not a JSON object".into());
    }
    if is_plain(line) {
        return None;
    }
    if !text.trim_ascii_start().starts_with('{') {
        return Some("is not a JSON object".into());
    }
    let error = serde_json::from_str::<serde::de::IgnoredAny>(text).err()?;
    let why = error.to_string();
    // The parser saw only this line.
    let why = why.split(" at line ").next().unwrap_or(&why);
    Some(format!("is not a JSON object: {why} near byte {}", error.column()).into())
}

/// The differences between an object's lines and key and its metadata.
fn contradiction(found: &ObjectMetadata, said: &ObjectMetadata) -> Option<String> {
    if found == said {
        return None;
    }
    let ObjectMetadata { last_sequence, count, sha256 } = found;
    Some(if count != &said.count {
        format!("holds {}, but its metadata says {}", counted(*count, "record"), Count(said.count))
    } else if sha256 != &said.sha256 {
        "its lines do not match the hash in its metadata".to_owned()
    } else {
        format!(
            "ends with record {last_sequence} according to its key, but with {} according to its metadata",
            said.last_sequence
        )
    })
}

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
    /// The reader is gone.
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
            // The next answer may differ.
            false => ReadError::Store(said),
        }
    }
}

/// The highest number of a record that a Parquet file and other languages can hold, less the number
/// of records of an object. No sink comes near it.
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

/// The bytes of an object, as they arrive. They are all of one version of it.
pub(crate) fn chunks(
    reader: &Reader,
    found: GetResult,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + Unpin {
    let (reader, meta) = (reader.clone(), found.meta.clone());
    let broken = move |error| broken_off(reader.clone(), meta.clone(), error).map(Err);
    found.into_stream().or_else(broken).boxed()
}

/// Why an object could not be read to its end. A store that lost the connection, and found another
/// object when it went on, only says that it lost the connection.
async fn broken_off(reader: Reader, meta: ObjectMeta, error: object_store::Error) -> ReadError {
    let head = GetOptions::new().with_head(true);
    match reader.store().get_opts(&meta.location, head).await {
        Ok(now) if !is_same(&now.meta, &meta) => ReadError::Refused(REPLACED.to_owned()),
        Err(object_store::Error::NotFound { .. }) => ReadError::Gone,
        Ok(_) | Err(_) => ReadError::of(&reader, &error),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_json_object_is_a_record() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for record in ["{}", " {\"a\" : 1}\r", "{\"a\":\"\u{2028}\u{9b}\"}", &deep] {
            assert_eq!(no_record(record.as_bytes()), None, "{record}");
        }
        for (line, what) in [
            (&b""[..], "is empty"),
            (b" ", "is not a JSON object"),
            (b"text", "is not a JSON object"),
            (b"[]", "is not a JSON object"),
            (b"\"{}\"", "is not a JSON object"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark, and is not a JSON object"),
            (b"{\"a\":\"\xff\"}", "is not UTF-8 from byte 7 on"),
            (b"{}{}", "is not a JSON object: trailing characters near byte 3"),
            (b"{\"a\":1", "is not a JSON object: EOF while parsing an object near byte 6"),
            (
                b"{\"a\":\"\x01\"}",
                "is not a JSON object: control character (\\u0000-\\u001F) found while parsing a string near byte 6",
            ),
            (b"{\0}", "is not a JSON object: key must be a string near byte 2"),
        ] {
            assert_eq!(no_record(line).as_deref(), Some(what), "{line:?}");
        }
    }

    #[test]
    fn contradictions_name_the_field() {
        let said = ObjectMetadata { last_sequence: 9, count: 10, sha256: [1; 32] };
        assert_eq!(contradiction(&said, &said), None);
        let with = |change: fn(&mut ObjectMetadata)| {
            let mut found = said.clone();
            change(&mut found);
            contradiction(&found, &said).unwrap()
        };
        assert_eq!(with(|found| found.count = 8), "holds 8 records, but its metadata says 10");
        assert!(with(|found| found.sha256 = [2; 32]).contains("hash"));
        assert_eq!(
            with(|found| found.last_sequence = 5),
            "ends with record 5 according to its key, but with 9 according to its metadata"
        );
    }
}
