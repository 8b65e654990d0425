//! Everything that a host writes verifies, in any order of encoding.

use audit_evidence::{
    BucketReport, CheckedObject, CompactRange, Context, Hash, InvalidKey, KeyKind, Known,
    MAX_NAME_CHARS, MAX_STREAM_RECORDS, ObjectHasher, SignerKey, State, StreamSigner,
    StreamVerifier, Trust, is_host_name,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const STREAM: &str = "01M86YQH3BN92MTRKE2RS1CKJ5";

fn host(name: &str) -> SignerKey {
    SignerKey::from_seed(name, KeyKind::Ed25519, &[1; 32]).unwrap()
}

#[derive(Debug)]
struct Object {
    key: String,
    first: u64,
    stable: u64,
    seed: [u8; 32],
    lines: Vec<String>,
}

/// Objects of a stream, with `stable` below their first record.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let lines = prop::collection::vec("[^\n]{0,40}", 1..9);
    prop::collection::vec((lines, any::<[u8; 32]>(), 0.0..1.0f64), 1..12).prop_map(|objects| {
        let mut first = 0;
        let place = |(lines, seed, share): (Vec<String>, _, f64)| {
            let key = format!("dt=2026-11-24/hour=14/{STREAM}-{first:012}.ndjson.zst");
            let stable = (first as f64 * share) as u64;
            let object = Object { key, first, stable, seed, lines };
            first += object.lines.len() as u64;
            object
        };
        objects.into_iter().map(place).collect()
    })
}

proptest! {
    #[test]
    fn written_streams_verify(objects in objects(), pieces in 1..5usize, restart in any::<bool>()) {
        let host = host("example.com/api");
        let mut signer = StreamSigner::new(&host, STREAM, &[2; 32]).unwrap();
        // The last object first: only the seal depends on earlier objects.
        let hashed: Vec<_> = objects.iter().rev().map(|object| {
            let mut hasher = ObjectHasher::new(&object.key, object.first, object.stable, object.seed);
            for lines in object.lines.chunks(pieces) {
                hasher.lines(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes());
            }
            hasher.finish()
        }).collect();
        let (mut before, mut one_by_one) = (CompactRange::default(), CompactRange::default());
        let trust = Trust::new([host.verifier().clone()]);
        let mut verifier = StreamVerifier::new(STREAM, Known::default());
        for (object, hashed) in objects.iter().zip(hashed.iter().rev()) {
            let (head, after) = signer.seal(before, hashed);
            let whole: String = object.lines.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(head.sha256, <[u8; 32]>::from(Sha256::digest(whole)));
            let tree = head.tree(&object.key, object.lines.iter().map(|line| line.as_bytes()));
            prop_assert_eq!(tree.map(|tree| tree.root()), Ok(head.root));
            let salts = audit_evidence::Salts::new(&object.key, object.stable, &object.seed);
            for line in &object.lines {
                one_by_one.push(salts.leaf(one_by_one.end(), line.as_bytes()));
            }
            prop_assert_eq!(&after, &one_by_one);
            let metadata = head.to_metadata();
            // Stores may drop empty values.
            let get = |name: &str| {
                let value = metadata.iter().find(|(known, _)| *known == name);
                value.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
            };
            let checked = CheckedObject::head(&trust, &object.key, STREAM, object.first, get);
            verifier.add(checked.lines(object.lines.iter().map(|line| line.as_bytes()), &[]));
            before = after;
            // Continuing the stream needs its key, not the host's.
            if restart {
                signer = StreamSigner::parse(STREAM, &signer.to_secret_text()).unwrap();
            }
        }
        let report = verifier.finish();
        prop_assert_eq!((report.size, report.root), (before.end(), before.root()));
        let state = State::default();
        let context = Context { state: &state, names: &[], retained_since: None, now: 0 };
        let report = BucketReport::new(vec![report], context);
        prop_assert_eq!(report.findings, []);
    }

    #[test]
    fn ranges_join_like_leaves_appended(sizes in prop::collection::vec(0..70u64, 1..6)) {
        let leaf = |number: u64| Hash::leaf(&[&number.to_be_bytes()]);
        let (mut joined, mut expected) = (CompactRange::default(), CompactRange::default());
        for size in sizes {
            let mut part = CompactRange::new(joined.end());
            for _ in 0..size {
                expected.push(leaf(expected.end()));
                part.push(leaf(part.end()));
            }
            joined = joined.join(&part).unwrap();
            prop_assert_eq!(&joined, &expected);
            prop_assert_eq!(joined.clone().join(&CompactRange::new(joined.end() + 1)), None);
        }
    }
}

#[test]
fn metadata_fits_the_limit_of_s3() {
    let name = "n".repeat(MAX_NAME_CHARS);
    let signer = StreamSigner::new(&host(&name), STREAM, &[2; 32]).unwrap();
    // The size with the most one bits has the range with the most hashes.
    let first = MAX_STREAM_RECORDS - 1;
    let before = CompactRange::from_hashes(first, &[Hash::empty(); 28]).unwrap();
    let mut hasher = ObjectHasher::new("key", first, first, [0xff; 32]);
    hasher.lines(b"{}\n");
    let (head, _) = signer.seal(before, &hasher.finish());
    let metadata = head.to_metadata();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= 2_048 - 200, "{bytes} bytes, with room for what a client adds");
    let is_header = |value: &str| value.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(metadata.iter().all(|(_, value)| is_header(value)));
}

#[test]
fn host_names_fit_in_headers() {
    for name in ["a", "example.com/api", &"n".repeat(MAX_NAME_CHARS)] {
        assert!(is_host_name(name), "{name}");
        assert!(StreamSigner::new(&host(name), STREAM, &[2; 32]).is_ok());
    }
    for name in ["", "a b", "a+b", "Zoë", "a\n", &"n".repeat(MAX_NAME_CHARS + 1)] {
        assert!(!is_host_name(name), "{name}");
    }
    for name in ["Zoë", &"n".repeat(MAX_NAME_CHARS + 1)] {
        let signer = StreamSigner::new(&host(name), STREAM, &[2; 32]);
        assert_eq!(signer.unwrap_err(), InvalidKey::Name);
    }
}

#[test]
fn stream_keys_round_trip_and_stay_hidden() {
    let signer = StreamSigner::new(&host("example.com/api"), STREAM, &[2; 32]).unwrap();
    let text = signer.to_secret_text();
    let secret = text.lines().nth(1).unwrap().rsplit('+').next().unwrap();
    assert!(!format!("{signer:?}").contains(secret));
    assert_eq!(StreamSigner::parse(STREAM, &text).unwrap().to_secret_text(), text);
    for end in 0..text.len() {
        let error = StreamSigner::parse(STREAM, &text[..end]).unwrap_err();
        assert!(!error.to_string().contains(secret));
    }
    assert!(StreamSigner::parse("01M86YQH3BN92MTRKE2RS1CKJ6", &text).is_err());
    assert!(StreamSigner::parse(STREAM, &format!("{text}\n")).is_err());
}
