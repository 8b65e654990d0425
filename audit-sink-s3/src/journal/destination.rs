//! Where a journal delivers to.

use std::fmt::Debug;
use std::time::Duration;

use audit_core::{BufferPool, UniqueId, async_trait};
use bytes::Bytes;

use crate::Compression;

/// An object that is to be delivered: which records it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    /// How many records, at least one.
    pub(crate) count: u64,
    /// Of the first record, in milliseconds since the Unix epoch.
    pub(crate) time_ms: i64,
    /// How its lines are compressed.
    pub(crate) compression: Compression,
}

impl Plan {
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count
    }
}

/// The bytes of an object, as they are sent by every attempt.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// In pieces of the pool that they were encoded with.
    pub(crate) pieces: Vec<Bytes>,
    /// SHA-256 of the lines.
    pub(crate) sha256: [u8; 32],
}

impl Encoded {
    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// How the delivery of an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The object is where it was to go.
    Delivered,
    /// It is not, and will not be: another one stands in its place.
    Conflict,
}

/// Where a journal delivers to.
///
/// # Contract
///
/// - [`encode`](Self::encode) gives the same bytes for the same plan and lines.
/// - [`send`](Self::send) returns when the outcome is certain. It may be called again for the same
///   plan and bytes, by this process or a later one, also after an outcome that got lost: the
///   object MUST then be there once.
/// - Either may panic, and `send` may be dropped: the outcome is then unknown, and the journal
///   retries from what is durable.
#[async_trait]
pub(crate) trait Destination: Debug + Send + Sync + 'static {
    /// How the lines of new objects are to be compressed.
    fn compression(&self) -> Compression;

    /// Encodes the lines of an object, in pieces of this pool. CPU-bound: it is called on a thread
    /// for blocking work.
    fn encode(&self, plan: &Plan, lines: &[u8], pool: &BufferPool) -> Encoded;

    /// Sends an object until its outcome is certain. The journal made its bytes durable before the
    /// first call.
    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery;

    /// How long to wait after a panic before the retry, after so many retries.
    fn backoff_after_panic(&self, retries: u32) -> Duration;

    /// Releases memory that only the next object needs.
    fn trim(&self);
}
