//! One object, read whole or by its metadata.

use audit_core::Usage;
use audit_sink_s3::layout::ObjectMetadata;
use object_store::{GetOptions, ObjectStore};

use crate::bucket::{Listed, Reader};
use crate::object::{ReadError, check_numbers, read};
use crate::query::{Pointer, Time};

pub(super) struct Seen {
    pub(super) object: Listed,
    /// The number of lines in the object, each of which has a number in the stream.
    pub(super) count: u64,
    /// The number of its records.
    pub(super) logs: u64,
    /// The hash of its lines.
    pub(super) sha256: Option<[u8; 32]>,
    /// `None` if only the metadata was read.
    pub(super) usage: Option<Usage>,
    /// The time of its first record; `None` if not requested.
    pub(super) time: Option<Time>,
    pub(super) contradiction: Option<String>,
}

/// Reads an object, or only its metadata.
pub(super) async fn look(
    reader: &Reader,
    object: &Listed,
    heads: bool,
    time: Option<&Pointer>,
) -> Result<Seen, ReadError> {
    check_numbers(object)?;
    if heads {
        let head = reader.store().get_opts(&object.location, GetOptions::new().with_head(true));
        let head = head.await.map_err(|error| ReadError::of(reader, &error))?;
        // A directory keeps no metadata.
        if let Some(metadata) = ObjectMetadata::from_attributes(&head.attributes) {
            let ObjectMetadata { last_sequence, count, sha256 } = metadata;
            let by_key = object.key.first_sequence().saturating_add(count).saturating_sub(1);
            let contradiction = (count == 0 || by_key != last_sequence).then(|| {
                format!(
                    "ends with record {by_key} according to its key, but with {last_sequence} according to its metadata"
                )
            });
            let object = object.clone();
            let (sha256, usage, time) = (Some(sha256), None, None);
            return Ok(Seen { object, count, logs: count, sha256, usage, time, contradiction });
        }
    }
    let mut usage = Usage::default();
    let mut first_time = None;
    let content = read(reader, object, |sequence, line| {
        usage += Usage::of_log(line.len());
        if sequence == object.key.first_sequence() {
            first_time = time.map(|pointer| pointer.find_time(line));
        }
    })
    .await?;
    Ok(Seen {
        object: object.clone(),
        count: content.lines.count,
        logs: content.records(),
        sha256: content.lines.sha256,
        usage: Some(usage),
        time: first_time,
        contradiction: content.contradiction(object),
    })
}
