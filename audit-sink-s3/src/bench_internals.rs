//! Single steps of the sink, for the benchmarks only: they may change at any time.
#![allow(missing_debug_implementations, reason = "nobody looks at them")]

use audit_core::UniqueId;
use audit_evidence::{CompactRange, KeyKind, ObjectHasher, SignerKey, StreamSigner};
use audit_journal::shared::pieces::pieces;
use object_store::PutPayload;

use crate::object::encode;
use crate::object::encoded::EncodedObject;
use crate::{Compression, ObjectKey};

/// Encodes objects as the delivery of a journal does.
pub struct ObjectEncoder(encode::ObjectEncoder);

impl ObjectEncoder {
    /// Creates an encoder. It reuses its memory between calls.
    pub fn new() -> ObjectEncoder {
        ObjectEncoder(encode::ObjectEncoder::new(pieces()))
    }

    /// Encodes lines with zstd.
    pub fn encode(&mut self, lines: &[u8], count: u64) -> PutPayload {
        let (payload, sha256) = self.0.encode(lines, Compression::Zstd);
        let key = ObjectKey::new(0, UniqueId::from_bits(1), 0, Compression::Zstd);
        EncodedObject::plain(payload, sha256, key, count).payload
    }
}

impl Default for ObjectEncoder {
    fn default() -> ObjectEncoder {
        ObjectEncoder::new()
    }
}

/// Encodes objects of a stream with evidence, as the delivery of a journal does.
pub struct SealedEncoder {
    encoder: encode::ObjectEncoder,
    signer: StreamSigner,
}

impl SealedEncoder {
    /// Creates an encoder for a host of this name.
    ///
    /// # Panics
    ///
    /// If the name is invalid for a host.
    pub fn new(name: &str) -> SealedEncoder {
        let host = SignerKey::from_seed(name, KeyKind::Ed25519, &[1; 32]).expect("a name");
        let stream = UniqueId::from_bits(1).to_string();
        let signer = StreamSigner::new(&host, &stream, &[2; 32]).expect("a name");
        SealedEncoder { encoder: encode::ObjectEncoder::new(pieces()), signer }
    }

    /// Encodes lines with zstd, hashes them and signs their root. Returns the size of the object
    /// and its metadata, in bytes.
    pub fn encode(&mut self, lines: &[u8], count: u64) -> usize {
        let hasher = ObjectHasher::new("dt=2026-11-24/hour=14/key", 0, 0, [3; 32]);
        let (payload, hashed) = self.encoder.encode_unsealed(lines, hasher, Compression::Zstd);
        assert_eq!(hashed.count(), count);
        let (head, _) = self.signer.seal(CompactRange::default(), &hashed);
        let metadata = head.to_metadata();
        payload.content_length() + metadata.iter().map(|(_, value)| value.len()).sum::<usize>()
    }
}
