//! The verification of a bucket.
//!
//! Objects are checked individually and in parallel ([`CheckedObject`]), then combined to streams
//! in the order of their records ([`StreamVerifier`]), and the streams to a report
//! ([`BucketReport`]). Memory grows with the number of streams and findings, not of objects.

mod bucket;
mod gap;
mod object;
mod state;
mod stream;
mod stream_report;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

pub use bucket::{BucketReport, Context};
pub use object::{CheckedObject, LineCheck};
pub use state::{InvalidState, Remembered, State};
pub use stream::{Known, StreamVerifier};
pub use stream_report::StreamReport;

use crate::{Certificate, HeadError, VerifierKey};

/// A host's key that an auditor trusts, and for which streams.
///
/// The holder of a retired key can still sign streams whose names claim an earlier opening: only a
/// [`State`] or a witness shows that these streams did not exist then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: VerifierKey,
    /// The key may certify streams that were opened within this time, in milliseconds since the
    /// Unix epoch.
    pub validity: Range<u64>,
}

impl TrustedKey {
    /// Whether the key may certify this stream, by the time in the stream's name.
    pub fn is_valid_for(&self, stream: &str) -> bool {
        let is_always = self.validity == (0..u64::MAX);
        is_always || opened_at(stream).is_some_and(|opened| self.validity.contains(&opened))
    }
}

/// A key without an end.
impl From<VerifierKey> for TrustedKey {
    fn from(key: VerifierKey) -> TrustedKey {
        TrustedKey { key, validity: 0..u64::MAX }
    }
}

/// The hosts that an auditor trusts.
#[derive(Debug, Default)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    /// The certificates that were last found valid, with the host's key, the newest first: all
    /// objects of a stream have the same, and its verification takes half the time of a head's.
    certified: Mutex<VecDeque<(VerifierKey, Certificate)>>,
}

/// The number of certificates that are remembered. Objects are checked in parallel, and those that
/// are checked at one time belong to few streams.
const CERTIFIED: usize = 16;

impl Trust {
    /// Trusts these keys. A name may have several, if the host changed its key.
    pub fn new(keys: impl IntoIterator<Item: Into<TrustedKey>>) -> Trust {
        Trust { keys: keys.into_iter().map(Into::into).collect(), certified: Mutex::default() }
    }

    /// The keys of the host of this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &TrustedKey> {
        self.keys.iter().filter(move |trusted| trusted.key.name() == name)
    }

    /// Whether this host, which is a trusted one, issued the certificate.
    fn is_certified(&self, certificate: &Certificate, host: &VerifierKey) -> bool {
        let certified = || self.certified.lock().unwrap_or_else(PoisonError::into_inner);
        if certified().iter().any(|(by, known)| by == host && known == certificate) {
            return true;
        }
        let is_valid = certificate.is_by(host);
        if is_valid {
            let mut certified = certified();
            certified.truncate(CERTIFIED - 1);
            certified.push_front((host.clone(), certificate.clone()));
        }
        is_valid
    }
}

/// The kind of a finding. Each fault has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// The bucket does not hold what was written.
    Tampered,
    /// Integrity can be neither proven nor refuted.
    Unproven,
    /// A heartbeat is overdue.
    Late,
    /// Records at the beginning of a stream are gone, as after retention.
    Expired,
}

/// A finding of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The stream that it concerns.
    pub stream: String,
    /// The key of the object, if it concerns one.
    pub object: Option<String>,
    /// The records that it concerns, if known.
    pub records: Option<Range<u64>>,
    /// The fault.
    pub fault: Fault,
}

impl Finding {
    /// The kind of the finding.
    pub fn alarm(&self) -> Alarm {
        self.fault.alarm()
    }
}

/// The kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The object's metadata or records differ from what was signed.
    Object(HeadError),
    /// The object cannot be read to its end: its compression is invalid, or its last line has no
    /// line feed.
    Damaged,
    /// The object has no evidence, but others of its stream do, or the stream had some before.
    Stripped,
    /// The object's metadata and key name different first records.
    Place,
    /// The object's `sha256` does not match the signed lines.
    Digest,
    /// The object is signed by another key than the stream's others, or than before.
    OtherKey,
    /// The object was signed after other records than those before it now.
    Unlinked,
    /// The same records were signed twice, with different content.
    Fork,
    /// Two objects claim the same records. Reading their lines shows which one was altered.
    Overlap,
    /// The object is a copy of another one.
    Copy,
    /// A system object contains other lines, or a system record in the wrong position.
    SystemRecord,
    /// A file derived from records differs from them. The text says how.
    Compacted(String),
    /// Acknowledged records are gone.
    Deleted,
    /// The stream is shorter than when last seen, or than its successor states. The number is its
    /// former size.
    Truncated(u64),
    /// The stream was known, but no object of it is left.
    Vanished,
    /// The stream's first records differ from those last seen, or from what its successor states.
    /// The number is how many were known.
    Rewritten(u64),
    /// An object follows the end of the stream.
    AfterEnd,
    /// Two streams follow the same one; this is the later of the two.
    TwoSuccessors {
        /// The stream that both follow.
        of: String,
    },
    /// The stream was written without evidence.
    NoEvidence,
    /// This many foreign objects are among a bucket's records, or among the files that are derived
    /// from them. Query engines that read whole partitions take what is in them for records.
    Foreign(u64),
    /// No key is known for the host of this name.
    UnknownHost(String),
    /// The key of the host of this name was not valid yet, or no longer, when the stream was
    /// opened.
    KeyValidity(String),
    /// The stream was written to the bucket of this name, and not to this one.
    OtherBucket(String),
    /// The record that opened the stream has expired, and the stream was not seen before: nothing
    /// shows that it was written to this bucket.
    Unopened,
    /// The stream was absent when streams were seen that were opened long after it: a host's
    /// records were delivered late, or somebody with its key wrote the stream afterwards.
    Appeared,
    /// The records are missing, but nothing shows that they were acknowledged: a killed host may
    /// leave such a gap.
    Unacknowledged,
    /// No checkpoint left of the stream has enough cosignatures.
    Unwitnessed,
    /// The host set the records aside because another object had their key.
    SetAside {
        /// The host's reason.
        reason: String,
    },
    /// The stream's next heartbeat was due at this time, in milliseconds since the Unix epoch.
    Overdue(u64),
    /// The records, or the whole stream, are past retention.
    Expired,
}

impl Fault {
    /// The kind of the finding.
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
            | Fault::Compacted(_)
            | Fault::Deleted
            | Fault::Truncated(_)
            | Fault::Vanished
            | Fault::Rewritten(_)
            | Fault::AfterEnd
            | Fault::TwoSuccessors { .. } => Alarm::Tampered,
            Fault::NoEvidence
            | Fault::Foreign(_)
            | Fault::UnknownHost(_)
            | Fault::KeyValidity(_)
            | Fault::OtherBucket(_)
            | Fault::Unopened
            | Fault::Appeared
            | Fault::Unacknowledged
            | Fault::Unwitnessed
            | Fault::SetAside { .. } => Alarm::Unproven,
            Fault::Overdue(_) => Alarm::Late,
            Fault::Expired => Alarm::Expired,
        }
    }
}

impl Fault {
    /// A stable code, for programs.
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
            Fault::Compacted(_) => "compacted",
            Fault::Deleted => "deleted",
            Fault::Truncated(_) => "truncated",
            Fault::Vanished => "vanished",
            Fault::Rewritten(_) => "rewritten",
            Fault::AfterEnd => "after-end",
            Fault::TwoSuccessors { .. } => "two-successors",
            Fault::NoEvidence => "no-evidence",
            Fault::Foreign(_) => "foreign-object",
            Fault::UnknownHost(_) => "unknown-host",
            Fault::KeyValidity(_) => "key-validity",
            Fault::OtherBucket(_) => "other-bucket",
            Fault::Unopened => "unopened",
            Fault::Appeared => "appeared",
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
            Fault::Stripped => f.write_str("the evidence has been removed"),
            Fault::Place => f.write_str("the object's key and its metadata name different records"),
            Fault::Digest => f.write_str("the metadata \"sha256\" is not that of the signed lines"),
            Fault::OtherKey => f.write_str("it is not signed by the stream's key"),
            Fault::Unlinked => f.write_str("the object was signed after other records than these"),
            Fault::Fork => f.write_str("the same records were signed twice, differently"),
            Fault::Overlap => f.write_str(
                "another object claims some of the same records: one of the two was altered",
            ),
            Fault::Copy => f.write_str("the object is a copy of another one"),
            Fault::SystemRecord => f.write_str("the object holds invalid system records"),
            Fault::Compacted(what) => {
                write!(f, "the file is not derived from signed records: {what}")
            }
            Fault::Deleted => f.write_str("acknowledged records are missing"),
            Fault::Truncated(size) => {
                write!(f, "the stream had {size} records and now ends earlier")
            }
            Fault::Vanished => f.write_str("the stream is known, but no object of it is left"),
            Fault::Rewritten(size) => {
                write!(f, "the stream's first {size} records differ from those known")
            }
            Fault::AfterEnd => f.write_str("the object follows the end of the stream"),
            Fault::TwoSuccessors { of } => {
                write!(f, "another stream follows {of} too: a journal was copied")
            }
            Fault::NoEvidence => f.write_str("the stream was written without evidence"),
            Fault::Foreign(1) => f.write_str("this foreign object stands among the records"),
            Fault::Foreign(count) => {
                write!(f, "{count} foreign objects stand among the records, such as this one")
            }
            Fault::UnknownHost(name) => write!(f, "no key is given for the host {name:?}"),
            Fault::KeyValidity(name) => {
                write!(f, "the key of the host {name:?} was not valid when the stream was opened")
            }
            Fault::OtherBucket(bucket) => write!(f, "the stream was written to {bucket}"),
            Fault::Unopened => f.write_str(
                "the record that names the stream's bucket has expired: the stream may be from \
                 another one",
            ),
            Fault::Appeared => f.write_str(
                "the stream was not there when later ones were seen: a host was delivered late, or \
                 the stream was written afterwards",
            ),
            Fault::Unacknowledged => {
                f.write_str("records are missing that nothing shows to have been acknowledged")
            }
            Fault::Unwitnessed => f.write_str("no quorum of witnesses has cosigned the stream"),
            Fault::SetAside { reason } => write!(f, "the host set records aside: {reason}"),
            Fault::Overdue(at) => write!(f, "a heartbeat was due at {at} ms"),
            Fault::Expired => f.write_str("the records have expired"),
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
