//! The checkpoints of one stream on their way to the witnesses.

use std::collections::BTreeMap;

use audit_evidence::{CompactRange, Hash, Note, NoteSignature, Submitter};

/// The most notes that are kept for the next system record. Cosignatures of one checkpoint may
/// arrive one after the other, and count together only in one note.
const MAX_NOTES: usize = 4;

/// A stream that this process began.
///
/// A witness is only shown checkpoints of system records that are in the bucket, with all records
/// before them there or set aside. So the stream cannot contradict the witness after a crash: with
/// a journal, the plans of these objects are durable; without one, nobody has the stream's key any
/// more.
#[derive(Debug)]
pub(super) struct Lane {
    /// The records of sealed objects without a certain outcome, by their first number.
    sealed: BTreeMap<u64, CompactRange>,
    /// Objects with a certain outcome that are behind others without one.
    arrived: BTreeMap<u64, (CompactRange, Option<(Note, Hash)>)>,
    /// All records with a certain outcome.
    total: CompactRange,
    /// The records after the last checkpoint that was shown.
    ahead: CompactRange,
    pub(super) ways: Vec<Way>,
    /// Cosigned checkpoints, by their size.
    notes: BTreeMap<u64, Note>,
    has_news: bool,
    pub(super) ending: Ending,
}

/// The submissions of the stream to one witness.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) submitter: Submitter,
    /// Whether the witness has seen another history, and gets nothing more.
    pub(super) is_lost: bool,
    /// The number of consecutive responses with neither a cosignature nor an error.
    pub(super) steps: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    /// The closing record was written.
    Closing,
    /// The checkpoint of the closing record was shown.
    Closed,
}

impl Lane {
    pub(super) fn new(certificate: &NoteSignature, witnesses: usize) -> Lane {
        let way =
            || Way { submitter: Submitter::new(certificate.clone()), is_lost: false, steps: 0 };
        Lane {
            sealed: BTreeMap::new(),
            arrived: BTreeMap::new(),
            total: CompactRange::default(),
            ahead: CompactRange::default(),
            ways: (0..witnesses).map(|_| way()).collect(),
            notes: BTreeMap::new(),
            has_news: false,
            ending: Ending::No,
        }
    }

    /// Notes a sealed object. Objects that were sealed earlier with these or later records were
    /// never planned, and are forgotten.
    pub(super) fn sealed(&mut self, records: &CompactRange) {
        self.sealed.split_off(&records.begin());
        self.sealed.insert(records.begin(), records.clone());
    }

    /// Notes the certain outcome of an object, with its signed checkpoint if that may be shown.
    /// Returns whether there is something new to submit.
    ///
    /// # Errors
    ///
    /// If the checkpoint is not that of the records that were sealed. Nothing can be proven then.
    pub(super) fn arrived(
        &mut self,
        first: u64,
        checkpoint: Option<(Note, Hash)>,
    ) -> Result<bool, Unprovable> {
        let Some(records) = self.sealed.remove(&first) else { return Ok(false) };
        self.arrived.insert(first, (records, checkpoint));
        let mut has_next = false;
        while let Some((records, checkpoint)) = self.arrived.remove(&self.total.end()) {
            self.total = join(&self.total, &records);
            self.ahead = join(&self.ahead, &records);
            let Some((note, root)) = checkpoint else { continue };
            if self.total.root() != Some(root) {
                return Err(Unprovable);
            }
            for way in &mut self.ways {
                way.submitter.show(&self.ahead, note.clone());
            }
            self.ahead = CompactRange::new(self.total.end());
            has_next = true;
            if self.ending == Ending::Closing {
                self.ending = Ending::Closed;
            }
        }
        Ok(has_next)
    }

    /// Keeps a checkpoint that a witness cosigned, for the next system record.
    pub(super) fn cosigned(&mut self, size: u64, note: Note) {
        match self.notes.get_mut(&size) {
            Some(known) => {
                let lines = note.signatures().iter();
                let new: Vec<_> = lines.filter(|line| !known.signatures().contains(line)).collect();
                new.into_iter().for_each(|line| known.add(line.clone()));
            }
            None => {
                self.notes.insert(size, note);
            }
        }
        while self.notes.len() > MAX_NOTES {
            self.notes.pop_first();
        }
        self.has_news = true;
    }

    /// The cosigned checkpoints to write, if there are new ones.
    pub(super) fn news(&mut self) -> Vec<String> {
        if !std::mem::take(&mut self.has_news) {
            return Vec::new();
        }
        let notes = self.notes.values().map(ToString::to_string).collect();
        let all = 1 + self.ways.len();
        self.notes.retain(|_, note| note.signatures().len() < all);
        notes
    }

    /// Whether a checkpoint is to be submitted to this witness.
    pub(super) fn has_next(&self, witness: usize) -> bool {
        let way = &self.ways[witness];
        !way.is_lost && way.submitter.has_next()
    }

    /// Whether the stream has ended, and no checkpoint of it remains to be submitted.
    pub(super) fn is_done(&self) -> bool {
        self.ending == Ending::Closed && (0..self.ways.len()).all(|witness| !self.has_next(witness))
    }
}

/// The records of a stream are not those that its checkpoint was made of.
#[derive(Debug)]
pub(super) struct Unprovable;

fn join(before: &CompactRange, after: &CompactRange) -> CompactRange {
    before.clone().join(after).expect("records follow those before them")
}
