//! A second verifier, `docs-tests/second_verifier.py`, agrees with this one: on its own buckets, in
//! `tests/vectors/buckets.json`, and on those of the model, which are written to the path in
//! `AUDIT_EVIDENCE_CASES`.

use std::collections::BTreeMap;
use std::ops::Range;

use audit_evidence::{Alarm, BucketReport, Finding, State, TrustedKey, VerifierKey};
use serde::{Deserialize, Serialize};

use super::model::{Bucket, Look, Object};
use super::mutations;

#[derive(Deserialize, Serialize)]
struct Cases {
    /// The objects, which cases refer to by index.
    objects: Vec<Stored>,
    cases: Vec<Case>,
}

#[derive(Deserialize, Serialize)]
struct Case {
    name: String,
    keys: Vec<String>,
    /// For each key of limited validity: its index in `keys`, and the begin and the end of its
    /// validity, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    validity: Vec<(usize, u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    now: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    receipts: BTreeMap<String, Vec<(u64, u64)>>,
    objects: Vec<Place>,
    findings: Vec<Named>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Place {
    Shared(usize),
    Here(Stored),
}

#[derive(Clone, Deserialize, Serialize)]
struct Stored {
    key: String,
    metadata: BTreeMap<String, String>,
    lines: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Named {
    finding: String,
    alarm: String,
    stream: String,
    object: Option<String>,
    first: Option<u64>,
    count: Option<u64>,
}

fn named(report: &BucketReport) -> Vec<Named> {
    let named = |finding: &Finding| Named {
        finding: finding.fault.code().to_owned(),
        alarm: match finding.alarm() {
            Alarm::Tampered => "tampered",
            Alarm::Unproven => "unproven",
            Alarm::Late => "late",
            Alarm::Expired => "expired",
        }
        .to_owned(),
        stream: finding.stream.clone(),
        object: finding.object.clone(),
        first: finding.records.as_ref().map(|records| records.start),
        count: finding.records.as_ref().map(|records| records.end - records.start),
    };
    report.findings.iter().map(named).collect()
}

impl Case {
    fn new(name: &str, bucket: &Bucket, look: &Look) -> Case {
        let mut receipts = BTreeMap::<_, Vec<_>>::new();
        for (stream, records) in &look.receipts {
            receipts.entry(stream.clone()).or_default().push((records.start, records.end));
        }
        let is_known = look.state != State::default();
        let objects = bucket.objects.iter().map(|object| {
            let Object { key, metadata, lines, .. } = object.clone();
            Place::Here(Stored { key, metadata, lines })
        });
        Case {
            name: name.to_owned(),
            keys: bucket.trust.iter().map(|trusted| trusted.key.to_string()).collect(),
            validity: (0..)
                .zip(&bucket.trust)
                .filter(|(_, trusted)| trusted.validity != (0..u64::MAX))
                .map(|(at, trusted)| (at, trusted.validity.start, trusted.validity.end))
                .collect(),
            names: look.names.clone(),
            now: look.now,
            since: look.retained_since,
            state: if is_known { look.state.to_string() } else { String::new() },
            receipts,
            objects: objects.collect(),
            findings: named(&bucket.look(look)),
        }
    }

    fn look(&self) -> Look {
        let ranges = |(stream, ranges): (&String, &Vec<(u64, u64)>)| {
            let ranges =
                ranges.iter().map(|&(first, end)| (stream.clone(), Range { start: first, end }));
            ranges.collect::<Vec<_>>()
        };
        let state = match &*self.state {
            "" => State::default(),
            text => State::parse(text).unwrap(),
        };
        Look {
            reads_lines: true,
            state,
            receipts: self.receipts.iter().flat_map(ranges).collect(),
            names: self.names.clone(),
            retained_since: self.since,
            now: self.now,
        }
    }
}

impl Stored {
    fn object(&self) -> Object {
        let (_, name) = self.key.rsplit_once('/').unwrap();
        let (stream, first) = name.split_once('.').unwrap().0.split_once('-').unwrap();
        let Stored { key, metadata, lines } = self.clone();
        let first = first.parse().unwrap();
        let count = lines.len() as u64;
        let stream = stream.to_owned();
        let (is_cut, is_foreign) = (false, false);
        Object { key, stream, first, metadata, lines, is_cut, is_foreign, count }
    }
}

#[test]
fn both_verifiers_agree_on_its_buckets() {
    let cases: Cases = serde_json::from_str(include_str!("../../vectors/buckets.json")).unwrap();
    assert!(cases.cases.len() > 50);
    for case in &cases.cases {
        let objects = case.objects.iter().map(|place| match place {
            Place::Shared(at) => cases.objects[*at].object(),
            Place::Here(stored) => stored.object(),
        });
        let keys = case.keys.iter().map(|key| VerifierKey::parse(key).unwrap().into());
        let mut keys: Vec<TrustedKey> = keys.collect();
        for &(at, from, until) in &case.validity {
            keys[at].validity = from..until;
        }
        let bucket = Bucket::of(objects.collect(), keys);
        assert_eq!(named(&bucket.look(&case.look())), case.findings, "{}", case.name);
    }
}

/// Writes the buckets that the gate gives to the second verifier.
#[test]
fn buckets_are_written_for_the_second_verifier() {
    let Ok(file) = std::env::var("AUDIT_EVIDENCE_CASES") else { return };
    let mut cases = Vec::new();
    for (seed, bucket) in super::buckets().enumerate() {
        cases.push(Case::new("nothing is changed", &bucket, &Look::full()));
        for mutation in mutations::ALL {
            let Some((changed, expected)) = mutation.apply(&bucket, seed as u64) else { continue };
            // The second verifier reads all lines, and expects each to end in a line feed.
            let is_cut = changed.objects.iter().any(|object| object.is_cut);
            if expected.look.reads_lines && !is_cut {
                cases.push(Case::new(mutation.name, &changed, &expected.look));
            }
        }
    }
    let cases = Cases { objects: Vec::new(), cases };
    std::fs::write(file, serde_json::to_string(&cases).unwrap()).unwrap();
}
