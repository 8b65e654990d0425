//! A bucket as the destination of a journal.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{BufferPool, async_trait};
use audit_journal::{Delivery, Destination, Encoded, Encoding, Plan};

use crate::bucket::put::{Put, PutOutcome};
use crate::object::encode::{EncodedObject, ObjectEncoder};
use crate::{Compression, ObjectKey, ObjectMetadata};

/// Encodes objects and puts each under its key.
pub(crate) struct BucketDestination {
    put: Put,
    /// Kept for its memory. A panic while it encodes loses it.
    encoder: Mutex<Option<ObjectEncoder>>,
}

impl BucketDestination {
    pub(crate) fn new(put: Put) -> BucketDestination {
        BucketDestination { put, encoder: Mutex::default() }
    }

    fn encoder(&self) -> MutexGuard<'_, Option<ObjectEncoder>> {
        self.encoder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ZSTD: Encoding = Encoding::new(*b"zstd");
const GZIP: Encoding = Encoding::new(*b"gzip");
const NONE: Encoding = Encoding::new(*b"none");

pub(crate) fn encoding(compression: Compression) -> Encoding {
    match compression {
        Compression::Zstd => ZSTD,
        Compression::Gzip => GZIP,
        Compression::None => NONE,
    }
}

/// `None` for an object that no bucket was meant for.
pub(crate) fn compression(encoding: Encoding) -> Option<Compression> {
    [Compression::Zstd, Compression::Gzip, Compression::None]
        .into_iter()
        .find(|compression| self::encoding(*compression) == encoding)
}

impl ObjectKey {
    /// Where an object stands that a journal has planned. `None` if it was planned for something
    /// else than a bucket.
    pub fn of_plan(plan: &Plan) -> Option<ObjectKey> {
        let compression = compression(plan.encoding)?;
        Some(ObjectKey::new(plan.time_ms, plan.stream, plan.first_sequence, compression))
    }
}

/// Where an object stands. The journal was opened with nothing but objects for buckets.
pub(crate) fn key(plan: &Plan) -> ObjectKey {
    ObjectKey::of_plan(plan).expect("a journal is opened if its objects are accepted")
}

#[async_trait]
impl Destination for BucketDestination {
    fn encoding(&self) -> Encoding {
        encoding(self.put.compression())
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        compression(encoding).is_some()
    }

    fn encode(&self, plan: &Plan, lines: &[u8], pool: &BufferPool) -> Encoded {
        let kept = self.encoder().take();
        let mut encoder = kept.unwrap_or_else(|| ObjectEncoder::new(pool.clone()));
        let compression = key(plan).compression();
        let object = encoder.encode(lines, plan.first_sequence, plan.count, compression);
        *self.encoder() = Some(encoder);
        let EncodedObject { payload, metadata, compression: _, head: _, logs: _ } = object;
        Encoded { pieces: payload.into_iter().collect(), sha256: metadata.sha256 }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let Encoded { pieces, sha256 } = object;
        let last_sequence = plan.first_sequence + (plan.count - 1);
        let object = EncodedObject {
            payload: pieces.into_iter().collect(),
            metadata: ObjectMetadata { last_sequence, count: plan.count, sha256 },
            compression: key(plan).compression(),
            head: None,
            logs: plan.count,
        };
        let path = self.put.bucket.path(&key(plan).to_string());
        match self.put.until_certain(&path, &object).await {
            PutOutcome::Stored => Delivery::Delivered,
            PutOutcome::Conflict => Delivery::Conflict,
        }
    }

    fn backoff_after_panic(&self, retries: u32) -> Duration {
        self.put.backoff_after_panic(retries)
    }

    fn trim(&self) {
        if let Some(encoder) = &mut *self.encoder() {
            encoder.trim();
        }
    }
}

impl fmt::Debug for BucketDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketDestination").field("put", &self.put).finish_non_exhaustive()
    }
}
