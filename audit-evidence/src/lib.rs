//! Evidence: what outsiders can verify about an audit log with public keys alone.
//!
//! The records of a stream are the leaves of one Merkle tree (RFC 6962). Each object in the bucket
//! carries the root up to its last record, signed by the stream, and the hashes of the records
//! before it. So each object verifies on its own, each record has a short proof, and two histories
//! of one stream cannot pass for one. The nouns:
//!
//! - [`struct@Hash`], [`CompactRange`], [`Tree`]: trees, reduced to the hashes that are needed.
//!   [`verify_inclusion`] and [`verify_consistency`] check proofs.
//! - [`SignerKey`], [`VerifierKey`]: Ed25519 keys with names.
//! - [`Note`], [`Checkpoint`]: a signed text, and the signed size and root of a tree.
//! - [`Proof`]: a record's inclusion in a checkpoint, as a file that can be checked offline.
//! - [`ObjectHead`], [`Salts`], [`Certificate`]: an object's evidence, how its records become
//!   leaves, and the host's signature of a stream's key.
//! - [`Sidecar`]: an object's evidence as a file, for stores without metadata.
//! - [`StreamSigner`], [`ObjectHasher`]: the writer's side, for hosts.
//! - [`SystemRecord`]: a host's statement about a stream, within the stream.
//! - [`CheckedObject`], [`StreamVerifier`], [`BucketReport`]: the auditor's side. Each [`Finding`]
//!   has a kind of [`Alarm`]; [`State`] is what is remembered between verifications.
//! - [`Policy`]: trusted logs and witnesses. [`AddCheckpoint`]: a witness's decision.
//!   [`Submitter`]: what a host submits to a witness.
//!
//! Formats are those of C2SP where one exists: signed-note, tlog-checkpoint, tlog-cosignature,
//! tlog-proof, tlog-policy, tlog-witness. Keys are Ed25519 and hashes SHA-256.
//!
//! This crate does no I/O and uses no clock or randomness: seeds and times are parameters. It
//! depends on no other crate of the workspace.
//!
//! # Example
//!
//! A host seals an object of two records; an auditor verifies it and proves one of them.
//!
//! ```
//! use audit_evidence::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Seeds are random; these are for the example.
//! let host = SignerKey::from_seed("example.com/api", KeyKind::Ed25519, &[1; 32])?;
//! let stream = "01M86YQH3BN92MTRKE2RS1CKJ5";
//! let signer = StreamSigner::new(&host, stream, &[2; 32])?;
//!
//! let key = format!("dt=2026-11-24/hour=14/{stream}-000000000000.ndjson.zst");
//! let lines: [&[u8]; 2] = [br#"{"action":"view"}"#, br#"{"action":"edit"}"#];
//! let mut hasher = ObjectHasher::new(&key, 0, 0, [3; 32]);
//! for line in lines {
//!     hasher.lines(&[line, b"\n"].concat());
//! }
//! let (head, _) = signer.seal(CompactRange::default(), &hasher.finish());
//!
//! // An auditor has the object, its metadata, and the host's public key.
//! let metadata = head.to_metadata();
//! let get = |name: &str| metadata.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
//! let read = ObjectHead::from_metadata(stream, get)?;
//! read.verify(host.verifier())?;
//! let tree = read.tree(&key, lines)?;
//!
//! let path = tree.inclusion(1).ok_or("the record is in the object")?;
//! let salts = Salts::new(&key, read.stable, &read.seed);
//! let proof = Proof::new(Some(&salts.salt(1)), 1, path, read.note())?;
//! let stream_key = read.certificate.stream_key();
//! proof.verify_record(lines[1])?;
//! assert_eq!(proof.note().verify(stream_key), Ok(true));
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod hash;
mod key;
mod note;
mod object;
mod policy;
mod proof;
mod range;
mod sidecar;
mod submission;
mod system;
mod tree;
mod verify;
mod witness;
mod writer;

pub use checkpoint::{Checkpoint, InvalidCheckpoint};
pub use hash::{Hash, InvalidBase64};
pub use key::{InvalidKey, KeyKind, SignerKey, VerifierKey};
pub use note::{InvalidNote, InvalidSignature, Note, NoteSignature};
pub use object::{
    Certificate, HeadError, MAX_NAME_CHARS, MAX_STREAM_RECORDS, ObjectHead, Salts, is_host_name,
    origin,
};
pub use policy::{InvalidPolicy, Policy, PolicyError};
pub use proof::{Proof, ProofError};
pub use range::{CompactRange, Tree, WrongHashCount};
pub use sidecar::Sidecar;
pub use submission::{SubmissionError, Submitter, WitnessResponse};
pub use system::{InvalidSystemRecord, StreamEnd, SystemRecord};
pub use tree::{InvalidProof, verify_consistency, verify_inclusion};
pub use verify::{
    Alarm, BucketReport, CheckedObject, Context, Fault, Finding, InvalidState, Known, LineCheck,
    Remembered, State, StreamReport, StreamVerifier, Trust, TrustedKey,
};
pub use witness::{AddCheckpoint, Refusal, Witnessed};
pub use writer::{HashedObject, ObjectHasher, StreamSigner};
