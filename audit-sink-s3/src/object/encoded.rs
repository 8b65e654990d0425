//! Encoded objects: their bytes and metadata.

use audit_evidence::ObjectHead;
use data_encoding::HEXLOWER;
use object_store::{Attribute, AttributeValue, Attributes, PutPayload};

use crate::{Compression, ObjectKey};

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
    /// An object without evidence: `count` records, at least one, whose lines have this hash.
    pub(crate) fn plain(
        payload: PutPayload,
        sha256: [u8; 32],
        key: ObjectKey,
        count: u64,
    ) -> EncodedObject {
        let last_sequence = key.first_sequence() + (count - 1);
        let metadata = ObjectMetadata { last_sequence, count, sha256 };
        EncodedObject { payload, metadata, compression: key.compression(), head: None, logs: count }
    }

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

#[cfg(test)]
impl EncodedObject {
    /// For tests: an object of these `count` lines, the first of which has this number.
    pub(crate) fn of_lines(
        lines: &[u8],
        first_sequence: u64,
        count: u64,
        compression: Compression,
    ) -> EncodedObject {
        let mut encoder = super::encode::ObjectEncoder::new(super::pieces::pieces());
        let stream = audit_core::UniqueId::from_bits(1);
        let (payload, sha256) = encoder.encode(lines, compression);
        let key = ObjectKey::new(0, stream, first_sequence, compression);
        EncodedObject::plain(payload, sha256, key, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::encode::{ObjectEncoder, tests::decoded};
    use crate::object::pieces::pieces;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    const COMPRESSIONS: [Compression; 3] =
        [Compression::Zstd, Compression::Gzip, Compression::None];

    proptest! {
        #[test]
        fn lines_round_trip_with_their_metadata(
            whole in prop::collection::vec(any::<u8>(), 1..3_000), count in 1..20u64, first in 0..u64::MAX / 2,
        ) {
            for compression in COMPRESSIONS {
                let object = EncodedObject::of_lines(&whole, first, count, compression);
                prop_assert_eq!(&decoded(object.payload.clone(), compression), &whole);
                let sha256: [u8; 32] = Sha256::digest(&whole).into();
                let expected = ObjectMetadata { last_sequence: first + count - 1, count, sha256 };
                let attributes = object.attributes();
                prop_assert_eq!(ObjectMetadata::from_attributes(&attributes), Some(expected));
                prop_assert_eq!(object.is_said_by(&attributes), Some(true));
                let mut other = object.clone();
                other.metadata.sha256 = [7; 32];
                prop_assert_eq!(other.is_said_by(&attributes), Some(false));
                let again = EncodedObject::of_lines(&whole, first, count, compression);
                prop_assert_eq!(Bytes::from(again.payload), Bytes::from(object.payload));
            }
        }
    }

    #[test]
    fn attributes_of_others_are_not_ours() {
        assert_eq!(ObjectMetadata::from_attributes(&Attributes::new()), None);
        let object = EncodedObject::of_lines(b"{}\n", 5, 1, Compression::Gzip);
        assert_eq!(object.is_said_by(&Attributes::new()), None);
        let mut attributes =
            ObjectMetadata { last_sequence: 0, count: 1, sha256: [1; 32] }.to_attributes();
        attributes.insert(FORMAT, "3".into());
        assert_eq!(ObjectMetadata::from_attributes(&attributes), None);
    }

    #[test]
    fn an_object_with_evidence_is_itself_by_its_seal() {
        use audit_evidence::{CompactRange, KeyKind, ObjectHasher, SignerKey, StreamSigner};
        let host = SignerKey::from_seed("api", KeyKind::Ed25519, &[1; 32]).unwrap();
        let signer = StreamSigner::new(&host, "s", &[2; 32]).unwrap();
        let lines = b"{}\n{}\n";
        let encode = |seed, compression| {
            let (hasher, mut encoder) =
                (ObjectHasher::new("key", 0, 0, seed), ObjectEncoder::new(pieces()));
            let key = ObjectKey::new(0, audit_core::UniqueId::from_bits(1), 0, compression);
            let (payload, hashed) = encoder.encode_unsealed(lines, hasher, compression);
            let (head, _) = signer.seal(CompactRange::default(), &hashed);
            EncodedObject::sealed(payload, key, head)
        };
        for compression in COMPRESSIONS {
            let object = encode([3; 32], compression);
            let plain = EncodedObject::of_lines(lines, 0, 2, compression);
            assert_eq!(decoded(object.payload.clone(), compression), lines);
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
