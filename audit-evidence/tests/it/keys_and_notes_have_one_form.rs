//! Keys, notes, cosignatures and proofs are written like the second implementation writes them, and
//! parsed only in that form.

use audit_evidence::{
    Checkpoint, InvalidKey, KeyKind, Note, Proof, ProofError, Salts, SignerKey, VerifierKey,
};
use proptest::prelude::*;

use crate::vectors::Vectors;

#[test]
fn keys_round_trip() {
    let vectors = Vectors::read();
    for key in [&vectors.host, &vectors.stream_key, &vectors.witness] {
        assert_eq!(key.verifier().to_string(), key.verifier);
        assert_eq!(key.signer().to_secret_text(), key.signer);
        assert_eq!(key.signer().verifier().to_string(), key.verifier);
        assert!(!format!("{:?}", key.signer()).contains(key.signer.rsplit('+').next().unwrap()));
    }
}

#[test]
fn malformed_keys_are_rejected() {
    let vectors = Vectors::read();
    let key = &vectors.host.verifier;
    let (rest, bytes) = key.rsplit_once('+').unwrap();
    let (name, id) = rest.split_once('+').unwrap();
    let refused = [
        format!("{name}+{id}"),
        format!("{name}+{}+{bytes}", id.to_uppercase()),
        format!("{name}+0{id}+{bytes}"),
        format!("{name}+00000000+{bytes}"),
        format!("other+{id}+{bytes}"),
        format!("+{id}+{bytes}"),
        format!("a b+{id}+{bytes}"),
        format!("{key}\n"),
        format!(" {key}"),
        key.trim_end_matches('=').to_owned(),
        // The kind is part of the id, and other kinds are not supported.
        format!("{name}+{id}+Bg{}", &bytes[2..]),
        String::new(),
    ];
    for text in refused.iter().filter(|text| *text != key) {
        assert!(VerifierKey::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn keys_of_small_order_are_rejected() {
    // The points whose order divides 8, in their canonical encodings and in others, which RFC 8032
    // does not decode, from "Taming the many EdDSAs" (Chalkias and others, 2020).
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for bytes in [[0; 32], identity, minus_one] {
        let key = VerifierKey::new("name", KeyKind::Ed25519, &bytes);
        assert_eq!(key.unwrap_err(), InvalidKey::Point, "{bytes:?}");
    }
}

#[test]
fn cosignatures_match_the_vectors() {
    let vectors = Vectors::read();
    let (stream, witness) = (vectors.stream_key.signer(), vectors.witness.signer());
    let parsed = Note::parse(&vectors.cosigned.note).unwrap();
    let checkpoint = Checkpoint::parse(parsed.text()).unwrap();
    let mut note = checkpoint.to_note();
    note.sign(&stream);
    note.add(checkpoint.cosign(&witness, vectors.cosigned.time));
    assert_eq!(note.to_string(), vectors.cosigned.note);
    assert_eq!(parsed, note);
    assert_eq!(note.verify(stream.verifier()), Ok(true));
    assert_eq!(note.verify(witness.verifier()), Ok(true));
    assert_eq!(note.verify(&vectors.host.verifier()), Ok(false));
    assert_eq!(note.signatures()[1].cosigned_at(), Some(vectors.cosigned.time));
    let other_time = checkpoint.cosign(&witness, vectors.cosigned.time + 1);
    assert_ne!(other_time, note.signatures()[1]);
}

#[test]
fn proofs_match_the_vectors_and_verify() {
    let vectors = Vectors::read();
    for object in &vectors.objects {
        let head = object.head(&vectors.stream);
        let tree = head.tree(&object.key, object.lines()).unwrap();
        let salts = Salts::new(&object.key, head.stable, &head.seed);
        for text in &object.proofs {
            let proof = Proof::parse(text).unwrap();
            assert_eq!(&proof.to_string(), text);
            let (index, path) = (proof.index(), tree.inclusion(proof.index()).unwrap());
            let made = Proof::new(Some(&salts.salt(index)), index, path, head.note()).unwrap();
            assert_eq!(made, proof);
            let line = object.lines[(index - head.first) as usize].as_bytes();
            proof.verify_path(&salts.leaf(index, line)).unwrap();
            assert!(proof.verify_path(&salts.leaf(index + 1, line)).is_err());
            assert_eq!(proof.verify_record(line), Ok(()));
            // The same leaf, with a part of the record in the salt.
            let salt = [&salts.salt(index)[..], &line[..1]].concat();
            let path = tree.inclusion(index).unwrap();
            let shifted = Proof::new(Some(&salt), index, path, head.note()).unwrap();
            assert!(shifted.verify_path(&salts.leaf(index, line)).is_ok());
            assert!(matches!(shifted.verify_record(&line[1..]), Err(ProofError::Form(_))));
            assert_eq!(proof.note().verify(&vectors.stream_key.verifier()), Ok(true));
            assert!(text.len() <= 1_536, "a proof has {} bytes", text.len());
        }
    }
}

#[test]
fn a_forged_signature_beside_a_valid_one_is_an_error() {
    let vectors = Vectors::read();
    let stream = vectors.stream_key.verifier();
    let mut note = Note::parse(&vectors.cosigned.note).unwrap();
    let other = SignerKey::from_seed("another", KeyKind::Ed25519, &[9; 32]).unwrap();
    note.sign(&other);
    assert_eq!(note.verify(&stream), Ok(true), "signatures of unknown keys are ignored");
    let mut bytes = note.signatures()[0].bytes().to_vec();
    bytes[7] ^= 1;
    note.add(audit_evidence::NoteSignature::new(&stream, &bytes));
    assert!(note.verify(&stream).is_err());
}

#[test]
fn malformed_notes_are_rejected() {
    let vectors = Vectors::read();
    let note = &vectors.cosigned.note;
    let line = note.lines().last().unwrap();
    let refused = [
        note.trim_end().to_owned(),
        note.replace("\n\n", "\n"),
        note.replace('—', "-"),
        format!("{note}\n"),
        format!("{note}{line} \n"),
        note.replacen('\n', "\r\n", 1),
        note.replacen('\n', "\u{1}\n", 1),
        format!("{note}— name \n"),
        format!("{note}— name AAAA\n"),
        format!("{note}—  AAAAAAA=\n"),
        format!("{note}— a+b AAAAAAA=\n"),
        format!("{note}{}", format!("{line}\n").repeat(Note::MAX_SIGNATURES)),
        "a".repeat(Note::MAX_BYTES + 1),
        String::new(),
    ];
    for text in &refused {
        assert!(Note::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn parsed_notes_round_trip(text in ".{0,40}(\n.{0,20}){0,6}", cut in 0usize..600) {
        let vectors = Vectors::read();
        let note = &vectors.cosigned.note;
        let cut = (0..=cut.min(note.len())).rev().find(|&at| note.is_char_boundary(at)).unwrap();
        for text in [text.clone(), format!("{}{text}", &note[..cut])] {
            if let Ok(parsed) = Note::parse(&text) {
                prop_assert_eq!(parsed.to_string(), text.clone());
            }
            if let Ok(parsed) = Checkpoint::parse(&text) {
                prop_assert_eq!(parsed.to_string(), text.clone());
            }
            if let Ok(parsed) = Proof::parse(&text) {
                prop_assert_eq!(parsed.to_string(), text.clone());
            }
        }
    }
}
