//! The destination of a journal.

use std::fmt::{self, Debug};
use std::time::Duration;

use audit_core::{BufferPool, UniqueId, async_trait};
use bytes::Bytes;

pub use crate::vouching::{
    LastRecord, Link, NewStream, Seal, StreamEnd, StreamSecret, SystemRecords,
};

/// The format of an object's bytes: a tag of the destination's choice. It is durable with the
/// bytes, so that a later process knows their format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding([u8; Encoding::BYTES]);

impl Encoding {
    pub(crate) const BYTES: usize = 4;

    /// A tag.
    ///
    /// # Panics
    ///
    /// If it is not of lower-case letters and digits.
    pub const fn new(tag: [u8; Encoding::BYTES]) -> Encoding {
        let mut n = 0;
        while n < tag.len() {
            assert!(
                tag[n].is_ascii_lowercase() || tag[n].is_ascii_digit(),
                "a tag has lower-case letters and digits"
            );
            n += 1;
        }
        Encoding(tag)
    }

    /// A tag that was read. `None` if it is invalid.
    pub(crate) fn read(tag: &str) -> Option<Encoding> {
        let is_valid = tag.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        Some(Encoding(tag.as_bytes().try_into().ok().filter(|_| is_valid)?))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("letters and digits")
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoding({self})")
    }
}

/// An object to be delivered, by the records that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The stream of the records.
    pub stream: UniqueId,
    /// The number of the first record.
    pub first_sequence: u64,
    /// How many records, at least one.
    pub count: u64,
    /// When the first record was made, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The format of its bytes.
    pub encoding: Encoding,
}

impl Plan {
    /// The number after that of the last record.
    pub fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count
    }
}

/// The records of an object, as they were committed.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// A line for each, ended by a line feed.
    pub lines: &'a [u8],
    /// When they were made: the first at the first record of the object, in their order.
    pub times: &'a [RecordTime],
}

/// When a record was made, and those after it up to the next such time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTime {
    /// The number of the first such record.
    pub first_sequence: u64,
    /// In milliseconds since the Unix epoch.
    pub time_ms: i64,
}

/// The bytes of an object, as they are sent by every attempt.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// In pieces of the pool that they were encoded with.
    pub pieces: Vec<Bytes>,
    /// SHA-256 of the lines.
    pub sha256: [u8; 32],
    /// Its binding to the objects before it, in a stream that the destination vouches for.
    pub seal: Option<Seal>,
}

impl Encoded {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// How the delivery of an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The object is at its destination.
    Delivered,
    /// It is not, and will not be: another one has its place.
    Conflict,
}

/// Where a journal delivers to.
///
/// # Contract
///
/// - [`encode`](Self::encode) may give other bytes for the same plan and lines when it is called
///   again: that happens only while nothing that it gave before was sent.
/// - A destination may *vouch* for streams: with a [`Link`], [`encode`](Self::encode) MUST give a
///   [`Seal`], and without one it MUST NOT. The links of a stream's objects are a chain, in the
///   order of their records. Whoever has a stream's secret can go on with it.
/// - [`send`](Self::send) returns when the outcome is certain. It may be called again for the same
///   plan and bytes, by this process or a later one, also after an outcome that got lost: the
///   object MUST then be there once.
/// - Either may panic, and `send` may be dropped: the outcome is then unknown, and the journal
///   retries from what is durable.
#[async_trait]
pub trait Destination: Debug + Send + Sync + 'static {
    /// How new objects are to be written.
    fn encoding(&self) -> Encoding;

    /// Whether it can send objects that were written so, by this process or an earlier one. A
    /// journal that holds others cannot be opened with it.
    fn accepts(&self, encoding: Encoding) -> bool;

    /// Encodes the records of an object, in pieces of this pool. CPU-bound: it is called on a
    /// thread for blocking work. `link` says where the object stands in a stream that is vouched
    /// for.
    fn encode(
        &self,
        plan: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Encoded;

    /// Sends an object until its outcome is certain. The journal made its bytes durable before the
    /// first call.
    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery;

    /// What is needed to vouch for a stream that is about to begin. `None` if this destination
    /// vouches for none.
    fn begin_stream(&self, stream: UniqueId) -> Option<NewStream>;

    /// Whether it can go on with a stream of this secret.
    fn understands(&self, stream: UniqueId, secret: &StreamSecret) -> bool;

    /// How objects that hold a record of the host's own are to be written.
    fn system_encoding(&self) -> Encoding;

    /// A record for a stream that nobody commits to any more, as a line without its line feed.
    fn last_record(&self, now_ms: i64, record: &LastRecord) -> String;

    /// How long to wait after a panic before the retry, after so many retries.
    fn backoff_after_panic(&self, retries: u32) -> Duration;

    /// Releases memory that only the next object needs.
    fn trim(&self);
}
