//! The vectors that `tests/vectors/make.py` wrote.

use std::collections::BTreeMap;

use audit_evidence::{Hash, ObjectHead, SignerKey, VerifierKey};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Vectors {
    pub(crate) trees: Vec<TreeVector>,
    pub(crate) stream: String,
    pub(crate) host: KeyVector,
    pub(crate) stream_key: KeyVector,
    pub(crate) witness: KeyVector,
    pub(crate) objects: Vec<ObjectVector>,
    pub(crate) cosigned: Cosigned,
}

#[derive(Deserialize)]
pub(crate) struct TreeVector {
    pub(crate) size: u64,
    pub(crate) root: String,
    pub(crate) inclusion: String,
    pub(crate) consistency: String,
}

#[derive(Deserialize)]
pub(crate) struct KeyVector {
    pub(crate) verifier: String,
    pub(crate) signer: String,
}

#[derive(Deserialize, Clone)]
pub(crate) struct ObjectVector {
    pub(crate) key: String,
    pub(crate) lines: Vec<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) proofs: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Cosigned {
    pub(crate) time: u64,
    pub(crate) note: String,
}

impl Vectors {
    pub(crate) fn read() -> Vectors {
        serde_json::from_str(include_str!("../vectors/vectors.json")).unwrap()
    }
}

impl KeyVector {
    pub(crate) fn verifier(&self) -> VerifierKey {
        VerifierKey::parse(&self.verifier).unwrap()
    }

    pub(crate) fn signer(&self) -> SignerKey {
        SignerKey::parse(&self.signer).unwrap()
    }
}

impl ObjectVector {
    pub(crate) fn head(&self, stream: &str) -> ObjectHead {
        ObjectHead::from_metadata(stream, |name| self.metadata.get(name).map(String::as_str))
            .unwrap()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(String::as_bytes)
    }
}

pub(crate) fn leaf(index: u64) -> Hash {
    Hash::leaf(&[format!("entry {index}").as_bytes()])
}
