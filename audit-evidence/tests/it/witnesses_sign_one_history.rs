//! A witness cosigns consistent checkpoints, and rejects everything else with the status in
//! tlog-witness.

use audit_evidence::{
    AddCheckpoint, Checkpoint, CompactRange, Hash, KeyKind, Note, SignerKey, Witnessed,
};

use crate::vectors::leaf;

fn log() -> SignerKey {
    SignerKey::from_seed("example.com/log", KeyKind::Ed25519, &[5; 32]).unwrap()
}

fn range(begin: u64, end: u64) -> CompactRange {
    let mut range = CompactRange::new(begin);
    (begin..end).for_each(|index| range.push(leaf(index)));
    range
}

fn note(size: u64, root: Hash) -> Note {
    let mut note = Checkpoint::new(log().verifier().name(), size, root).unwrap().to_note();
    note.sign(&log());
    note
}

fn witnessed(size: u64) -> Witnessed {
    Witnessed { size, root: range(0, size).root().unwrap() }
}

/// An honest log's request, from one size to another.
fn request(old: u64, size: u64) -> AddCheckpoint {
    let path = range(0, old).consistency(&range(old, size)).unwrap();
    AddCheckpoint::new(old, path, note(size, range(0, size).root().unwrap())).unwrap()
}

#[test]
fn consistent_checkpoints_are_cosigned() {
    let key = log();
    for (old, size) in [(0, 0), (0, 1), (0, 9), (1, 9), (6, 9), (8, 9), (9, 9)] {
        let request = request(old, size);
        assert_eq!(AddCheckpoint::parse(&request.to_string()), Ok(request.clone()));
        let latest = Some(witnessed(old)).filter(|latest| latest.size > 0);
        assert_eq!(request.check(Some(key.verifier()), latest), Ok(witnessed(size)));
    }
}

#[test]
fn refusals_have_their_status() {
    let key = log();
    let other = SignerKey::from_seed("example.com/other", KeyKind::Ed25519, &[5; 32]).unwrap();
    let thief = SignerKey::from_seed("example.com/log", KeyKind::Ed25519, &[6; 32]).unwrap();
    let fork = AddCheckpoint::new(9, vec![], note(9, leaf(0))).unwrap();
    let forged = AddCheckpoint::new(6, vec![leaf(1)], note(9, leaf(0))).unwrap();
    let shrunk = AddCheckpoint::new(9, vec![], note(6, leaf(0))).unwrap();
    let cases = [
        (request(6, 9), None, Some(witnessed(6)), 404),
        (request(6, 9), Some(&other), Some(witnessed(6)), 404),
        (request(6, 9), Some(&thief), Some(witnessed(6)), 403),
        (shrunk, Some(&key), Some(witnessed(9)), 400),
        (request(6, 9), Some(&key), Some(witnessed(7)), 409),
        (request(6, 9), Some(&key), None, 409),
        (fork, Some(&key), Some(witnessed(9)), 409),
        (forged, Some(&key), Some(witnessed(6)), 422),
    ];
    for (request, key, latest, status) in cases {
        let refusal = request.check(key.map(SignerKey::verifier), latest).unwrap_err();
        assert_eq!(refusal.status(), status, "{refusal}");
    }
    let asked = request(6, 9).check(Some(key.verifier()), Some(witnessed(7))).unwrap_err();
    assert_eq!(asked.to_string(), "the proof must start from size 7, which was cosigned last");
}

#[test]
fn malformed_requests_have_status_400() {
    let valid = request(6, 9).to_string();
    let hash = leaf(0).to_string();
    for body in [
        valid.replacen("old 6", "old 06", 1),
        valid.replacen("old 6", "new 6", 1),
        valid.replacen("old 6\n", &format!("old 6\n{}\n", &hash[1..]), 1),
        valid.replacen("old 6\n", &format!("old 6\n{}", format!("{hash}\n").repeat(64)), 1),
        valid.replacen("\n9\n", "\nnine\n", 1),
        valid.replacen("\n\n", "\n", 1),
        String::new(),
    ] {
        assert_eq!(AddCheckpoint::parse(&body).unwrap_err().status(), 400, "{body}");
    }
}
