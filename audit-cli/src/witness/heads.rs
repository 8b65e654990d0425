//! The log of heads: every checkpoint that a witness cosigned, and what contradicted one.
//!
//! A file of lines of JSON, which only grows. Its lines are the leaves of a Merkle tree, whose root
//! the witness signs after each line, so that its readers see that none is missing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use audit_core::{InputLines, durable, read_text};
use audit_evidence::{
    Certificate, Checkpoint, CompactRange, Hash, Note, NoteSignature, VerifierKey, Witnessed,
};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::units::{Count, counted};

/// The name of the log in its directory.
pub(crate) const FILE: &str = "heads";

/// The name of the file with the log's signed root.
pub(crate) const SIGNED: &str = "heads.signed";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A checkpoint that extends all earlier ones of its stream.
    Cosigned,
    /// The stream's key signed another root than the one that was cosigned for this size.
    Fork,
    /// The host certified another key for the stream.
    OtherKey,
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The time of the observation, in milliseconds since the Unix epoch.
    pub(crate) at: u64,
    pub(crate) event: Event,
    /// The checkpoint as a note, with the signature by the stream's key and the host's certificate
    /// of that key.
    pub(crate) note: String,
}

impl Head {
    /// The observation in a request, with only the signature by the stream's key.
    pub(crate) fn new(at: u64, event: Event, request: &Note, of: &Certificate) -> Head {
        let mut note = Note::new(request.text()).expect("the text of a note");
        let is_ours = |line: &&NoteSignature| line.is_by(of.stream_key());
        request.signatures().iter().find(is_ours).into_iter().for_each(|line| {
            note.add(line.clone());
        });
        note.add(of.to_note_signature());
        Head { at, event, note: note.to_string() }
    }

    /// The checkpoint, and the note that it is in. `None` if the line is not a witness's.
    pub(crate) fn checkpoint(&self) -> Option<(Checkpoint, Note)> {
        let note = Note::parse(&self.note).ok()?;
        Some((Checkpoint::parse(note.text()).ok()?, note))
    }
}

/// The streams of a log, each with its last cosigned checkpoint.
pub(crate) type Latest = BTreeMap<String, Head>;

/// A log that was read to its end.
#[derive(Debug)]
pub(crate) struct ReadLog {
    /// The tree of its lines.
    pub(crate) range: CompactRange,
    /// The size and root that the witness signed, and when, in seconds since the Unix epoch.
    pub(crate) signed: Option<(Witnessed, u64)>,
    /// The length of its whole lines, in bytes.
    pub(crate) bytes: u64,
}

/// Reads the log in a directory, and calls `take` with each line. A last line without a line feed
/// was cut by a crash and never signed, so it is ignored.
///
/// # Errors
///
/// If the log is missing, cannot be read, is not a log of heads, or is not the one that the witness
/// signed.
pub(crate) fn read(
    directory: &Path,
    witness: &VerifierKey,
    take: impl FnMut(Head) -> Result<(), Failure>,
) -> Result<ReadLog, Failure> {
    let log = read_own(directory, witness, take)?;
    if log.signed.is_none() {
        // A witness signs it at its first start, before it has any line.
        let what = format!("{} holds no log of a witness", directory.display());
        return Err(Failure::new(format!("{what}: the file {FILE}, with {SIGNED} beside it")));
    }
    Ok(log)
}

/// Like [`read`], for the witness itself. A missing log is empty, as at the first start.
pub(super) fn read_own(
    directory: &Path,
    witness: &VerifierKey,
    mut take: impl FnMut(Head) -> Result<(), Failure>,
) -> Result<ReadLog, Failure> {
    let file = directory.join(FILE);
    let failed = |what: &str| Failure::new(format!("the log {} {what}", file.display()));
    let unreadable = |error| failed("cannot be read").because(error);
    let signed = read_signed(directory, witness)?;
    let mut log = ReadLog { range: CompactRange::default(), signed, bytes: 0 };
    let mut lines = match InputLines::open(&file) {
        Ok(lines) => Some(lines),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(error)),
    };
    let mut is_signed = signed.is_none_or(|(signed, _)| signed.size == 0);
    while let Some(line) = lines.as_mut().and_then(|lines| lines.next_line().transpose()) {
        let line = line.map_err(unreadable)?;
        let Some(head) = line.strip_suffix(b"\n") else { break };
        log.bytes += line.len() as u64;
        log.range.push(Hash::leaf(&[head]));
        let number = log.range.end();
        if let Some((signed, _)) = signed.filter(|(signed, _)| signed.size == number) {
            if log.range.root() != Some(signed.root) {
                return Err(failed("was altered: its lines are not those that were signed"));
            }
            is_signed = true;
        }
        let head = serde_json::from_slice(head)
            .map_err(|error| failed(&format!("is damaged in line {number}")).because(error))?;
        take(head)?;
    }
    if !is_signed {
        let (signed, left) = (signed.map_or(0, |(signed, _)| signed.size), log.range.end());
        return Err(failed(&format!(
            "was cut: {} signed, {} left",
            counted(signed, "line"),
            Count(left)
        )));
    }
    // A crash leaves at most one unsigned line, so a longer log must have a signature.
    if log.range.end() > 1 && signed.is_none() {
        return Err(failed(&format!("is signed by no file {SIGNED} beside it")));
    }
    Ok(log)
}

fn read_signed(
    directory: &Path,
    witness: &VerifierKey,
) -> Result<Option<(Witnessed, u64)>, Failure> {
    let file = directory.join(SIGNED);
    let failed = |what: &str| Failure::new(format!("the signed head {} {what}", file.display()));
    let text = match read_text(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot be read").because(error)),
    };
    let parse = || {
        let note = Note::parse(&text).ok()?;
        let checkpoint = Checkpoint::parse(note.text()).ok()?;
        let is_ours = checkpoint.origin() == origin(witness) && note.verify(witness) == Ok(true);
        let mut lines = note.signatures().iter().filter(|line| line.is_by(witness));
        let at = lines.find_map(NoteSignature::cosigned_at).filter(|_| is_ours)?;
        let signed = Witnessed { size: checkpoint.size(), root: *checkpoint.root() };
        Some((signed, at))
    };
    parse().map(Some).ok_or_else(|| failed(&format!("is not signed by {}", witness.name())))
}

pub(super) fn origin(witness: &VerifierKey) -> String {
    format!("{}/heads", witness.name())
}

/// The log of a running witness.
#[derive(Debug)]
pub(super) struct HeadLog {
    file: File,
    range: CompactRange,
    /// Whether the log may end with part of a line.
    is_torn: bool,
}

impl HeadLog {
    /// The log that was read from the directory, ready to be extended.
    pub(super) fn open(directory: &Path, log: &ReadLog) -> std::io::Result<HeadLog> {
        let path = directory.join(FILE);
        let mut options = File::options();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        // Removes the part of a line that was being written at a crash.
        file.set_len(log.bytes)?;
        file.sync_all()?;
        durable::sync_name(&path)?;
        Ok(HeadLog { file, range: log.range.clone(), is_torn: false })
    }

    /// Adds a line, durable when this returns.
    ///
    /// A crash before that leaves part of a line, which the next opening removes, or a line that
    /// is not signed yet: nothing was cosigned for it.
    pub(super) fn append(&mut self, head: &Head) -> std::io::Result<()> {
        if self.is_torn {
            let what = "an earlier line could not be written: restart the witness";
            return Err(std::io::Error::other(what));
        }
        let mut line = serde_json::to_vec(head)?;
        self.is_torn = true;
        let leaf = Hash::leaf(&[&line]);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.range.push(leaf);
        self.is_torn = false;
        Ok(())
    }

    pub(super) fn checkpoint(&self, witness: &VerifierKey) -> Checkpoint {
        let root = self.range.root().unwrap_or_else(Hash::empty);
        let checkpoint = Checkpoint::new(&origin(witness), self.range.end(), root);
        checkpoint.expect("a key's name has no control characters")
    }
}
