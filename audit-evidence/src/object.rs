//! The evidence that an object in the bucket carries, so that it verifies on its own.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::hash::{decode, decode_array, encode};
use crate::{
    Checkpoint, CompactRange, Hash, KeyKind, Note, NoteSignature, SignerKey, Tree, VerifierKey,
};

/// The maximum number of records in a stream, so that 28 hashes fit an object's metadata. A new
/// stream starts before that.
pub const MAX_STREAM_RECORDS: u64 = 1 << 28;

/// The maximum length of a host's name, in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// Whether a host of this name can write evidence: 1 to [`MAX_NAME_CHARS`] visible ASCII characters
/// other than `+`. Metadata are HTTP headers, which do not carry other characters reliably.
pub fn is_host_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'+';
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// The origin of a stream's checkpoints, also the name of its key: `<host's name>/<stream>`.
pub fn origin(name: &str, stream: &str) -> String {
    format!("{name}/{stream}")
}

/// Turns an object's records into leaves that reveal nothing about each other.
///
/// Each record is hashed with its own salt. So the content behind a sibling's hash in a proof
/// cannot be guessed, and the hashes left after an object was erased reveal nothing about its
/// records. The salts are derived from the object's key, its stable number and its seed, which
/// binds these to the root:
///
/// ```text
/// K      = SHA-256("audit-object/v1\n" ‖ key ‖ "\n" ‖ stable ‖ "\n" ‖ seed)
/// salt_n = SHA-256(K ‖ n as 8 bytes, big-endian)
/// leaf_n = SHA-256(0x00 ‖ salt_n ‖ line n without its line feed)
/// ```
#[derive(Clone)]
pub struct Salts {
    key: [u8; 32],
}

impl Salts {
    /// The salts of the object at `key`, the path that readers list it under.
    pub fn new(key: &str, stable: u64, seed: &[u8; 32]) -> Salts {
        let mut hasher = Sha256::new();
        hasher.update(format!("audit-object/v1\n{key}\n{stable}\n"));
        hasher.update(seed);
        Salts { key: hasher.finalize().into() }
    }

    /// The salt of the record of this number in its stream.
    pub fn salt(&self, number: u64) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(self.key);
        hasher.update(number.to_be_bytes());
        hasher.finalize().into()
    }

    /// The leaf of a record. `line` is without its line feed.
    pub fn leaf(&self, number: u64, line: &[u8]) -> Hash {
        Hash::leaf(&[&self.salt(number), line])
    }
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salts").finish_non_exhaustive()
    }
}

/// A host's signature of a stream's key.
///
/// The stream's private key is destroyed once the stream is delivered. A thief of the host's key
/// can then sign new streams but not this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    stream_key: VerifierKey,
    signature: [u8; 64],
}

impl Certificate {
    /// Has the host's key certify the key of a stream, which is named for its
    /// [`origin`].
    pub fn issue(host: &SignerKey, stream_key: &VerifierKey) -> Certificate {
        let signature = host.sign(Certificate::message(stream_key).as_bytes());
        Certificate { stream_key: stream_key.clone(), signature }
    }

    /// A certificate from its stored parts.
    pub fn from_parts(stream_key: VerifierKey, signature: [u8; 64]) -> Certificate {
        Certificate { stream_key, signature }
    }

    /// The stream's key.
    pub fn stream_key(&self) -> &VerifierKey {
        &self.stream_key
    }

    /// The host's signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// Whether this host issued it.
    pub fn is_by(&self, host: &VerifierKey) -> bool {
        let is_below = self.stream_key.name().strip_prefix(host.name());
        is_below.is_some_and(|rest| rest.starts_with('/') && !rest[1..].contains('/'))
            && host.verifies(Certificate::message(&self.stream_key).as_bytes(), &self.signature)
    }

    /// The certificate as a line below a note of the stream, so that the host's key alone suffices
    /// to verify the note. Other verifiers skip it as a signature by an unknown key.
    pub fn to_note_signature(&self) -> NoteSignature {
        let (name, _) = self.stream_key.name().rsplit_once('/').unwrap_or_default();
        let bytes = [self.stream_key.to_bytes().as_slice(), &self.signature].concat();
        NoteSignature::of_other_kind(name, Certificate::KIND, &bytes)
    }

    /// The certificate, among the lines below the note, that `host` issued for the origin of the
    /// note's checkpoint.
    pub fn find(note: &Note, host: &VerifierKey) -> Option<Certificate> {
        let origin = note.text().split('\n').next()?;
        let lines = note.signatures().iter();
        let mut lines = lines.filter(|line| line.is_of_other_kind(host.name(), Certificate::KIND));
        lines.find_map(|line| {
            let (key, signature) = line.bytes().split_first_chunk::<32>()?;
            let key = VerifierKey::new(origin, KeyKind::Ed25519, key).ok()?;
            let certificate = Certificate::from_parts(key, signature.try_into().ok()?);
            certificate.is_by(host).then_some(certificate)
        })
    }

    /// The name of the line's kind.
    const KIND: &str = "audit-stream/v1";

    fn message(stream_key: &VerifierKey) -> String {
        let key = encode(&stream_key.to_bytes());
        format!("audit-stream/v1\n{}\n{key}\n", stream_key.name())
    }
}

/// The evidence of one object: the position of its records in their stream, and the signed root of
/// the stream's tree up to its last record. It verifies without any other object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// The number of its first record.
    pub first: u64,
    /// The number of its records, at least 1.
    pub count: u64,
    /// SHA-256 of its lines, uncompressed, line feeds included.
    pub sha256: [u8; 32],
    /// All records below this number had been acknowledged when the object was written.
    pub stable: u64,
    /// 32 random bytes, see [`Salts`].
    pub seed: [u8; 32],
    /// The hashes of the stream's records before it.
    pub before: CompactRange,
    /// The root of the stream's tree up to its last record.
    pub root: Hash,
    /// The stream's signature of the [checkpoint](Self::checkpoint).
    pub signature: [u8; 64],
    /// The host's name.
    pub name: String,
    /// The stream's key and the host's signature of it.
    pub certificate: Certificate,
}

/// The names of the metadata, in the order in which they are written.
const NAMES: [&str; 12] = [
    "format",
    "lastsequence",
    "count",
    "sha256",
    "stable",
    "seed",
    "left",
    "root",
    "sig",
    "name",
    "streamkey",
    "cert",
];

impl ObjectHead {
    /// The value of the metadata `format`.
    pub const FORMAT: &'static str = "2";

    /// The head as an object's metadata, names and values in ASCII.
    ///
    /// The value of `left` is empty for a stream's first object. It may be omitted where a store
    /// rejects empty values.
    pub fn to_metadata(&self) -> [(&'static str, String); 12] {
        let ObjectHead {
            first, count, sha256, stable, seed, before, root, signature, name, ..
        } = self;
        let left: Vec<u8> = before.hashes().flat_map(|hash| *hash.as_bytes()).collect();
        let values = [
            ObjectHead::FORMAT.to_owned(),
            (first + count - 1).to_string(),
            count.to_string(),
            HEXLOWER.encode(sha256),
            stable.to_string(),
            encode(seed),
            encode(&left),
            root.to_string(),
            encode(signature),
            name.clone(),
            encode(&self.certificate.stream_key.to_bytes()),
            encode(&self.certificate.signature),
        ];
        let mut values = values.into_iter();
        NAMES.map(|name| (name, values.next().expect("there is a value for each name")))
    }

    /// Reads the metadata of an object of the stream.
    ///
    /// # Errors
    ///
    /// [`HeadError`] names the first field that is missing or malformed. Base64 and numbers have
    /// one canonical form, so any other was not written by a host.
    pub fn from_metadata<'a>(
        stream: &str,
        metadata: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<ObjectHead, HeadError> {
        let get = |field: &'static str| metadata(field).ok_or(HeadError::Missing(field));
        let number = |field| {
            crate::checkpoint::parse_decimal(get(field)?).ok_or(HeadError::Malformed(field))
        };
        if get("format")? != ObjectHead::FORMAT {
            return Err(HeadError::Malformed("format"));
        }
        let end = number("lastsequence")?.checked_add(1);
        let end = end.filter(|&end| end <= MAX_STREAM_RECORDS);
        let end = end.ok_or(HeadError::Malformed("lastsequence"))?;
        let count = number("count")?;
        let first = end.checked_sub(count).filter(|_| count > 0);
        let first = first.ok_or(HeadError::Malformed("count"))?;
        let sha256 = HEXLOWER.decode(get("sha256")?.as_bytes()).ok();
        let sha256 = sha256.and_then(|bytes| bytes.try_into().ok());
        let sha256 = sha256.ok_or(HeadError::Malformed("sha256"))?;
        let stable = number("stable")?;
        // Some stores drop empty values, and before the first record `left` is empty.
        let left = if first == 0 { metadata("left").unwrap_or("") } else { get("left")? };
        let left = decode(left).map_err(|_| HeadError::Malformed("left"))?;
        let (left, rest) = left.as_chunks::<{ Hash::BYTES }>();
        let left: Vec<Hash> = left.iter().map(|&bytes| Hash::from_bytes(bytes)).collect();
        let before = CompactRange::from_hashes(first, &left).ok().filter(|_| rest.is_empty());
        let before = before.ok_or(HeadError::Malformed("left"))?;
        let name = get("name")?;
        if !is_host_name(name) {
            return Err(HeadError::Malformed("name"));
        }
        let stream_key = array(get("streamkey")?, "streamkey")?;
        let stream_key = VerifierKey::new(&origin(name, stream), KeyKind::Ed25519, &stream_key)
            .map_err(|_| HeadError::Malformed("streamkey"))?;
        Ok(ObjectHead {
            first,
            count,
            sha256,
            stable,
            seed: array(get("seed")?, "seed")?,
            before,
            root: Hash::from_bytes(array(get("root")?, "root")?),
            signature: array(get("sig")?, "sig")?,
            name: name.to_owned(),
            certificate: Certificate::from_parts(stream_key, array(get("cert")?, "cert")?),
        })
    }

    /// The number of the record after its last.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// The signed checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        let origin = self.certificate.stream_key.name();
        Checkpoint::new(origin, self.end(), self.root).expect("a key's name is an origin")
    }

    /// The checkpoint with its signature.
    pub fn note(&self) -> Note {
        self.checkpoint().with_signature(&self.certificate.stream_key, &self.signature)
    }

    /// Checks what does not need the records: that the host certified the stream's key, and that
    /// this key signed the root.
    ///
    /// # Errors
    ///
    /// [`HeadError::Certificate`] and [`HeadError::Signature`].
    pub fn verify(&self, host: &VerifierKey) -> Result<(), HeadError> {
        self.verify_with(host, |certificate| certificate.is_by(host))
    }

    /// As [`verify`](Self::verify), with a function that returns whether the host issued a
    /// certificate.
    pub(crate) fn verify_with(
        &self,
        host: &VerifierKey,
        is_certified: impl Fn(&Certificate) -> bool,
    ) -> Result<(), HeadError> {
        if host.name() != self.name || !is_certified(&self.certificate) {
            return Err(HeadError::Certificate);
        }
        let text = self.checkpoint().to_string();
        if !self.certificate.stream_key.verifies(text.as_bytes(), &self.signature) {
            return Err(HeadError::Signature);
        }
        Ok(())
    }

    /// The tree up to the object's last record, for proofs of its records. `key` is the object's
    /// key; `lines` are without line feeds.
    ///
    /// # Errors
    ///
    /// [`HeadError::Count`] and [`HeadError::Root`]: these are not the lines that were signed.
    pub fn tree<'a>(
        &self,
        key: &str,
        lines: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Tree, HeadError> {
        let salts = Salts::new(key, self.stable, &self.seed);
        let mut tree = self.empty_tree();
        for line in lines {
            if tree.size() == self.end() {
                return Err(HeadError::Count);
            }
            tree.push(salts.leaf(tree.size(), line));
        }
        self.check_tree(&tree)?;
        Ok(tree)
    }

    /// The tree before the object's first record, for a caller that pushes the records' leaves
    /// itself as it reads them (see [`Salts::leaf`]).
    pub fn empty_tree(&self) -> Tree {
        Tree::after(self.before.clone()).expect("what is before an object begins at 0")
    }

    /// Checks that a tree holds the records that were signed.
    ///
    /// # Errors
    ///
    /// [`HeadError::Count`] and [`HeadError::Root`], as [`tree`](Self::tree).
    pub fn check_tree(&self, tree: &Tree) -> Result<(), HeadError> {
        if tree.size() != self.end() {
            return Err(HeadError::Count);
        }
        if tree.root() != self.root {
            return Err(HeadError::Root);
        }
        Ok(())
    }
}

fn array<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], HeadError> {
    decode_array(text).map_err(|_| HeadError::Malformed(field))
}

/// Why an object's evidence is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The metadata has no such field.
    #[error("the object's metadata has no {0:?}")]
    Missing(&'static str),
    /// The field is malformed.
    #[error("the object's metadata has an invalid {0:?}")]
    Malformed(&'static str),
    /// The host did not certify the stream's key.
    #[error("the host did not certify the stream's key")]
    Certificate,
    /// The stream's key did not sign the root.
    #[error("the stream's key did not sign the root")]
    Signature,
    /// There are more or fewer records than were signed.
    #[error("the object has more or fewer records than was signed")]
    Count,
    /// The records differ from those signed.
    #[error("the object's records are not those that were signed")]
    Root,
}
