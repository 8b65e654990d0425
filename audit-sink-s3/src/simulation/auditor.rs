//! An auditor with the host's public key, who verifies the bucket after every opening.

use std::collections::BTreeMap;

use audit_evidence::{
    Alarm, BucketReport, CheckedObject, Context, Fault, Hash, KeyKind, Known, Remembered,
    SignerKey, State, StreamVerifier, Trust,
};
use audit_journal::simulation::bucket::{Shown, Stored};

use super::reading::{Key, lines_of};
use crate::EvidenceSettings;

const NAME: &str = "simulated/host";

/// Settings whose intervals are short enough for a simulation of minutes.
pub(super) fn settings() -> EvidenceSettings {
    EvidenceSettings {
        heartbeat_ms: 20_000,
        idle_heartbeat_ms: 40_000,
        max_stream_ms: 200_000,
        ..EvidenceSettings::new(NAME)
    }
}

pub(super) fn host_key() -> SignerKey {
    SignerKey::from_seed(NAME, KeyKind::Ed25519, &[7; 32]).unwrap()
}

/// Reads all objects of the host, and compares them with what a witness was shown. Returns the
/// findings that a crash does not explain. Streams without evidence belong to openings that wrote
/// none.
pub(super) fn verify(
    objects: &BTreeMap<String, Stored>,
    shown: &Shown,
    is_whole: bool,
) -> Result<(), String> {
    let trust = Trust::new([host_key().verifier().clone()]);
    let mut streams = BTreeMap::<String, Vec<(u64, &str, &Stored)>>::new();
    for (path, stored) in objects {
        let key = Key::read(path)?;
        streams.entry(key.stream.to_owned()).or_default().push((key.first, path, stored));
    }
    if let Some(stream) = shown.keys().find(|stream| !streams.contains_key(*stream)) {
        return Err(format!("a witness saw stream {stream}, which is not there"));
    }
    let mut reports = Vec::new();
    for (stream, mut list) in streams {
        list.sort_by_key(|(first, key, _)| (*first, *key));
        let remembered = shown.get(&stream).and_then(BTreeMap::last_key_value);
        let remembered = remembered.map(|(size, root)| {
            let root = Hash::from_base64(root).unwrap();
            Remembered { size: *size, root, has_ended: false }
        });
        let known = Known { seen: remembered, retained_since: Some(0), ..Known::default() };
        let mut verifier = StreamVerifier::new(&stream, known);
        for (first, key, stored) in list {
            let get = |name: &str| stored.attributes.get(name).map(String::as_str);
            let checked = CheckedObject::head(&trust, key, &stream, first, get);
            if checked.evidence().is_none() {
                verifier.add(checked);
                continue;
            }
            let lines = lines_of(&stored.bytes, Key::read(key)?.zstd)?;
            let lines = lines.iter().map(|line| line.strip_suffix(b"\n").unwrap_or(line));
            verifier.add(checked.lines(lines, &[]));
        }
        reports.push(verifier.finish());
    }
    let (state, retained_since) = (State::default(), Some(0));
    let context = Context { state: &state, names: &[], retained_since, now: u64::MAX };
    let report = BucketReport::new(reports, context);
    let is_excused = |fault: &Fault| {
        matches!(fault, Fault::NoEvidence | Fault::SetAside { .. })
            || !is_whole && fault.alarm() != Alarm::Tampered
    };
    let mut findings = report.findings.iter();
    match findings.find(|finding| !is_excused(&finding.fault)) {
        Some(finding) => Err(format!("the auditor finds {finding:?}")),
        None => Ok(()),
    }
}
