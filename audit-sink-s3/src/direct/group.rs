//! The batches of one object, and their way into the bucket.

use std::sync::Arc;

use audit_core::{Durability, Place, Receipt, SinkError, SinkErrorKind, UniqueId};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};

use super::queue::{Pending, Ticket};
use crate::bucket::put::{Put, PutOutcome};
use crate::executor::{Executor, execute};
use crate::health::{Trouble, Watch};
use crate::object::encode::{EncodedObject, ObjectEncoder};
use crate::object::pieces::pieces;
use crate::panic::{Panicked, catch, catch_in};
use crate::{Compression, ObjectKey};

/// Above this many bytes of lines an object is encoded on a thread for blocking work: by then
/// compressing takes longer than a runtime's thread should be held up (about 0.2 ms), and far
/// longer than handing it over.
pub(super) const MAX_ENCODE_INLINE_BYTES: usize = 64 << 10;

/// The batches of one object.
pub(super) struct Group {
    pub(super) first_ticket: Ticket,
    pub(super) stream: UniqueId,
    pub(super) first_sequence: u64,
    pub(super) time_ms: i64,
    pub(super) count: u64,
    pub(super) bytes: usize,
    pub(super) lines: Vec<Bytes>,
    pub(super) waiters: Vec<Waiter>,
}

/// Who waits for a batch of the object.
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Receipt, SinkError>>,
    pub(super) place: Place,
    /// Gives its room back when the outcome is certain.
    pub(super) pending: Pending,
}

impl Group {
    /// Delivers the object until that is certain, and then tells the callers. A panic leaves the
    /// outcome unknown and the records in memory, so delivery is retried like after any other
    /// failure; that no copy is stored is the key's matter, as for every retry.
    pub(super) async fn deliver(
        self,
        put: Arc<Put>,
        executor: Arc<dyn Executor>,
        compression: Compression,
    ) {
        let Group {
            first_ticket: _,
            stream,
            first_sequence,
            time_ms,
            count,
            bytes,
            lines,
            waiters,
        } = self;
        let key = ObjectKey::new(time_ms, stream, first_sequence, compression);
        let path = put.bucket.path(&key.to_string());
        let encode = || {
            let lines = lines.clone();
            let encode = move || {
                let lines = lines.concat();
                ObjectEncoder::new(pieces()).encode(&lines, first_sequence, count, compression)
            };
            let executor = &*executor;
            async move {
                if bytes > MAX_ENCODE_INLINE_BYTES {
                    execute(executor, encode).await
                } else {
                    encode()
                }
            }
        };
        let mut object: Option<EncodedObject> = None;
        let mut panics: Option<(Watch, u32)> = None;
        let outcome = loop {
            let attempt = async {
                let object = match &mut object {
                    Some(object) => object,
                    none => none.insert(encode().await),
                };
                put.until_certain(&path, object).await
            };
            match catch_in(attempt).await {
                Ok(outcome) => break outcome,
                Err(panicked) => {
                    // What counts and what draws the backoff may be what panics.
                    let backoff = catch(|| backoff_after(&panicked, &mut panics, &put));
                    sleep(backoff.unwrap_or(FALLBACK_BACKOFF)).await;
                }
            }
        };
        if let Some((watch, _)) = panics {
            let _ = catch(|| watch.over());
        }
        for Waiter { reply, place, pending } in waiters {
            let result = match outcome {
                // A crash before this line: the object is in the bucket, nobody was told. That is
                // allowed.
                PutOutcome::Stored => {
                    Ok(Receipt { durability: Durability::Delivered, place: Some(place) })
                }
                PutOutcome::Conflict => Err(SinkError::not_persisted(
                    SinkErrorKind::Blocked,
                    format!("another object stands at {path}, where the audit batch should go"),
                )),
            };
            // The caller may have gone; the records stay where they are. Or it panics when it is
            // woken, which is nothing to the other callers.
            let _ = catch(move || {
                let _ = reply.send(result);
                drop(pending);
            });
        }
    }
}

/// How long delivery waits after a panic when the backoff itself cannot be drawn.
const FALLBACK_BACKOFF: Duration = Duration::from_secs(1);

/// Reports a panic of a delivery, and says how long to wait before the retry. `panics` are those
/// of this delivery so far.
fn backoff_after(panicked: &Panicked, panics: &mut Option<(Watch, u32)>, put: &Put) -> Duration {
    let (watch, count) = panics.get_or_insert_with(|| (put.health.watch(), 0));
    *count = count.saturating_add(1);
    let retry = *count - 1;
    put.health.panicked();
    watch.report(Trouble::panicked("the delivery of an object", panicked));
    put.backoff_after_panic(retry)
}
