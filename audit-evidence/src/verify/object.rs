//! One object, by itself.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Fault, Trust};
use crate::{CompactRange, Hash, HeadError, ObjectHead, Salts, SystemRecord};

/// An object as far as it could be checked without any other.
#[derive(Debug, Clone)]
pub struct CheckedObject {
    pub(super) key: String,
    /// The number that its key says.
    pub(super) first: u64,
    pub(super) head: Result<ObjectHead, Unusable>,
    pub(super) body: Body,
    pub(super) is_system: bool,
    pub(super) records: Vec<SystemRecord>,
}

/// Why nothing of an object's metadata counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It has none.
    NoEvidence,
    UnknownHost(String),
    /// It is signed, and stands under a key that names other records than these.
    Misplaced(Range<u64>),
    Fault(Fault),
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Unread,
    /// The stream's roots at the sizes that were asked for.
    Sound {
        roots: Vec<(u64, Hash)>,
        after: CompactRange,
    },
    Unsound(Fault),
}

impl CheckedObject {
    /// Checks an object's metadata: what it says of itself, and the signatures.
    ///
    /// `key` is what follows the bucket's prefix, `stream` and `first` are what it names.
    pub fn head<'a>(
        trust: &Trust,
        key: &str,
        stream: &str,
        first: u64,
        metadata: impl Fn(&str) -> Option<&'a str>,
    ) -> CheckedObject {
        CheckedObject {
            key: key.to_owned(),
            first,
            head: check_head(trust, stream, first, metadata),
            body: Body::Unread,
            is_system: key.starts_with("_audit/"),
            records: Vec::new(),
        }
    }

    /// Checks the object's lines too, given without line feeds. The roots of the stream at `sizes`
    /// that fall into the object are noted on the way.
    ///
    /// Memory: 64 hashes, and the system records of a system object.
    #[must_use]
    pub fn lines<'a>(
        mut self,
        lines: impl IntoIterator<Item = &'a [u8]>,
        sizes: &[u64],
    ) -> CheckedObject {
        let Ok(head) = &self.head else { return self };
        let salts = Salts::new(&self.key, head.stable, &head.seed);
        let mut range = head.before.clone();
        let mut digest = Sha256::new();
        let mut roots = Vec::new();
        let mut is_system = true;
        for line in lines {
            if range.end() == head.end() {
                self.body = Body::Unsound(Fault::Object(HeadError::Count));
                return self;
            }
            digest.update(line);
            digest.update(b"\n");
            range.push(salts.leaf(range.end(), line));
            if sizes.contains(&range.end()) {
                roots.extend(range.root().map(|root| (range.end(), root)));
            }
            if self.is_system {
                match SystemRecord::parse(line) {
                    Ok(record) => self.records.push(record),
                    Err(_) => is_system = false,
                }
            }
        }
        let fault = if range.end() != head.end() {
            Some(Fault::Object(HeadError::Count))
        } else if range.root() != Some(head.root) {
            Some(Fault::Object(HeadError::Root))
        } else if <[u8; 32]>::from(digest.finalize()) != head.sha256 {
            Some(Fault::Digest)
        } else if !is_system {
            Some(Fault::SystemRecord)
        } else {
            None
        };
        self.body = match fault {
            Some(fault) => {
                self.records.clear();
                Body::Unsound(fault)
            }
            None => Body::Sound { roots, after: range },
        };
        self
    }

    /// The key that it was given under.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The number of its first record, by its key.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// What its evidence says, if that is sound.
    pub fn evidence(&self) -> Option<&ObjectHead> {
        self.head.as_ref().ok()
    }
}

fn check_head<'a>(
    trust: &Trust,
    stream: &str,
    first: u64,
    metadata: impl Fn(&str) -> Option<&'a str>,
) -> Result<ObjectHead, Unusable> {
    // What the first version wrote, and what was copied without its metadata.
    if matches!(metadata("format"), None | Some("1")) {
        return Err(Unusable::NoEvidence);
    }
    let fault = |error| Unusable::Fault(Fault::Object(error));
    let head = ObjectHead::from_metadata(stream, metadata).map_err(fault)?;
    let verdicts: Vec<_> = trust.named(&head.name).map(|host| head.verify(host)).collect();
    if verdicts.is_empty() {
        return Err(Unusable::UnknownHost(head.name));
    }
    if !verdicts.contains(&Ok(())) {
        // A key that certified the stream says more than those that did not.
        let is_certified = verdicts.contains(&Err(HeadError::Signature));
        let error = if is_certified { HeadError::Signature } else { HeadError::Certificate };
        return Err(fault(error));
    }
    if head.first != first {
        return Err(Unusable::Misplaced(head.first..head.end()));
    }
    Ok(head)
}
