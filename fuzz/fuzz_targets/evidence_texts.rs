//! Notes, checkpoints, proofs, keys, policies, requests to a witness and its responses: any text
//! that parses is written back unchanged, so that each value has a single text.
#![no_main]

use audit_evidence::{
    AddCheckpoint, Checkpoint, Note, Policy, Proof, SignerKey, VerifierKey, WitnessResponse,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Policy::parse(bytes);
    let responses = [200, 409].map(|status| WitnessResponse::parse(status, bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let [cosigned, other_size] = responses;
    if let WitnessResponse::Cosigned(lines) = cosigned {
        assert_eq!(lines.iter().map(|line| format!("{line}\n")).collect::<String>(), text);
    }
    if let WitnessResponse::OtherSize(size) = other_size {
        assert_eq!(format!("{size}\n"), text);
    }
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
    }
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_string(), text);
    }
    if let Ok(proof) = Proof::parse(text) {
        assert_eq!(proof.to_string(), text);
    }
    if let Ok(request) = AddCheckpoint::parse(text) {
        assert_eq!(request.to_string(), text);
    }
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = SignerKey::parse(text) {
        assert_eq!(key.to_secret_text(), text);
    }
});
