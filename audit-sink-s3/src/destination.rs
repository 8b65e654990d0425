//! A bucket as the destination of a journal.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{BufferPool, Random, UniqueId, async_trait};
use audit_evidence::{ObjectHasher, ObjectHead, Sidecar, StreamSigner};
use audit_journal::{
    Delivery, Destination, Encoded, Encoding, LastRecord, Link, NewStream, Plan, Records, Seal,
    Sealing, StreamSecret, Unsealed,
};
use bytes::Bytes;
use object_store::PutPayload;

use crate::bucket::put::{Put, PutOutcome};
use crate::evidence::journal::{self, StreamRecords};
use crate::evidence::{Evidence, frontier, seed};
use crate::object::encode::ObjectEncoder;
use crate::object::encoded::EncodedObject;
use crate::witness::Witnesses;
use crate::{Compression, ObjectKey};

/// Encodes objects and puts each under its key. For streams with evidence it also seals them; the
/// state before an object is the frontier of the stream's tree.
pub(crate) struct BucketDestination {
    put: Put,
    /// For new streams. Streams with a secret have evidence in any case.
    evidence: Option<Arc<Evidence>>,
    random: Arc<dyn Random>,
    /// A known-bad variant: objects state records in flight as stable.
    #[cfg(test)]
    is_hasty: bool,
    /// A known-bad variant: checkpoints are shown to witnesses before their plan is durable.
    #[cfg(test)]
    is_rash: bool,
    /// The signer used last.
    signer: Mutex<Option<(UniqueId, Arc<StreamSigner>)>>,
    /// Idle encoders, kept to reuse their memory: at most as many as were in use at once. An
    /// encoder that panics is dropped.
    encoders: Mutex<Vec<ObjectEncoder>>,
}

impl BucketDestination {
    /// `random` makes the seeds of objects.
    pub(crate) fn new(
        put: Put,
        evidence: Option<Arc<Evidence>>,
        random: Arc<dyn Random>,
    ) -> BucketDestination {
        let (signer, encoders) = (Mutex::default(), Mutex::default());
        BucketDestination {
            put,
            evidence,
            random,
            #[cfg(test)]
            is_hasty: false,
            #[cfg(test)]
            is_rash: false,
            signer,
            encoders,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_haste(self, is_hasty: bool) -> BucketDestination {
        BucketDestination { is_hasty, ..self }
    }

    #[cfg(test)]
    pub(crate) fn with_rashness(self, is_rash: bool) -> BucketDestination {
        BucketDestination { is_rash, ..self }
    }

    fn witnesses(&self) -> Option<&Arc<Witnesses>> {
        self.evidence.as_ref()?.witnesses()
    }

    /// The number below which the object states all records as stable.
    fn stable(&self, link: &Link, plan: &Plan) -> u64 {
        #[cfg(test)]
        if self.is_hasty {
            return plan.first_sequence;
        }
        let _ = plan;
        link.stable
    }

    fn signer(&self, stream: UniqueId, secret: &StreamSecret) -> Arc<StreamSigner> {
        let mut kept = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, signer)) = kept.as_ref().filter(|(of, _)| *of == stream) {
            return Arc::clone(signer);
        }
        let signer = StreamSigner::parse(&stream.to_string(), secret.as_str());
        let signer = Arc::new(signer.expect("a journal with unreadable secrets is not opened"));
        *kept = Some((stream, Arc::clone(&signer)));
        signer
    }

    fn encoders(&self) -> MutexGuard<'_, Vec<ObjectEncoder>> {
        self.encoders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ZSTD: Encoding = Encoding::new(*b"zstd");
const GZIP: Encoding = Encoding::new(*b"gzip");
const NONE: Encoding = Encoding::new(*b"none");
/// One system record, uncompressed and under a system key.
const SYSTEM: Encoding = Encoding::new(*b"syst");

pub(crate) fn encoding(compression: Compression) -> Encoding {
    match compression {
        Compression::Zstd => ZSTD,
        Compression::Gzip => GZIP,
        Compression::None => NONE,
    }
}

/// `None` unless the object holds logged records.
pub(crate) fn compression(encoding: Encoding) -> Option<Compression> {
    [Compression::Zstd, Compression::Gzip, Compression::None]
        .into_iter()
        .find(|compression| self::encoding(*compression) == encoding)
}

impl ObjectKey {
    /// The key of a planned object. `None` if it was planned for another kind of destination.
    pub fn of_plan(plan: &Plan) -> Option<ObjectKey> {
        if plan.encoding == SYSTEM {
            return Some(ObjectKey::system(plan.time_ms, plan.stream, plan.first_sequence));
        }
        let compression = compression(plan.encoding)?;
        Some(ObjectKey::new(plan.time_ms, plan.stream, plan.first_sequence, compression))
    }
}

/// The key of a planned object, in a journal whose objects are all for buckets.
pub(crate) fn key(plan: &Plan) -> ObjectKey {
    ObjectKey::of_plan(plan).expect("a journal with other objects is not opened")
}

#[async_trait]
impl Destination for BucketDestination {
    fn encoding(&self) -> Encoding {
        encoding(self.put.compression())
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        encoding == SYSTEM || compression(encoding).is_some()
    }

    fn encode(
        &self,
        plan: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Unsealed {
        let lines = records.lines;
        let kept = self.encoders().pop();
        let mut encoder = kept.unwrap_or_else(|| ObjectEncoder::new(pool.clone()));
        let (key, first) = (key(plan), plan.first_sequence);
        let (payload, sha256, seal) = match link {
            None => {
                let (payload, sha256) = encoder.encode(lines, key.compression());
                (payload, sha256, None)
            }
            Some(link) => {
                let (stable, seed) = (self.stable(link, plan), seed(&*self.random));
                let hasher = ObjectHasher::new(&key.to_string(), first, stable, seed);
                let (payload, hashed) = encoder.encode_unsealed(lines, hasher, key.compression());
                let (signer, sha256) = (self.signer(plan.stream, &link.secret), *hashed.sha256());
                let (witnesses, stream) = (self.witnesses().cloned(), plan.stream);
                #[cfg(test)]
                let is_rash = self.is_rash && key.is_system();
                let seal = move |before: Bytes| {
                    let range = frontier::read(first, &before);
                    let range = range.expect("the state that an earlier seal returned");
                    let (head, after) = signer.seal(range, &hashed);
                    if let Some(witnesses) = witnesses {
                        let certificate = signer.certificate().to_note_signature();
                        witnesses.sealed(stream, hashed.range(), &certificate);
                        #[cfg(test)]
                        if is_rash {
                            witnesses.arrived(stream, first, Some(&head));
                        }
                    }
                    let (after, metadata) = (frontier::write(&after), Sidecar::text(&head).into());
                    Seal { before, after, metadata }
                };
                (payload, sha256, Some(Box::new(seal) as Sealing))
            }
        };
        self.encoders().push(encoder);
        Unsealed { pieces: payload.into_iter().collect(), sha256, seal }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let Encoded { pieces, sha256, seal } = object;
        let (key, payload) = (key(plan), pieces.into_iter().collect::<PutPayload>());
        let path = self.put.bucket.path(&key.to_string());
        let object = match seal {
            None => EncodedObject::plain(payload, sha256, key, plan.count),
            Some(seal) => {
                let metadata = Sidecar::parse(&seal.metadata).expect("metadata that encode wrote");
                let get = |name: &str| metadata.get(name);
                let head = ObjectHead::from_metadata(&plan.stream.to_string(), get);
                EncodedObject::sealed(payload, key, head.expect("metadata that encode wrote"))
            }
        };
        let outcome = self.put.until_certain(&path, &object).await;
        if let Some(witnesses) = self.witnesses() {
            let is_shown = outcome == PutOutcome::Stored && key.is_system();
            let head = object.head.as_deref().filter(|_| is_shown);
            witnesses.arrived(plan.stream, plan.first_sequence, head);
        }
        match outcome {
            PutOutcome::Stored => Delivery::Delivered,
            PutOutcome::Conflict => Delivery::Conflict,
        }
    }

    fn begin_stream(&self, stream: UniqueId) -> Option<NewStream> {
        let evidence = self.evidence.as_ref()?;
        let signer = evidence.signer(stream, &*self.random);
        let secret = StreamSecret::new(signer.to_secret_text());
        let records = StreamRecords::new(Arc::clone(evidence), stream);
        Some(NewStream { secret, records: Box::new(records) })
    }

    fn understands(&self, stream: UniqueId, secret: &StreamSecret) -> bool {
        StreamSigner::parse(&stream.to_string(), secret.as_str()).is_ok()
    }

    fn system_encoding(&self) -> Encoding {
        SYSTEM
    }

    fn last_record(&self, stream: UniqueId, now_ms: i64, record: &LastRecord) -> String {
        journal::last_record(self.evidence.as_deref(), stream, now_ms, record)
    }

    fn backoff_after_panic(&self, retries: u32) -> Duration {
        self.put.backoff_after_panic(retries)
    }

    fn trim(&self) {
        self.encoders().clear();
    }
}

impl fmt::Debug for BucketDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketDestination").field("put", &self.put).finish_non_exhaustive()
    }
}
