//! Encodes lines as objects: their compressed bytes, hash and metadata.

use std::io::Write;

use audit_core::BufferPool;
use audit_evidence::{HashedObject, ObjectHasher, ObjectHead};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::GzBuilder;
use object_store::{Attribute, AttributeValue, Attributes, PutPayload};
use sha2::{Digest, Sha256};
use zstd::zstd_safe::{CCtx, CParameter};

use super::pieces::Pieces;
use crate::{Compression, ObjectKey};

const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

/// The metadata of an object, with or without evidence.
///
/// The stored names (`format`, `lastsequence`, `count`, `sha256`) are letters and digits only,
/// since Azure accepts nothing but identifiers, and some gateways drop headers with an underscore.
/// Evidence adds the members of [`ObjectHead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// The sequence number of the last record. The key holds that of the first.
    pub last_sequence: u64,
    /// The number of records.
    pub count: u64,
    /// SHA-256 of the uncompressed lines.
    pub sha256: [u8; 32],
}

/// The layout version of keys, lines and metadata. Objects with evidence have
/// [`ObjectHead::FORMAT`] instead.
pub(crate) const FORMAT_VERSION: u32 = 1;

const FORMAT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("format"));
const LAST_SEQUENCE: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("lastsequence"));
const COUNT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("count"));
const SHA256: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("sha256"));

impl ObjectMetadata {
    /// Parses the metadata of an object. `None` if it is incomplete or of an unknown layout
    /// version.
    pub fn from_attributes(attributes: &Attributes) -> Option<ObjectMetadata> {
        let format = attributes.get(&FORMAT)?;
        if **format != FORMAT_VERSION.to_string() && **format != *ObjectHead::FORMAT {
            return None;
        }
        Some(ObjectMetadata {
            last_sequence: number(attributes, &LAST_SEQUENCE)?,
            count: number(attributes, &COUNT)?,
            sha256: from_hex(attributes.get(&SHA256)?)?,
        })
    }

    /// The metadata as attributes for the store.
    pub(crate) fn to_attributes(&self) -> Attributes {
        let ObjectMetadata { last_sequence, count, sha256 } = self;
        [
            (FORMAT, AttributeValue::from(FORMAT_VERSION.to_string())),
            (LAST_SEQUENCE, last_sequence.to_string().into()),
            (COUNT, count.to_string().into()),
            (SHA256, HEXLOWER.encode(sha256).into()),
        ]
        .into_iter()
        .collect()
    }
}

/// Decodes a SHA-256. Only lower-case digits are valid, so that each hash has one form.
fn from_hex(digits: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok()
}

fn number(attributes: &Attributes, name: &Attribute) -> Option<u64> {
    attributes.get(name)?.parse().ok()
}

/// An encoded object. The same lines always encode to the same bytes, so a retry that encodes them
/// again writes the same object.
#[derive(Clone)]
pub(crate) struct EncodedObject {
    pub(crate) payload: PutPayload,
    pub(crate) metadata: ObjectMetadata,
    pub(crate) compression: Compression,
    /// The evidence, in a stream that has some.
    pub(crate) head: Option<Box<ObjectHead>>,
    /// The number of records that were logged by a caller. Zero for a system object.
    pub(crate) logs: u64,
}

impl EncodedObject {
    /// An object with evidence.
    pub(crate) fn sealed(payload: PutPayload, key: ObjectKey, head: ObjectHead) -> EncodedObject {
        let ObjectHead { count, sha256, .. } = head;
        let metadata = ObjectMetadata { last_sequence: head.end() - 1, count, sha256 };
        let logs = if key.is_system() { 0 } else { count };
        let (compression, head) = (key.compression(), Some(Box::new(head)));
        EncodedObject { payload, metadata, compression, head, logs }
    }

    pub(crate) fn attributes(&self) -> Attributes {
        let mut attributes = match &self.head {
            None => self.metadata.to_attributes(),
            Some(head) => head
                .to_metadata()
                .into_iter()
                // Not every store takes an empty value.
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| {
                    (Attribute::Metadata(name.into()), AttributeValue::from(value))
                })
                .collect(),
        };
        attributes.insert(Attribute::ContentType, self.compression.content_type().into());
        attributes
    }

    /// Whether a stored object with these attributes is this object: it has the same lines and the
    /// same seal. `None` if the attributes lack a hash.
    pub(crate) fn is_said_by(&self, attributes: &Attributes) -> Option<bool> {
        let found = attributes.get(&SHA256)?;
        let same_lines = from_hex(found).as_ref() == Some(&self.metadata.sha256);
        let same_seal = self.head.as_ref().is_none_or(|head| {
            head.to_metadata().into_iter().filter(|(name, _)| SEAL.contains(name)).all(
                |(name, value)| {
                    let found = attributes.get(&Attribute::Metadata(name.into()));
                    found.is_some_and(|found| **found == *value)
                },
            )
        });
        Some(same_lines && same_seal)
    }
}

/// The members that differ between two seals of the same lines, which a copied key can produce by
/// forking the stream.
const SEAL: [&str; 2] = ["root", "sig"];

/// The size from which lines are hashed on another thread while they are compressed. Hashing
/// 256 KiB takes about 0.2 ms, and starting a thread a fraction of that.
const MIN_HASH_BESIDE: usize = 1 << 18;

/// Encodes objects one after another, and reuses memory between them.
pub(crate) struct ObjectEncoder {
    pool: BufferPool,
    /// Created at its first use.
    zstd: Option<Zstd>,
}

struct Zstd {
    context: CCtx<'static>,
    /// The compressed object, before it is copied into pieces.
    out: Vec<u8>,
}

impl ObjectEncoder {
    /// Creates an encoder whose payloads consist of buffers of `pool`.
    pub(crate) fn new(pool: BufferPool) -> ObjectEncoder {
        ObjectEncoder { pool, zstd: None }
    }

    /// Encodes `lines`: `count` records, at least one, that start at `first_sequence`.
    pub(crate) fn encode(
        &mut self,
        lines: &[u8],
        first_sequence: u64,
        count: u64,
        compression: Compression,
    ) -> EncodedObject {
        let hash = || Sha256::digest(lines);
        let (payload, sha256) = self.compress_and(lines, compression, hash);
        let last_sequence = first_sequence + (count - 1);
        let metadata = ObjectMetadata { last_sequence, count, sha256: sha256.into() };
        EncodedObject { payload, metadata, compression, head: None, logs: count }
    }

    /// Like [`encode`](Self::encode), for a stream with evidence. The object is complete once it is
    /// [sealed](EncodedObject::sealed) after its predecessors.
    pub(crate) fn encode_unsealed(
        &mut self,
        lines: &[u8],
        mut hasher: ObjectHasher,
        compression: Compression,
    ) -> (PutPayload, HashedObject) {
        let hash = move || {
            hasher.lines(lines);
            hasher.finish()
        };
        self.compress_and(lines, compression, hash)
    }

    fn compress_and<H: Send>(
        &mut self,
        lines: &[u8],
        compression: Compression,
        hash: impl FnOnce() -> H + Send,
    ) -> (PutPayload, H) {
        let (pieces, hashed) = if lines.len() < MIN_HASH_BESIDE {
            (self.compress(lines, compression), hash())
        } else {
            std::thread::scope(|scope| {
                let hash = scope.spawn(hash);
                let pieces = self.compress(lines, compression);
                (pieces, hash.join().expect("hashing does not panic"))
            })
        };
        (pieces.into_iter().collect(), hashed)
    }

    fn compress(&mut self, lines: &[u8], compression: Compression) -> Vec<Bytes> {
        let mut pieces = Pieces::new(&self.pool);
        match compression {
            Compression::Zstd => {
                pieces.extend(self.zstd.get_or_insert_with(Zstd::new).compress(lines))
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = GzBuilder::new().mtime(0).write(pieces, level);
                encoder.write_all(lines).expect(TO_MEMORY);
                pieces = encoder.finish().expect(TO_MEMORY);
            }
            Compression::None => pieces.extend(lines),
        }
        pieces.into_bytes()
    }
}

impl Zstd {
    fn new() -> Zstd {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).expect(TO_MEMORY);
        context.set_parameter(CParameter::ChecksumFlag(true)).expect(TO_MEMORY);
        Zstd { context, out: Vec::new() }
    }

    /// Compresses all lines in one call. This is twice as fast as streaming, which copies the lines
    /// into a window and searches it in two parts.
    fn compress(&mut self, lines: &[u8]) -> &[u8] {
        let Zstd { context, out } = self;
        out.clear();
        // The reserve costs address space only: pages that the object does not reach stay unused.
        out.reserve(zstd::compress_bound(lines.len()));
        context.compress2(out, lines).expect(TO_MEMORY);
        out
    }
}

const TO_MEMORY: &str = "compressing from memory to memory does not fail";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::pieces::pieces;
    use proptest::prelude::*;
    use std::io::Read;

    fn encoder() -> ObjectEncoder {
        ObjectEncoder::new(pieces())
    }

    fn decoded(object: &EncodedObject) -> Vec<u8> {
        let bytes: Bytes = object.payload.clone().into();
        let mut lines = Vec::new();
        match object.compression {
            Compression::Zstd => {
                zstd::Decoder::new(&bytes[..]).unwrap().single_frame().read_to_end(&mut lines)
            }
            Compression::Gzip => {
                flate2::bufread::GzDecoder::new(&bytes[..]).read_to_end(&mut lines)
            }
            Compression::None => (&bytes[..]).read_to_end(&mut lines),
        }
        .unwrap();
        lines
    }

    proptest! {
        #[test]
        fn lines_round_trip_with_their_metadata(
            whole in prop::collection::vec(any::<u8>(), 1..3_000), count in 1..20u64, first in 0..u64::MAX / 2,
        ) {
            let mut encoder = encoder();
            for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
                let object = encoder.encode(&whole, first, count, compression);
                prop_assert_eq!(&decoded(&object), &whole);
                let sha256: [u8; 32] = Sha256::digest(&whole).into();
                let expected = ObjectMetadata { last_sequence: first + count - 1, count, sha256 };
                let attributes = object.attributes();
                prop_assert_eq!(ObjectMetadata::from_attributes(&attributes), Some(expected));
                prop_assert_eq!(object.is_said_by(&attributes), Some(true));
                let mut other = object.clone();
                other.metadata.sha256 = [7; 32];
                prop_assert_eq!(other.is_said_by(&attributes), Some(false));
                let again = encoder.encode(&whole, first, count, compression);
                prop_assert_eq!(Bytes::from(again.payload), Bytes::from(object.payload));
            }
        }
    }

    /// A journal's objects share one zstd context.
    #[test]
    fn an_object_does_not_depend_on_those_before_it() {
        let lines = |n: usize| {
            let line = |i| {
                format!(
                    "{{\"n\":{},\"x\":\"{:x}\"}}\n",
                    i,
                    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                )
            };
            (0..n).map(line).collect::<String>().into_bytes()
        };
        let mut one = encoder();
        for n in [1, 200_000, 3, 60_000, 100] {
            let object = one.encode(&lines(n), 0, n as u64, Compression::Zstd);
            let alone = encoder().encode(&lines(n), 0, n as u64, Compression::Zstd);
            assert_eq!(decoded(&object), lines(n));
            assert_eq!(Bytes::from(object.payload), Bytes::from(alone.payload), "{n} lines");
        }
    }

    #[test]
    fn a_gzip_header_names_no_time_and_no_host() {
        let object = encoder().encode(b"{}\n", 5, 1, Compression::Gzip);
        let bytes: Bytes = object.payload.into();
        assert_eq!(&bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn attributes_of_others_are_not_ours() {
        assert_eq!(ObjectMetadata::from_attributes(&Attributes::new()), None);
        let object = encoder().encode(b"{}\n", 5, 1, Compression::Gzip);
        assert_eq!(object.is_said_by(&Attributes::new()), None);
        let mut attributes =
            ObjectMetadata { last_sequence: 0, count: 1, sha256: [1; 32] }.to_attributes();
        attributes.insert(FORMAT, "3".into());
        assert_eq!(ObjectMetadata::from_attributes(&attributes), None);
    }

    #[test]
    fn an_object_with_evidence_is_itself_by_its_seal() {
        use audit_evidence::{CompactRange, KeyKind, SignerKey, StreamSigner};
        let host = SignerKey::from_seed("api", KeyKind::Ed25519, &[1; 32]).unwrap();
        let signer = StreamSigner::new(&host, "s", &[2; 32]).unwrap();
        let encode = |seed, compression| {
            let hasher = ObjectHasher::new("key", 0, 0, seed);
            let key = ObjectKey::new(0, audit_core::UniqueId::from_bits(1), 0, compression);
            let (payload, hashed) = encoder().encode_unsealed(b"{}\n{}\n", hasher, compression);
            let (head, _) = signer.seal(CompactRange::default(), &hashed);
            EncodedObject::sealed(payload, key, head)
        };
        for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
            let object = encode([3; 32], compression);
            let plain = encoder().encode(b"{}\n{}\n", 0, 2, compression);
            assert_eq!(decoded(&object), b"{}\n{}\n");
            assert_eq!(object.metadata, plain.metadata);
            let attributes = object.attributes();
            assert_eq!(ObjectMetadata::from_attributes(&attributes), Some(plain.metadata.clone()));
            assert_eq!(object.is_said_by(&attributes), Some(true));
            let other = encode([4; 32], compression);
            assert_eq!(object.is_said_by(&other.attributes()), Some(false), "the lines alone");
            assert_eq!(object.is_said_by(&plain.attributes()), Some(false), "without evidence");
        }
    }
}
