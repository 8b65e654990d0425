//! The lines of one object.

use audit_sink_s3::{DecodeError, DecodedLines, LineDecoder, ObjectMetadata};
use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};
use tokio::sync::mpsc;

use crate::bucket::{Listed, Reader, in_one_line};
use crate::failure::Failure;
use crate::output::Output;

/// An object that was read to its end.
#[derive(Debug)]
pub(crate) struct Content {
    /// What its lines came to.
    pub(crate) lines: DecodedLines,
    /// What it says about itself; a directory keeps nothing.
    pub(crate) metadata: Option<ObjectMetadata>,
}

impl Content {
    /// What is wrong with it, if anything is.
    pub(crate) fn contradiction(&self, object: &Listed) -> Option<String> {
        contradiction(&self.lines.metadata(object.key.first_sequence()), self.metadata.as_ref()?)
    }
}

/// In what an object's lines and key differ from its metadata.
fn contradiction(found: &ObjectMetadata, said: &ObjectMetadata) -> Option<String> {
    if found == said {
        return None;
    }
    let ObjectMetadata { last_sequence, count, sha256 } = found;
    Some(if count != &said.count {
        format!("holds {count} records, and its metadata say {}", said.count)
    } else if sha256 != &said.sha256 {
        "its lines are not those that its metadata name by their hash".to_owned()
    } else {
        format!(
            "ends with record {last_sequence} by its key, and with {} by its metadata",
            said.last_sequence
        )
    })
}

/// An object that could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It holds something else than a sink wrote.
    Damaged(String),
    /// It was listed and is not there any more.
    Gone,
    /// The store did not give it.
    Store(String),
    /// Whoever wanted it wants no more.
    Unwanted,
}

impl From<DecodeError> for ReadError {
    fn from(error: DecodeError) -> ReadError {
        ReadError::Damaged(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

impl From<object_store::Error> for ReadError {
    fn from(error: object_store::Error) -> ReadError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return ReadError::Gone;
        }
        ReadError::Store(in_one_line(&error))
    }
}

/// Says what is wrong with an object that was read, and whether nothing is.
///
/// # Errors
///
/// When the store did not give it: what was printed is then not all.
pub(crate) fn ended_well(
    object: &Listed,
    content: &Result<Content, ReadError>,
    output: &Output,
) -> Result<bool, Failure> {
    let wrong = match content {
        Ok(content) => content.contradiction(object),
        Err(ReadError::Damaged(what)) => Some(what.clone()),
        Err(ReadError::Gone) => Some("was removed after it was listed".to_owned()),
        Err(ReadError::Unwanted) => None,
        Err(ReadError::Store(said)) => {
            return Err(
                Failure::new(format!("cannot read {}", object.location)).because(said.clone())
            );
        }
    };
    if let Some(wrong) = &wrong {
        output.note(&format!("{}: {wrong}", object.location));
    }
    Ok(wrong.is_none())
}

/// Objects up to this many bytes are read at once: their bytes are memory, but each piece of a file
/// costs a thread's time.
const WHOLE_BYTES: u64 = 1 << 20;

/// How many bytes of an object are decoded before what came of them is handed on.
const PIECE_BYTES: usize = 16 << 10;

/// What is handed on at once, in bytes.
const CHUNK_BYTES: usize = 128 << 10;

/// Whole records, as they are printed.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    /// Where each record ends.
    pub(crate) ends: Vec<usize>,
}

impl Chunk {
    /// The first records, if there are so many.
    pub(crate) fn first(&self, records: u64) -> Option<&[u8]> {
        let last = usize::try_from(records.checked_sub(1)?).ok()?;
        Some(&self.bytes[..*self.ends.get(last)?])
    }
}

/// What comes of reading an object: chunks, and at last how it ended.
#[derive(Debug)]
pub(crate) enum Read {
    Chunk(Chunk),
    Ended(Box<Listed>, Result<Content, ReadError>),
}

/// Reads an object. `take` is given each record with its number, and writes what shall be handed on
/// to the chunk, which is sent when it is large enough. Without a `sender`, `take` keeps what it
/// wants itself.
pub(crate) async fn read(
    reader: &Reader,
    object: &Listed,
    sender: Option<&mpsc::Sender<Result<Read, Failure>>>,
    mut take: impl FnMut(u64, &[u8], &mut Chunk),
) -> Result<Content, ReadError> {
    let found = reader.store().get_opts(&object.location, GetOptions::new()).await?;
    let metadata = ObjectMetadata::from_attributes(&found.attributes);
    let mut decoder = LineDecoder::new(object.key.compression());
    let mut sequence = object.key.first_sequence();
    let mut chunk = Chunk::default();
    let mut pieces = if found.meta.size <= WHOLE_BYTES {
        futures::stream::iter([found.bytes().await]).left_stream()
    } else {
        found.into_stream().right_stream()
    };
    while let Some(bytes) = pieces.next().await {
        let bytes: Bytes = bytes?;
        for piece in bytes.chunks(PIECE_BYTES) {
            decoder.push(piece, |line| {
                take(sequence, line, &mut chunk);
                sequence += 1;
            })?;
            if chunk.bytes.len() >= CHUNK_BYTES
                && let Some(sender) = sender
            {
                let full = Read::Chunk(std::mem::take(&mut chunk));
                sender.send(Ok(full)).await.map_err(|_gone| ReadError::Unwanted)?;
            }
        }
    }
    let lines = decoder.finish()?;
    if let Some(sender) = sender
        && !chunk.ends.is_empty()
    {
        sender.send(Ok(Read::Chunk(chunk))).await.map_err(|_gone| ReadError::Unwanted)?;
    }
    Ok(Content { lines, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_says_in_what() {
        let said = ObjectMetadata { last_sequence: 9, count: 10, sha256: [1; 32] };
        assert_eq!(contradiction(&said, &said), None);
        let with = |change: fn(&mut ObjectMetadata)| {
            let mut found = said.clone();
            change(&mut found);
            contradiction(&found, &said).unwrap()
        };
        assert_eq!(with(|found| found.count = 8), "holds 8 records, and its metadata say 10");
        assert!(with(|found| found.sha256 = [2; 32]).contains("hash"));
        assert_eq!(
            with(|found| found.last_sequence = 5),
            "ends with record 5 by its key, and with 9 by its metadata"
        );
    }
}
