//! How a sink writes evidence: the host's key, the streams' keys, and system records.

pub(crate) mod frontier;
mod host_key;
pub(crate) mod journal;
pub(crate) mod settings;

use std::fmt;
use std::sync::Arc;

use audit_core::{Clock, MAX_BATCH_BYTES, Random, UniqueId};
use audit_evidence::{
    MAX_STREAM_RECORDS, SignerKey, StreamEnd, StreamSigner, SystemRecord, VerifierKey,
};

use self::settings::EvidenceSettings;
use crate::bucket::StoreClock;
use crate::witness::Witnesses;
use crate::{Bucket, OpenError};

/// The maximum number of logged records of a stream, which leaves room for system records.
pub(crate) const MAX_RECORDS: u64 = MAX_STREAM_RECORDS - 1_024;

/// Below this number, a stream has room for any batch.
pub(crate) const FULL: u64 = MAX_RECORDS - MAX_BATCH_BYTES as u64;

/// Certifies streams and makes their system records.
#[derive(Debug)]
pub(crate) struct Evidence {
    host: Arc<SignerKey>,
    settings: EvidenceSettings,
    bucket: String,
    clock: StoreClock,
    witnesses: Option<Arc<Witnesses>>,
}

impl Evidence {
    /// Reads or creates the host's key. Starts the tasks that submit to witnesses.
    ///
    /// # Errors
    ///
    /// If the name, the key or a witness is invalid, or the key's file cannot be read or created.
    pub(crate) async fn open(
        settings: EvidenceSettings,
        bucket: &Bucket,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
    ) -> Result<Evidence, OpenError> {
        let EvidenceSettings { name, key_file, witnesses, .. } = &settings;
        host_key::check_name(name)?;
        let host = match key_file {
            Some(file) => {
                let (file, name, seed) = (file.clone(), name.clone(), seed(&**random));
                let read = move || host_key::read_or_make(&file, &name, &seed);
                tokio::task::spawn_blocking(read).await.map_err(|error| {
                    OpenError::configuration("the host's key cannot be read").with_source(error)
                })??
            }
            None => host_key::from_environment(name)?,
        };
        let witnesses = Witnesses::open(witnesses, Arc::clone(clock), Arc::clone(random))?;
        let (bucket, clock) = (bucket.to_string(), bucket.clock().clone());
        Ok(Evidence { host: Arc::new(host), settings, bucket, clock, witnesses })
    }

    /// The evidence of the same host in another bucket.
    pub(crate) fn in_bucket(&self, bucket: &Bucket) -> Evidence {
        let (host, settings) = (Arc::clone(&self.host), self.settings.clone());
        let (witnesses, clock) = (self.witnesses.clone(), bucket.clock().clone());
        Evidence { host, settings, bucket: bucket.to_string(), clock, witnesses }
    }

    /// With this key, regardless of the settings.
    #[cfg(test)]
    pub(crate) fn with_key(host: SignerKey, settings: EvidenceSettings, bucket: &str) -> Evidence {
        let (clock, witnesses) = (StoreClock::default(), None);
        let host = Arc::new(host);
        Evidence { host, settings, bucket: bucket.to_owned(), clock, witnesses }
    }

    #[cfg(test)]
    pub(crate) fn with_witnesses(self, witnesses: Arc<Witnesses>) -> Evidence {
        Evidence { witnesses: Some(witnesses), ..self }
    }

    /// The host's public key.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        self.host.verifier()
    }

    pub(crate) fn settings(&self) -> &EvidenceSettings {
        &self.settings
    }

    /// The witnesses of all the host's streams, if there are any.
    pub(crate) fn witnesses(&self) -> Option<&Arc<Witnesses>> {
        self.witnesses.as_ref()
    }

    /// The remaining time of a stream that was opened at `at_ms`, in milliseconds. Also 0 if the
    /// clock was set back by the maximum age: the stream's age is then unknown, and its key must
    /// not live until the clock has caught up.
    pub(crate) fn over_in_ms(&self, at_ms: i64, now_ms: i64) -> u64 {
        self.settings.max_stream_ms.saturating_sub(now_ms.abs_diff(at_ms))
    }

    pub(crate) fn signer(&self, stream: UniqueId, random: &dyn Random) -> StreamSigner {
        StreamSigner::new(&self.host, &stream.to_string(), &seed(random))
            .expect("the host's name was checked, and a stream's name is letters and digits")
    }

    /// The heartbeat to write now, with the cosignatures that came since the last one.
    pub(crate) fn heartbeat(
        &self,
        stream: UniqueId,
        heartbeats: &mut Heartbeats,
        now_ms: i64,
        previous: Option<StreamEnd>,
    ) -> SystemRecord {
        let next = heartbeats.beat(now_ms);
        let clock_offset = self.clock.offset_ms();
        let cosigned = self.witnesses.as_ref().map(|witnesses| witnesses.cosigned(stream));
        let (at, cosigned) = (time(now_ms), cosigned.unwrap_or_default());
        SystemRecord::Heartbeat { at, next, clock_offset, cosigned, previous }
    }

    /// The last record of a stream.
    pub(crate) fn closed(&self, stream: UniqueId, now_ms: i64) -> SystemRecord {
        let cosigned = self.witnesses.as_ref().map(|witnesses| witnesses.closing(stream));
        SystemRecord::Closed { at: time(now_ms), cosigned: cosigned.unwrap_or_default() }
    }

    /// The first record of a stream, written at `now_ms`.
    pub(crate) fn opened(&self, now_ms: i64, previous: Option<StreamEnd>) -> SystemRecord {
        SystemRecord::Opened {
            at: time(now_ms),
            host: self.verifier().name().to_owned(),
            software: concat!("audit-sink-s3 ", env!("CARGO_PKG_VERSION")).to_owned(),
            key: self.verifier().to_string(),
            next: time(now_ms.saturating_add_unsigned(self.settings.heartbeat_ms)),
            bucket: Some(self.bucket.clone()),
            previous,
        }
    }
}

/// A time in the form of system records. Times before 1970 are clock errors and count as 0.
pub(crate) fn time(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

pub(crate) fn seed(random: &dyn Random) -> [u8; 32] {
    let mut seed = [0; 32];
    for bytes in seed.as_chunks_mut::<8>().0 {
        *bytes = random.next_u64().to_le_bytes();
    }
    seed
}

/// Schedules heartbeats, early enough to keep the promised deadlines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heartbeats {
    /// When the next one is due, in milliseconds since the Unix epoch.
    due_ms: i64,
    /// Whether records were written since the last one.
    is_active: bool,
    busy_ms: u64,
    idle_ms: u64,
}

impl Heartbeats {
    /// Starts with the opening record, which promises the next system record as early as in a busy
    /// stream.
    pub(crate) fn opened(now_ms: i64, settings: &EvidenceSettings) -> Heartbeats {
        let EvidenceSettings { heartbeat_ms, idle_heartbeat_ms, .. } = *settings;
        let due_ms = now_ms.saturating_add_unsigned(before(heartbeat_ms));
        Heartbeats { due_ms, is_active: true, busy_ms: heartbeat_ms, idle_ms: idle_heartbeat_ms }
    }

    /// Notes a logged record: the stream is busy, so the next heartbeat is due earlier.
    pub(crate) fn record(&mut self, now_ms: i64) {
        self.is_active = true;
        self.due_ms = self.due_ms.min(now_ms.saturating_add_unsigned(before(self.busy_ms)));
    }

    /// The time until the next one is due, in milliseconds.
    ///
    /// 0 if the clock was set back by more than the longest promise.
    pub(crate) fn due_in_ms(&self, now_ms: i64) -> u64 {
        let left = u64::try_from(self.due_ms.saturating_sub(now_ms)).unwrap_or(0);
        if left > self.idle_ms { 0 } else { left }
    }

    /// Notes that a heartbeat is written now. Returns the time that it promises for the next one.
    fn beat(&mut self, now_ms: i64) -> u64 {
        let promise = if self.is_active { self.busy_ms } else { self.idle_ms };
        self.due_ms = now_ms.saturating_add_unsigned(before(promise));
        self.is_active = false;
        time(now_ms.saturating_add_unsigned(promise))
    }
}

/// The time after which a promised record is written: early enough for a slow bucket.
fn before(promise_ms: u64) -> u64 {
    promise_ms - promise_ms / 4
}

/// A range of records in no object, because another object has their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aside {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) key: String,
}

impl Aside {
    /// The system record that declares it.
    pub(crate) fn void(&self, now_ms: i64) -> SystemRecord {
        SystemRecord::Void {
            at: time(now_ms),
            first: self.first,
            count: self.count,
            reason: self.to_string(),
        }
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another object stands at {}", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_with_any_clock() {
        use audit_evidence::KeyKind;
        use audit_journal::SystemRecords as _;
        let settings = EvidenceSettings::new("api");
        let host = SignerKey::from_seed("api", KeyKind::Ed25519, &[1; 32]).unwrap();
        let evidence = Arc::new(Evidence::with_key(host, settings, "memory:"));
        let (now, day) = (1_795_729_549_445, 86_400_000);
        for (at, is_over) in [
            (now, false),
            (now + day - 1, false),
            (now + day, true),
            (now + 70 * 365 * day, true),
            (now - day + 1, false),
            (now - day, true),
            (now - 70 * 365 * day, true),
            (i64::MAX, true),
            (i64::MIN, true),
        ] {
            let stream = UniqueId::from_bits(1);
            let mut records = journal::StreamRecords::new(Arc::clone(&evidence), stream);
            records.opened(now, None);
            assert_eq!(records.is_over(at, 1), is_over, "opened at {now}, at {at}");
            assert!(records.due_in_ms(at) <= evidence.settings().idle_heartbeat_ms);
        }
    }

    #[test]
    fn heartbeats_come_before_their_deadline() {
        let settings = EvidenceSettings::new("api");
        let (busy, idle) = (settings.heartbeat_ms, settings.idle_heartbeat_ms);
        let mut beats = Heartbeats::opened(0, &settings);
        let mut now = 0;
        let mut promised = busy;
        // Busy, busy, idle, idle, then a record after a minute, and idle again.
        for (records, promise) in [(true, busy), (true, busy), (false, idle), (false, idle)] {
            if records {
                beats.record(now);
            }
            now += i64::try_from(beats.due_in_ms(now)).unwrap();
            assert!(time(now) < promised, "at {now}, and {promised} was promised");
            promised = beats.beat(now);
            assert_eq!(promised - time(now), promise);
        }
        now += 60_000;
        beats.record(now);
        assert!(beats.due_in_ms(now) < busy, "as soon as records come");
        // An hour or more before the due time: the clock was set back.
        assert_eq!(beats.due_in_ms(now - 2 * i64::try_from(idle).unwrap()), 0);
    }
}
