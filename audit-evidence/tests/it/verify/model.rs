//! A model of buckets as hosts write them.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use audit_evidence::{
    BucketReport, Certificate, CheckedObject, Checkpoint, CompactRange, Context, Fault, Finding,
    KeyKind, Known, ObjectHead, Salts, SignerKey, State, StreamEnd, StreamVerifier, SystemRecord,
    Trust, TrustedKey, origin,
};
use sha2::{Digest, Sha256};

pub(super) const HOST: &str = "example.com/api";
/// The time of verifications, unless a look says otherwise, in milliseconds since the Unix epoch.
pub(super) const NOW: u64 = 1_764_000_000_000;
/// How long after [`NOW`] the promised system records are due, in milliseconds.
const PROMISE: u64 = 3_600_000;

/// Seeded random numbers.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len())])
    }

    fn bytes(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) stream: String,
    pub(super) first: u64,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) lines: Vec<String>,
    /// Whether its last line feed is missing.
    pub(super) is_cut: bool,
    /// Whether a third party wrote it before the host did.
    pub(super) is_foreign: bool,
    /// The object as the host wrote it.
    pub(super) count: u64,
}

impl Object {
    pub(super) fn end(&self) -> u64 {
        self.first + self.count
    }

    pub(super) fn is_system(&self) -> bool {
        self.key.starts_with("_audit/")
    }

    /// Whether it sets records aside.
    pub(super) fn is_void(&self) -> bool {
        self.is_system() && self.lines[0].contains("void")
    }

    /// Whether the host wrote it, with evidence.
    pub(super) fn is_ours(&self) -> bool {
        !self.is_foreign && !self.metadata.is_empty()
    }

    /// The records that it states as acknowledged.
    pub(super) fn stable(&self) -> u64 {
        if self.is_ours() { self.metadata["stable"].parse().unwrap() } else { 0 }
    }

    pub(super) fn under(&self, day: u64, suffix: &str) -> String {
        self.under_hour(day, 16, suffix)
    }

    pub(super) fn under_hour(&self, day: u64, hour: u64, suffix: &str) -> String {
        let Object { stream, first, .. } = self;
        let system = if self.is_system() { "_audit/" } else { "" };
        let suffix = if self.is_system() { ".system" } else { suffix };
        format!("{system}dt=2025-11-{day:02}/hour={hour:02}/{stream}-{first:012}{suffix}")
    }
}

/// A host's state while it writes a stream.
#[derive(Clone)]
pub(super) struct Writer {
    host: &'static str,
    pub(super) stream: String,
    /// The stream's key, and the host's signature of it.
    keys: Arc<(SignerKey, Certificate)>,
    pub(super) range: CompactRange,
    pub(super) day: u64,
}

impl Writer {
    pub(super) fn new(stream: String, host_seed: [u8; 32], key_seed: [u8; 32]) -> Writer {
        Writer::of_host(HOST, stream, host_seed, key_seed)
    }

    pub(super) fn of_host(
        host: &'static str,
        stream: String,
        host_seed: [u8; 32],
        key_seed: [u8; 32],
    ) -> Writer {
        let name = host;
        let host = SignerKey::from_seed(name, KeyKind::Ed25519, &host_seed).unwrap();
        let origin = origin(name, &stream);
        let stream_key = SignerKey::from_seed(&origin, KeyKind::Ed25519, &key_seed).unwrap();
        let certificate = Certificate::issue(&host, stream_key.verifier());
        let keys = Arc::new((stream_key, certificate));
        Writer { host: name, stream, keys, range: CompactRange::default(), day: 24 }
    }

    /// The next object of the stream.
    pub(super) fn write(
        &mut self,
        system: bool,
        lines: Vec<String>,
        stable: u64,
        seed: [u8; 32],
    ) -> Object {
        let first = self.range.end();
        let (system, suffix) = if system { ("_audit/", "system") } else { ("", "ndjson") };
        let Writer { stream, day, .. } = self;
        let key = format!("{system}dt=2025-11-{day}/hour=16/{stream}-{first:012}.{suffix}");
        let salts = Salts::new(&key, stable, &seed);
        let before = self.range.clone();
        let mut digest = Sha256::new();
        for line in &lines {
            self.range.push(salts.leaf(self.range.end(), line.as_bytes()));
            digest.update(format!("{line}\n"));
        }
        let (stream_key, certificate) = &*self.keys;
        let origin = stream_key.verifier().name();
        let root = self.range.root().unwrap();
        let head = ObjectHead {
            first,
            count: lines.len() as u64,
            sha256: digest.finalize().into(),
            stable,
            seed,
            before,
            root,
            signature: Checkpoint::new(origin, self.range.end(), root).unwrap().sign(stream_key),
            name: self.host.to_owned(),
            certificate: certificate.clone(),
        };
        let metadata = head.to_metadata().into_iter();
        Object {
            key,
            stream: self.stream.clone(),
            first,
            metadata: metadata.map(|(name, value)| (name.to_owned(), value)).collect(),
            is_cut: false,
            is_foreign: false,
            count: lines.len() as u64,
            lines,
        }
    }
}

#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) objects: Vec<Object>,
    pub(super) trust: Vec<TrustedKey>,
    /// The writers at the end of each stream, ready to continue.
    pub(super) writers: Vec<Writer>,
    known: Vec<Finding>,
    pub(super) host_seed: [u8; 32],
}

/// An auditor's options.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) reads_lines: bool,
    pub(super) state: State,
    pub(super) receipts: Vec<(String, std::ops::Range<u64>)>,
    pub(super) names: Vec<String>,
    pub(super) retained_since: Option<u64>,
    pub(super) now: u64,
}

impl Look {
    pub(super) fn full() -> Look {
        Look {
            reads_lines: true,
            state: State::default(),
            receipts: Vec::new(),
            names: Vec::new(),
            retained_since: None,
            now: NOW,
        }
    }

    pub(super) fn heads() -> Look {
        Look { reads_lines: false, ..Look::full() }
    }
}

impl Bucket {
    /// The objects in listing order.
    pub(super) fn of(objects: Vec<Object>, trust: Vec<TrustedKey>) -> Bucket {
        Bucket { objects, trust, writers: Vec::new(), known: Vec::new(), host_seed: [0; 32] }
    }

    /// One to three streams: with a journal, each states how its predecessor ended; direct, a
    /// killed host leaves gaps.
    pub(super) fn generate(chance: &mut Chance) -> Bucket {
        let host_seed = chance.bytes();
        let host = SignerKey::from_seed(HOST, KeyKind::Ed25519, &host_seed).unwrap();
        let mut bucket = Bucket {
            objects: Vec::new(),
            trust: vec![host.verifier().clone().into()],
            writers: Vec::new(),
            known: Vec::new(),
            host_seed,
        };
        let has_journal = chance.below(3) > 0;
        let streams = 1 + chance.below(3);
        let mut previous = None;
        for number in 0..streams {
            let is_last = number + 1 == streams;
            let stream = format!("01KAVX{number}000{}", "0123456789ABCDEF");
            let mut writer = Writer::new(stream.clone(), host_seed, chance.bytes());
            bucket.generate_stream(&mut writer, has_journal, is_last, previous.take(), chance);
            let root = writer.range.root().unwrap();
            previous = has_journal.then(|| StreamEnd { stream, size: writer.range.end(), root });
            bucket.writers.push(writer);
        }
        bucket
    }

    fn generate_stream(
        &mut self,
        writer: &mut Writer,
        has_journal: bool,
        is_last: bool,
        previous: Option<StreamEnd>,
        chance: &mut Chance,
    ) {
        let opened = SystemRecord::Opened {
            at: NOW - PROMISE,
            host: HOST.to_owned(),
            software: "a model".to_owned(),
            key: self.trust[0].key.to_string(),
            next: NOW + PROMISE,
            bucket: None,
            previous,
        };
        self.objects.push(writer.write(true, vec![opened.to_line()], 0, chance.bytes()));
        let count = 3 + chance.below(4);
        let lost = 1 + chance.below(count - 1);
        let trouble = if has_journal { 0 } else { 1 } + 2 * chance.below(2);
        let (mut most_stable, mut set_aside) = (u64::MAX, None);
        for at in 0..count {
            let first = writer.range.end();
            let lines: Vec<String> = (0..1 + chance.below(5))
                .map(|n| format!("{{\"action\":\"view\",\"n\":{},\"at\":{n}}}", chance.next()))
                .collect();
            let end = first + lines.len() as u64;
            let stable = (first + chance.next() % (end - first + 1)).min(most_stable);
            let object = writer.write(false, lines, stable, chance.bytes());
            let records = Some(first..end);
            match trouble {
                // The host was killed after a later object had arrived.
                3 if at == lost => {
                    most_stable = first;
                    if at + 1 < count {
                        let fault = Fault::Unacknowledged;
                        self.expect(&writer.stream, records, fault);
                    }
                    continue;
                }
                // Another object had the key.
                2 if at == lost => {
                    let reason = "the object's key holds other records".to_owned();
                    let void = SystemRecord::Void {
                        at: NOW - 1,
                        first,
                        count: end - first,
                        reason: reason.clone(),
                    };
                    self.expect(&writer.stream, records, Fault::SetAside { reason });
                    self.objects.extend(foreign(object, chance));
                    set_aside = Some(void);
                    most_stable = first;
                    // It may be stated later.
                    if chance.below(2) == 0 && at + 1 < count {
                        continue;
                    }
                }
                _ => self.objects.push(object),
            }
            if let Some(void) = set_aside.take() {
                let void = vec![void.to_line()];
                self.objects.push(writer.write(true, void, most_stable, chance.bytes()));
                most_stable = u64::MAX;
                continue;
            }
            if chance.below(3) == 0 {
                let heartbeat = SystemRecord::Heartbeat {
                    at: NOW - 1,
                    next: NOW + PROMISE,
                    clock_offset: None,
                    cosigned: Vec::new(),
                    previous: None,
                };
                let stable = end.min(most_stable);
                let heartbeat =
                    writer.write(true, vec![heartbeat.to_line()], stable, chance.bytes());
                self.objects.push(heartbeat);
            }
        }
        // A direct stream that lost an object was killed, so it was not closed.
        let was_killed = trouble == 3 || is_last && chance.below(2) == 0;
        if !was_killed {
            let closed = vec![SystemRecord::Closed { at: NOW - 1, cosigned: Vec::new() }.to_line()];
            let stable = writer.range.end();
            self.objects.push(writer.write(true, closed, stable, chance.bytes()));
        }
    }

    fn expect(&mut self, stream: &str, records: Option<std::ops::Range<u64>>, fault: Fault) {
        let stream = stream.to_owned();
        self.known.push(Finding { stream, object: None, records, fault });
    }

    /// Findings that are not tampering.
    pub(super) fn known_findings(&self) -> Vec<Finding> {
        self.known.clone()
    }

    /// The size of each stream by its objects.
    pub(super) fn sizes(&self) -> BTreeMap<String, u64> {
        let mut sizes = BTreeMap::<String, u64>::new();
        for object in self.objects.iter().filter(|object| object.is_ours()) {
            let size = sizes.entry(object.stream.clone()).or_default();
            *size = (*size).max(object.end());
        }
        sizes
    }

    pub(super) fn look(&self, look: &Look) -> BucketReport {
        self.look_again(look, &mut Checks::default())
    }

    /// As [`look`](Self::look), reusing earlier checks of objects.
    pub(super) fn look_again(&self, look: &Look, checks: &mut Checks) -> BucketReport {
        let trust = Trust::new(self.trust.iter().cloned());
        let mut streams = BTreeMap::<&str, Vec<&Object>>::new();
        for object in &self.objects {
            streams.entry(&object.stream).or_default().push(object);
        }
        let reports = streams.into_iter().map(|(stream, mut objects)| {
            objects.sort_by_key(|object| (object.first, object.key.clone()));
            let receipts = look.receipts.iter().filter(|(of, _)| of == stream);
            let mut verifier = StreamVerifier::new(
                stream,
                Known {
                    seen: look.state.get(stream),
                    acknowledged: receipts.map(|(_, records)| records.clone()).collect(),
                    retained_since: look.retained_since,
                },
            );
            let sizes = verifier.sizes();
            for object in objects {
                let reads_lines = look.reads_lines || object.is_system();
                verifier.add(checks.check(object, &self.trust, &trust, reads_lines, &sizes));
            }
            verifier.finish()
        });
        let Look { state, names, retained_since, now, .. } = look;
        let (retained_since, now) = (*retained_since, *now);
        BucketReport::new(reports.collect(), Context { state, names, retained_since, now })
    }
}

/// The object that the host found in place of its own: deleted since, without evidence, or the same
/// lines sealed by a thief of the stream's key.
fn foreign(ours: Object, chance: &mut Chance) -> Option<Object> {
    let seal = match chance.below(4) {
        0 => return None,
        1 => {
            let lines = vec!["{\"foreign\":true}".to_owned()];
            return Some(Object { metadata: BTreeMap::new(), lines, is_foreign: true, ..ours });
        }
        2 => "root",
        _ => "sig",
    };
    let mut object = Object { is_foreign: true, ..ours };
    let value = object.metadata.get_mut(seal).unwrap();
    let other = if value.starts_with('A') { "B" } else { "A" };
    value.replace_range(..1, other);
    Some(object)
}

/// A cache of checked objects: most objects of a changed bucket are unchanged.
#[derive(Default)]
pub(super) struct Checks(HashMap<u64, CheckedObject>);

impl Checks {
    fn check(
        &mut self,
        object: &Object,
        keys: &[TrustedKey],
        trust: &Trust,
        reads_lines: bool,
        sizes: &[u64],
    ) -> CheckedObject {
        let mut hasher = DefaultHasher::new();
        (object, reads_lines, sizes).hash(&mut hasher);
        for TrustedKey { key, validity } in keys {
            (key.name(), key.to_bytes(), validity).hash(&mut hasher);
        }
        let check = || {
            let get = |name: &str| object.metadata.get(name).map(String::as_str);
            let checked =
                CheckedObject::head(trust, &object.key, &object.stream, object.first, get);
            if !reads_lines {
                return checked;
            }
            let lines = object.lines.iter().map(String::as_bytes);
            if !object.is_cut {
                return checked.lines(lines, sizes);
            }
            let mut check = checked.check_lines(sizes);
            lines.take(object.lines.len() - 1).for_each(|line| check.push(line));
            check.damaged()
        };
        self.0.entry(hasher.finish()).or_insert_with(check).clone()
    }
}
