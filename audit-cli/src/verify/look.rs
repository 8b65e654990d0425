//! One object of a stream, checked by itself.

use audit_core::UniqueId;
use audit_evidence::{CheckedObject, LineCheck, Sidecar, Trust};
use audit_sink_s3::{Compression, LineDecoder};
use bytes::Bytes;
use futures::StreamExt;
use object_store::{Attribute, Attributes, GetOptions, GetResult, ObjectStore};

use super::inventory::Entry;
use crate::bucket::Reader;
use crate::failure::Failure;
use crate::object::{PIECE_BYTES, ReadError, WHOLE_BYTES};

/// An object that stands.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) checked: CheckedObject,
    /// As it is stored.
    pub(super) bytes: u64,
    /// Why its lines were not read, if they should have been.
    pub(super) refused: Option<String>,
}

/// What an object says of itself.
pub(crate) enum Metadata {
    Attributes(Attributes),
    /// In a directory.
    Sidecar(Option<Sidecar>),
}

impl Metadata {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        match self {
            Metadata::Attributes(attributes) => {
                let name = Attribute::Metadata(name.to_owned().into());
                attributes.get(&name).map(AsRef::as_ref)
            }
            Metadata::Sidecar(sidecar) => sidecar.as_ref()?.get(name),
        }
    }
}

/// The metadata of the object of this name, of which the store gave these attributes.
pub(crate) async fn metadata(
    reader: &Reader,
    name: &str,
    attributes: Attributes,
) -> Result<Metadata, ReadError> {
    if !reader.is_directory() {
        return Ok(Metadata::Attributes(attributes));
    }
    let location = reader.location(&Sidecar::key_of(name));
    let found = match reader.store().get_opts(&location, GetOptions::new()).await {
        Ok(found) if found.meta.size <= Sidecar::MAX_BYTES => found.bytes().await,
        Ok(_too_long) => return Ok(Metadata::Sidecar(None)),
        Err(error) => Err(error),
    };
    match found {
        Ok(bytes) => Ok(Metadata::Sidecar(Sidecar::parse(&bytes))),
        Err(object_store::Error::NotFound { .. }) => Ok(Metadata::Sidecar(None)),
        Err(error) => Err(ReadError::of(reader, &error)),
    }
}

/// Checks an object. `None` if it was removed since it was listed.
pub(super) async fn look(
    reader: &Reader,
    trust: &Trust,
    stream: UniqueId,
    entry: &Entry,
    wants_lines: bool,
    sizes: &[u64],
) -> Result<Option<Looked>, Failure> {
    let key = entry.key(stream);
    let name = key.to_string();
    let location = reader.location(&name);
    let get = |options| reader.store().get_opts(&location, options);
    let failed = |said: String| Failure::new(format!("cannot read {name}")).because(said);
    let mut refused = None;
    let found = match get(GetOptions::new().with_head(!wants_lines)).await {
        Ok(found) => Ok(found),
        Err(error) if wants_lines => match ReadError::of(reader, &error) {
            // It is archived, or encrypted for somebody else: what it says is read all the
            // same.
            ReadError::Refused(said) => {
                refused = Some(said);
                get(GetOptions::new().with_head(true)).await
            }
            ReadError::Damaged(_) | ReadError::Gone | ReadError::Store(_) | ReadError::Unwanted => {
                Err(error)
            }
        },
        Err(error) => Err(error),
    };
    let found = match found.map_err(|error| ReadError::of(reader, &error)) {
        Ok(found) => found,
        Err(ReadError::Gone) => return Ok(None),
        Err(error) => return Err(failed(error.said(refused))),
    };
    let bytes = found.meta.size;
    let metadata = metadata(reader, &name, found.attributes.clone()).await;
    let metadata = metadata.map_err(|error| failed(error.said(None)))?;
    let head = CheckedObject::head(trust, &name, &stream.to_string(), entry.first, |name| {
        metadata.get(name)
    });
    if !wants_lines || refused.is_some() || head.evidence().is_none() {
        return Ok(Some(Looked { checked: head, bytes, refused }));
    }
    let check = read_lines(reader, found, key.compression(), head.check_lines(sizes)).await;
    let checked = check.map_err(|error| failed(error.said(None)))?;
    Ok(Some(Looked { checked, bytes, refused }))
}

async fn read_lines(
    reader: &Reader,
    found: GetResult,
    compression: Compression,
    mut check: LineCheck,
) -> Result<CheckedObject, ReadError> {
    let mut decoder = LineDecoder::new(compression);
    let mut pieces = if found.meta.size <= WHOLE_BYTES {
        futures::stream::iter([found.bytes().await]).left_stream()
    } else {
        found.into_stream().right_stream()
    };
    while let Some(bytes) = pieces.next().await {
        let bytes: Bytes = bytes.map_err(|error| ReadError::of(reader, &error))?;
        for piece in bytes.chunks(PIECE_BYTES) {
            if decoder.push(piece, |line| check.push(line)).is_err() {
                return Ok(check.damaged());
            }
        }
        // Other objects have their turn.
        tokio::task::consume_budget().await;
    }
    Ok(match decoder.finish() {
        Ok(lines) => check.finish(&lines.sha256),
        Err(_cut_off) => check.damaged(),
    })
}
