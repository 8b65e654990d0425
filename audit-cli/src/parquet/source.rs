//! Reads objects for compaction, each completely or not at all.

use std::sync::Arc;

use audit_evidence::ObjectHead;
use audit_sink_s3::layout::{LineDecoder, ObjectMetadata};
use data_encoding::HEXLOWER;
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};

use super::group::Source;
use crate::bucket::{Listed, Reader};
use crate::object::{Chunk, PIECE_BYTES, ReadError, check_numbers, chunks, no_record};

/// The maximum memory of an object's lines, in bytes. Sinks write 8 MiB.
pub(super) const MAX_OBJECT_BYTES: usize = 64 << 20;

/// An object that was read completely and matches its metadata.
pub(crate) struct Object {
    pub(crate) source: Source,
    pub(crate) first: u64,
    /// The hash of its lines, with their line feeds.
    pub(crate) sha256: [u8; 32],
    /// Its lines, without their line feeds.
    pub(crate) lines: Chunk,
}

/// Reads an object.
///
/// # Errors
///
/// If it is damaged: a Parquet file must contain what was written.
pub(crate) async fn read(reader: &Reader, listed: &Listed) -> Result<Object, ReadError> {
    check_numbers(listed)?;
    let failed = |error: object_store::Error| ReadError::of(reader, &error);
    let store = Arc::clone(reader.store());
    let found = store.get_opts(&listed.location, GetOptions::new()).await.map_err(failed)?;
    let said = ObjectMetadata::from_attributes(&found.attributes);
    let metadata = reader.metadata(&listed.key, found.attributes.clone()).await.map_err(failed)?;
    let (stream, first) = (listed.key.stream(), listed.key.first_sequence());
    let mut decoder = LineDecoder::new(listed.key.compression());
    let (mut lines, mut wrong) = (Chunk::default(), None);
    let mut content = chunks(reader, found);
    while let Some(chunk) = content.next().await {
        for mut piece in chunk?.chunks(PIECE_BYTES) {
            loop {
                let has_more = decoder.push_some(&mut piece, |line| {
                    let ends = (lines.ends.len() + 1) * size_of::<usize>();
                    if lines.bytes.len() + line.len() + ends > MAX_OBJECT_BYTES {
                        let too_large = "its lines exceed limit of 64 MiB";
                        wrong.get_or_insert(too_large.to_owned());
                        return;
                    }
                    if let Some(what) = no_record(line) {
                        wrong
                            .get_or_insert_with(|| format!("line {} {what}", lines.ends.len() + 1));
                    }
                    lines.bytes.extend_from_slice(line);
                    lines.ends.push(lines.bytes.len());
                })?;
                if let Some(wrong) = wrong {
                    return Err(ReadError::Damaged(wrong));
                }
                if !has_more {
                    break;
                }
            }
        }
    }
    let found = decoder.finish()?.metadata(first);
    let found = found.filter(|found| said.is_none_or(|said| said == *found));
    let found = found.ok_or_else(|| {
        ReadError::Damaged(
            "its lines do not match the count and the hash in its metadata".to_owned(),
        )
    })?;
    let members: serde_json::Map<String, serde_json::Value> =
        match ObjectHead::from_metadata(&stream.to_string(), |name| metadata.get(name)) {
            Ok(head) => head
                .to_metadata()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
            Err(_no_evidence) => {
                [("count", found.count.to_string()), ("sha256", HEXLOWER.encode(&found.sha256))]
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect()
            }
        };
    let evidence = Some(serde_json::Value::Object(members).to_string());
    let source = Source { key: listed.key.to_string(), stream, evidence };
    Ok(Object { source, first, sha256: found.sha256, lines })
}
