//! The hash of a Merkle tree's nodes, and its base64 text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 hash of a node of a Merkle tree, as RFC 6962, section 2.1, defines it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; Hash::BYTES]);

impl Hash {
    /// Length of a hash, in bytes.
    pub const BYTES: usize = 32;

    /// A hash from its bytes.
    pub const fn from_bytes(bytes: [u8; Hash::BYTES]) -> Hash {
        Hash(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; Hash::BYTES] {
        &self.0
    }

    /// The root of an empty tree: the hash of the empty string.
    pub fn empty() -> Hash {
        Hash(Sha256::digest(b"").into())
    }

    /// The leaf of an entry, given in parts: SHA-256(0x00 ‖ entry).
    pub fn leaf(entry: &[&[u8]]) -> Hash {
        let mut hasher = Sha256::new_with_prefix([0x00]);
        for part in entry {
            hasher.update(part);
        }
        Hash(hasher.finalize().into())
    }

    /// The node above two nodes: SHA-256(0x01 ‖ left ‖ right).
    pub fn node(left: &Hash, right: &Hash) -> Hash {
        let mut hasher = Sha256::new_with_prefix([0x01]);
        hasher.update(left.0);
        hasher.update(right.0);
        Hash(hasher.finalize().into())
    }

    /// Parses the form that [`Display`](fmt::Display) writes: canonical standard base64.
    ///
    /// # Errors
    ///
    /// [`InvalidBase64`] if the text has any other form, including nonzero trailing bits.
    pub fn from_base64(text: &str) -> Result<Hash, InvalidBase64> {
        decode_array(text).map(Hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Hash::from_base64(&text).map_err(serde::de::Error::custom)
    }
}

/// The text was not canonical standard base64 (RFC 4648, section 4) of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not canonical base64 of the expected length")]
pub struct InvalidBase64;

/// Standard base64 with padding, the one form that [`decode`] accepts.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes canonical base64. `STANDARD` rejects missing padding and trailing bits, so each value
/// has one text: otherwise two texts of one signature could pass for two signatures.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, InvalidBase64> {
    STANDARD.decode(text).map_err(|_| InvalidBase64)
}

pub(crate) fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], InvalidBase64> {
    decode(text)?.try_into().map_err(|_| InvalidBase64)
}
