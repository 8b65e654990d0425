//! Checks a single object of a stream.

use audit_core::UniqueId;
use audit_evidence::{CheckedObject, LineCheck, Trust};
use audit_sink_s3::layout::{Compression, LineDecoder};
use futures::StreamExt;
use object_store::{GetOptions, GetResult, ObjectStore};

use super::inventory::Entry;
use crate::bucket::Reader;
use crate::failure::Failure;
use crate::object::{GONE, PIECE_BYTES, ReadError, chunks};

/// An object that exists.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) checked: CheckedObject,
    /// Its size as stored.
    pub(super) bytes: u64,
    /// The reason why it, or its lines if they were wanted, could not be read.
    pub(super) refused: Option<String>,
}

/// Checks an object.
pub(super) async fn look(
    reader: &Reader,
    trust: &Trust,
    stream: UniqueId,
    entry: &Entry,
    wants_lines: bool,
    sizes: &[u64],
) -> Result<Looked, Failure> {
    let key = entry.key(stream);
    let name = key.to_string();
    let location = reader.location(&name);
    let get = |options| reader.store().get_opts(&location, options);
    let failed = |said: String| Failure::new(format!("cannot read {name}")).because(said);
    let unread = |bytes: u64, said: String| {
        let checked = CheckedObject::unread(&name, entry.first);
        Ok(Looked { checked, bytes, refused: Some(said) })
    };
    let mut refused = None;
    let found = match get(GetOptions::new().with_head(!wants_lines)).await {
        Ok(found) => Some(found),
        Err(error) => match ReadError::of(reader, &error) {
            // The object counts as unread, not as missing: only the next listing shows whether it
            // is gone.
            ReadError::Gone => return unread(0, GONE.to_owned()),
            // The object is archived, or encrypted with a key that is out of reach, or this process
            // may not read the file. Its metadata is checked nevertheless.
            ReadError::Refused(said) if wants_lines || reader.is_directory() => {
                let head = match reader.is_directory() {
                    // The metadata is in a separate file.
                    true => None,
                    false => match get(GetOptions::new().with_head(true)).await {
                        Ok(head) => Some(head),
                        Err(_) => return unread(0, said),
                    },
                };
                refused = Some(said);
                head
            }
            ReadError::Refused(said) => return unread(0, said),
            error @ (ReadError::Damaged(_) | ReadError::Store(_) | ReadError::Unwanted) => {
                return Err(failed(error.said()));
            }
        },
    };
    let bytes = found.as_ref().map_or(0, |found| found.meta.size);
    let attributes = found.as_ref().map(|found| found.attributes.clone()).unwrap_or_default();
    let metadata = match reader.metadata(&key, attributes).await {
        Ok(metadata) => metadata,
        Err(error) => match ReadError::of(reader, &error) {
            // In a directory, the metadata is in a file of its own, which is not readable.
            ReadError::Refused(said) => return unread(bytes, said),
            error @ (ReadError::Damaged(_)
            | ReadError::Gone
            | ReadError::Store(_)
            | ReadError::Unwanted) => return Err(failed(error.said())),
        },
    };
    let head = CheckedObject::head(trust, &name, &stream.to_string(), entry.first, |name| {
        metadata.get(name)
    });
    let Some(found) = found.filter(|_| wants_lines && refused.is_none()) else {
        return Ok(Looked { checked: head, bytes, refused });
    };
    if head.evidence().is_none() {
        return Ok(Looked { checked: head, bytes, refused });
    }
    let check = read_lines(reader, found, key.compression(), head.check_lines(sizes)).await;
    match check {
        Ok(checked) => Ok(Looked { checked, bytes, refused }),
        // A disk may refuse the middle of a file, and an object may change meanwhile.
        Err(error @ (ReadError::Refused(_) | ReadError::Gone)) => unread(bytes, error.said()),
        Err(error) => Err(failed(error.said())),
    }
}

async fn read_lines(
    reader: &Reader,
    found: GetResult,
    compression: Compression,
    mut check: LineCheck,
) -> Result<CheckedObject, ReadError> {
    let mut decoder = LineDecoder::new(compression);
    let mut chunks = chunks(reader, found);
    while let Some(bytes) = chunks.next().await {
        let bytes = bytes?;
        for piece in bytes.chunks(PIECE_BYTES) {
            if decoder.push(piece, |line| check.push(line)).is_err() {
                return Ok(check.damaged());
            }
        }
        // Lets other tasks run.
        tokio::task::consume_budget().await;
    }
    let sha256 = decoder.finish().ok().and_then(|lines| lines.sha256);
    Ok(match sha256 {
        Some(sha256) => check.finish(&sha256),
        // The object is cut off.
        None => check.damaged(),
    })
}
