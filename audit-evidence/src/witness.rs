//! The decisions of a witness: the rules of `tlog-witness`, without HTTP or storage.

use std::fmt;

use crate::checkpoint::parse_decimal;
use crate::{Checkpoint, Hash, Note, VerifierKey, verify_consistency};

/// The body of a request `add-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    old_size: u64,
    path: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

/// The latest checkpoint of a log that a witness has cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witnessed {
    /// The number of leaves.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
}

impl AddCheckpoint {
    /// The maximum number of hashes in a consistency proof.
    pub const MAX_PATH: usize = 63;

    /// A request to a witness that has cosigned `old_size` leaves, to cosign the checkpoint in
    /// `note`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Malformed`] if the note is not a checkpoint, or the path is too long.
    pub fn new(old_size: u64, path: Vec<Hash>, note: Note) -> Result<AddCheckpoint, Refusal> {
        let checkpoint = Checkpoint::parse(note.text())
            .map_err(|_| Refusal::Malformed("the note is not a checkpoint"))?;
        if path.len() > Self::MAX_PATH {
            return Err(Refusal::Malformed("the proof exceeds limit of 63 hashes"));
        }
        Ok(AddCheckpoint { old_size, path, note, checkpoint })
    }

    /// Parses the body of a request.
    ///
    /// # Errors
    ///
    /// [`Refusal::Malformed`].
    pub fn parse(body: &str) -> Result<AddCheckpoint, Refusal> {
        let malformed = Refusal::Malformed;
        let (head, note) = body.split_once("\n\n").ok_or(malformed("no empty line"))?;
        let mut lines = head.split('\n');
        let old_size = lines.next().and_then(|line| parse_decimal(line.strip_prefix("old ")?));
        let old_size = old_size.ok_or(malformed("no line \"old <decimal>\""))?;
        let path: Result<Vec<Hash>, _> = lines.map(Hash::from_base64).collect();
        let path = path.map_err(|_| malformed("a line of the proof is not a hash"))?;
        let note = Note::parse(note).map_err(|_| malformed("the checkpoint is not a note"))?;
        AddCheckpoint::new(old_size, path, note)
    }

    /// The checkpoint to cosign.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint with its signatures.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Checks whether a witness may cosign the checkpoint. `log` is the key that it trusts for the
    /// origin, `latest` what it last cosigned for it.
    ///
    /// The witness must check and make [`Witnessed`] durable in one atomic step, before it returns
    /// its cosignature. Otherwise a crash in between could make it cosign two histories.
    ///
    /// # Errors
    ///
    /// [`Refusal`], in the order of the checks in `tlog-witness`.
    pub fn check(
        &self,
        log: Option<&VerifierKey>,
        latest: Option<Witnessed>,
    ) -> Result<Witnessed, Refusal> {
        let log = log.filter(|log| log.name() == self.checkpoint.origin());
        let log = log.ok_or(Refusal::UnknownOrigin)?;
        if self.note.verify(log) != Ok(true) {
            return Err(Refusal::Unsigned);
        }
        let (size, root) = (self.checkpoint.size(), *self.checkpoint.root());
        if self.old_size > size {
            return Err(Refusal::Malformed("the old size exceeds the checkpoint's"));
        }
        let latest = latest.unwrap_or(Witnessed { size: 0, root: Hash::empty() });
        if self.old_size != latest.size {
            return Err(Refusal::OtherSize { latest: latest.size });
        }
        if size == latest.size && root != latest.root {
            return Err(Refusal::Fork { size });
        }
        verify_consistency(latest.size, &latest.root, size, &root, &self.path)
            .map_err(|_| Refusal::Inconsistent)?;
        Ok(Witnessed { size, root })
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request is malformed.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The witness knows no log of this origin.
    #[error("the checkpoint's origin is unknown")]
    UnknownOrigin,
    /// The log's key did not sign the checkpoint.
    #[error("the checkpoint is not signed by its log")]
    Unsigned,
    /// The proof does not start from the size last cosigned.
    #[error("the proof must start from size {latest}, which was cosigned last")]
    OtherSize {
        /// The size last cosigned.
        latest: u64,
    },
    /// Another root was cosigned for the same size: there are two histories.
    #[error("another tree of {size} leaves has been cosigned")]
    Fork {
        /// The size.
        size: u64,
    },
    /// The proof does not show that the checkpoint extends the last one.
    #[error("the checkpoint is not consistent with the last one")]
    Inconsistent,
}

impl Refusal {
    /// The HTTP status of the refusal in `tlog-witness`.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Malformed(_) => 400,
            Refusal::UnknownOrigin => 404,
            Refusal::Unsigned => 403,
            Refusal::OtherSize { .. } | Refusal::Fork { .. } => 409,
            Refusal::Inconsistent => 422,
        }
    }
}
