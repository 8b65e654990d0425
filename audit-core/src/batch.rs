//! The unit that a sink persists whole or not at all.

use std::fmt;

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2};

use crate::{Buffer, Limits};

/// The largest batch, in bytes, line breaks included: 32 MiB.
///
/// It holds an execution at the [highest limits](Limits), with [`MAX_ADDED_BYTES`] more for each
/// log.
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// The most that a host adds to each log in a batch, in bytes: the line break and, if enabled,
/// provenance.
pub const MAX_ADDED_BYTES: usize = 1_024;

const _: () = assert!(
    Limits::HIGHEST_MAX_TOTAL_BYTES as usize + Limits::HIGHEST_MAX_LOGS as usize * MAX_ADDED_BYTES
        <= MAX_BATCH_BYTES
);

/// Resolved logs of one execution or of replays: the unit that a sink persists whole or not at all.
///
/// The records are one contiguous run of lines, each a JSON object and a line feed, at least one of
/// them. JSON is written here without raw line feeds, so the lines need no index. Cloning shares
/// the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    time_ms: i64,
    lines: Bytes,
    count: u32,
}

impl Batch {
    /// Takes `lines`, each ended by a line feed, as records of `time_ms` (milliseconds since the
    /// Unix epoch).
    ///
    /// # Errors
    ///
    /// When there is no line, a line is empty or holds a zero byte, the last line has no line feed,
    /// or the lines exceed [`MAX_BATCH_BYTES`]. Sinks rely on JSON having no zero bytes to detect
    /// torn writes.
    pub fn from_lines(time_ms: i64, lines: Bytes) -> Result<Batch, InvalidBatch> {
        if lines.len() > MAX_BATCH_BYTES {
            return Err(InvalidBatch::TooLarge { actual: lines.len() });
        }
        if !lines.ends_with(b"\n") {
            return Err(InvalidBatch::Unterminated);
        }
        let (mut start, mut count) = (0, 0);
        for end in memchr_iter(b'\n', &lines) {
            if end == start {
                return Err(InvalidBatch::EmptyRecord { index: count });
            }
            if memchr(0, &lines[start..end]).is_some() {
                return Err(InvalidBatch::ZeroByte { index: count });
            }
            (start, count) = (end + 1, count + 1);
        }
        Ok(Batch { time_ms, lines, count })
    }

    /// When the execution ran or its result was replayed, in milliseconds since the Unix epoch. A
    /// sink files the records under this time.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// All records, each followed by one line feed.
    pub fn lines(&self) -> &Bytes {
        &self.lines
    }

    /// The number of records, at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The records in the order they were emitted, without their line feeds.
    pub fn records(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut start = 0;
        memchr_iter(b'\n', &self.lines).map(move |end| {
            let line = self.lines.slice(start..end);
            start = end + 1;
            line
        })
    }
}

/// Shows the size and not the content: a body is its owner's secret.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Batch { time_ms, lines, count } = self;
        f.debug_struct("Batch")
            .field("time_ms", time_ms)
            .field("bytes", &lines.len())
            .field("count", count)
            .finish()
    }
}

/// Why bytes are not a valid batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// More than [`MAX_BATCH_BYTES`].
    #[error("batch of {actual} bytes exceeds limit of {MAX_BATCH_BYTES} bytes")]
    TooLarge {
        /// Its size, in bytes.
        actual: usize,
    },
    /// The last line has no line feed, or there is no line.
    #[error("the last record of a batch must end with a line feed")]
    Unterminated,
    /// A line contains a zero byte, which JSON never does.
    #[error("record {index} of the batch contains a zero byte, which JSON never does")]
    ZeroByte {
        /// The index of the line, counted from 0.
        index: u32,
    },
    /// A line has no bytes.
    #[error("record {index} of the batch is empty")]
    EmptyRecord {
        /// The index of the line, counted from 0.
        index: u32,
    },
}

/// Appends records to the bytes that become a [`Batch`].
#[derive(Default)]
pub struct BatchBuilder {
    lines: Buffer,
    count: u32,
}

impl BatchBuilder {
    /// Room for `bytes` bytes, line feeds included, before the first reallocation.
    pub fn with_capacity(bytes: usize) -> BatchBuilder {
        BatchBuilder::in_buffer(Buffer::with_capacity(bytes))
    }

    /// Writes into this empty buffer. It returns to its pool when the last clone of the batch is
    /// dropped.
    #[doc(hidden)]
    pub fn in_buffer(buffer: Buffer) -> BatchBuilder {
        BatchBuilder { lines: buffer, count: 0 }
    }

    /// Appends the record that `write` writes, and a line feed.
    ///
    /// # Panics
    ///
    /// If `write` shortens the buffer or writes nothing. With debug assertions, also if it writes a
    /// line feed or a zero byte; in release builds the caller is trusted to write one line of JSON,
    /// as a rendered template is.
    pub fn record(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.lines.len();
        write(&mut self.lines);
        assert!(self.lines.len() > start, "a record has at least one byte");
        debug_assert!(
            memchr2(b'\n', 0, &self.lines[start..]).is_none(),
            "a record is one line of JSON"
        );
        self.lines.push(b'\n');
        self.count += 1;
    }

    /// Bytes written so far, line feeds included.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether no record was written yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records as a batch of `time_ms` (milliseconds since the Unix epoch); `None` if there are
    /// none.
    ///
    /// # Panics
    ///
    /// If they exceed [`MAX_BATCH_BYTES`]: the caller checks sizes first.
    pub fn build(self, time_ms: i64) -> Option<Batch> {
        assert!(self.lines.len() <= MAX_BATCH_BYTES, "batch of {} bytes", self.lines.len());
        let BatchBuilder { lines, count } = self;
        (count > 0).then(|| Batch { time_ms, lines: lines.freeze(), count })
    }
}

impl fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchBuilder { lines, count } = self;
        f.debug_struct("BatchBuilder").field("bytes", &lines.len()).field("count", count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_round_trip(
            records in prop::collection::vec("[^\n\\x00]{1,20}", 0..20), time_ms: i64,
        ) {
            let mut builder = BatchBuilder::default();
            for record in &records {
                builder.record(|lines| lines.extend_from_slice(record.as_bytes()));
            }
            let Some(batch) = builder.build(time_ms) else {
                prop_assert!(records.is_empty());
                return Ok(());
            };
            prop_assert_eq!(batch.records().collect::<Vec<_>>(), records.clone());
            prop_assert_eq!(batch.count() as usize, records.len());
            prop_assert_eq!(Batch::from_lines(time_ms, batch.lines().clone()), Ok(batch));
        }

        #[test]
        fn arbitrary_bytes_are_whole_records_or_rejected(bytes: Vec<u8>) {
            if let Ok(batch) = Batch::from_lines(0, bytes.clone().into()) {
                let again: Vec<u8> = batch.records().flat_map(|r| [r, Bytes::from_static(b"\n")]).flatten().collect();
                prop_assert_eq!(again, bytes);
                prop_assert!(batch.records().all(|record| !record.is_empty()));
            }
        }
    }

    #[test]
    fn invalid_batches_are_rejected() {
        let refused =
            |lines: &'static [u8]| Batch::from_lines(0, Bytes::from_static(lines)).unwrap_err();
        assert_eq!(refused(b""), InvalidBatch::Unterminated);
        assert_eq!(refused(b"{}"), InvalidBatch::Unterminated);
        assert_eq!(refused(b"{}\n\"\0\"\n"), InvalidBatch::ZeroByte { index: 1 });
        assert_eq!(refused(b"\n"), InvalidBatch::EmptyRecord { index: 0 });
        assert_eq!(refused(b"{}\n\n{}\n"), InvalidBatch::EmptyRecord { index: 1 });
        let large = Batch::from_lines(0, vec![b'a'; MAX_BATCH_BYTES + 1].into()).unwrap_err();
        assert_eq!(large.to_string(), "batch of 33554433 bytes exceeds limit of 33554432 bytes");
    }

    #[test]
    fn debug_shows_no_content() {
        let batch = Batch::from_lines(7, Bytes::from_static(b"{\"secret\":1}\n")).unwrap();
        assert_eq!(format!("{batch:?}"), "Batch { time_ms: 7, bytes: 13, count: 1 }");
    }
}
