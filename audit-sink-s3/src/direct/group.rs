//! The batches of one object, and their delivery.

use std::sync::Arc;

use audit_core::{Durability, Place, Receipt, SinkError, SinkErrorKind};
use audit_evidence::{CompactRange, HashedObject, ObjectHasher};
use bytes::Bytes;
use object_store::PutPayload;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};
use tracing::{Instrument, Span};

use super::pending::{Pending, Ticket};
use super::stream::Seal;
use crate::ObjectKey;
use crate::bucket::put::{Put, PutOutcome};
use crate::evidence::seed;
use crate::executor::{Executor, execute};
use crate::health::{Trouble, Watch};
use crate::object::encode::ObjectEncoder;
use crate::object::encoded::EncodedObject;
use crate::object::pieces::pieces;
use crate::panic::{Panicked, catch, catch_in};

/// Above this many bytes of lines an object is encoded on a thread for blocking work: by then
/// compressing takes longer than a runtime's thread should be held up (about 0.2 ms), and far
/// longer than handing it over.
pub(super) const MAX_ENCODE_INLINE_BYTES: usize = 64 << 10;

/// The most traces that a delivery is linked to.
const MAX_LINKS: usize = 100;

pub(super) struct Group {
    pub(super) first_ticket: Ticket,
    pub(super) key: ObjectKey,
    pub(super) count: u64,
    pub(super) bytes: usize,
    pub(super) lines: Vec<Bytes>,
    pub(super) waiters: Vec<Waiter>,
    /// In a stream with evidence.
    pub(super) seal: Option<Seal>,
}

/// How the delivery of an object ended.
pub(super) struct Ended {
    pub(super) key: ObjectKey,
    pub(super) count: u64,
    /// The key of a conflicting object, if there is one.
    pub(super) conflict: Option<String>,
}

/// A caller that waits for a batch of the object.
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Receipt, SinkError>>,
    pub(super) place: Place,
    /// Releases its room once the outcome is certain.
    pub(super) pending: Pending,
}

impl Waiter {
    /// Acknowledges the batch, unless another object has this key.
    fn answer(self, conflict: Option<&str>) {
        let Waiter { reply, place, pending } = self;
        let result = match conflict {
            // A crash before this line: the object is in the bucket but unacknowledged, which is
            // allowed.
            None => Ok(Receipt { durability: Durability::Delivered, place: Some(place) }),
            Some(key) => Err(SinkError::not_persisted(
                SinkErrorKind::Blocked,
                format!("another object has the key of the audit batch: {key}"),
            )),
        };
        // The caller may be gone; its records stay. Its waker may panic, which must not affect
        // other callers.
        let _ = catch(move || {
            let _ = reply.send(result);
            drop(pending);
        });
    }
}

/// The span of a delivery, in the trace of the first caller and linked to those of the others.
fn span_of(waiters: &[Waiter]) -> Span {
    let mut spans = waiters.iter().map(|waiter| &waiter.pending.span);
    let span = spans.next().map_or_else(Span::none, |first| {
        tracing::info_span!(
            target: "audit::trace", parent: first, "deliver", batches = waiters.len(),
        )
    });
    spans.take(MAX_LINKS).for_each(|other| {
        span.follows_from(other);
    });
    span
}

impl Group {
    /// Delivers the object until the outcome is certain, and then answers the callers. After a
    /// panic the outcome is unknown and the records are still in memory, so delivery is retried as
    /// after any other failure. The key prevents a second copy, as with every retry.
    pub(super) async fn deliver(self, put: Arc<Put>, executor: Arc<dyn Executor>) -> Option<Ended> {
        let Group { first_ticket: _, key, count, bytes, lines, waiters, mut seal } = self;
        let path = put.bucket.path(&key.to_string());
        let mut object_seed = None;
        let mut object: Option<EncodedObject> = None;
        let mut panics: Option<(Watch, u32)> = None;
        let outcome = loop {
            let attempt = async {
                if object.is_none() {
                    let hasher = seal.as_ref().map(|seal| {
                        // The same for each attempt, so that all encode the same object.
                        let seed = *object_seed.get_or_insert_with(|| seed(&*seal.random));
                        let first = key.first_sequence();
                        ObjectHasher::new(&key.to_string(), first, seal.stable, seed)
                    });
                    let lines = lines.clone();
                    let encode = move || encode(&lines, key, count, hasher);
                    let encoded = if bytes > MAX_ENCODE_INLINE_BYTES {
                        execute(&*executor, encode).await
                    } else {
                        encode()
                    };
                    object = Some(match (encoded, &mut seal) {
                        (Encoded::Whole(object), _) => object,
                        (Encoded::Unsealed(payload, hashed), Some(seal)) => {
                            seal_behind(payload, &hashed, key, seal).await?
                        }
                        (Encoded::Unsealed(..), None) => {
                            unreachable!("hashed in order to be sealed")
                        }
                    });
                }
                let span = span_of(&waiters);
                Some(put.until_certain(&path, object.as_ref()?).instrument(span).await)
            };
            match catch_in(Box::pin(attempt)).await {
                Ok(Some(outcome)) => break outcome,
                // The previous object was dropped with its runtime, and so is this one.
                Ok(None) => return None,
                Err(panicked) => {
                    // The metrics or the backoff may panic as well.
                    let backoff = catch(|| backoff_after(&panicked, &mut panics, &put));
                    sleep(backoff.unwrap_or(FALLBACK_BACKOFF)).await;
                }
            }
        };
        if let Some((watch, _)) = panics {
            let _ = catch(|| watch.over());
        }
        if let Some(witnesses) = seal.as_ref().and_then(|seal| seal.witnesses.as_ref()) {
            let is_shown = outcome == PutOutcome::Stored && key.is_system();
            let head = object.as_ref().and_then(|object| object.head.as_deref());
            witnesses.arrived(key.stream(), key.first_sequence(), head.filter(|_| is_shown));
        }
        let conflict = match outcome {
            PutOutcome::Stored => None,
            PutOutcome::Conflict => Some(path.to_string()),
        };
        waiters.into_iter().for_each(|waiter| waiter.answer(conflict.as_deref()));
        Some(Ended { key, count, conflict })
    }
}

enum Encoded {
    Whole(EncodedObject),
    Unsealed(PutPayload, HashedObject),
}

fn encode(lines: &[Bytes], key: ObjectKey, count: u64, hasher: Option<ObjectHasher>) -> Encoded {
    let (lines, mut encoder) = (lines.concat(), ObjectEncoder::new(pieces()));
    let compression = key.compression();
    match hasher {
        None => {
            let (payload, sha256) = encoder.encode(&lines, compression);
            Encoded::Whole(EncodedObject::plain(payload, sha256, key, count))
        }
        Some(hasher) => {
            let (payload, hashed) = encoder.encode_unsealed(&lines, hasher, compression);
            Encoded::Unsealed(payload, hashed)
        }
    }
}

/// Seals an object once the previous one is hashed, and lets the next one continue. `None` if the
/// previous one was dropped.
///
/// Objects are encoded in parallel; only their hashes are chained in order.
async fn seal_behind(
    payload: PutPayload,
    hashed: &HashedObject,
    key: ObjectKey,
    seal: &mut Seal,
) -> Option<EncodedObject> {
    let before: CompactRange = seal.before.wait_for(Option::is_some).await.ok()?.clone()?;
    let (head, after) = seal.signer.seal(before, hashed);
    if let Some(witnesses) = &seal.witnesses {
        let certificate = seal.signer.certificate().to_note_signature();
        witnesses.sealed(key.stream(), hashed.range(), &certificate);
    }
    seal.after.send_replace(Some(after));
    Some(EncodedObject::sealed(payload, key, head))
}

/// The wait after a panic if drawing the backoff itself panics.
const FALLBACK_BACKOFF: Duration = Duration::from_secs(1);

/// Reports a panic of a delivery and returns the backoff. `panics` are those of this delivery so
/// far.
fn backoff_after(panicked: &Panicked, panics: &mut Option<(Watch, u32)>, put: &Put) -> Duration {
    let (watch, count) = panics.get_or_insert_with(|| (put.health.watch(), 0));
    *count = count.saturating_add(1);
    let retry = *count - 1;
    put.health.panicked();
    watch.report(Trouble::panicked("the delivery of an object", panicked));
    put.backoff_after_panic(retry)
}
