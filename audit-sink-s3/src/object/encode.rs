//! Lines become the bytes of an object.

use std::fmt;
use std::io::Write;

use audit_core::BufferPool;
use bytes::Bytes;
use flate2::GzBuilder;
use object_store::{Attribute, AttributeValue, Attributes, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::zstd_safe::{CCtx, CParameter};

use super::pieces::Pieces;

/// How the lines in an object are compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// One zstd frame with its checksum and its content's size. Level 3: beyond it, audit records
    /// shrink little more.
    #[default]
    Zstd,
    /// One gzip member, without a time or a name in it.
    Gzip,
    /// The lines as they are.
    None,
}

const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

impl Compression {
    /// What follows `.ndjson` in a key.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::Zstd => ".zst",
            Compression::Gzip => ".gz",
            Compression::None => "",
        }
    }

    pub(crate) fn of_suffix(suffix: &str) -> Option<Compression> {
        [Compression::Zstd, Compression::Gzip, Compression::None]
            .into_iter()
            .find(|c| c.suffix() == suffix)
    }

    /// The object's content type. The compression is part of the object and no transport encoding,
    /// so there is no `Content-Encoding`: a client that undid it would hand engines something else
    /// than the suffix says.
    pub fn content_type(self) -> &'static str {
        match self {
            Compression::Zstd => "application/zstd",
            Compression::Gzip => "application/gzip",
            Compression::None => "application/x-ndjson",
        }
    }
}

/// What an object says about itself in its metadata.
///
/// The names of its members there (`format`, `lastsequence`, `count`, `sha256`) are letters and
/// digits only: Azure takes nothing but identifiers, and some gateways drop headers with an
/// underscore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// The number of the last record. The first one's is in the key.
    pub last_sequence: u64,
    /// How many records.
    pub count: u64,
    /// SHA-256 of the uncompressed lines.
    pub sha256: [u8; 32],
}

/// The version of the layout: keys, lines, metadata.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("format"));
const LAST_SEQUENCE: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("lastsequence"));
const COUNT: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("count"));
const SHA256: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("sha256"));

impl ObjectMetadata {
    /// Reads the metadata of an object. `None` if it has none, or of another [`FORMAT_VERSION`].
    pub fn from_attributes(attributes: &Attributes) -> Option<ObjectMetadata> {
        if number(attributes, &FORMAT)? != u64::from(FORMAT_VERSION) {
            return None;
        }
        Some(ObjectMetadata {
            last_sequence: number(attributes, &LAST_SEQUENCE)?,
            count: number(attributes, &COUNT)?,
            sha256: from_hex(attributes.get(&SHA256)?)?,
        })
    }

    /// The metadata as a store takes it.
    pub fn to_attributes(&self) -> Attributes {
        let ObjectMetadata { last_sequence, count, sha256 } = self;
        [
            (FORMAT, AttributeValue::from(FORMAT_VERSION.to_string())),
            (LAST_SEQUENCE, last_sequence.to_string().into()),
            (COUNT, count.to_string().into()),
            (SHA256, Hex(sha256).to_string().into()),
        ]
        .into_iter()
        .collect()
    }
}

/// Whether an object with these attributes holds the lines with this hash; `None` if they do not
/// say.
pub(crate) fn says_same(attributes: &Attributes, sha256: &[u8; 32]) -> Option<bool> {
    attributes.get(&SHA256).map(|found| from_hex(found).as_ref() == Some(sha256))
}

fn number(attributes: &Attributes, name: &Attribute) -> Option<u64> {
    attributes.get(name)?.parse().ok()
}

/// Lower-case hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len()
        || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The bytes of an object and what goes with them. The same lines always give the same: a retry of
/// an object that was encoded anew would still be the same object.
#[derive(Clone)]
pub(crate) struct EncodedObject {
    /// In pieces.
    pub(crate) payload: PutPayload,
    pub(crate) metadata: ObjectMetadata,
    pub(crate) compression: Compression,
}

impl EncodedObject {
    pub(crate) fn attributes(&self) -> Attributes {
        let mut attributes = self.metadata.to_attributes();
        attributes.insert(Attribute::ContentType, self.compression.content_type().into());
        attributes
    }
}

/// From so many bytes on, lines are hashed on another thread while they are compressed: hashing
/// takes about half as long as that does, and a thread much less.
const MIN_HASH_BESIDE: usize = 1 << 20;

/// Makes objects, one after the other, in memory that is used again.
pub(crate) struct ObjectEncoder {
    pool: BufferPool,
    /// Made when it is first needed.
    zstd: Option<Zstd>,
}

struct Zstd {
    context: CCtx<'static>,
    /// An object on its way into pieces.
    out: Vec<u8>,
}

impl ObjectEncoder {
    /// One whose objects are in pieces of this pool.
    pub(crate) fn new(pool: BufferPool) -> ObjectEncoder {
        ObjectEncoder { pool, zstd: None }
    }

    /// Lets go of memory that only the next object needs.
    pub(crate) fn trim(&mut self) {
        self.zstd = None;
    }

    /// Encodes `lines`, the records from `first_sequence` on; `count`, at least one, says how many
    /// records they are.
    pub(crate) fn encode(
        &mut self,
        lines: &[u8],
        first_sequence: u64,
        count: u64,
        compression: Compression,
    ) -> EncodedObject {
        let hash = || Sha256::digest(lines);
        let (sha256, pieces) = if lines.len() < MIN_HASH_BESIDE {
            (hash(), self.compress(lines, compression))
        } else {
            std::thread::scope(|scope| {
                let hash = scope.spawn(hash);
                let pieces = self.compress(lines, compression);
                (hash.join().expect("hashing does not panic"), pieces)
            })
        };
        let last_sequence = first_sequence + (count - 1);
        let metadata = ObjectMetadata { last_sequence, count, sha256: sha256.into() };
        EncodedObject { payload: pieces.into_iter().collect(), metadata, compression }
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

    /// All at once: twice as fast as piece by piece, which copies the lines into a window and
    /// searches that in two parts.
    fn compress(&mut self, lines: &[u8]) -> &[u8] {
        let Zstd { context, out } = self;
        out.clear();
        // Of what is reserved, only what the object takes is ever touched.
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
        fn lines_come_back_and_the_metadata_tells_of_them(
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
                prop_assert_eq!(says_same(&attributes, &sha256), Some(true));
                prop_assert_eq!(says_same(&attributes, &[7; 32]), Some(false));
                let again = encoder.encode(&whole, first, count, compression);
                prop_assert_eq!(Bytes::from(again.payload), Bytes::from(object.payload));
            }
        }

        #[test]
        fn hexadecimal_reads_back(bytes: [u8; 32], other in "[0-9a-fA-F+]{60,66}") {
            prop_assert_eq!(from_hex(&Hex(&bytes).to_string()), Some(bytes));
            if let Some(bytes) = from_hex(&other) {
                prop_assert_eq!(Hex(&bytes).to_string(), other);
            }
        }
    }

    /// One context makes all objects of a journal.
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
            if n == 60_000 {
                one.trim();
            }
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
        assert_eq!(says_same(&Attributes::new(), &[0; 32]), None);
        let mut attributes =
            ObjectMetadata { last_sequence: 0, count: 1, sha256: [1; 32] }.to_attributes();
        attributes.insert(FORMAT, "2".into());
        assert_eq!(ObjectMetadata::from_attributes(&attributes), None);
    }
}
