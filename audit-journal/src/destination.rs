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

    /// Creates a tag.
    ///
    /// # Panics
    ///
    /// If it contains anything but lower-case ASCII letters and digits.
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

    /// Parses a tag. Returns `None` if it is invalid.
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

/// The records that an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The stream of the records.
    pub stream: UniqueId,
    /// The number of the first record.
    pub first_sequence: u64,
    /// The number of records, at least one.
    pub count: u64,
    /// When the first record was made, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The format of the object's bytes.
    pub encoding: Encoding,
}

impl Plan {
    /// The sequence number after the last record.
    pub fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count
    }
}

/// The records of an object as they were committed.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// One line for each record, with its line feed.
    pub lines: &'a [u8],
    /// The times at which they were made, in the order of the records. The first entry is for the
    /// object's first record.
    pub times: &'a [RecordTime],
}

/// The time of a record and of those after it up to the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTime {
    /// The number of the first record with this time.
    pub first_sequence: u64,
    /// In milliseconds since the Unix epoch.
    pub time_ms: i64,
}

/// Seals an object, given the destination's state after the object before it, which is empty before
/// the first one.
pub type Sealing = Box<dyn FnOnce(Bytes) -> Seal + Send>;

/// An encoded object whose binding to those before it is still missing.
pub struct Unsealed {
    /// The bytes, in pieces from the pool that was passed to [`Destination::encode`].
    pub pieces: Vec<Bytes>,
    /// The SHA-256 of the lines.
    pub sha256: [u8; 32],
    /// Binds it to the objects before it, in a stream that the destination vouches for.
    pub seal: Option<Sealing>,
}

impl Unsealed {
    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Binds it to the objects before it, given the state after them in a stream that the
    /// destination vouches for.
    pub fn seal(self, before: Option<Bytes>) -> Encoded {
        let Unsealed { pieces, sha256, seal } = self;
        let seal = seal.zip(before).map(|(seal, before)| seal(before));
        Encoded { pieces, sha256, seal }
    }
}

impl Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealed").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// An encoded object. Every attempt sends the same bytes.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The bytes in pieces.
    pub pieces: Vec<Bytes>,
    /// The SHA-256 of the lines.
    pub sha256: [u8; 32],
    /// Its binding to the objects before it, in a stream that the destination vouches for.
    pub seal: Option<Seal>,
}

impl Encoded {
    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// How the delivery of an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The object is at its destination.
    Delivered,
    /// The object is not at its destination and never will be, because another object has its
    /// place.
    Conflict,
}

/// The place that a journal delivers to.
///
/// # Contract
///
/// - [`encode`](Self::encode) may return different bytes when it is called again for the same plan
///   and lines. It is called again only as long as no earlier result was sent. It is called for
///   several objects at once.
/// - A destination may *vouch* for streams: with a [`Link`], [`encode`](Self::encode) MUST return a
///   [`Sealing`], and without one it MUST NOT. A stream's objects are sealed one after the other in
///   the order of their records, each with the state that the seal before it returned. Any process
///   with a stream's secret can continue the chain.
/// - [`send`](Self::send) returns once the outcome is certain. It may be called again for the same
///   plan and bytes, by this process or a later one, even after an outcome that was lost. The
///   object MUST then be at the destination once.
/// - Both may panic, and the future of `send` may be dropped. The outcome is then unknown, and the
///   journal retries from its durable state.
#[async_trait]
pub trait Destination: Debug + Send + Sync + 'static {
    /// The encoding of new objects.
    fn encoding(&self) -> Encoding;

    /// Whether it can send objects of this encoding, written by this process or an earlier one. A
    /// journal that holds other objects cannot be opened with this destination.
    fn accepts(&self, encoding: Encoding) -> bool;

    /// Encodes the records of an object into pieces from `pool`. CPU-bound: it is called on a
    /// thread for blocking work, and on several threads at once. `link` is present in a stream that
    /// is vouched for.
    fn encode(
        &self,
        plan: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Unsealed;

    /// Sends an object until its outcome is certain. The journal made its bytes durable before the
    /// first call.
    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery;

    /// Prepares to vouch for a stream that is about to begin. Returns `None` if this destination
    /// does not vouch for streams, as by default. One that does implements the next three too.
    fn begin_stream(&self, _stream: UniqueId) -> Option<NewStream> {
        None
    }

    /// Whether it can continue a stream with this secret.
    fn understands(&self, _stream: UniqueId, _secret: &StreamSecret) -> bool {
        false
    }

    /// The encoding of objects that hold a system record.
    fn system_encoding(&self) -> Encoding {
        self.encoding()
    }

    /// A system record for the end of this stream, as a line without its line feed.
    ///
    /// # Panics
    ///
    /// If the destination does not vouch for streams.
    fn last_record(&self, _stream: UniqueId, _now_ms: i64, _record: &LastRecord) -> String {
        unreachable!("the destination does not vouch for streams")
    }

    /// The backoff after a panic, given the number of retries so far.
    fn backoff_after_panic(&self, retries: u32) -> Duration;

    /// Frees memory that is only needed for the next object. The default does nothing.
    fn trim(&self) {}
}
