//! An auditor with the host's public key and the objects of the bucket.

use std::collections::{BTreeMap, BTreeSet};

use audit_evidence::{
    Alarm, BucketReport, CheckedObject, Context, Known, Sidecar, State, StreamVerifier, Trust,
    VerifierKey,
};
use audit_sink_s3::layout::ObjectKey;

use super::{Objects, Stored, lines_of};

/// Acknowledged records, by stream.
pub type Acknowledged = Vec<(String, std::ops::Range<u64>)>;

/// Verifies all objects below `prefix`, at the time `now` in milliseconds since the Unix epoch.
/// Everything written must still be retained.
pub fn verify(
    prefix: &str,
    objects: &Objects,
    host: &VerifierKey,
    acknowledged: &Acknowledged,
    now: u64,
) -> BucketReport {
    verify_again(&mut Checked::new(), prefix, objects, host, acknowledged, now)
}

/// Objects as they were when they were checked, by path.
pub type Checked = BTreeMap<String, (Stored, CheckedObject)>;

/// As [`verify`], without checking again the objects in `checked` that are still the same.
pub fn verify_again(
    checked: &mut Checked,
    prefix: &str,
    objects: &Objects,
    host: &VerifierKey,
    acknowledged: &Acknowledged,
    now: u64,
) -> BucketReport {
    let trust = Trust::new([host.clone()]);
    let mut streams = BTreeMap::<String, Vec<(u64, &str, &Stored)>>::new();
    for (path, stored) in objects {
        let key = path.strip_prefix(prefix).unwrap();
        let Ok(parsed) = key.parse::<ObjectKey>() else {
            assert!(key.starts_with("_audit/"), "{path} is foreign");
            continue;
        };
        let objects = streams.entry(parsed.stream().to_string()).or_default();
        objects.push((parsed.first_sequence(), key, stored));
    }
    let reports = streams.into_iter().map(|(stream, mut list)| {
        list.sort_by_key(|(first, key, _)| (*first, *key));
        let receipts = acknowledged.iter().filter(|(of, _)| *of == stream);
        let receipts = receipts.map(|(_, records)| records.clone()).collect();
        let known = Known { acknowledged: receipts, retained_since: Some(0), seen: None };
        let mut verifier = StreamVerifier::new(&stream, known);
        for (first, key, stored) in list {
            if let Some((as_checked, object)) = checked.get(key)
                && as_checked == stored
            {
                verifier.add(object.clone());
                continue;
            }
            let sidecar = match &stored.metadata {
                Some(_) => None,
                None => objects
                    .get(&format!("{prefix}{}", Sidecar::key_of(key)))
                    .and_then(|sidecar| Sidecar::parse(&sidecar.bytes)),
            };
            let get = |name: &str| match &stored.metadata {
                Some(metadata) => metadata.get(name).map(String::as_str),
                None => sidecar.as_ref().and_then(|sidecar| sidecar.get(name)),
            };
            let mut object = CheckedObject::head(&trust, key, &stream, first, get);
            // Foreign content need not be a valid object.
            if object.evidence().is_some() {
                let lines = lines_of(key, stored).unwrap();
                let lines = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
                object = object.lines(lines, &[]);
            }
            // A sidecar may change by itself.
            if sidecar.is_none() {
                checked.insert(key.to_owned(), (stored.clone(), object.clone()));
            }
            verifier.add(object);
        }
        verifier.finish()
    });
    let (state, retained_since) = (State::default(), Some(0));
    let context = Context { state: &state, names: &[], retained_since, now };
    BucketReport::new(reports.collect(), context)
}

/// The findings that neither a crash nor foreign objects explain.
pub fn tampered(report: &BucketReport, foreign: &BTreeSet<String>) -> Vec<String> {
    let is_foreign = |object: &String| foreign.contains(object);
    let findings = report.findings.iter().filter(|finding| {
        finding.alarm() == Alarm::Tampered && !finding.object.as_ref().is_some_and(is_foreign)
    });
    findings.map(|finding| format!("{finding:?}")).collect()
}
