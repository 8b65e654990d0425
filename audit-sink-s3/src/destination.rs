//! A bucket as the destination of a journal.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{BufferPool, async_trait};

use crate::bucket::put::{Put, PutOutcome};
use crate::journal::destination::{Delivery, Destination, Encoded, Plan};
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

impl Plan {
    /// Where the object stands in a bucket.
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(self.time_ms, self.stream, self.first_sequence, self.compression)
    }
}

#[async_trait]
impl Destination for BucketDestination {
    fn compression(&self) -> Compression {
        self.put.compression()
    }

    fn encode(&self, plan: &Plan, lines: &[u8], pool: &BufferPool) -> Encoded {
        let kept = self.encoder().take();
        let mut encoder = kept.unwrap_or_else(|| ObjectEncoder::new(pool.clone()));
        let object = encoder.encode(lines, plan.first_sequence, plan.count, plan.compression);
        *self.encoder() = Some(encoder);
        let EncodedObject { payload, metadata, compression: _, head: _ } = object;
        Encoded { pieces: payload.into_iter().collect(), sha256: metadata.sha256 }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let Encoded { pieces, sha256 } = object;
        let last_sequence = plan.first_sequence + (plan.count - 1);
        let object = EncodedObject {
            payload: pieces.into_iter().collect(),
            metadata: ObjectMetadata { last_sequence, count: plan.count, sha256 },
            compression: plan.compression,
            head: None,
        };
        let path = self.put.bucket.path(&plan.key().to_string());
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
