//! The simulation's own destination, which does only what a destination must.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{BufferPool, Random, UniqueId, async_trait};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use super::bucket::{Refused, Refuses, Shown, SimulatedBucket, Stored};
use super::checkers::delivery::{ObjectReading, Reading};
use super::vouching::{self, hex};
use crate::health::{DeliveryTrouble, HealthBoard, Trouble};
use crate::shared::panic::catch_in;
use crate::shared::pieces::Pieces;
use crate::{
    Delivery, Destination, Encoded, Encoding, LastRecord, Link, NewStream, Plan, Records, Seal,
    Sealing, StreamSecret, Unsealed,
};

/// A destination, and a reader of its objects that shares no code with it.
pub trait Endpoint: Send + 'static {
    /// The destination of one process.
    fn destination(bucket: &SimulatedBucket, sending: Sending) -> Arc<dyn Destination>;

    /// Reads the objects of a bucket, except foreign ones.
    fn read(
        known: &mut Known,
        objects: &BTreeMap<String, Stored>,
        metadata: bool,
    ) -> Result<Reading, String>;

    /// The lines of an object with this encoding.
    fn lines_of(bytes: &[u8], encoding: &str) -> Result<Vec<Vec<u8>>, String>;

    /// Verifies the evidence in these objects, none of which is foreign, at any moment, also
    /// against what a witness was shown. With `is_whole`, streams must be closed.
    fn verify(
        objects: &BTreeMap<String, Stored>,
        shown: &Shown,
        is_whole: bool,
    ) -> Result<(), String>;

    /// The advice to an operator about this refusal.
    fn advice(how: Refuses) -> &'static str;
}

/// A cache of objects that were read, since equal bytes need not be read again.
#[derive(Debug, Default)]
pub struct Known(pub BTreeMap<String, (Bytes, Rc<ObjectReading>)>);

/// How a destination sends.
#[derive(Debug, Clone)]
pub struct Sending {
    /// Whether it compresses objects.
    pub packs: bool,
    /// Whether streams have evidence.
    pub vouches: bool,
    /// Whether it takes objects in flight for delivered, as a known-bad delivery.
    pub is_hasty: bool,
    /// Whether it shows a witness what is not planned yet, as a known-bad delivery.
    pub is_rash: bool,
    pub put_timeout_ms: u64,
    pub retry_base_ms: u64,
    pub retry_cap_ms: u64,
    pub blocked_retry_cap_ms: u64,
    pub random: Arc<dyn Random>,
    pub health: Arc<HealthBoard>,
}

const AS_IT_IS: Encoding = Encoding::new(*b"none");
const BACKWARDS: Encoding = Encoding::new(*b"back");
const SYSTEM: Encoding = Encoding::new(*b"syst");

/// The simulation's own destination.
#[derive(Debug)]
pub struct Own;

impl Endpoint for Own {
    fn destination(bucket: &SimulatedBucket, sending: Sending) -> Arc<dyn Destination> {
        Arc::new(SimulatedDestination { bucket: bucket.clone(), sending })
    }

    fn read(
        known: &mut Known,
        objects: &BTreeMap<String, Stored>,
        metadata: bool,
    ) -> Result<Reading, String> {
        let mut reading = Reading::new();
        for (key, Stored { bytes, attributes, foreign }) in objects {
            if *foreign {
                continue;
            }
            let wrong = || format!("{key} is no key of an object");
            let (name, encoding) = key.split_once('.').ok_or_else(wrong)?;
            let (stream, first) = name.split_once('-').ok_or_else(wrong)?;
            let before = known.0.get(key).filter(|(before, _)| before == bytes);
            let object = match before {
                Some((_, object)) => Rc::clone(object),
                None => {
                    let lines = Own::lines_of(bytes, encoding)?;
                    if metadata && attributes.get("sha256") != Some(&hex(&lines.concat())) {
                        return Err(format!("{key} says it has other lines: {attributes:?}"));
                    }
                    let first = first.parse().map_err(|_| wrong())?;
                    let object = Rc::new(ObjectReading { first, lines, set_aside: false });
                    known.0.insert(key.clone(), (bytes.clone(), Rc::clone(&object)));
                    object
                }
            };
            reading.entry(stream.to_owned()).or_default().push(object);
        }
        Ok(reading)
    }

    fn lines_of(bytes: &[u8], encoding: &str) -> Result<Vec<Vec<u8>>, String> {
        let mut text = bytes.to_vec();
        match encoding {
            "none" | "syst" => {}
            "back" => text.reverse(),
            _ => return Err(format!("{encoding} is no encoding")),
        }
        if text.last() != Some(&b'\n') {
            return Err("the last line has no end".to_owned());
        }
        Ok(text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
    }

    fn verify(
        objects: &BTreeMap<String, Stored>,
        shown: &Shown,
        is_whole: bool,
    ) -> Result<(), String> {
        vouching::verify(objects, shown, is_whole)
    }

    fn advice(how: Refuses) -> &'static str {
        match how {
            Refuses::Permission => "All(Permission)",
            Refuses::ExpiredCredentials => "All(ExpiredCredentials)",
            Refuses::NoBucket => "All(NoBucket)",
            Refuses::OutOfReach => "All(OutOfReach)",
        }
    }
}

#[derive(Debug)]
struct SimulatedDestination {
    bucket: SimulatedBucket,
    sending: Sending,
}

impl SimulatedDestination {
    async fn attempt(&self, key: &str, stored: &Stored) -> Result<Delivery, DeliveryTrouble> {
        let limit = Duration::from_millis(self.sending.put_timeout_ms);
        let refused = match timeout(limit, catch_in(self.bucket.put(key, stored.clone()))).await {
            Ok(Ok(Ok(()))) => return Ok(Delivery::Delivered),
            Ok(Ok(Err(refused))) => refused,
            Ok(Err(_panicked)) => return Err(self.panicked()),
            Err(_elapsed) => return Err(unknown("no answer")),
        };
        match refused {
            Refused::Exists | Refused::Contention => {}
            Refused::All(how) if how != Refuses::OutOfReach => {
                let (reason, blocked_by) = (format!("{refused:?}"), Some(format!("{how:?}")));
                return Err(DeliveryTrouble { reason, blocked_by });
            }
            Refused::All(_)
            | Refused::SlowDown
            | Refused::InternalError
            | Refused::Reset
            | Refused::NotFound
            | Refused::NoAttributes => return Err(unknown(&format!("{refused:?}"))),
        }
        let found = match timeout(limit, catch_in(self.bucket.get(key))).await {
            Ok(Ok(Ok(found))) => found,
            Ok(Ok(Err(refused))) => return Err(unknown(&format!("{refused:?}"))),
            Ok(Err(_panicked)) => return Err(self.panicked()),
            Err(_elapsed) => return Err(unknown("no answer")),
        };
        let is_ours = match found.attributes.get("sha256") {
            Some(_) => found.attributes == stored.attributes,
            None => found.bytes == stored.bytes,
        };
        Ok(if is_ours { Delivery::Delivered } else { Delivery::Conflict })
    }

    fn panicked(&self) -> DeliveryTrouble {
        self.sending.health.panicked();
        let blocked_by = Some("Panic".to_owned());
        DeliveryTrouble { reason: "a request panicked".to_owned(), blocked_by }
    }

    fn backoff(&self, is_blocked: bool, retries: u32) -> Duration {
        let Sending { retry_base_ms, retry_cap_ms, blocked_retry_cap_ms, random, .. } =
            &self.sending;
        let cap = if is_blocked { *blocked_retry_cap_ms } else { *retry_cap_ms };
        let longest = retry_base_ms.saturating_mul(1 << retries.min(20)).min(cap);
        Duration::from_millis(random.next_u64() % (longest + 1))
    }
}

/// Shows a witness the stream's state after a system record.
fn show(bucket: &SimulatedBucket, plan: &Plan, seal: &Seal) {
    if plan.encoding == SYSTEM {
        let state = String::from_utf8(seal.after.to_vec()).unwrap();
        bucket.show(&plan.stream.to_string(), plan.next_sequence(), &state);
    }
}

fn unknown(reason: &str) -> DeliveryTrouble {
    DeliveryTrouble { reason: reason.to_owned(), blocked_by: None }
}

#[async_trait]
impl Destination for SimulatedDestination {
    fn encoding(&self) -> Encoding {
        if self.sending.packs { BACKWARDS } else { AS_IT_IS }
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        [AS_IT_IS, BACKWARDS, SYSTEM].contains(&encoding)
    }

    fn encode(
        &self,
        plan: &Plan,
        link: Option<&Link>,
        records: Records<'_>,
        pool: &BufferPool,
    ) -> Unsealed {
        let Records { lines, times } = records;
        // The first record's time is the object's, and each further time is that of a later record.
        assert_eq!(times[0].time_ms, plan.time_ms);
        assert_eq!(times[0].first_sequence, plan.first_sequence);
        assert!(times.is_sorted_by(|a, b| a.first_sequence < b.first_sequence));
        assert!(times.iter().all(|time| time.first_sequence < plan.next_sequence()));
        let mut bytes = lines.to_vec();
        if plan.encoding == BACKWARDS {
            bytes.reverse();
        }
        let mut pieces = Pieces::new(pool);
        pieces.extend(&bytes);
        let seal = link.map(|link| {
            let stable = if self.sending.is_hasty { plan.first_sequence } else { link.stable };
            let (lines, nonce) = (lines.to_vec(), self.sending.random.next_u64());
            let rash = self.sending.is_rash.then(|| self.bucket.clone());
            let (plan, secret) = (*plan, link.secret.clone());
            Box::new(move |before| {
                let seal = vouching::seal(&secret, before, stable, &lines, nonce);
                if let Some(bucket) = rash {
                    show(&bucket, &plan, &seal);
                }
                seal
            }) as Sealing
        });
        Unsealed { pieces: pieces.into_bytes(), sha256: Sha256::digest(lines).into(), seal }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let key = format!("{}-{:012}.{}", plan.stream, plan.first_sequence, plan.encoding);
        let mut attributes = BTreeMap::new();
        if self.bucket.keeps_attributes() {
            attributes.insert("sha256".to_owned(), HEXLOWER.encode(&object.sha256));
        }
        if let Some(seal) = &object.seal {
            let metadata = String::from_utf8(seal.metadata.to_vec()).unwrap();
            attributes.insert(vouching::ATTRIBUTE.to_owned(), metadata);
        }
        let stored = Stored { bytes: object.pieces.concat().into(), attributes, foreign: false };
        let health = &self.sending.health;
        let watch = health.watch();
        let mut retries = 0;
        loop {
            let trouble = match self.attempt(&key, &stored).await {
                Ok(delivery) => {
                    match delivery {
                        Delivery::Delivered => {
                            health.delivered(plan.count);
                            object.seal.iter().for_each(|seal| show(&self.bucket, plan, seal));
                        }
                        Delivery::Conflict => health.conflict(&key),
                    }
                    watch.over();
                    return delivery;
                }
                Err(trouble) => trouble,
            };
            let backoff = self.backoff(trouble.blocked_by.is_some(), retries);
            watch.report(Trouble::Delivery(trouble));
            sleep(backoff).await;
            retries += 1;
        }
    }

    fn begin_stream(&self, stream: UniqueId) -> Option<NewStream> {
        self.sending.vouches.then(|| vouching::begin(stream))
    }

    fn understands(&self, stream: UniqueId, secret: &StreamSecret) -> bool {
        *secret == vouching::secret(stream)
    }

    fn system_encoding(&self) -> Encoding {
        SYSTEM
    }

    fn last_record(&self, _: UniqueId, _: i64, record: &LastRecord) -> String {
        vouching::last_record(record)
    }

    fn backoff_after_panic(&self, retries: u32) -> Duration {
        self.backoff(true, retries)
    }

    fn trim(&self) {}
}
