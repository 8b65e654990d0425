//! Checkpoints: the size and root of a log's tree, which its key signs.

use std::fmt;

use crate::note::{cosigned_at, cosigned_message};
use crate::{Hash, KeyKind, Note, NoteSignature, SignerKey, VerifierKey};

/// The head of a log's tree at some size, in the format `tlog-checkpoint` of C2SP.
///
/// Its text, which is what gets signed, is three lines: origin, size, root.
///
/// ```
/// use audit_evidence::{Checkpoint, Hash};
///
/// let checkpoint = Checkpoint::new("example.com/log", 0, Hash::empty())?;
/// assert_eq!(
///     checkpoint.to_string(),
///     "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
/// );
/// # Ok::<(), audit_evidence::InvalidCheckpoint>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    /// Extension lines of other logs: signed, but ignored here.
    extensions: String,
}

impl Checkpoint {
    /// The checkpoint of a tree of `size` leaves with this root.
    ///
    /// # Errors
    ///
    /// [`InvalidCheckpoint`] if the origin is empty or contains a control character.
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Checkpoint, InvalidCheckpoint> {
        if origin.is_empty() || origin.chars().any(char::is_control) {
            return Err(InvalidCheckpoint);
        }
        Ok(Checkpoint { origin: origin.to_owned(), size, root, extensions: String::new() })
    }

    /// Parses the text of a note.
    ///
    /// # Errors
    ///
    /// [`InvalidCheckpoint`].
    pub fn parse(text: &str) -> Result<Checkpoint, InvalidCheckpoint> {
        let mut lines = text.splitn(4, '\n');
        let mut line = || lines.next().ok_or(InvalidCheckpoint);
        let (origin, size, root, extensions) = (line()?, line()?, line()?, line()?);
        let size = parse_decimal(size).ok_or(InvalidCheckpoint)?;
        let root = Hash::from_base64(root).map_err(|_| InvalidCheckpoint)?;
        let is_lines = extensions.is_empty() || extensions.ends_with('\n');
        if !is_lines || extensions.starts_with('\n') || extensions.contains("\n\n") {
            return Err(InvalidCheckpoint);
        }
        let checkpoint = Checkpoint::new(origin, size, root)?;
        Ok(Checkpoint { extensions: extensions.to_owned(), ..checkpoint })
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// The checkpoint as a note, without signatures.
    pub fn to_note(&self) -> Note {
        Note::new(self.to_string()).expect("lines without control characters are a note's text")
    }

    /// The bytes of a signature by the log's key, for stores that cannot hold a note.
    pub fn sign(&self, key: &SignerKey) -> [u8; 64] {
        key.sign(self.to_string().as_bytes())
    }

    /// The checkpoint as a note, with a signature made by [`sign`](Self::sign).
    pub fn with_signature(&self, key: &VerifierKey, signature: &[u8; 64]) -> Note {
        let mut note = self.to_note();
        note.add(NoteSignature::new(key, signature));
        note
    }

    /// Cosigns the checkpoint as consistent with all earlier ones. `time` is in seconds since the
    /// Unix epoch.
    ///
    /// # Panics
    ///
    /// If the key is not a [cosigner's](KeyKind::Cosignature), or the time is 2^63 or later.
    pub fn cosign(&self, key: &SignerKey, time: u64) -> NoteSignature {
        assert_eq!(key.verifier().kind(), KeyKind::Cosignature, "the key does not cosign");
        assert!(time < 1 << 63, "a cosignature's time is below 2^63 seconds");
        let signature = key.sign(cosigned_message(time, &self.to_string()).as_bytes());
        let bytes = [time.to_be_bytes().as_slice(), &signature].concat();
        NoteSignature::new(key.verifier(), &bytes)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checkpoint { origin, size, root, extensions } = self;
        write!(f, "{origin}\n{size}\n{root}\n{extensions}")
    }
}

impl NoteSignature {
    /// When a cosigner made this signature, in seconds since the Unix epoch. `None` unless the
    /// signature has the form of a cosignature.
    pub fn cosigned_at(&self) -> Option<u64> {
        cosigned_at(self.bytes()).map(|(time, _)| time)
    }
}

/// Parses decimal digits without sign or leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_canonical)
}

/// The text is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checkpoint is lines of origin, size in decimal and root in base64")]
pub struct InvalidCheckpoint;
