//! The check of a single object.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Fault, Trust};
use crate::{CompactRange, Hash, HeadError, ObjectHead, Salts, SystemRecord};

/// An object, checked without reference to any other.
#[derive(Debug, Clone)]
pub struct CheckedObject {
    pub(super) key: String,
    /// The number of its first record by its key.
    pub(super) first: u64,
    pub(super) head: Result<ObjectHead, Unusable>,
    pub(super) body: Body,
    pub(super) is_system: bool,
    pub(super) records: Vec<SystemRecord>,
}

/// Why an object's metadata cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It has no evidence.
    NoEvidence,
    UnknownHost(String),
    /// The host's key was not valid when the stream was opened.
    KeyValidity(String),
    /// It is validly signed for these records, but its key names others.
    Misplaced(Range<u64>),
    Fault(Fault),
    /// It could not be read.
    Unread,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Unread,
    /// The stream's roots at the requested sizes.
    Sound {
        roots: Vec<(u64, Hash)>,
        after: CompactRange,
    },
    Unsound(Fault),
}

impl CheckedObject {
    /// Checks an object's metadata and its signatures.
    ///
    /// `key` is the object's key below the bucket's prefix, `stream` and `first` are its parts.
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

    /// An object of which neither metadata nor lines could be read. No finding concerns the records
    /// that it may hold, and the rest of its stream is still verified.
    pub fn unread(key: &str, first: u64) -> CheckedObject {
        CheckedObject {
            key: key.to_owned(),
            first,
            head: Err(Unusable::Unread),
            body: Body::Unread,
            is_system: key.starts_with("_audit/"),
            records: Vec::new(),
        }
    }

    /// Checks the object's lines too, given without line feeds. Records the roots of the stream at
    /// those `sizes` that fall into the object.
    #[must_use]
    pub fn lines<'a>(
        self,
        lines: impl IntoIterator<Item = &'a [u8]>,
        sizes: &[u64],
    ) -> CheckedObject {
        let mut check = self.check_lines(sizes);
        let mut digest = Sha256::new();
        for line in lines {
            digest.update(line);
            digest.update(b"\n");
            check.push(line);
        }
        check.finish(&digest.finalize().into())
    }

    /// Checks the object's lines as they are read. Records the roots of the stream at those `sizes`
    /// that fall into the object.
    pub fn check_lines(self, sizes: &[u64]) -> LineCheck {
        let (salts, range) = match &self.head {
            Ok(head) => (Salts::new(&self.key, head.stable, &head.seed), head.before.clone()),
            // Without usable evidence there is nothing to compare the lines with.
            Err(_) => (Salts::new("", 0, &[0; 32]), CompactRange::default()),
        };
        LineCheck {
            object: self,
            salts,
            range,
            sizes: sizes.to_vec(),
            roots: Vec::new(),
            has_more: false,
            has_other_lines: false,
        }
    }

    /// The object's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The number of its first record, by its key.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its evidence, if valid.
    pub fn evidence(&self) -> Option<&ObjectHead> {
        self.head.as_ref().ok()
    }

    /// Its system records, if it is a system object whose lines were checked and are valid.
    pub fn system_records(&self) -> &[SystemRecord] {
        &self.records
    }
}

/// A check of an object's lines in progress.
///
/// Memory: 64 hashes, and the system records of a system object.
#[derive(Debug)]
pub struct LineCheck {
    object: CheckedObject,
    salts: Salts,
    range: CompactRange,
    sizes: Vec<u64>,
    roots: Vec<(u64, Hash)>,
    has_more: bool,
    has_other_lines: bool,
}

impl LineCheck {
    /// The next line, without its line feed.
    pub fn push(&mut self, line: &[u8]) {
        let Ok(head) = &self.object.head else { return };
        if self.range.end() == head.end() {
            self.has_more = true;
            return;
        }
        let number = self.range.end();
        self.range.push(self.salts.leaf(number, line));
        if self.sizes.contains(&self.range.end()) {
            self.roots.extend(self.range.root().map(|root| (self.range.end(), root)));
        }
        if self.object.is_system {
            match SystemRecord::parse(line) {
                Ok(record) => self.object.records.push(record),
                Err(_) => self.has_other_lines = true,
            }
        }
    }

    /// Ends the check of a fully read object. `sha256` is that of all its lines, including line
    /// feeds.
    pub fn finish(mut self, sha256: &[u8; 32]) -> CheckedObject {
        let Ok(head) = &self.object.head else { return self.object };
        let fault = if self.has_more || self.range.end() != head.end() {
            Some(Fault::Object(HeadError::Count))
        } else if self.range.root() != Some(head.root) {
            Some(Fault::Object(HeadError::Root))
        } else if *sha256 != head.sha256 {
            Some(Fault::Digest)
        } else if self.has_other_lines {
            Some(Fault::SystemRecord)
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.unsound(fault);
        }
        self.object.body = Body::Sound { roots: self.roots, after: self.range };
        self.object
    }

    /// Ends the check of an object that cannot be read to its end: its compression is invalid, or
    /// its last line has no line feed.
    pub fn damaged(self) -> CheckedObject {
        if self.object.head.is_ok() { self.unsound(Fault::Damaged) } else { self.object }
    }

    fn unsound(mut self, fault: Fault) -> CheckedObject {
        self.object.records.clear();
        self.object.body = Body::Unsound(fault);
        self.object
    }
}

fn check_head<'a>(
    trust: &Trust,
    stream: &str,
    first: u64,
    metadata: impl Fn(&str) -> Option<&'a str>,
) -> Result<ObjectHead, Unusable> {
    // Written by the first version, or copied without metadata.
    if matches!(metadata("format"), None | Some("1")) {
        return Err(Unusable::NoEvidence);
    }
    let fault = |error| Unusable::Fault(Fault::Object(error));
    let head = ObjectHead::from_metadata(stream, metadata).map_err(fault)?;
    let mut verdicts = Vec::new();
    for host in trust.named(&head.name) {
        let is_by = |certificate: &_| trust.is_certified(certificate, &host.key);
        verdicts.push((head.verify_with(&host.key, is_by), host.is_valid_for(stream)));
    }
    if verdicts.is_empty() {
        return Err(Unusable::UnknownHost(head.name));
    }
    verdicts.retain(|(verdict, _)| *verdict != Err(HeadError::Certificate));
    let Some((verdict, _)) = verdicts.first() else { return Err(fault(HeadError::Certificate)) };
    if !verdicts.iter().any(|(_, is_valid)| *is_valid) {
        return Err(Unusable::KeyValidity(head.name));
    }
    // The stream's key made the signature, whichever of the host's keys certified it.
    verdict.map_err(fault)?;
    if head.first != first {
        return Err(Unusable::Misplaced(head.first..head.end()));
    }
    Ok(head)
}
