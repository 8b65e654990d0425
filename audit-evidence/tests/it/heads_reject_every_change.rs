//! An object's evidence rejects every change to its metadata, its records and its key.

use audit_evidence::{
    Certificate, CheckedObject, HeadError, KeyKind, Note, ObjectHead, Salts, Sidecar, SignerKey,
    Trust,
};

use crate::vectors::{ObjectVector, Vectors};

fn verify(vectors: &Vectors, object: &ObjectVector) -> Result<(), HeadError> {
    let get = |name: &str| object.metadata.get(name).map(String::as_str);
    let head = ObjectHead::from_metadata(&vectors.stream, get)?;
    head.verify(&vectors.host.verifier())?;
    head.tree(&object.key, object.lines()).map(|_| ())
}

#[test]
fn heads_match_the_vectors() {
    let vectors = Vectors::read();
    for object in &vectors.objects {
        assert_eq!(verify(&vectors, object), Ok(()), "{}", object.key);
        let head = object.head(&vectors.stream);
        let written: Vec<_> = head.to_metadata().into_iter().collect();
        assert_eq!(written.len(), object.metadata.len());
        let sidecar = Sidecar::parse(Sidecar::text(&head).as_bytes()).unwrap();
        let read = ObjectHead::from_metadata(&vectors.stream, |name| sidecar.get(name));
        assert_eq!(read.as_ref(), Ok(&head));
        for (name, value) in written {
            assert_eq!(object.metadata.get(name), Some(&value), "{name}");
        }
    }
    for pair in vectors.objects.windows(2) {
        let [earlier, later] = [0, 1].map(|at| pair[at].head(&vectors.stream));
        assert_eq!((later.before.end(), later.before.root()), (earlier.end(), Some(earlier.root)));
    }
}

/// A certificate that was found valid is not verified again. Any other certificate is.
#[test]
fn one_valid_certificate_admits_no_other() {
    let vectors = Vectors::read();
    let trust = Trust::new([vectors.host.verifier()]);
    let mut object = vectors.objects[1].clone();
    let check = |object: &ObjectVector| {
        let get = |name: &str| object.metadata.get(name).map(String::as_str);
        let first = object.head(&vectors.stream).first;
        let checked = CheckedObject::head(&trust, &object.key, &vectors.stream, first, get);
        checked.evidence().is_some()
    };
    assert!(check(&object) && check(&object));
    let other = vectors.objects[1].metadata["sig"].clone();
    object.metadata.insert("cert".to_owned(), other);
    assert!(!check(&object));
}

/// Fields outside the signature, which are checked when the object is read.
const UNSIGNED: [&str; 1] = ["sha256"];

#[test]
fn each_removed_or_altered_field_is_detected() {
    let vectors = Vectors::read();
    let object = &vectors.objects[3];
    for (name, value) in &object.metadata {
        let changed = |value: Option<String>| {
            let mut object = object.clone();
            match value {
                Some(value) => object.metadata.insert(name.clone(), value),
                None => object.metadata.remove(name),
            };
            verify(&vectors, &object)
        };
        let stripped = changed(None).unwrap_err();
        assert!(matches!(stripped, HeadError::Missing(missing) if missing == name), "{name}");
        for other in [format!(" {value}"), format!("{value}\n"), format!("0{value}"), String::new()]
        {
            assert!(changed(Some(other.clone())).is_err(), "{name}: {other:?}");
        }
        // Each character changed to another of its kind.
        for (at, byte) in value.bytes().enumerate() {
            let other = match byte {
                b'0'..=b'8' | b'a'..=b'e' | b'A'..=b'Y' | b'g'..=b'y' => byte + 1,
                b'9' | b'f' | b'Z' | b'z' => byte - 1,
                _ => continue,
            };
            let mut bytes = value.clone().into_bytes();
            bytes[at] = other;
            let other = String::from_utf8(bytes).unwrap();
            let is_unsigned = UNSIGNED.contains(&name.as_str());
            assert_eq!(changed(Some(other)).is_ok(), is_unsigned, "{name}, at {at}");
        }
        let neighbour = vectors.objects[2].metadata[name].clone();
        let is_same = neighbour == *value || UNSIGNED.contains(&name.as_str());
        assert_eq!(changed(Some(neighbour)).is_ok(), is_same, "{name} of a neighbour");
    }
}

/// Fields are checked in the order of docs/FORMAT.md, whatever is wrong with later fields.
#[test]
fn the_first_invalid_field_is_named() {
    let vectors = Vectors::read();
    let object = &vectors.objects[3];
    let invalid = [
        ("format", &["3", ""][..]),
        ("lastsequence", &["", "-1", "01", "268435456", "18446744073709551615"]),
        ("count", &["", "0", "1000000"]),
        ("sha256", &["", "00", "g"]),
        ("stable", &["", "+1"]),
        ("left", &["", "=", "AAAA"]),
        ("name", &["", "a+b"]),
        ("streamkey", &["", "AAAA"]),
        ("seed", &["", "AAAA"]),
        ("root", &["", "AAAA"]),
        ("sig", &["", "AAAA"]),
        ("cert", &["", "AAAA"]),
    ];
    for (at, (name, values)) in invalid.iter().enumerate() {
        for later in at..invalid.len() {
            for value in values.iter().map(Some).chain([None]) {
                let mut object = object.clone();
                for (gone, _) in &invalid[later..] {
                    object.metadata.remove(*gone);
                }
                let expected = match value {
                    Some(value) => {
                        object.metadata.insert((*name).to_owned(), (*value).to_owned());
                        HeadError::Malformed(name)
                    }
                    None => {
                        object.metadata.remove(*name);
                        HeadError::Missing(name)
                    }
                };
                assert_eq!(verify(&vectors, &object), Err(expected), "{name} {value:?} {later}");
            }
        }
    }
}

#[test]
fn each_change_to_the_records_is_detected() {
    let vectors = Vectors::read();
    let object = &vectors.objects[3];
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut object = object.clone();
        change(&mut object.lines);
        verify(&vectors, &object).unwrap_err()
    };
    for at in 0..object.lines.len() {
        assert_eq!(changed(&|lines| lines[at].push(' ')), HeadError::Root);
        assert_eq!(changed(&|lines| lines[at].push('\r')), HeadError::Root);
        assert_eq!(changed(&|lines| drop(lines.remove(at))), HeadError::Count);
        assert_eq!(changed(&|lines| lines.insert(at, lines[at].clone())), HeadError::Count);
        if at > 0 {
            assert_eq!(changed(&|lines| lines.swap(at - 1, at)), HeadError::Root);
        }
    }
    assert_eq!(changed(&Vec::clear), HeadError::Count);
}

#[test]
fn objects_under_other_keys_are_detected() {
    let vectors = Vectors::read();
    let key = &vectors.objects[3].key;
    for other in [key.replace("24", "25"), key.replace("hour=14", "hour=15"), format!("x/{key}")] {
        let mut object = vectors.objects[3].clone();
        object.key = other;
        assert_eq!(verify(&vectors, &object), Err(HeadError::Root));
    }
}

#[test]
fn other_hosts_streams_and_keys_are_rejected() {
    let vectors = Vectors::read();
    let head = vectors.objects[3].head(&vectors.stream);
    for (name, seed) in [("example.com/api", [7; 32]), ("example.com", [1; 32])] {
        let other = SignerKey::from_seed(name, KeyKind::Ed25519, &seed).unwrap();
        assert_eq!(head.verify(other.verifier()), Err(HeadError::Certificate), "{name}");
    }
    let get = |name: &str| vectors.objects[3].metadata.get(name).map(String::as_str);
    let other = ObjectHead::from_metadata("01M86YQH3BN92MTRKE2RS1CKJ6", get).unwrap();
    assert_eq!(other.verify(&vectors.host.verifier()), Err(HeadError::Certificate));
}

#[test]
fn a_stream_has_at_most_2_to_the_28_records() {
    let vectors = Vectors::read();
    let mut object = vectors.objects[0].clone();
    for (last, is_allowed) in [(1 << 28, false), ((1 << 28) - 1, true), (u64::MAX, false)] {
        object.metadata.insert("lastsequence".to_owned(), last.to_string());
        let left = vec![0; 32 * (last & ((1 << 28) - 1)).count_ones() as usize];
        object.metadata.insert("left".to_owned(), base64(&left));
        let get = |name: &str| object.metadata.get(name).map(String::as_str);
        assert_eq!(ObjectHead::from_metadata(&vectors.stream, get).is_ok(), is_allowed, "{last}");
    }
    // The largest metadata, with the longest name, fits the limit of S3: 2 KB of names and values.
    object.metadata.insert("lastsequence".to_owned(), ((1u64 << 28) - 1).to_string());
    object.metadata.insert("left".to_owned(), base64(&[0; 28 * 32]));
    object.metadata.insert("name".to_owned(), "n".repeat(64));
    object.metadata.insert("stable".to_owned(), (1u64 << 28).to_string());
    let head = object.head(&vectors.stream);
    let bytes: usize =
        head.to_metadata().iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= 2_048, "{bytes} bytes");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn certificates_below_notes_name_their_host() {
    let vectors = Vectors::read();
    let head = vectors.objects[3].head(&vectors.stream);
    let mut note = head.note();
    note.add(head.certificate.to_note_signature());
    let note = Note::parse(&note.to_string()).unwrap();
    let host = vectors.host.verifier();
    let found = Certificate::find(&note, &host).unwrap();
    assert_eq!(found, head.certificate);
    assert_eq!(note.verify(found.stream_key()), Ok(true));
    // A verifier with other keys skips the line as one of an unknown key.
    assert_eq!(note.verify(&host), Ok(false));
    let thief = SignerKey::from_seed(host.name(), KeyKind::Ed25519, &[7; 32]).unwrap();
    assert_eq!(Certificate::find(&note, thief.verifier()), None);
    let moved = note.to_string().replace(&vectors.stream, "01M86YQH3BN92MTRKE2RS1CKJ6");
    assert_eq!(Certificate::find(&Note::parse(&moved).unwrap(), &host), None);
    assert_eq!(Certificate::find(&head.note(), &host), None);
}

/// The record behind a hash cannot be guessed without the object.
#[test]
fn hashes_depend_on_the_seed() {
    let leaf = |key, stable, seed: [u8; 32], number| {
        Salts::new(key, stable, &seed).leaf(number, b"{\"user\":\"ada\"}")
    };
    let leaves = [
        leaf("a", 0, [1; 32], 0),
        leaf("a", 0, [2; 32], 0),
        leaf("b", 0, [1; 32], 0),
        leaf("a", 1, [1; 32], 0),
        leaf("a", 0, [1; 32], 1),
    ];
    for (n, one) in leaves.iter().enumerate() {
        assert!(leaves[n + 1..].iter().all(|other| other != one));
    }
    assert_eq!(leaf("a", 0, [1; 32], 0), leaves[0]);
}
