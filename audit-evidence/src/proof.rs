//! Offline proofs that an entry is in a log.

use std::fmt;

use crate::checkpoint::parse_decimal;
use crate::hash::{decode, encode};
use crate::{Checkpoint, Hash, Note, verify_inclusion};

/// The inclusion of one entry in a signed checkpoint, in the format `tlog-proof` of C2SP. Its file
/// ends in `.tlog-proof`.
///
/// The extra data is the rest of the entry: for a record of an audit log, its salt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    extra: Option<Vec<u8>>,
    index: u64,
    path: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// The longest path: a tree has at most 2^63 leaves.
const MAX_PATH: usize = 63;

impl Proof {
    /// A proof of entry `index` in the checkpoint `note`.
    ///
    /// # Errors
    ///
    /// [`ProofError::Checkpoint`] if the note is not a checkpoint.
    pub fn new(
        extra: Option<&[u8]>,
        index: u64,
        path: Vec<Hash>,
        note: Note,
    ) -> Result<Proof, ProofError> {
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| ProofError::Checkpoint)?;
        Ok(Proof { extra: extra.map(<[u8]>::to_vec), index, path, note, checkpoint })
    }

    /// Parses a proof.
    ///
    /// # Errors
    ///
    /// [`ProofError::Form`] or [`ProofError::Checkpoint`].
    pub fn parse(text: &str) -> Result<Proof, ProofError> {
        if text.len() > Note::MAX_BYTES {
            return Err(ProofError::Form("the proof exceeds limit of 1 MiB"));
        }
        let (head, note) = text.split_once("\n\n").ok_or(ProofError::Form("no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ProofError::Form("the first line is not \"c2sp.org/tlog-proof@v1\""));
        }
        let extra = lines.next_if(|line| line.starts_with("extra ")).map(|line| {
            decode(&line["extra ".len()..]).map_err(|_| ProofError::Form("extra is not base64"))
        });
        let index = lines.next().and_then(|line| parse_decimal(line.strip_prefix("index ")?));
        let index = index.ok_or(ProofError::Form("no line \"index <decimal>\""))?;
        let path: Result<Vec<_>, _> = lines.map(Hash::from_base64).collect();
        let path = path.map_err(|_| ProofError::Form("a line of the path is not a hash"))?;
        if path.len() > MAX_PATH {
            return Err(ProofError::Form("the path is longer than any tree is deep"));
        }
        let note = Note::parse(note).map_err(|_| ProofError::Checkpoint)?;
        Proof::new(extra.transpose()?.as_deref(), index, path, note)
    }

    /// The extra data. It is authentic only if the proof verifies.
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The number of the entry in its log, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The signed checkpoint. Its signatures must be verified in addition to the proof.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The checkpoint in the note.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks that a record of an audit log, without its line feed, is in the tree of the
    /// checkpoint. Does not check signatures.
    ///
    /// The leaf is a hash of salt and record without a mark between them, so a salt of any other
    /// length is rejected: a part of a record could pass for one.
    ///
    /// # Errors
    ///
    /// [`ProofError::Form`] if the proof has no salt of 32 bytes, and [`ProofError::Path`].
    pub fn verify_record(&self, record: &[u8]) -> Result<(), ProofError> {
        let salt = self.extra.as_deref().filter(|salt| salt.len() == Hash::BYTES);
        let salt = salt.ok_or(ProofError::Form("extra is not a record's salt of 32 bytes"))?;
        self.verify_path(&Hash::leaf(&[salt, record]))
    }

    /// Checks that `leaf` is in the tree of the checkpoint. Does not check signatures.
    ///
    /// # Errors
    ///
    /// [`ProofError::Path`].
    pub fn verify_path(&self, leaf: &Hash) -> Result<(), ProofError> {
        let (size, root) = (self.checkpoint.size(), self.checkpoint.root());
        verify_inclusion(leaf, self.index, size, root, &self.path).map_err(|_| ProofError::Path)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// Why a proof is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The text is malformed.
    #[error("not a tlog-proof: {0}")]
    Form(&'static str),
    /// The text after the empty line is not a signed checkpoint.
    #[error("the proof contains no signed checkpoint")]
    Checkpoint,
    /// The entry is not at that index in the tree of the checkpoint.
    #[error("the entry is not in the tree of the checkpoint")]
    Path,
}
