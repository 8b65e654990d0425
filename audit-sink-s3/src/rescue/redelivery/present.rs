//! The records of a stream in the bucket.

use std::ops::Range;
use std::sync::Arc;

use audit_core::SinkError;
use audit_journal::shared::kept::KeptStream;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::GetOptions;
use sha2::{Digest, Sha256};

use super::{Work, blocking};
use crate::layout::{Compression, LineDecoder, ListedObject, ObjectKey, ObjectMetadata};

/// The number of objects read concurrently.
const READS: usize = 8;

/// The result of examining an object.
enum Look {
    /// The object contains records up to this number, exclusive. Those that the journal also has
    /// are equal.
    Same { end: u64 },
    /// The object has other content. `count` is the number of records by its metadata, if stated.
    Foreign { count: Option<u64> },
    /// The object was removed after it was listed.
    Gone,
}

/// The state of one stream in the bucket.
#[derive(Default)]
pub(super) struct Present {
    /// The records of objects that match the journal, sorted.
    pub(super) same: Vec<(Range<u64>, Compression)>,
    /// Objects with other content, and the number of records they claim.
    pub(super) foreign: Vec<(ObjectKey, Option<u64>)>,
    /// First numbers of all objects, sorted.
    keys: Vec<u64>,
}

impl Present {
    fn add(&mut self, key: ObjectKey, look: &Look) {
        match *look {
            Look::Same { end } => {
                self.same.push((key.first_sequence()..end, key.compression()));
            }
            Look::Foreign { count } => self.foreign.push((key, count)),
            Look::Gone => {}
        }
    }

    /// One past the number of the last record before `start` in the bucket.
    pub(super) fn end_before(&self, start: u64) -> u64 {
        let same = self.same.iter().filter(|(same, _)| same.start < start);
        let foreign = self.foreign.iter().filter(|(key, _)| key.first_sequence() < start);
        let foreign = foreign.filter_map(|(key, says)| key.first_sequence().checked_add((*says)?));
        same.map(|(same, _)| same.end).chain(foreign).max().unwrap_or(0).min(start)
    }

    /// The records that are not restored because of a foreign object with this first number: as
    /// many as its metadata states, or else all up to the next object, since it may contain them in
    /// an unknown form.
    pub(super) fn blocked_by(
        &self,
        first: u64,
        count: Option<u64>,
        records: &Range<u64>,
    ) -> Range<u64> {
        let start = first.max(records.start);
        if self.same.iter().any(|(same, _)| same.contains(&start)) {
            return start..start;
        }
        let next_key = self.keys.iter().copied().find(|key| *key > first);
        let next_same = self.same.iter().map(|(same, _)| same.start).find(|same| *same > start);
        let says = count.map(|count| first.saturating_add(count));
        let ends = [next_key, next_same, says].into_iter().flatten();
        start..ends.fold(records.end, u64::min).max(start)
    }

    /// The compression of the object before this record, or else of the first one.
    pub(super) fn compression_near(&self, sequence: u64) -> Option<Compression> {
        let after = self.same.partition_point(|(same, _)| same.start < sequence);
        let near = after.checked_sub(1).unwrap_or(after);
        self.same.get(near).map(|(_, compression)| *compression)
    }
}

struct Lines {
    count: u64,
    /// The hash of the lines to compare.
    sha256: [u8; 32],
}

impl Work {
    /// Examines the objects with records of the stream from its first kept one up to `to`, and the
    /// last object before.
    pub(super) async fn present(
        &self,
        kept: &Arc<KeptStream>,
        to: u64,
        objects: Vec<ListedObject>,
    ) -> Result<Present, SinkError> {
        let mut present = Present::default();
        present.keys.extend(objects.iter().map(|object| object.key.first_sequence()));
        let before = present.keys.partition_point(|first| *first < kept.records.start);
        let within = before..present.keys.partition_point(|first| *first < to);
        // Objects hold disjoint records, so the last one whose end is certain ends the search.
        for object in objects[..before].iter().rev() {
            let look = self.look(kept, object).await?;
            let is_certain = matches!(look, Look::Same { .. } | Look::Foreign { count: Some(_) });
            present.add(object.key, &look);
            if is_certain {
                break;
            }
        }
        let within = objects.into_iter().take(within.end).skip(within.start);
        let mut looks = stream::iter(within)
            .map(|object| async move {
                Ok::<_, SinkError>((object.key, self.look(kept, &object).await?))
            })
            .buffered(READS);
        while let Some((key, look)) = looks.try_next().await? {
            present.add(key, &look);
        }
        drop(looks);
        present.same.sort_unstable_by_key(|(same, _)| same.start);
        Ok(present)
    }

    async fn look(&self, kept: &Arc<KeptStream>, object: &ListedObject) -> Result<Look, SinkError> {
        let bucket = &self.put.bucket;
        let first = object.key.first_sequence();
        let attributes = self.ask("read", self.settings.put_timeout(), || async {
            let head = GetOptions::new().with_head(true);
            match bucket.store().get_opts(&object.location, head).await {
                Ok(head) => Ok(Some(head.attributes)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let Some(attributes) = attributes.await? else { return Ok(Look::Gone) };
        let says = ObjectMetadata::from_attributes(&attributes).filter(|says| {
            says.count > 0 && first.checked_add(says.count - 1) == Some(says.last_sequence)
        });
        if let Some(ObjectMetadata { last_sequence, count: _, sha256 }) = &says {
            let end = last_sequence.saturating_add(1);
            if end <= kept.records.start {
                return Ok(Look::Same { end });
            }
            let is_within = kept.records.start <= first && end <= kept.records.end;
            if is_within && self.sha256(kept, first..end).await? == *sha256 {
                return Ok(Look::Same { end });
            }
        }
        // A directory has no metadata, and a partly kept object must be compared by its lines.
        let compared = first.max(kept.records.start)..kept.records.end;
        let read = self.ask("read", self.settings.put_timeout(), || async {
            match self.read(object, compared.clone()).await {
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                read => read.map(Some),
            }
        });
        let Some(read) = read.await? else { return Ok(Look::Gone) };
        let says = says.map(|says| says.count);
        let Some(Lines { count, sha256 }) = read else {
            return Ok(Look::Foreign { count: says });
        };
        let end = first.saturating_add(count);
        let same = compared.start..end.min(compared.end);
        if end <= kept.records.start || self.sha256(kept, same).await? == sha256 {
            return Ok(Look::Same { end });
        }
        Ok(Look::Foreign { count: says })
    }

    /// Reads an object, and hashes those of its records that are `compared`. `None` if it cannot be
    /// decoded.
    async fn read(
        &self,
        object: &ListedObject,
        compared: Range<u64>,
    ) -> object_store::Result<Option<Lines>> {
        let read = self.put.bucket.store().get_opts(&object.location, GetOptions::new());
        let mut pieces = read.await?.into_stream();
        let mut decoder = LineDecoder::new(object.key.compression());
        let (mut hash, mut sequence) = (Sha256::new(), object.key.first_sequence());
        while let Some(piece) = pieces.try_next().await? {
            let pushed = decoder.push(&piece, |line| {
                if compared.contains(&sequence) {
                    hash.update(line);
                    hash.update(b"\n");
                }
                sequence = sequence.saturating_add(1);
            });
            if pushed.is_err() {
                return Ok(None);
            }
        }
        let Ok(decoded) = decoder.finish() else { return Ok(None) };
        let sha256 = hash.finalize().into();
        Ok(Some(Lines { count: decoded.count, sha256 }))
    }

    async fn sha256(
        &self,
        kept: &Arc<KeptStream>,
        records: Range<u64>,
    ) -> Result<[u8; 32], SinkError> {
        let kept = Arc::clone(kept);
        blocking(move || kept.sha256(records)).await
    }
}
