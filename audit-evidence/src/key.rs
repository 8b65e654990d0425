//! Ed25519 keys with names, in the text forms of signed-note.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::hash::{decode_array, encode};

/// What a key's signatures mean. Its number is part of the key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Signs the text of a note: 0x01 of signed-note.
    Ed25519 = 0x01,
    /// Signs a checkpoint and a time: 0x04, see tlog-cosignature.
    Cosignature = 0x04,
}

impl KeyKind {
    fn from_byte(byte: u8) -> Option<KeyKind> {
        [KeyKind::Ed25519, KeyKind::Cosignature].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Whether a key may have this name: not empty, without white space, control characters or `+`.
pub(crate) fn is_key_name(name: &str) -> bool {
    let is_allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    !name.is_empty() && name.chars().all(is_allowed)
}

/// A public key with the name that it signs under.
///
/// Its text is `<name>+<id, 8 hexadecimal digits>+<base64 of the kind and the 32 bytes>`, which
/// signed-note calls a *vkey*. Keys of small order are rejected: they accept forged signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    /// A key from its 32 bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if the name is invalid, or the bytes are not a point of the curve or one of
    /// small order.
    pub fn new(name: &str, kind: KeyKind, bytes: &[u8; 32]) -> Result<VerifierKey, InvalidKey> {
        if !is_key_name(name) {
            return Err(InvalidKey::Name);
        }
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey::Point)?;
        if key.is_weak() {
            return Err(InvalidKey::Point);
        }
        let id = key_id(name, kind, bytes);
        Ok(VerifierKey { name: name.to_owned(), id, kind, key })
    }

    /// Parses the text form.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says which part is invalid.
    pub fn parse(text: &str) -> Result<VerifierKey, InvalidKey> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidKey::Form);
        };
        let [kind, key @ ..]: [u8; 33] = decode_array(key).map_err(|_| InvalidKey::Form)?;
        let kind = KeyKind::from_byte(kind).ok_or(InvalidKey::Kind(kind))?;
        let parsed = VerifierKey::new(name, kind, &key)?;
        if id != format!("{:08x}", parsed.id) {
            return Err(InvalidKey::Id { expected: parsed.id });
        }
        Ok(parsed)
    }

    /// The name that it signs under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of a hash over name, kind and key: a hint for telling keys apart, not a
    /// fingerprint.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What its signatures mean.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The 32 bytes of the key.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether the key made this signature of exactly this message. Signatures on which
    /// implementations disagree are rejected.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifierKey { name, id, kind, key } = self;
        let mut bytes = vec![*kind as u8];
        bytes.extend_from_slice(key.as_bytes());
        write!(f, "{name}+{id:08x}+{}", encode(&bytes))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key with the name that it signs under. The memory of the key is wiped when it is
/// dropped; `Debug` shows the public half.
///
/// Its text is `PRIVATE+KEY+<name>+<id>+<base64 of the kind and the 32 bytes of the seed>`, the
/// form that Go's `sumdb/note` reads and writes.
pub struct SignerKey {
    verifier: VerifierKey,
    key: SigningKey,
}

impl SignerKey {
    /// A key from the 32 bytes of its seed, which must come from a cryptographic generator.
    ///
    /// # Errors
    ///
    /// [`InvalidKey::Name`].
    pub fn from_seed(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<SignerKey, InvalidKey> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, kind, key.verifying_key().as_bytes())?;
        Ok(SignerKey { verifier, key })
    }

    /// Parses the text form.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says which part is invalid without showing it.
    pub fn parse(text: &str) -> Result<SignerKey, InvalidKey> {
        let text = text.strip_prefix("PRIVATE+KEY+").ok_or(InvalidKey::Form)?;
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(seed)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidKey::Form);
        };
        let [kind, seed @ ..]: [u8; 33] = decode_array(seed).map_err(|_| InvalidKey::Form)?;
        let kind = KeyKind::from_byte(kind).ok_or(InvalidKey::Kind(kind))?;
        let parsed = SignerKey::from_seed(name, kind, &seed)?;
        let expected = parsed.verifier.id;
        if id != format!("{expected:08x}") {
            return Err(InvalidKey::Id { expected });
        }
        Ok(parsed)
    }

    /// The text form. It contains the secret: write it to the key's file and nowhere else.
    pub fn to_secret_text(&self) -> String {
        let VerifierKey { name, id, kind, .. } = &self.verifier;
        let mut bytes = vec![*kind as u8];
        bytes.extend_from_slice(self.key.as_bytes());
        format!("PRIVATE+KEY+{name}+{id:08x}+{}", encode(&bytes))
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignerKey").field(&self.verifier).finish()
    }
}

fn key_id(name: &str, kind: KeyKind, key: &[u8; 32]) -> u32 {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([b'\n', kind as u8]);
    hasher.update(key);
    let [a, b, c, d, ..]: [u8; 32] = hasher.finalize().into();
    u32::from_be_bytes([a, b, c, d])
}

/// Why a text or some bytes are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The name is empty or holds white space, a control character or `+`.
    #[error("a key's name must not be empty or hold white space, control characters or \"+\"")]
    Name,
    /// The text does not have the parts of a key, or the last is not canonical base64 of 33 bytes.
    #[error("a key is written <name>+<id>+<base64 of 33 bytes>")]
    Form,
    /// A kind of key that is not supported.
    #[error(
        "keys of kind {0:#04x} are not supported: only Ed25519 (0x01) and cosignatures (0x04) are"
    )]
    Kind(u8),
    /// The id is not that of the name and the key.
    #[error("the key's id does not match its name and bytes, which have {expected:08x}")]
    Id {
        /// The id that they have.
        expected: u32,
    },
    /// The bytes are not a point of the curve, or one of small order.
    #[error("the key's bytes are not a usable Ed25519 key")]
    Point,
}
