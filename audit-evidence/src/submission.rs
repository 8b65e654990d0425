//! The host's side of `tlog-witness`: what to submit of a stream next, without HTTP.

use crate::checkpoint::parse_decimal;
use crate::{AddCheckpoint, CompactRange, Note, NoteSignature, VerifierKey};

/// The checkpoints of one stream on their way to one witness.
///
/// It keeps the tree up to the checkpoint that the witness cosigned last, the records from there to
/// the checkpoint under way, and those after it, each as a compact range: at most 140 hashes,
/// however long the stream.
///
/// A checkpoint whose outcome is unknown is submitted again until it is certain, so that the
/// witness's size is always one for which there is a proof.
#[derive(Debug, Clone)]
pub struct Submitter {
    certificate: NoteSignature,
    cosigned: CompactRange,
    under_way: CompactRange,
    later: CompactRange,
    submitted: Option<Note>,
    newest: Option<Note>,
}

impl Submitter {
    /// Begins with the empty tree. `certificate` is the line by which the witness learns the
    /// stream's key: see [`Certificate::to_note_signature`](crate::Certificate::to_note_signature).
    pub fn new(certificate: NoteSignature) -> Submitter {
        Submitter {
            certificate,
            cosigned: CompactRange::default(),
            under_way: CompactRange::default(),
            later: CompactRange::default(),
            submitted: None,
            newest: None,
        }
    }

    /// Adds a signed checkpoint, and the records between the previous one and it. It replaces an
    /// earlier one that is not under way.
    ///
    /// # Panics
    ///
    /// If the records do not begin where the previous checkpoint ends.
    pub fn show(&mut self, records: &CompactRange, checkpoint: Note) {
        self.later = join(&self.later, records);
        self.newest = Some(checkpoint);
    }

    /// The size that the witness cosigned last, as far as is known.
    pub fn cosigned(&self) -> u64 {
        self.cosigned.end()
    }

    /// Whether a checkpoint is to be submitted.
    pub fn has_next(&self) -> bool {
        self.submitted.is_some() || self.newest.is_some()
    }

    /// The request to send next: the checkpoint whose outcome is unknown, or else the newest.
    pub fn request(&mut self) -> Option<AddCheckpoint> {
        if self.submitted.is_none() {
            self.submitted = Some(self.newest.take()?);
            self.under_way = join(&self.under_way, &self.later);
            self.later = CompactRange::new(self.under_way.end());
        }
        let mut note = self.submitted.clone()?;
        note.add(self.certificate.clone());
        let path = self.cosigned.consistency(&self.under_way)?;
        Some(AddCheckpoint::new(self.cosigned.end(), path, note).expect("a checkpoint of a stream"))
    }

    /// Handles the response to the last request. Returns the checkpoint with the cosignature of
    /// `witness`, which was verified. `None` if the witness had it before this request; the next
    /// request then continues from there.
    ///
    /// # Errors
    ///
    /// [`SubmissionError`] says whether to retry.
    pub fn answered(
        &mut self,
        witness: &VerifierKey,
        response: &WitnessResponse,
    ) -> Result<Option<Note>, SubmissionError> {
        let Some(submitted) = &self.submitted else { return Ok(None) };
        match response {
            WitnessResponse::Cosigned(lines) => {
                let mut lines = lines.iter().filter(|line| line.is_by(witness));
                let line = lines.next().ok_or(SubmissionError::NotCosigned)?;
                let mut note = submitted.clone();
                note.add(line.clone());
                if note.verify(witness) != Ok(true) {
                    return Err(SubmissionError::NotCosigned);
                }
                self.advance();
                self.submitted = None;
                Ok(Some(note))
            }
            WitnessResponse::OtherSize(size) => {
                let (old, new) = (self.cosigned.end(), self.under_way.end());
                match *size {
                    // The witness cosigned this checkpoint after an earlier request, whose response
                    // was lost. If there is a newer checkpoint, its cosignature is enough.
                    size if size == new && new > old => {
                        self.advance();
                        self.submitted = self.submitted.take().filter(|_| self.newest.is_none());
                    }
                    // The witness has lost its state of the stream: start from the empty tree.
                    0 if old > 0 => {
                        self.under_way = join(&self.cosigned, &self.under_way);
                        self.cosigned = CompactRange::default();
                    }
                    _ => return Err(SubmissionError::OtherHistory),
                }
                Ok(None)
            }
            WitnessResponse::Inconsistent => Err(SubmissionError::OtherHistory),
            WitnessResponse::UnknownOrigin => Err(SubmissionError::UnknownOrigin),
            WitnessResponse::Untrusted => Err(SubmissionError::Untrusted),
            WitnessResponse::Malformed => Err(SubmissionError::Malformed),
            WitnessResponse::Unusable(status) => Err(SubmissionError::Unusable { status: *status }),
        }
    }

    /// The witness has cosigned the checkpoint under way.
    fn advance(&mut self) {
        self.cosigned = join(&self.cosigned, &self.under_way);
        self.under_way = CompactRange::new(self.cosigned.end());
    }
}

fn join(before: &CompactRange, after: &CompactRange) -> CompactRange {
    before.clone().join(after).expect("records follow those before them")
}

/// A witness's response to [`AddCheckpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessResponse {
    /// Lines of signatures, none of which is verified.
    Cosigned(Vec<NoteSignature>),
    /// The size that the witness cosigned last, which differs from that in the request; or the
    /// request's, if another root was cosigned for it.
    OtherSize(u64),
    /// No key that the witness trusts signed the checkpoint.
    Untrusted,
    /// The witness knows no such log.
    UnknownOrigin,
    /// The proof does not lead from what the witness cosigned to the checkpoint.
    Inconsistent,
    /// The witness cannot read the request.
    Malformed,
    /// Another status, or a body of another form.
    Unusable(u16),
}

impl WitnessResponse {
    /// The maximum length of a body, in bytes. A cosignature of a key with a name of usual length
    /// takes 200.
    pub const MAX_BYTES: usize = 16 << 10;

    /// Reads the status and the body of an HTTP response.
    pub fn parse(status: u16, body: &[u8]) -> WitnessResponse {
        let text = Some(body).filter(|body| body.len() <= Self::MAX_BYTES);
        let text = text.and_then(|body| std::str::from_utf8(body).ok());
        let unusable = WitnessResponse::Unusable(status);
        match status {
            200 => {
                let lines = text.and_then(|text| text.strip_suffix('\n')).map(|lines| {
                    let lines = lines.split('\n').take(Note::MAX_SIGNATURES + 1);
                    lines.map(NoteSignature::parse).collect::<Result<Vec<_>, _>>()
                });
                match lines {
                    Some(Ok(lines)) if lines.len() <= Note::MAX_SIGNATURES => {
                        WitnessResponse::Cosigned(lines)
                    }
                    Some(Ok(_) | Err(_)) | None => unusable,
                }
            }
            409 => {
                let size = text.and_then(|text| parse_decimal(text.strip_suffix('\n')?));
                size.map_or(unusable, WitnessResponse::OtherSize)
            }
            400 => WitnessResponse::Malformed,
            403 => WitnessResponse::Untrusted,
            404 => WitnessResponse::UnknownOrigin,
            422 => WitnessResponse::Inconsistent,
            _ => unusable,
        }
    }
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmissionError {
    /// The witness has cosigned another history of the stream: somebody else has the stream's key,
    /// or the witness is faulty. It will cosign no later checkpoint.
    #[error("the witness says that it has cosigned another history of the stream")]
    OtherHistory,
    /// The witness does not trust the host's key.
    #[error("the witness does not trust this host's key: give it the host's verifier key")]
    Untrusted,
    /// The witness does not know the host.
    #[error("the witness does not know this host: give it the host's verifier key")]
    UnknownOrigin,
    /// The witness does not understand the request.
    #[error("the witness does not understand the request")]
    Malformed,
    /// The response has no valid cosignature by the expected key.
    #[error("the response has no valid cosignature by the witness's key in the settings")]
    NotCosigned,
    /// The protocol has no such response. The outcome is unknown.
    #[error("the response, with status {status}, is not that of a witness")]
    Unusable {
        /// Its HTTP status.
        status: u16,
    },
}

impl SubmissionError {
    /// Whether retries are useless until an operator acts.
    pub fn is_blocked(&self) -> bool {
        match self {
            SubmissionError::OtherHistory
            | SubmissionError::Untrusted
            | SubmissionError::UnknownOrigin
            | SubmissionError::Malformed
            | SubmissionError::NotCosigned => true,
            SubmissionError::Unusable { .. } => false,
        }
    }
}
