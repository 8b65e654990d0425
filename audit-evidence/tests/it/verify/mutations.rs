//! Changes by an adversary or by bad luck, and the verifier's expected findings.

use std::collections::BTreeMap;
use std::ops::Range;

use audit_evidence::{
    CompactRange, Fault, Finding, HeadError, KeyKind, Salts, SignerKey, State, StreamEnd,
    SystemRecord, TrustedKey,
};

use super::model::{Bucket, Chance, HOST, Look, NOW, Object, Writer};

pub(super) struct Mutation {
    pub(super) name: &'static str,
    /// Changes the bucket, if the change is applicable.
    change: fn(&mut Bucket, &mut Chance) -> Option<Expected>,
}

/// The number of random objects that are tried, since many changes apply only to few objects of a
/// bucket.
const ATTEMPTS: u64 = 16;

impl Mutation {
    /// The bucket with the change, if some object of it admits the change.
    pub(super) fn apply(&self, bucket: &Bucket, seed: u64) -> Option<(Bucket, Expected)> {
        (0..ATTEMPTS).find_map(|attempt| {
            let mut changed = bucket.clone();
            let chance = &mut Chance::new(seed ^ 0x5eed ^ attempt << 48);
            let expected = (self.change)(&mut changed, chance)?;
            Some((changed, expected))
        })
    }
}

pub(super) struct Expected {
    pub(super) look: Look,
    pub(super) findings: Vec<ExpectedFinding>,
    /// A stream with no object left.
    gone: Option<String>,
}

pub(super) struct ExpectedFinding {
    pub(super) stream: String,
    pub(super) object: Option<String>,
    /// The records that must be reported, all of them unless adjacent findings of the same kind
    /// merge.
    pub(super) records: Option<Range<u64>>,
    pub(super) is_fault: Box<dyn Fn(&Fault) -> bool>,
}

impl std::fmt::Debug for ExpectedFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, {:?}, {:?})", self.stream, self.object, self.records)
    }
}

impl Expected {
    /// No finding, even if all lines are read.
    fn silence() -> Expected {
        Expected { look: Look::full(), findings: Vec::new(), gone: None }
    }

    fn object(object: &Object, is_fault: impl Fn(&Fault) -> bool + 'static) -> Expected {
        Expected::silence().and(&object.stream, Some(&object.key), is_fault)
    }

    /// The object's records are gone.
    fn gone(object: &Object, fault: Fault) -> Expected {
        Expected::stream(&object.stream, is(fault)).at(object.first..object.end())
    }

    fn stream(stream: &str, is_fault: impl Fn(&Fault) -> bool + 'static) -> Expected {
        Expected::silence().and(stream, None, is_fault)
    }

    fn and(
        mut self,
        stream: &str,
        object: Option<&str>,
        is_fault: impl Fn(&Fault) -> bool + 'static,
    ) -> Expected {
        self.findings.push(ExpectedFinding {
            stream: stream.to_owned(),
            object: object.map(str::to_owned),
            records: None,
            is_fault: Box::new(is_fault),
        });
        self
    }

    /// Exactly these records are reported.
    fn at(mut self, records: Range<u64>) -> Expected {
        let last = self.findings.last_mut();
        last.expect("a finding").records = Some(records);
        self
    }

    fn with(self, look: Look) -> Expected {
        Expected { look, ..self }
    }

    /// Whether the findings that the change added are the expected ones.
    pub(super) fn is(&self, new: &[&Finding], known: &[Finding]) -> bool {
        new.len() == self.findings.len()
            && new.iter().zip(&self.findings).all(|(finding, expected)| {
                finding.object == expected.object
                    && finding.stream == expected.stream
                    && (expected.is_fault)(&finding.fault)
                    && expected.are_records_of(finding, known)
            })
    }

    /// Whether this earlier finding remains as it was: the change concerns other streams.
    pub(super) fn spares(&self, known: &Finding) -> bool {
        let mut findings = self.findings.iter();
        self.gone.as_ref() != Some(&known.stream)
            && findings.all(|expected| expected.stream != known.stream)
    }
}

impl ExpectedFinding {
    fn are_records_of(&self, finding: &Finding, known: &[Finding]) -> bool {
        let Some(expected) = &self.records else { return true };
        let Some(found) = &finding.records else { return false };
        if found == expected {
            return true;
        }
        // Adjacent gaps of one kind merge.
        let mut beside = known.iter().filter_map(|known| {
            known
                .records
                .as_ref()
                .filter(|_| known.stream == finding.stream && known.fault == finding.fault)
        });
        beside.any(|known| {
            known.end == expected.start && *found == (known.start..expected.end)
                || known.start == expected.end && *found == (expected.start..known.end)
        })
    }
}

fn is(fault: Fault) -> impl Fn(&Fault) -> bool {
    move |found| *found == fault
}

fn head(error: HeadError) -> impl Fn(&Fault) -> bool {
    is(Fault::Object(error))
}

/// Data objects that a host wrote and that are in place.
fn data(bucket: &Bucket) -> Vec<usize> {
    let objects = bucket.objects.iter().enumerate();
    let sound = objects.filter(|(_, object)| !object.is_system() && object.is_ours());
    sound.map(|(at, _)| at).collect()
}

fn pick(bucket: &Bucket, chance: &mut Chance) -> Option<usize> {
    chance.pick(&data(bucket)).copied()
}

fn is_last(bucket: &Bucket, at: usize) -> bool {
    let object = &bucket.objects[at];
    bucket.sizes()[&object.stream] == object.end()
}

fn is_stable(bucket: &Bucket, object: &Object) -> bool {
    let same = bucket.objects.iter().filter(|other| other.stream == object.stream);
    same.filter(|other| other.key != object.key).any(|other| other.stable() >= object.end())
}

/// A look by an auditor who remembers the bucket.
fn remembering(bucket: &Bucket) -> Look {
    let mut state = State::default();
    state.update(&bucket.look(&Look::full()));
    Look { state, ..Look::full() }
}

fn lines(
    bucket: &mut Bucket,
    chance: &mut Chance,
    least: usize,
    error: HeadError,
    change: impl Fn(&mut Vec<String>),
) -> Option<Expected> {
    let at = pick(bucket, chance)?;
    let object = &mut bucket.objects[at];
    if object.lines.len() < least {
        return None;
    }
    change(&mut object.lines);
    Some(Expected::object(object, head(error)).at(object.first..object.end()))
}

/// Changes one member of an object's metadata.
fn field(
    bucket: &mut Bucket,
    chance: &mut Chance,
    name: &str,
    change: impl Fn(&str) -> Option<String>,
    is_fault: impl Fn(&Fault) -> bool + 'static,
) -> Option<Expected> {
    let at = pick(bucket, chance)?;
    let object = &mut bucket.objects[at];
    let value = change(&object.metadata[name])?;
    object.metadata.insert(name.to_owned(), value);
    Some(Expected::object(object, is_fault))
}

/// Changes a base64 character in the middle of a value.
fn flip(value: &str) -> Option<String> {
    let at = value.len() / 3;
    let other = if value.as_bytes().get(at)? == &b'A' { "B" } else { "A" };
    Some(format!("{}{other}{}", &value[..at], &value[at + 1..]))
}

fn move_to(bucket: &mut Bucket, at: usize, key: String) -> Expected {
    let object = &mut bucket.objects[at];
    object.key = key;
    Expected::object(object, head(HeadError::Root)).at(object.first..object.end())
}

const FIELDS: [&str; 12] = [
    "format",
    "lastsequence",
    "count",
    "sha256",
    "stable",
    "seed",
    "left",
    "root",
    "sig",
    "name",
    "streamkey",
    "cert",
];

macro_rules! mutations {
    ($($name:literal => $change:expr,)*) => {
        pub(super) const ALL: &[Mutation] = &[$(Mutation { name: $name, change: $change },)*];
    };
}

mutations! {
    "a byte of a record is altered" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Root, |lines| lines[0] = lines[0].replace("view", "edit"))
    },
    "a record is dropped" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Count, |lines| drop(lines.pop()))
    },
    "a record is inserted" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Count, |lines| lines.insert(0, "{}".to_owned()))
    },
    "a record is doubled" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Count, |lines| lines.push(lines[0].clone()))
    },
    "two records are swapped" => |bucket, chance| {
        lines(bucket, chance, 2, HeadError::Root, |lines| lines.swap(0, 1))
    },
    "a line ends with a carriage return" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Root, |lines| lines[0].push('\r'))
    },
    "the last line feed is missing" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = &mut bucket.objects[at];
        object.is_cut = true;
        Some(Expected::object(object, is(Fault::Damaged)).at(object.first..object.end()))
    },
    "a record is altered behind whoever reads heads alone" => |bucket, chance| {
        lines(bucket, chance, 1, HeadError::Root, |lines| lines[0].push(' '))?;
        Some(Expected::silence().with(Look::heads()))
    },
    "the bodies of two objects are swapped" => |bucket, chance| {
        let data = data(bucket);
        let (one, other) = (*chance.pick(&data)?, *chance.pick(&data)?);
        if one == other || bucket.objects[one].stream != bucket.objects[other].stream {
            return None;
        }
        let (one, other) = (one.min(other), one.max(other));
        let lines = bucket.objects[one].lines.clone();
        bucket.objects[one].lines = std::mem::replace(&mut bucket.objects[other].lines, lines);
        let body = |fault: &Fault| {
            matches!(fault, Fault::Object(HeadError::Count | HeadError::Root))
        };
        let Object { stream, key, .. } = &bucket.objects[other];
        Some(Expected::object(&bucket.objects[one], body).and(stream, Some(key), body))
    },
    "a stream's first records are gone" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects[at].clone();
        let mut before = bucket.objects.iter().filter(|object| object.end() <= gone.first);
        if before.any(|object| object.stream == gone.stream && !object.is_system()) {
            return None;
        }
        bucket.objects.remove(at);
        is_stable(bucket, &gone).then(|| Expected::gone(&gone, Fault::Expired))
    },
    "a stream's first records are gone and should not be" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects.remove(at);
        let look = Look { retained_since: Some(1), ..Look::full() };
        is_stable(bucket, &gone)
            .then(|| Expected::gone(&gone, Fault::Deleted).with(look))
    },
    "an object in the middle is deleted" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects.remove(at);
        let mut before = bucket.objects.iter().filter(|object| object.end() <= gone.first);
        let has_data = before.any(|object| object.stream == gone.stream && !object.is_system());
        (has_data && is_stable(bucket, &gone))
            .then(|| Expected::gone(&gone, Fault::Deleted))
    },
    "an object is deleted before whoever reads heads alone" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects.remove(at);
        let look = Look { retained_since: Some(1), ..Look::heads() };
        is_stable(bucket, &gone)
            .then(|| Expected::gone(&gone, Fault::Deleted).with(look))
    },
    "an object is deleted that nothing shows to be acknowledged" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        if is_last(bucket, at) {
            return None;
        }
        let gone = bucket.objects.remove(at);
        let mut others = bucket.objects.iter().filter(|other| other.stream == gone.stream);
        others
            .all(|other| other.stable() <= gone.first)
            .then(|| Expected::gone(&gone, Fault::Unacknowledged))
    },
    "an object is deleted that a receipt alone shows to be acknowledged" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        if is_last(bucket, at) {
            return None;
        }
        let gone = bucket.objects.remove(at);
        let receipts = vec![(gone.stream.clone(), gone.first..gone.end())];
        let look = Look { receipts, retained_since: Some(1), ..Look::full() };
        let mut others = bucket.objects.iter().filter(|other| other.stream == gone.stream);
        others
            .all(|other| other.stable() <= gone.first)
            .then(|| Expected::gone(&gone, Fault::Deleted).with(look))
    },
    "an object is deleted that somebody has a receipt for" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects.remove(at);
        let receipt = (gone.stream.clone(), gone.first..gone.end());
        let look =
            Look { receipts: vec![receipt], retained_since: Some(1), ..Look::full() };
        let is_known = bucket.known_findings().iter().any(|known| known.stream == gone.stream);
        (!is_known).then(|| Expected::gone(&gone, Fault::Deleted).with(look))
    },
    "an object behind a foreign one is deleted" => |bucket, _| {
        let foreign = bucket.objects.iter().find(|object| object.is_foreign)?.clone();
        let behind = bucket.objects.iter().position(|object| {
            object.stream == foreign.stream && object.first == foreign.end() && !object.is_system()
        });
        let gone = bucket.objects.remove(behind?);
        is_stable(bucket, &gone).then(|| Expected::gone(&gone, Fault::Deleted))
    },
    "a system object is deleted" => |bucket, chance| {
        let objects = bucket.objects.iter().enumerate();
        let system: Vec<usize> = objects
            .filter(|(_, object)| object.is_system() && object.first > 1)
            .map(|(at, _)| at)
            .collect();
        let at = *chance.pick(&system)?;
        let gone = bucket.objects.remove(at);
        (!gone.is_void() && is_stable(bucket, &gone))
            .then(|| Expected::gone(&gone, Fault::Deleted))
    },
    "a tail is cut, and somebody remembers" => |bucket, chance| {
        let at = chance.below(bucket.objects.len());
        let gone = bucket.objects[at].clone();
        if !gone.is_ours() || !is_last(bucket, at) || gone.first == 0 || gone.is_void() {
            return None;
        }
        let look = remembering(bucket);
        let size = gone.end();
        bucket.objects.remove(at);
        let sizes = bucket.sizes();
        let last = bucket.objects.iter().rfind(|object| object.stream == gone.stream)?;
        (last.end() == sizes[&gone.stream] && last.is_ours()).then(|| {
            Expected::stream(&gone.stream, is(Fault::Truncated(size))).with(look)
        })
    },
    "a tail is cut, and the next stream says where it was" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        let is_next = |object: &&Object| object.lines[0].contains(&stream);
        bucket.objects.iter().find(is_next)?;
        let at = bucket.objects.iter().rposition(|object| object.stream == stream)?;
        let gone = bucket.objects.remove(at);
        let last = bucket.objects.iter().rfind(|object| object.stream == stream)?;
        (gone.first > 0 && last.is_ours() && !gone.is_void()).then(|| {
            Expected::stream(&stream, is(Fault::Truncated(gone.end())))
        })
    },
    "a tail is cut, and the host goes silent" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        if bucket.objects.iter().any(|object| object.lines[0].contains(&stream)) {
            return None;
        }
        let closed = bucket.objects.iter().position(|object| {
            object.stream == stream && object.lines[0].contains("closed")
        })?;
        bucket.objects.remove(closed);
        let late = Look { now: 2 * NOW, ..Look::full() };
        let others = bucket.look(&late).findings.len() - bucket.known_findings().len();
        (others == 1).then(|| {
            Expected::stream(&stream, |fault| matches!(fault, Fault::Overdue(_))).with(late)
        })
    },
    "a stream is removed, and nobody remembers" => |bucket, _| {
        let stream = bucket.writers.pop()?.stream;
        bucket.objects.retain(|object| object.stream != stream);
        Some(Expected { gone: Some(stream), ..Expected::silence() })
    },
    "a stream is removed, and somebody remembers" => |bucket, chance| {
        let look = remembering(bucket);
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        bucket.objects.retain(|object| object.stream != stream);
        Some(Expected::stream(&stream, is(Fault::Vanished)).with(look))
    },
    "a stream is removed, and the next one names it" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        bucket.objects.retain(|object| object.stream != stream);
        let is_next = |object: &Object| object.lines[0].contains(&stream);
        bucket.objects.iter().any(is_next).then(|| Expected::stream(&stream, is(Fault::Vanished)))
    },
    "an old copy of the bucket is shown" => |bucket, _| {
        let look = remembering(bucket);
        let stream = bucket.writers.last()?.stream.clone();
        let size = bucket.sizes()[&stream];
        let keep = bucket.objects.iter().position(|object| object.stream == stream)?;
        bucket.objects.truncate(keep + 1);
        Some(Expected::stream(&stream, is(Fault::Truncated(size))).with(look))
    },
    "an object is moved to another day" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under(25, ".ndjson");
        Some(move_to(bucket, at, key))
    },
    "an object is moved to another hour" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under_hour(24, 15, ".ndjson");
        Some(move_to(bucket, at, key))
    },
    "an object is moved to another suffix" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under(24, ".ndjson.gz");
        Some(move_to(bucket, at, key))
    },
    "an object is moved among the system's" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = format!("_audit/{}", bucket.objects[at].key).replace(".ndjson", ".system");
        Some(move_to(bucket, at, key))
    },
    "a system object is moved among the records" => |bucket, chance| {
        let at = chance.below(bucket.objects.len());
        let key = bucket.objects[at].key.strip_prefix("_audit/")?.replace(".system", ".ndjson");
        let line = &bucket.objects[at].lines[0];
        // Its `stable` no longer counts.
        let is_missed = line.contains("void") || line.contains("previous\":");
        (!is_missed).then(|| move_to(bucket, at, key))
    },
    "an object is moved to another number" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        // An object with a gap before it is not moved: the gap would grow.
        let Object { stream, first, .. } = bucket.objects[at].clone();
        let is_before = |object: &Object| object.stream == stream && object.end() == first;
        if !bucket.objects.iter().any(is_before) {
            return None;
        }
        let object = &mut bucket.objects[at];
        object.first += 1;
        object.key = object.under(24, ".ndjson");
        Some(Expected::object(object, is(Fault::Place)))
    },
    "an object is copied to another day" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under(23 + 2 * chance.below(2) as u64, ".ndjson");
        bucket.objects.push(Object { key, ..bucket.objects[at].clone() });
        Some(Expected::object(bucket.objects.last()?, head(HeadError::Root)))
    },
    "an object is copied before whoever reads heads alone" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under(25, ".ndjson");
        bucket.objects.push(Object { key, ..bucket.objects[at].clone() });
        Some(Expected::object(bucket.objects.last()?, is(Fault::Copy)).with(Look::heads()))
    },
    "a copy has other metadata before whoever reads heads alone" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let key = bucket.objects[at].under(25, ".ndjson");
        let mut copy = Object { key, ..bucket.objects[at].clone() };
        copy.metadata.insert("stable".to_owned(), "999".to_owned());
        bucket.objects.push(copy.clone());
        Some(Expected::object(&copy, is(Fault::Overlap)).with(Look::heads()))
    },
    "an object takes the place of another" => |bucket, chance| {
        let data = data(bucket);
        let (from, to) = (*chance.pick(&data)?, *chance.pick(&data)?);
        if from == to || bucket.objects[from].stream != bucket.objects[to].stream {
            return None;
        }
        let Object { metadata, lines, .. } = bucket.objects[from].clone();
        let object = &mut bucket.objects[to];
        (object.metadata, object.lines) = (metadata, lines);
        Some(Expected::object(object, is(Fault::Place)))
    },
    "an object of another stream takes its place" => |bucket, chance| {
        let data = data(bucket);
        let (from, to) = (*chance.pick(&data)?, *chance.pick(&data)?);
        if bucket.objects[from].stream == bucket.objects[to].stream {
            return None;
        }
        let Object { metadata, lines, .. } = bucket.objects[from].clone();
        let object = &mut bucket.objects[to];
        (object.metadata, object.lines) = (metadata, lines);
        Some(Expected::object(object, head(HeadError::Certificate)))
    },
    "all metadata is stripped" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        bucket.objects[at].metadata.clear();
        Some(Expected::object(&bucket.objects[at], is(Fault::Stripped)))
    },
    "a stream is stripped, and somebody remembers" => |bucket, chance| {
        let look = remembering(bucket);
        let stream = strip(bucket, chance, |object| object.metadata.clear())?;
        let records = 0..look.state.get(&stream)?.size;
        Some(Expected::stream(&stream, is(Fault::Stripped)).at(records).with(look))
    },
    "a stream is stripped, and the next one names it" => |bucket, chance| {
        let sizes = bucket.sizes();
        let stream = strip(bucket, chance, |object| object.metadata.clear())?;
        bucket.objects.iter().find(|object| object.lines[0].contains(&stream) && object.is_ours())?;
        Some(Expected::stream(&stream, is(Fault::Stripped)).at(0..sizes[&stream]))
    },
    "a stream is given to a stranger, and somebody remembers" => |bucket, chance| {
        let look = remembering(bucket);
        let stream = strip(bucket, chance, |object| {
            object.metadata.insert("name".to_owned(), "example.com/other".to_owned());
        })?;
        let records = 0..look.state.get(&stream)?.size;
        Some(Expected::stream(&stream, is(Fault::OtherKey)).at(records).with(look))
    },
    "a field is stripped" => |bucket, chance| {
        let (at, name) = (pick(bucket, chance)?, *chance.pick(&FIELDS)?);
        let object = &mut bucket.objects[at];
        // The first object of a stream needs no `left`.
        object.metadata.remove(name).filter(|value| !value.is_empty())?;
        Some(match name {
            "format" => Expected::object(object, is(Fault::Stripped)),
            _ => Expected::object(object, head(HeadError::Missing(name))),
        })
    },
    "a field has another form" => |bucket, chance| {
        let name = *chance.pick(&FIELDS)?;
        let malformed = head(HeadError::Malformed(name));
        match chance.below(5) {
            0 => field(bucket, chance, name, |value| Some(format!(" {value}")), malformed),
            1 => field(bucket, chance, name, |value| Some(format!("{value}\n")), malformed),
            2 => field(bucket, chance, name, |value| Some(format!("{value}é")), malformed),
            3 => field(bucket, chance, name, |value| Some(format!("٣{value}")), malformed),
            _ if name == "name" => None,
            _ => field(bucket, chance, name, |value| Some(format!("0{value}")), malformed),
        }
    },
    "a field is too long" => |bucket, chance| {
        let name = *chance.pick(&FIELDS)?;
        let malformed = head(HeadError::Malformed(name));
        // As long as S3 allows.
        let long = |value: &str| (!value.is_empty()).then(|| value.repeat(2_048 / value.len() + 1));
        field(bucket, chance, name, long, malformed)
    },
    "a field is another stream's" => |bucket, chance| {
        let (data, name) = (data(bucket), *chance.pick(&FIELDS)?);
        let (from, to) = (*chance.pick(&data)?, *chance.pick(&data)?);
        let value = bucket.objects[from].metadata[name].clone();
        if bucket.objects[from].stream == bucket.objects[to].stream {
            return None;
        }
        let object = &mut bucket.objects[to];
        if object.metadata[name] == value {
            return None;
        }
        object.metadata.insert(name.to_owned(), value);
        Some(Expected::object(object, |fault| {
            matches!(fault, Fault::Object(_) | Fault::Place | Fault::Digest)
        }))
    },
    "a field is a neighbour's" => |bucket, chance| {
        let (data, name) = (data(bucket), *chance.pick(&FIELDS)?);
        let (from, to) = (*chance.pick(&data)?, *chance.pick(&data)?);
        let value = bucket.objects[from].metadata[name].clone();
        let object = &mut bucket.objects[to];
        if object.metadata[name] == value {
            return None;
        }
        object.metadata.insert(name.to_owned(), value);
        Some(Expected::object(object, |fault| {
            matches!(fault, Fault::Object(_) | Fault::Place | Fault::Digest)
        }))
    },
    "the stable number is raised" => |bucket, chance| {
        let raise = |value: &str| Some((value.parse::<u64>().ok()? + 1_000).to_string());
        field(bucket, chance, "stable", raise, head(HeadError::Root))
    },
    "the seed is another" => |bucket, chance| {
        field(bucket, chance, "seed", flip, head(HeadError::Root))
    },
    "the digest is another" => |bucket, chance| {
        let other = |value: &str| Some(value.replace(&value[..1], if &value[..1] == "0" { "1" } else { "0" }));
        field(bucket, chance, "sha256", other, is(Fault::Digest))
    },
    "the root is another" => |bucket, chance| {
        field(bucket, chance, "root", flip, head(HeadError::Signature))
    },
    "the signature is another" => |bucket, chance| {
        field(bucket, chance, "sig", flip, head(HeadError::Signature))
    },
    "the certificate is another" => |bucket, chance| {
        field(bucket, chance, "cert", flip, head(HeadError::Certificate))
    },
    "what was before is another" => |bucket, chance| {
        let flip_left = |value: &str| if value.is_empty() { None } else { flip(value) };
        field(bucket, chance, "left", flip_left, head(HeadError::Root))
    },
    "what was before has one hash more" => |bucket, chance| {
        use base64::Engine as _;
        let encoding = base64::engine::general_purpose::STANDARD;
        let longer = |value: &str| {
            Some(encoding.encode([&encoding.decode(value).ok()?[..], &[7; 32]].concat()))
        };
        field(bucket, chance, "left", longer, head(HeadError::Malformed("left")))
    },
    "what was before is another to whoever reads heads alone" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let first = bucket.objects[at].first;
        let stream = bucket.objects[at].stream.clone();
        let is_before = |object: &Object| {
            object.stream == stream && object.end() == first && object.is_ours()
        };
        if !bucket.objects.iter().any(is_before) {
            return None;
        }
        let object = &mut bucket.objects[at];
        let left = flip(&object.metadata["left"])?;
        object.metadata.insert("left".to_owned(), left);
        Some(Expected::object(object, is(Fault::Unlinked)).with(Look::heads()))
    },
    "the count is another" => |bucket, chance| {
        let more = |value: &str| Some((value.parse::<u64>().ok()? + 1).to_string());
        field(bucket, chance, "count", more, |fault| {
            matches!(fault, Fault::Place | Fault::Object(HeadError::Malformed(_)))
        })
    },
    "the last number is another" => |bucket, chance| {
        let more = |value: &str| Some((value.parse::<u64>().ok()? + 1).to_string());
        field(bucket, chance, "lastsequence", more, |fault| {
            matches!(
                fault,
                Fault::Object(HeadError::Malformed(_) | HeadError::Signature)
            )
        })
    },
    "the last number exceeds what a stream may have" => |bucket, chance| {
        field(
            bucket,
            chance,
            "lastsequence",
            |_| Some((1u64 << 28).to_string()),
            head(HeadError::Malformed("lastsequence")),
        )
    },
    "the stream's key is of small order" => |bucket, chance| {
        let zero = |value: &str| Some(format!("{}=", "A".repeat(value.len() - 1)));
        field(bucket, chance, "streamkey", zero, |fault| {
            matches!(
                fault,
                Fault::Object(HeadError::Malformed("streamkey") | HeadError::Certificate)
            )
        })
    },
    "the host's name is another" => |bucket, chance| {
        let other = |_: &str| Some("example.com/other".to_owned());
        field(bucket, chance, "name", other, is(Fault::OtherKey))
    },
    "an object is written anew by a stranger under the host's name" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        bucket.objects[at] = forged(&object, [9; 32], [8; 32]);
        Some(Expected::object(&bucket.objects[at], head(HeadError::Certificate)))
    },
    "an object is written anew with another key of the stream" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        bucket.objects[at] = forged(&object, bucket.host_seed, [8; 32]);
        Some(Expected::object(&bucket.objects[at], is(Fault::OtherKey)))
    },
    "a stream is a stranger's" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        if bucket.writers.len() > 1 {
            return None;
        }
        let other = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[7; 32]).unwrap();
        bucket.trust = vec![other.verifier().clone().into()];
        let name = HOST.to_owned();
        Some(Expected::stream(&stream, is(Fault::UnknownHost(name))))
    },
    "a stream was written without evidence" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        let is_linked = bucket.writers.len() > 1;
        let objects = bucket.objects.iter_mut().filter(|object| object.stream == stream);
        objects.for_each(|object| drop(object.metadata.insert("format".into(), "1".into())));
        (!is_linked).then(|| Expected::stream(&stream, is(Fault::NoEvidence)))
    },
    "a foreign object stands between" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let mut object = bucket.objects[at].clone();
        object.key = object.under(26, ".ndjson");
        object.metadata = BTreeMap::new();
        bucket.objects.push(object.clone());
        Some(Expected::object(&object, is(Fault::Stripped)))
    },
    "a foreign object stands behind the end" => |bucket, chance| {
        let writer = chance.pick(&bucket.writers)?;
        let (stream, size) = (writer.stream.clone(), bucket.sizes()[&writer.stream]);
        let last = bucket.objects.iter().rfind(|object| object.stream == stream)?;
        let first = *chance.pick(&[size + 7, 1 << 28, u64::MAX])?;
        let mut object = Object { first, ..last.clone() };
        object.key = format!("dt=2025-11-24/hour=16/{stream}-{:012}.ndjson", object.first);
        object.metadata = BTreeMap::new();
        let is_closed = last.lines[0].contains("closed");
        bucket.objects.push(object.clone());
        Some(Expected::object(&object, move |fault| {
            *fault == if is_closed { Fault::AfterEnd } else { Fault::Stripped }
        }))
    },
    "the host writes behind its own end" => |bucket, chance| {
        let mut writer = chance.pick(&bucket.writers)?.clone();
        let closed = bucket.objects.iter().any(|object| {
            object.stream == writer.stream && object.lines[0].contains("closed")
        });
        let object = writer.write(false, vec!["{}".to_owned()], 0, [4; 32]);
        bucket.objects.push(object.clone());
        closed.then(|| Expected::object(&object, is(Fault::AfterEnd)))
    },
    "the host signs other records for the same place" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        let other = rewritten(bucket, &object, 25)?;
        bucket.objects.push(other.clone());
        Some(Expected::object(&other, is(Fault::Fork)))
    },
    "the host signs other records before what stands" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        let next = bucket.objects.iter().find(|other| {
            other.stream == object.stream && other.first == object.end()
        })?;
        let next = next.clone();
        if !next.is_ours() {
            return None;
        }
        bucket.objects[at] = rewritten(bucket, &object, 24)?;
        Some(Expected::object(&next, is(Fault::Unlinked)))
    },
    "the host signs other records before a gap" => |bucket, _| {
        let follows = |object: &Object| {
            let mut objects = bucket.objects.iter();
            objects.position(|other| {
                other.stream == object.stream && other.first == object.end() && other.is_ours()
            })
        };
        let found = data(bucket).into_iter().find_map(|at| {
            let object = &bucket.objects[at];
            let gap = follows(object)?;
            let gone = &bucket.objects[gap];
            let next = &bucket.objects[follows(gone)?];
            // The trees before the next object and up to the end of this one share a half.
            let half = 1 << object.end().ilog2();
            let is_common = object.first < half && next.first < 2 * half;
            let is_deleted = next.stable() >= gone.end() && !gone.is_system();
            (is_common && is_deleted).then(|| (at, gap, next.clone()))
        });
        let (at, gap, next) = found?;
        let object = bucket.objects[at].clone();
        bucket.objects[at] = rewritten(bucket, &object, 24)?;
        let deleted = Expected::gone(&bucket.objects.remove(gap), Fault::Deleted);
        Some(deleted.and(&next.stream, Some(&next.key), is(Fault::Unlinked)))
    },
    "the host signs the same records anew" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        let next = bucket.objects.iter().find(|other| {
            other.stream == object.stream && other.first == object.end() && other.is_ours()
        });
        let next = next?.clone();
        bucket.objects[at] = signed_anew(bucket, &object, object.lines.clone(), 24)?;
        Some(Expected::object(&next, is(Fault::Unlinked)).at(next.first..next.end()))
    },
    "the host rewrites a stream that somebody remembers" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        let is_linked = bucket.objects.iter().any(|object| object.lines[0].contains(&stream));
        let at = bucket.objects.iter().rposition(|object| object.stream == stream)?;
        let size = bucket.objects[at].end();
        if is_linked || !bucket.objects[at].is_ours() || bucket.sizes()[&stream] != size {
            return None;
        }
        let look = remembering(bucket);
        let object = bucket.objects[at].clone();
        let key = object.key.clone();
        bucket.objects[at] = rewritten(bucket, &object, 24)?;
        let fault = is(Fault::Rewritten(size));
        Some(Expected::silence().and(&stream, Some(&key), fault).with(look))
    },
    "an object holds a remembered size within it" => |bucket, chance| {
        let (object, size, root) = within(bucket, chance)?;
        Some(Expected::silence().with(knowing(&object.stream, size, &root, Look::full())))
    },
    "an object holds a remembered size with another root" => |bucket, chance| {
        let (object, size, _) = within(bucket, chance)?;
        let look = knowing(&object.stream, size, &object.metadata["root"], Look::full());
        let expected = Expected::object(&object, is(Fault::Rewritten(size)));
        Some(expected.at(0..size).with(look))
    },
    "an object holds a remembered size before whoever reads heads alone" => |bucket, chance| {
        let (object, size, root) = within(bucket, chance)?;
        let look = knowing(&object.stream, size, &root, Look::heads());
        let expected = Expected::object(&object, is(Fault::Rewritten(size)));
        Some(expected.at(0..size).with(look))
    },
    "the host writes behind what the next stream says" => |bucket, _| {
        let mut writer = bucket.writers.last()?.clone();
        let (stream, size) = (writer.stream.clone(), writer.range.end());
        let last = bucket.objects.last()?;
        if last.lines[0].contains("closed") || bucket.sizes()[&stream] != size {
            return None;
        }
        let previous = StreamEnd { stream: stream.clone(), size, root: writer.range.root()? };
        let mut next = next_stream(bucket);
        bucket.objects.push(next.write(true, vec![naming(previous)], 0, [5; 32]));
        bucket.objects.push(writer.write(false, vec!["{}".to_owned()], 0, [4; 32]));
        Some(Expected::stream(&stream, is(Fault::AfterEnd)).at(size..size + 1))
    },
    "the host rewrites a stream that the next one names" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        bucket.objects.iter().find(|object| object.lines[0].contains(&stream))?;
        let at = bucket.objects.iter().rposition(|object| object.stream == stream)?;
        let object = bucket.objects[at].clone();
        let size = object.end();
        bucket.objects[at] = rewritten(bucket, &object, 24)?;
        Some(Expected::stream(&stream, is(Fault::Rewritten(size))).at(0..size))
    },
    "ended streams are silent for long" => |bucket, _| {
        let has_ended = |writer: &Writer| {
            bucket.objects.iter().any(|object| {
                object.lines[0].contains(&writer.stream)
                    || object.stream == writer.stream && object.lines[0].contains("closed")
            })
        };
        let late = Look { now: 2 * NOW, ..Look::full() };
        bucket.writers.iter().all(has_ended).then(|| Expected::silence().with(late))
    },
    "an object is deleted, and the next one stripped" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let gone = bucket.objects.remove(at);
        let next = bucket.objects.iter().position(|object| {
            object.stream == gone.stream && object.first == gone.end() && object.is_ours()
        })?;
        if bucket.objects[next].is_void() || is_last(bucket, next) {
            return None;
        }
        bucket.objects[next].metadata.clear();
        let next = bucket.objects[next].clone();
        let look = Look { retained_since: Some(1), ..Look::full() };
        let deleted = is_stable(bucket, &gone).then(|| Expected::gone(&gone, Fault::Deleted))?;
        Some(deleted.and(&next.stream, Some(&next.key), is(Fault::Stripped)).with(look))
    },
    "two streams follow one" => |bucket, _| {
        let stream = bucket.writers.first()?.stream.clone();
        bucket.objects.iter().find(|object| object.lines[0].contains(&stream))?;
        let writer = &bucket.writers[0];
        let root = writer.range.root()?;
        let previous = StreamEnd { stream: stream.clone(), size: writer.range.end(), root };
        let mut writer = next_stream(bucket);
        let name = writer.stream.clone();
        bucket.objects.push(writer.write(true, vec![naming(previous)], 0, [5; 32]));
        Some(Expected::stream(&name, is(Fault::TwoSuccessors { of: stream })))
    },
    "a system object holds something else" => |bucket, chance| {
        let mut writer = chance.pick(&bucket.writers)?.clone();
        let sizes = bucket.sizes();
        let is_closed = bucket.objects.iter().any(|object| {
            object.stream == writer.stream && object.lines[0].contains("closed")
        });
        let is_whole = sizes[&writer.stream] == writer.range.end();
        let is_followed =
            bucket.objects.iter().any(|object| object.lines[0].contains(&writer.stream));
        let lines = vec!["{\"action\":\"view\"}".to_owned()];
        let object = writer.write(true, lines, 0, [4; 32]);
        bucket.objects.push(object.clone());
        (!is_closed && is_whole && !is_followed)
            .then(|| Expected::object(&object, is(Fault::SystemRecord)))
    },
    "a stream is opened twice" => |bucket, chance| {
        let mut writer = chance.pick(&bucket.writers)?.clone();
        let is_of_it = |object: &&Object| object.stream == writer.stream;
        let opened = bucket.objects.iter().find(is_of_it)?.lines.clone();
        let last = bucket.objects.iter().rfind(is_of_it)?;
        let is_open = !last.lines[0].contains("closed") && last.end() == writer.range.end();
        let is_followed =
            bucket.objects.iter().any(|object| object.lines[0].contains(&writer.stream));
        let object = writer.write(true, opened, 0, [4; 32]);
        bucket.objects.push(object.clone());
        let expected = Expected::object(&object, is(Fault::SystemRecord));
        (is_open && !is_followed).then(|| expected.at(object.first..object.end()))
    },
    "an object is moved to a number beyond all" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let Object { stream, first, .. } = bucket.objects[at].clone();
        let is_before = |object: &Object| object.stream == stream && object.end() == first;
        if !bucket.objects.iter().any(is_before) || bucket.is_closed(&stream) {
            return None;
        }
        let object = &mut bucket.objects[at];
        object.first = *chance.pick(&[1 << 28, (1 << 63) - 1, 1 << 63, u64::MAX])?;
        object.key = object.under(24, ".ndjson");
        Some(Expected::object(object, is(Fault::Place)))
    },
    "a number exceeds all" => |bucket, chance| {
        let name = *chance.pick(&["lastsequence", "count"])?;
        let number = *chance.pick(&[1 << 28, (1 << 63) - 1, 1 << 63, u128::from(u64::MAX), 1 << 64])?;
        let malformed = head(HeadError::Malformed(name));
        field(bucket, chance, name, |_| Some(number.to_string()), malformed)
    },
    "the metadata of two objects are swapped" => |bucket, chance| {
        let data = data(bucket);
        let (one, other) = (*chance.pick(&data)?, *chance.pick(&data)?);
        let (one, other) = (one.min(other), one.max(other));
        if one == other || bucket.objects[one].stream != bucket.objects[other].stream {
            return None;
        }
        let metadata = bucket.objects[one].metadata.clone();
        bucket.objects[one].metadata = std::mem::replace(&mut bucket.objects[other].metadata, metadata);
        let (one, other) = (&bucket.objects[one], &bucket.objects[other]);
        // Each is named at the records that it is signed for.
        let swapped = Expected::object(other, is(Fault::Place)).at(one.first..one.end());
        let swapped = swapped.and(&one.stream, Some(&one.key), is(Fault::Place));
        Some(swapped.at(other.first..other.end()))
    },
    "the metadata have names in capitals" => |bucket, chance| {
        let at = pick(bucket, chance)?;
        let object = &mut bucket.objects[at];
        let capital = |(name, value): (String, String)| (name.to_uppercase(), value);
        object.metadata = std::mem::take(&mut object.metadata).into_iter().map(capital).collect();
        Some(Expected::object(object, is(Fault::Stripped)))
    },
    "a stream is renamed, and somebody remembers" => |bucket, chance| {
        let stream = chance.pick(&bucket.writers)?.stream.clone();
        let is_of_it = |object: &Object| object.stream == stream;
        if bucket.objects.iter().any(|object| is_of_it(object) && object.is_foreign) {
            return None;
        }
        let look = remembering(bucket);
        let mut expected = Expected::stream(&stream, is(Fault::Vanished)).with(look);
        for object in bucket.objects.iter_mut().filter(|object| object.stream == stream) {
            object.stream = "01KAVXZ0000123456789ABCDEF".to_owned();
            object.key = object.key.replace(&stream, &object.stream);
            let certificate = head(HeadError::Certificate);
            expected = expected.and(&object.stream, Some(&object.key), certificate);
        }
        Some(expected)
    },
    "a stream is given to another host that is trusted" => |bucket, chance| {
        let other = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[7; 32]).unwrap();
        bucket.trust.push(other.verifier().clone().into());
        let mut expected = Expected::silence();
        let stream = strip(bucket, chance, |object| {
            object.metadata.insert("name".to_owned(), "example.com/other".to_owned());
        })?;
        if bucket.is_named(&stream) {
            return None;
        }
        for object in bucket.objects.iter().filter(|object| object.stream == stream) {
            expected = expected.and(&stream, Some(&object.key), head(HeadError::Certificate));
        }
        Some(expected)
    },
    "an object is written anew by another host that is trusted" => |bucket, chance| {
        let other = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[7; 32]).unwrap();
        bucket.trust.push(other.verifier().clone().into());
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        let stream = object.stream.clone();
        let mut writer = Writer::of_host("example.com/other", stream, [7; 32], [8; 32]);
        writer.range = before(&object);
        bucket.objects[at] = writer.write(false, vec!["{}".to_owned()], 0, [3; 32]);
        Some(Expected::object(&bucket.objects[at], is(Fault::OtherKey)))
    },
    "an object is written anew with a key that has expired" => |bucket, chance| {
        let retired = SignerKey::from_seed(HOST, KeyKind::Ed25519, &[9; 32]).unwrap();
        bucket.trust.push(TrustedKey { key: retired.verifier().clone(), validity: 0..OPENED });
        let at = pick(bucket, chance)?;
        let object = bucket.objects[at].clone();
        bucket.objects[at] = forged(&object, [9; 32], [8; 32]);
        Some(Expected::object(&bucket.objects[at], is(Fault::OtherKey)))
    },
    "streams are opened with a key that has expired, or is not valid yet" => |bucket, chance| {
        let validity = [0..OPENED, LAST_OPENED..u64::MAX];
        bucket.trust[0].validity = chance.pick(&validity)?.clone();
        let mut expected = Expected::silence();
        for writer in &bucket.writers {
            let fault = Fault::KeyValidity(HOST.to_owned());
            expected = expected.and(&writer.stream, None, is(fault));
        }
        Some(expected)
    },
    "a key is valid for the time of its streams alone" => |bucket, _| {
        bucket.trust[0].validity = OPENED..LAST_OPENED;
        Some(Expected::silence())
    },
    "a stream of another bucket is added" => |bucket, _| {
        let names = vec!["s3://copy".to_owned(), "s3://logs".to_owned()];
        let look = Look { names, ..Look::full() };
        bucket.add_stream("01KAVXY0000123456789ABCDEF", Some("s3://logs"));
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", Some("s3://other"));
        let fault = is(Fault::OtherBucket("s3://other".to_owned()));
        Some(Expected::stream("01KAVXZ0000123456789ABCDEF", fault).at(0..1).with(look))
    },
    "a stream of another bucket is added, and this one has no name" => |bucket, _| {
        bucket.add_stream("01KAVXW0000123456789ABCDEF", Some("s3://logs"));
        bucket.add_stream("01KAVXY0000123456789ABCDEF", Some("s3://other"));
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", Some("s3://logs"));
        let fault = is(Fault::OtherBucket("s3://other".to_owned()));
        Some(Expected::stream("01KAVXY0000123456789ABCDEF", fault).at(0..1))
    },
    "a stream of another bucket is added without its first record" => |bucket, chance| {
        bucket.add_stream("01KAVXY0000123456789ABCDEF", Some("s3://logs"));
        let first = bucket.objects.len();
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", Some("s3://other"));
        bucket.objects.remove(first);
        let names: &[&[&str]] = &[&[], &["s3://logs"]];
        let names = chance.pick(names)?.iter().map(|&name| name.to_owned()).collect();
        let unopened = Expected::stream("01KAVXZ0000123456789ABCDEF", is(Fault::Unopened)).at(0..1);
        let expired = unopened.and("01KAVXZ0000123456789ABCDEF", None, is(Fault::Expired));
        Some(expired.at(0..1).with(Look { names, ..Look::full() }))
    },
    "a stream loses its first record, and somebody remembers" => |bucket, _| {
        let first = bucket.objects.len();
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", Some("s3://logs"));
        let look = Look { names: vec!["s3://logs".to_owned()], ..remembering(bucket) };
        bucket.objects.remove(first);
        let expired = Expected::stream("01KAVXZ0000123456789ABCDEF", is(Fault::Expired));
        Some(expired.at(0..1).with(look))
    },
    "a stream loses its first record in a bucket without a name" => |bucket, _| {
        let first = bucket.objects.len();
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", None);
        bucket.objects.remove(first);
        let expired = Expected::stream("01KAVXZ0000123456789ABCDEF", is(Fault::Expired));
        Some(expired.at(0..1))
    },
    "a stream that names its bucket loses its second record" => |bucket, _| {
        let first = bucket.objects.len();
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", Some("s3://logs"));
        bucket.objects.remove(first + 1);
        let expired = Expected::stream("01KAVXZ0000123456789ABCDEF", is(Fault::Expired));
        Some(expired.at(1..2))
    },
    "a stream is said to be old, and somebody remembers" => |bucket, _| {
        // Opened days after the others.
        bucket.add_stream("01KB6Z00000123456789ABCDEF", None);
        let look = remembering(bucket);
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", None);
        Some(Expected::stream("01KAVXZ0000123456789ABCDEF", is(Fault::Appeared)).with(look))
    },
    "a new stream is added, and somebody remembers" => |bucket, _| {
        let look = remembering(bucket);
        bucket.add_stream("01KAVXZ0000123456789ABCDEF", None);
        bucket.add_stream("01KB6Z00000123456789ABCDEF", None);
        Some(Expected::silence().with(look))
    },
    "a second foreign object stands where records were set aside" => |bucket, _| {
        let aside = bucket.objects.iter().find(|object| object.is_foreign)?.clone();
        let key = aside.under(26, ".ndjson");
        bucket.objects.push(Object { key, metadata: BTreeMap::new(), ..aside });
        Some(Expected::object(bucket.objects.last()?, is(Fault::Stripped)))
    },
    "the host sets aside what is to come" => |bucket, chance| {
        let mut writer = bucket.open_writer(chance)?;
        let number = writer.range.end();
        let void = |first, count| SystemRecord::Void { at: NOW, first, count, reason: "x".to_owned() };
        let void = chance.pick(&[
            void(number, 1),
            void(0, number + 1),
            void(number + 1, (1 << 63) - 1),
            void(1, u64::MAX),
            void(u64::MAX, u64::MAX),
        ])?.clone();
        let object = writer.write(true, vec![void.to_line()], 0, [4; 32]);
        bucket.objects.push(object.clone());
        Some(Expected::object(&object, is(Fault::SystemRecord)).at(number..number + 1))
    },
    "the host sets aside what it had acknowledged" => |bucket, chance| {
        let mut writer = bucket.open_writer(chance)?;
        let (number, stream) = (writer.range.end(), writer.stream.clone());
        if bucket.known_findings().iter().any(|known| known.stream == stream) {
            return None;
        }
        let data = data(bucket).into_iter().filter(|&at| {
            let object = &bucket.objects[at];
            object.stream == stream && is_stable(bucket, object)
        });
        let data: Vec<usize> = data.collect();
        let gone = bucket.objects.remove(*chance.pick(&data)?);
        let (first, count) = (gone.first, gone.count);
        let void = SystemRecord::Void { at: NOW, first, count, reason: "x".to_owned() };
        let object = writer.write(true, vec![void.to_line()], 0, [4; 32]);
        bucket.objects.push(object.clone());
        let look = Look { retained_since: Some(1), ..Look::full() };
        let deleted = Expected::gone(&gone, Fault::Deleted).with(look);
        let record = number..number + 1;
        Some(deleted.and(&stream, Some(&object.key), is(Fault::SystemRecord)).at(record))
    },
    "the host sets no record aside" => |bucket, chance| {
        let mut writer = bucket.open_writer(chance)?;
        let number = writer.range.end();
        let first = *chance.pick(&[0, 1, number - 1, number])?;
        let void = SystemRecord::Void { at: NOW, first, count: 0, reason: "x".to_owned() };
        let object = writer.write(true, vec![void.to_line()], 0, [4; 32]);
        bucket.objects.push(object.clone());
        Some(Expected::object(&object, is(Fault::SystemRecord)).at(number..number + 1))
    },
    "a system record has another form" => |bucket, chance| {
        let mut writer = bucket.open_writer(chance)?;
        let line = *chance.pick(INVALID_SYSTEM_RECORDS)?;
        let object = writer.write(true, vec![line.to_owned()], 0, [4; 32]);
        bucket.objects.push(object.clone());
        Some(Expected::object(&object, is(Fault::SystemRecord)))
    },
    "a system record has more members" => |bucket, chance| {
        let mut writer = bucket.open_writer(chance)?;
        let line = *chance.pick(VALID_SYSTEM_RECORDS)?;
        bucket.objects.push(writer.write(true, vec![line.to_owned()], 0, [4; 32]));
        Some(Expected::silence())
    },
    "a deletion looks unacknowledged to whoever reads heads alone" => |bucket, chance| {
        let (gone, system) = hide_deletion(bucket, chance)?;
        (system < gone.end()).then(|| {
            Expected::gone(&gone, Fault::Unacknowledged).with(Look::heads())
        })
    },
    "a deletion is hidden in heads, and a system record tells" => |bucket, chance| {
        let (gone, system) = hide_deletion(bucket, chance)?;
        let look = Look { retained_since: Some(1), ..Look::heads() };
        (system >= gone.end()).then(|| Expected::gone(&gone, Fault::Deleted).with(look))
    },
    "a rescuer completes the stream" => |bucket, chance| {
        let mut writer = chance.pick(&bucket.writers)?.clone();
        let last = bucket.objects.iter().rfind(|object| object.stream == writer.stream)?;
        let is_open = !last.lines[0].contains("closed") && last.end() == writer.range.end();
        let is_followed =
            bucket.objects.iter().any(|object| object.lines[0].contains(&writer.stream));
        bucket.objects.push(writer.write(false, vec!["{}".to_owned()], 0, [4; 32]));
        let closed = SystemRecord::Closed { at: NOW, cosigned: Vec::new() }.to_line();
        bucket.objects.push(writer.write(true, vec![closed], 0, [5; 32]));
        (is_open && !is_followed).then(Expected::silence)
    },
}

/// The model's streams are opened from [`OPENED`] on and before [`LAST_OPENED`], in milliseconds
/// since the Unix epoch.
const OPENED: u64 = opened_at(b"01KAVX0000");
const LAST_OPENED: u64 = opened_at(b"01KAVX3000");

const fn opened_at(time: &[u8; 10]) -> u64 {
    let digits = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let (mut at, mut ms) = (0, 0);
    while at < time.len() {
        let mut digit = 0;
        while digits[digit] != time[at] {
            digit += 1;
        }
        ms = ms << 5 | digit as u64;
        at += 1;
    }
    ms
}

const INVALID_SYSTEM_RECORDS: &[&str] = &[
    "",
    "{}",
    "[]",
    "1",
    r#"{"$audit":[]}"#,
    r#"{"$audit":null}"#,
    r#"{"$audit":{"at":1}}"#,
    r#"{"$audit":{"event":"closed"}}"#,
    r#"{"$audit":{"event":"Closed","at":1}}"#,
    r#"{"$audit":{"event":1,"at":1}}"#,
    r#"{"$audit":{"event":"closed","at":-1}}"#,
    r#"{"$audit":{"event":"closed","at":-0}}"#,
    r#"{"$audit":{"event":"closed","at":1.0}}"#,
    r#"{"$audit":{"event":"closed","at":1e3}}"#,
    r#"{"$audit":{"event":"closed","at":true}}"#,
    r#"{"$audit":{"event":"closed","at":"1"}}"#,
    r#"{"$audit":{"event":"closed","at":18446744073709551616}}"#,
    r#"{"$audit":{"event":"closed","at":1},"more":1}"#,
    r#"{"$audit":{"event":"closed","at":1},"$audit":{"event":"closed","at":1}}"#,
    r#"{"$audit":{"event":"closed","at":1,"at":2}}"#,
    r#"{"$audit":{"event":"closed","event":"closed","at":1}}"#,
    r#"{"$audit":{"event":"closed","at":1}} 1"#,
    r#"{"$audit":{"event":"closed","at":NaN}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":"2"}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"cosigned":"x"}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"cosigned":[1]}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"cosigned":null}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"clockOffset":1.5}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"clockOffset":9223372036854775808}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"previous":{}}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"previous":{"stream":"x","size":1}}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"previous":{"stream":"x","size":1,"root":"AA=="}}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":2,"previous":{"stream":"x","size":-1,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}}}"#,
    r#"{"$audit":{"event":"void","at":1,"first":1,"count":1}}"#,
    r#"{"$audit":{"event":"void","at":1,"first":1,"count":1,"reason":1}}"#,
    r#"{"$audit":{"event":"opened","at":1,"next":2,"host":"x","software":"x"}}"#,
    r#"{"$audit":{"event":"opened","at":1,"next":2,"host":"x","software":"x","key":"x","bucket":1}}"#,
];

/// Heartbeats that promise the next one at a time after that of every verification, so that none is
/// overdue.
const VALID_SYSTEM_RECORDS: &[&str] = &[
    r#"{"$audit":{"event":"heartbeat","at":1,"next":18446744073709551615}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":9000000000000,"more":{"x":[1.5,null]}}}"#,
    r#" {"$audit" : {"next":9000000000000,"at":1,"event":"heartbeat"} } "#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":9000000000000,"clockOffset":null,"previous":null}}"#,
    r#"{"$audit":{"event":"heartbeat","at":1,"next":9000000000000,"clockOffset":-5,"cosigned":["x"]}}"#,
    r#"{"\u0024audit":{"event":"heart\u0062eat","at":1,"next":9000000000000}}"#,
];

impl Bucket {
    /// Adds a whole stream of the host, which ends.
    pub(super) fn add_stream(&mut self, stream: &str, name: Option<&str>) {
        let mut writer = Writer::new(stream.to_owned(), self.host_seed, [6; 32]);
        let opened = SystemRecord::Opened {
            at: NOW - 5,
            host: HOST.to_owned(),
            software: "a model".to_owned(),
            key: self.trust[0].key.to_string(),
            next: NOW + 5,
            bucket: name.map(str::to_owned),
            previous: None,
        };
        self.objects.push(writer.write(true, vec![opened.to_line()], 0, [1; 32]));
        self.objects.push(writer.write(false, vec!["{}".to_owned()], 1, [2; 32]));
        let closed = SystemRecord::Closed { at: NOW, cosigned: Vec::new() }.to_line();
        self.objects.push(writer.write(true, vec![closed], 2, [3; 32]));
    }

    fn is_closed(&self, stream: &str) -> bool {
        let mut objects = self.objects.iter().filter(|object| object.stream == stream);
        objects.any(|object| object.lines[0].contains("closed"))
    }

    /// Whether another stream states how this one ended.
    fn is_named(&self, stream: &str) -> bool {
        self.objects.iter().any(|object| object.lines[0].contains(stream))
    }

    /// The writer of a stream that has not ended, and lacks nothing at its end.
    fn open_writer(&self, chance: &mut Chance) -> Option<Writer> {
        let writer = chance.pick(&self.writers)?;
        let is_whole = self.sizes()[&writer.stream] == writer.range.end();
        let is_open = !self.is_closed(&writer.stream) && !self.is_named(&writer.stream);
        (is_whole && is_open).then(|| writer.clone())
    }
}

/// Deletes an object, and denies in the metadata of all others that it was acknowledged. Returns
/// what system records, whose lines are always read, state as acknowledged.
fn hide_deletion(bucket: &mut Bucket, chance: &mut Chance) -> Option<(Object, u64)> {
    let at = pick(bucket, chance)?;
    let gone = bucket.objects[at].clone();
    let known = bucket.known_findings();
    if is_last(bucket, at) || known.iter().any(|known| known.stream == gone.stream) {
        return None;
    }
    bucket.objects.remove(at);
    let mut system = 0;
    for object in bucket.objects.iter_mut().filter(|object| object.stream == gone.stream) {
        if object.is_system() {
            system = system.max(object.stable());
        } else {
            object.metadata.insert("stable".to_owned(), "0".to_owned());
        }
    }
    Some((gone, system))
}

/// A stream after all others.
fn next_stream(bucket: &Bucket) -> Writer {
    Writer::new("01KAVXZ0000123456789ABCDEF".to_owned(), bucket.host_seed, [6; 32])
}

/// A heartbeat that names a stream which was delivered whole.
fn naming(previous: StreamEnd) -> String {
    let heartbeat = SystemRecord::Heartbeat {
        at: NOW - 1,
        next: NOW + 1,
        clock_offset: None,
        cosigned: Vec::new(),
        previous: Some(previous),
    };
    heartbeat.to_line()
}

/// Changes the evidence of all objects that the host wrote of one stream.
fn strip(bucket: &mut Bucket, chance: &mut Chance, change: impl Fn(&mut Object)) -> Option<String> {
    let stream = chance.pick(&bucket.writers)?.stream.clone();
    bucket.objects.retain(|object| object.stream != stream || !object.is_foreign);
    bucket.objects.iter_mut().filter(|object| object.stream == stream).for_each(change);
    Some(stream)
}

/// The object with other records, signed by foreign keys.
fn forged(object: &Object, host_seed: [u8; 32], key_seed: [u8; 32]) -> Object {
    let mut writer = Writer::new(object.stream.clone(), host_seed, key_seed);
    writer.range = before(object);
    writer.write(false, vec!["{}".to_owned(); object.lines.len()], 0, [3; 32])
}

/// The object with other records, signed by the stream's own key, filed under a day.
fn rewritten(bucket: &Bucket, object: &Object, day: u64) -> Option<Object> {
    let lines = vec!["{\"rewritten\":true}".to_owned(); object.lines.len()];
    let lines = if object.is_system() { object.lines.clone() } else { lines };
    signed_anew(bucket, object, lines, day)
}

/// The object with these records and a new seed, signed by the stream's own key.
fn signed_anew(bucket: &Bucket, object: &Object, lines: Vec<String>, day: u64) -> Option<Object> {
    let mut writer = bucket.writers.iter().find(|writer| writer.stream == object.stream)?.clone();
    (writer.range, writer.day) = (before(object), day);
    Some(writer.write(object.is_system(), lines, object.stable(), [3; 32]))
}

/// A data object of several records, a size of its stream within it, and the root there.
fn within(bucket: &Bucket, chance: &mut Chance) -> Option<(Object, u64, String)> {
    use base64::Engine as _;
    let object = bucket.objects[pick(bucket, chance)?].clone();
    if object.count < 2 {
        return None;
    }
    let seed = base64::engine::general_purpose::STANDARD.decode(&object.metadata["seed"]).ok()?;
    let salts = Salts::new(&object.key, object.stable(), &seed.try_into().ok()?);
    let mut range = before(&object);
    range.push(salts.leaf(object.first, object.lines[0].as_bytes()));
    let root = range.root()?.to_string();
    let size = object.first + 1;
    Some((object, size, root))
}

/// The look of an auditor who remembers this of a stream.
fn knowing(stream: &str, size: u64, root: &str, look: Look) -> Look {
    let state = State::parse(&format!("audit state 1\n{stream} {size} {root} open\n")).unwrap();
    Look { state, ..look }
}

/// The stream's tree before the object.
fn before(object: &Object) -> CompactRange {
    use base64::Engine as _;
    let left = base64::engine::general_purpose::STANDARD.decode(&object.metadata["left"]).unwrap();
    let (hashes, _) = left.as_chunks::<32>();
    let hashes: Vec<_> =
        hashes.iter().map(|&bytes| audit_evidence::Hash::from_bytes(bytes)).collect();
    CompactRange::from_hashes(object.first, &hashes).unwrap()
}
