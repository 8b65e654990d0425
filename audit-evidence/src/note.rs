//! Signed notes: a text with signatures.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::hash::{decode, encode};
use crate::key::is_key_name;
use crate::{KeyKind, SignerKey, VerifierKey};

/// A text with signatures, in the format `signed-note` of C2SP.
///
/// Parsing checks no signature: [`verify`](Self::verify) does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line below a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: u32,
    bytes: Vec<u8>,
}

const SIGNATURE_START: &str = "— ";

impl Note {
    /// The longest note that is parsed, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// The most signatures that a parsed note may have.
    pub const MAX_SIGNATURES: usize = 64;

    /// A note without signatures.
    ///
    /// # Errors
    ///
    /// [`InvalidNote::Text`] unless the text ends in a line feed and contains no other control
    /// character.
    pub fn new(text: impl Into<String>) -> Result<Note, InvalidNote> {
        let text = text.into();
        let is_text = text.ends_with('\n') && !text.chars().any(|c| c < ' ' && c != '\n');
        if is_text { Ok(Note { text, signatures: Vec::new() }) } else { Err(InvalidNote::Text) }
    }

    /// Parses a note and its signatures.
    ///
    /// # Errors
    ///
    /// [`InvalidNote`] says what is wrong with its form.
    pub fn parse(note: &str) -> Result<Note, InvalidNote> {
        if note.len() > Note::MAX_BYTES {
            return Err(InvalidNote::TooLong { actual: note.len() });
        }
        let end = note.rfind("\n\n").ok_or(InvalidNote::Signatures)?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let mut parsed = Note::new(text)?;
        let lines = signatures.strip_suffix('\n').ok_or(InvalidNote::Signatures)?;
        for line in lines.split('\n') {
            if parsed.signatures.len() == Note::MAX_SIGNATURES {
                return Err(InvalidNote::TooManySignatures);
            }
            parsed.signatures.push(NoteSignature::parse(line)?);
        }
        Ok(parsed)
    }

    /// The signed text, including its last line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in the order of the note.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature over the text.
    pub fn add(&mut self, signature: NoteSignature) {
        self.signatures.push(signature);
    }

    /// Signs the text.
    ///
    /// # Panics
    ///
    /// If the key signs [cosignatures](KeyKind::Cosignature), which need a time:
    /// [`Checkpoint::cosign`](crate::Checkpoint::cosign) makes those.
    pub fn sign(&mut self, key: &SignerKey) {
        assert_eq!(key.verifier().kind(), KeyKind::Ed25519, "a cosignature needs a time");
        let signature = key.sign(self.text.as_bytes());
        self.signatures.push(NoteSignature::new(key.verifier(), &signature));
    }

    /// Whether `key` signed the text. An invalid signature under the key's name and id is an error,
    /// even beside a valid one: somebody tampered with the note.
    ///
    /// # Errors
    ///
    /// [`InvalidSignature`], as described above.
    pub fn verify(&self, key: &VerifierKey) -> Result<bool, InvalidSignature> {
        let mut is_signed = false;
        for signature in self.signatures.iter().filter(|signature| signature.is_by(key)) {
            if !signature.verify(key, &self.text) {
                return Err(InvalidSignature { name: key.name().to_owned() });
            }
            is_signed = true;
        }
        Ok(is_signed)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl NoteSignature {
    /// The line of a signature by `key`.
    pub fn new(key: &VerifierKey, bytes: &[u8]) -> NoteSignature {
        NoteSignature { name: key.name().to_owned(), id: key.id(), bytes: bytes.to_vec() }
    }

    /// Parses a line, without its line feed.
    ///
    /// # Errors
    ///
    /// [`InvalidNote::Signatures`].
    pub fn parse(line: &str) -> Result<NoteSignature, InvalidNote> {
        let parse = || {
            let (name, signature) = line.strip_prefix(SIGNATURE_START)?.split_once(' ')?;
            let bytes = decode(signature).ok().filter(|_| is_key_name(name))?;
            let (id, bytes) = bytes.split_first_chunk::<4>()?;
            let (id, bytes) = (u32::from_be_bytes(*id), bytes.to_vec());
            (!bytes.is_empty()).then(|| NoteSignature { name: name.to_owned(), id, bytes })
        };
        parse().ok_or(InvalidNote::Signatures)
    }

    /// A line of a kind without a number in signed-note: 0xff and the kind's name.
    pub(crate) fn of_other_kind(name: &str, kind: &str, bytes: &[u8]) -> NoteSignature {
        NoteSignature { name: name.to_owned(), id: other_id(name, kind), bytes: bytes.to_vec() }
    }

    pub(crate) fn is_of_other_kind(&self, name: &str, kind: &str) -> bool {
        self.name == name && self.id == other_id(name, kind)
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes after the key's id.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it claims to be by this key.
    pub fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == key.name() && self.id == key.id()
    }

    fn verify(&self, key: &VerifierKey, text: &str) -> bool {
        match key.kind() {
            KeyKind::Ed25519 => {
                let signature: Option<&[u8; 64]> = self.bytes.as_slice().try_into().ok();
                signature.is_some_and(|signature| key.verifies(text.as_bytes(), signature))
            }
            KeyKind::Cosignature => cosigned_at(&self.bytes).is_some_and(|(time, signature)| {
                key.verifies(cosigned_message(time, text).as_bytes(), signature)
            }),
        }
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.bytes);
        write!(f, "{SIGNATURE_START}{} {}", self.name, encode(&bytes))
    }
}

/// The id of a key whose kind has this name. It does not depend on the key, which the writer of the
/// line need not know.
fn other_id(name: &str, kind: &str) -> u32 {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([b'\n', 0xff]);
    hasher.update(kind);
    let [a, b, c, d, ..]: [u8; 32] = hasher.finalize().into();
    u32::from_be_bytes([a, b, c, d])
}

/// The message that a cosigner signs: see tlog-cosignature. `time` is in seconds since the Unix
/// epoch.
pub(crate) fn cosigned_message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// The time and the signature of a cosignature. Times are below 2^63.
pub(crate) fn cosigned_at(bytes: &[u8]) -> Option<(u64, &[u8; 64])> {
    let (time, signature) = bytes.split_first_chunk::<8>()?;
    let time = u64::from_be_bytes(*time);
    Some((time, signature.try_into().ok()?)).filter(|_| time < 1 << 63)
}

/// Why a text is not a signed note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNote {
    /// It is longer than [`Note::MAX_BYTES`].
    #[error("a note of {actual} bytes exceeds limit of {} bytes", Note::MAX_BYTES)]
    TooLong {
        /// Its length, in bytes.
        actual: usize,
    },
    /// The text does not end in a line feed, or contains another control character.
    #[error("a note's text must end in a line feed and contain no other control character")]
    Text,
    /// The signature lines after an empty line are missing, or one is malformed.
    #[error(
        "a note's text must be followed by an empty line and lines \"— <name> <base64 of key id \
         and signature>\""
    )]
    Signatures,
    /// There are more than [`Note::MAX_SIGNATURES`].
    #[error("the signatures of a note exceed limit of {}", Note::MAX_SIGNATURES)]
    TooManySignatures,
}

/// A note has an invalid signature in the name of a known key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signature by {name:?} is invalid")]
pub struct InvalidSignature {
    pub(crate) name: String,
}
