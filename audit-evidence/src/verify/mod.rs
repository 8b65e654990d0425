//! What an auditor finds in a bucket.
//!
//! Objects are checked one by one and in parallel ([`CheckedObject`]), put together stream by
//! stream in the order of their records ([`StreamVerifier`]), and the streams at the end
//! ([`BucketReport`]). Memory grows with the number of streams and of findings, not of objects.

mod bucket;
mod gap;
mod object;
mod state;
mod stream;

use std::fmt;
use std::ops::Range;

pub use bucket::BucketReport;
pub use object::{CheckedObject, LineCheck};
pub use state::{InvalidState, Remembered, State};
pub use stream::{Known, StreamReport, StreamVerifier};

use crate::{HeadError, VerifierKey};

/// Which hosts an auditor believes.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<VerifierKey>,
}

impl Trust {
    /// These hosts' keys. One name may have several: a host that changed its key.
    pub fn new(keys: impl IntoIterator<Item = VerifierKey>) -> Trust {
        Trust { keys: keys.into_iter().collect() }
    }

    /// The keys of the host of this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &VerifierKey> {
        self.keys.iter().filter(move |key| key.name() == name)
    }
}

/// How a finding is to be taken. The kinds never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// What stands is not what was written, or what was written no longer stands.
    Tampered,
    /// It can be neither proven nor refuted.
    Unproven,
    /// A sign of life is overdue.
    Late,
    /// Records at the beginning of a stream are gone, as retention removes them.
    Expired,
}

/// Something that an auditor should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The stream that it concerns.
    pub stream: String,
    /// The key of the object, where it is one.
    pub object: Option<String>,
    /// The records that it concerns, as far as they are known.
    pub records: Option<Range<u64>>,
    /// What it is.
    pub fault: Fault,
}

impl Finding {
    /// How it is to be taken.
    pub fn alarm(&self) -> Alarm {
        self.fault.alarm()
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The object's metadata or records are not what was signed.
    Object(HeadError),
    /// The object cannot be read to its end: it is not compressed as its key says, or its last line
    /// has no line feed.
    Damaged,
    /// The object has no evidence, and others of its stream have.
    Stripped,
    /// The object says in its metadata that it begins elsewhere than its key says.
    Place,
    /// The object's `sha256` is not that of the lines that were signed.
    Digest,
    /// The object is signed by another key than the stream's others.
    OtherKey,
    /// The records before the object, as it was signed, are not those that stand.
    Unlinked,
    /// The same records were signed twice, and differently.
    Fork,
    /// The object says that it holds records that another one holds too. Reading their lines tells
    /// which of the two is not what was signed.
    Overlap,
    /// The object is a copy of another one.
    Copy,
    /// A system object holds something else than system records, or one at a wrong place.
    SystemRecord,
    /// The records were acknowledged and are gone.
    Deleted,
    /// The stream ends before it ended when it was last seen, or before where its successor says.
    /// The number is where it ended.
    Truncated(u64),
    /// The stream was known, and nothing of it stands.
    Vanished,
    /// The stream's first records are others than when it was last seen, or than its successor
    /// says. The number is how many were known.
    Rewritten(u64),
    /// Something stands behind the stream's end.
    AfterEnd,
    /// Two streams follow the same one: this is the later.
    TwoSuccessors {
        /// The stream that both follow.
        of: String,
    },
    /// The stream has no evidence: it was written without.
    NoEvidence,
    /// No key is known for the host of this name.
    UnknownHost(String),
    /// The records are not there, and nothing shows that they had been acknowledged: a host that
    /// was killed may leave such a gap.
    Unacknowledged,
    /// Too few witnesses have cosigned any checkpoint of the stream that stands.
    Unwitnessed,
    /// The host set the records aside: their object's key held something else.
    SetAside {
        /// What the host says about it.
        reason: String,
    },
    /// The stream's next sign of life was promised for before this time, in milliseconds since
    /// the Unix epoch.
    Overdue(u64),
    /// The records, or the whole stream, are older than what still stands.
    Expired,
}

impl Fault {
    /// How it is to be taken.
    pub fn alarm(&self) -> Alarm {
        match self {
            Fault::Object(_)
            | Fault::Damaged
            | Fault::Stripped
            | Fault::Place
            | Fault::Digest
            | Fault::OtherKey
            | Fault::Unlinked
            | Fault::Fork
            | Fault::Overlap
            | Fault::Copy
            | Fault::SystemRecord
            | Fault::Deleted
            | Fault::Truncated(_)
            | Fault::Vanished
            | Fault::Rewritten(_)
            | Fault::AfterEnd
            | Fault::TwoSuccessors { .. } => Alarm::Tampered,
            Fault::NoEvidence
            | Fault::UnknownHost(_)
            | Fault::Unacknowledged
            | Fault::Unwitnessed
            | Fault::SetAside { .. } => Alarm::Unproven,
            Fault::Overdue(_) => Alarm::Late,
            Fault::Expired => Alarm::Expired,
        }
    }
}

impl Fault {
    /// What it is in one word, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Fault::Object(error) => match error {
                HeadError::Missing(_) => "metadata-missing",
                HeadError::Malformed(_) => "metadata-malformed",
                HeadError::Certificate => "certificate",
                HeadError::Signature => "signature",
                HeadError::Count => "count",
                HeadError::Root => "root",
            },
            Fault::Damaged => "damaged",
            Fault::Stripped => "stripped",
            Fault::Place => "place",
            Fault::Digest => "digest",
            Fault::OtherKey => "other-key",
            Fault::Unlinked => "unlinked",
            Fault::Fork => "fork",
            Fault::Overlap => "overlap",
            Fault::Copy => "copy",
            Fault::SystemRecord => "system-record",
            Fault::Deleted => "deleted",
            Fault::Truncated(_) => "truncated",
            Fault::Vanished => "vanished",
            Fault::Rewritten(_) => "rewritten",
            Fault::AfterEnd => "after-end",
            Fault::TwoSuccessors { .. } => "two-successors",
            Fault::NoEvidence => "no-evidence",
            Fault::UnknownHost(_) => "unknown-host",
            Fault::Unacknowledged => "unacknowledged",
            Fault::Unwitnessed => "unwitnessed",
            Fault::SetAside { .. } => "set-aside",
            Fault::Overdue(_) => "overdue",
            Fault::Expired => "expired",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Object(error) => error.fmt(f),
            Fault::Damaged => f.write_str("the object cannot be read to its end"),
            Fault::Stripped => f.write_str("the object has lost its evidence"),
            Fault::Place => f.write_str("the object's key and its metadata name different records"),
            Fault::Digest => f.write_str("the metadata \"sha256\" is not that of the signed lines"),
            Fault::OtherKey => f.write_str("another key than the stream's signed the object"),
            Fault::Unlinked => f.write_str("the object was signed after other records than these"),
            Fault::Fork => f.write_str("the same records were signed twice, differently"),
            Fault::Overlap => {
                f.write_str("another object claims some of the same records, and one of them lies")
            }
            Fault::Copy => f.write_str("the object is a copy of another one"),
            Fault::SystemRecord => f.write_str("the object holds invalid system records"),
            Fault::Deleted => f.write_str("acknowledged records are missing"),
            Fault::Truncated(size) => write!(f, "the stream had {size} records and ends before"),
            Fault::Vanished => f.write_str("the stream is known and nothing of it stands"),
            Fault::Rewritten(size) => {
                write!(f, "the stream's first {size} records are not those that were known")
            }
            Fault::AfterEnd => f.write_str("the object stands behind the stream's end"),
            Fault::TwoSuccessors { of } => {
                write!(f, "another stream follows {of} too: a journal was copied")
            }
            Fault::NoEvidence => f.write_str("the stream was written without evidence"),
            Fault::UnknownHost(name) => write!(f, "no key is given for the host {name:?}"),
            Fault::Unacknowledged => {
                f.write_str("records are missing that nothing shows to have been acknowledged")
            }
            Fault::Unwitnessed => f.write_str("no quorum of witnesses has cosigned the stream"),
            Fault::SetAside { reason } => write!(f, "the host set records aside: {reason}"),
            Fault::Overdue(at) => write!(f, "a sign of life was promised for before {at} ms"),
            Fault::Expired => f.write_str("the records before what stands have expired"),
        }
    }
}

/// When a stream was opened, in milliseconds since the Unix epoch: the first ten characters of its
/// ULID.
fn opened_at(stream: &str) -> Option<u64> {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let time = stream.as_bytes().get(..10)?;
    time.iter().try_fold(0, |time, byte| {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        Some(time << 5 | digit as u64)
    })
}
