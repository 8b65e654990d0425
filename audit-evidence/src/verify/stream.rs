//! The verification of one stream.

use std::collections::BTreeSet;
use std::ops::Range;

use super::gap::Gap;
use super::object::{Body, Unusable};
use super::stream_report::StreamReport;
use super::{CheckedObject, Fault, Finding, Remembered, opened_at};
use crate::{CompactRange, ObjectHead, SystemRecord};

/// An auditor's prior knowledge of a stream.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its state when last seen.
    pub seen: Option<Remembered>,
    /// Records for which there are receipts.
    pub acknowledged: Vec<Range<u64>>,
    /// Records written at or after this time, in milliseconds since the Unix epoch, must still be
    /// retained. If `None`, all records missing at a stream's beginning count as expired.
    pub retained_since: Option<u64>,
}

/// Verifies the objects of one stream, added in the order of their first record and then of their
/// key.
#[derive(Debug)]
pub struct StreamVerifier {
    known: Known,
    report: StreamReport,
    /// The expected number of the next record.
    expected: u64,
    /// Whether the last object's end is unknown because its metadata is unusable.
    is_open: bool,
    last: Option<Last>,
    has_seen_data: bool,
    stream_key: Option<[u8; 32]>,
    gaps: Vec<Gap>,
    /// Gaps before objects with unusable metadata. They count once a valid object follows: a key
    /// alone does not prove that records existed.
    unconfirmed: Vec<Gap>,
    voids: Vec<(Range<u64>, String)>,
    /// Objects of unknown end.
    occupied: Vec<Occupied>,
    /// Objects with unusable metadata, by the number of their first record.
    unusable: Vec<(u64, String, Unusable)>,
    is_seen_settled: bool,
}

/// An object of unknown end. If a void begins at its number, the host's records end with the void,
/// and missing records up to the next object are a gap.
#[derive(Debug)]
struct Occupied {
    first: u64,
    /// The number of the next object.
    next: Option<u64>,
    is_prefix: bool,
    after: Option<u64>,
}

#[derive(Debug)]
struct Last {
    head: ObjectHead,
    /// The stream's tree before the object or, if its lines were read, up to its end. `None` if its
    /// lines contradict it.
    range: Option<CompactRange>,
    is_sound: bool,
}

impl StreamVerifier {
    /// A verifier without objects.
    pub fn new(stream: &str, known: Known) -> StreamVerifier {
        StreamVerifier {
            known,
            report: StreamReport::new(stream),
            expected: 0,
            is_open: false,
            last: None,
            has_seen_data: false,
            stream_key: None,
            gaps: Vec::new(),
            unconfirmed: Vec::new(),
            voids: Vec::new(),
            occupied: Vec::new(),
            unusable: Vec::new(),
            is_seen_settled: false,
        }
    }

    /// The sizes at which the stream's root is needed, for [`CheckedObject::lines`].
    pub fn sizes(&self) -> Vec<u64> {
        self.known.seen.iter().map(|seen| seen.size).collect()
    }

    /// Adds the next object.
    pub fn add(&mut self, object: CheckedObject) {
        self.report.objects += 1;
        let CheckedObject { key, first, head, body, is_system, records } = object;
        if self.report.closed.is_some_and(|end| first >= end) {
            self.find(Some(&key), None, Fault::AfterEnd);
            return;
        }
        let head = match head {
            Ok(head) => head,
            Err(unusable) => {
                self.unusable.push((first, key, unusable));
                self.occupy(first);
                self.has_seen_data |= !is_system;
                return;
            }
        };
        let stream_key = head.certificate.stream_key().to_bytes();
        if *self.stream_key.get_or_insert(stream_key) != stream_key {
            self.find(Some(&key), Some(head.first..head.end()), Fault::OtherKey);
            self.occupy(first);
            return;
        }
        self.report.host.get_or_insert_with(|| head.name.clone());
        if !self.is_open && first < self.expected {
            self.overlap(&key, &head, body);
            return;
        }
        self.place(&key, head, body);
        self.has_seen_data |= !is_system;
        self.take_records(&key, first, records);
    }

    /// Notes an object of unknown end, whose first record has the number `first`. It ends where the
    /// next object begins, or before.
    fn occupy(&mut self, first: u64) {
        if first >= self.expected {
            let gap = self.gap_before(first);
            self.unconfirmed.extend(gap);
            self.end_occupied(first);
            let (is_prefix, after) = (!self.has_seen_data, self.report.latest);
            self.occupied.push(Occupied { first, next: None, is_prefix, after });
            self.expected = first;
            self.is_open = true;
        }
    }

    /// Notes that the object after one of unknown end begins with the record `next`.
    fn end_occupied(&mut self, next: u64) {
        if let Some(occupied) = self.occupied.last_mut().filter(|_| self.is_open) {
            occupied.next.get_or_insert(next);
        }
    }

    fn gap_before(&self, first: u64) -> Option<Gap> {
        let is_gap = !self.is_open && first > self.expected;
        is_gap.then_some(Gap {
            records: self.expected..first,
            is_prefix: !self.has_seen_data,
            after: self.report.latest,
        })
    }

    /// Adds an object that begins with a record which an earlier object had.
    fn overlap(&mut self, key: &str, head: &ObjectHead, body: Body) {
        let records = Some(head.first..head.end());
        if let Body::Unsound(fault) = body {
            self.find(Some(key), records, fault);
            return;
        }
        match &mut self.last {
            Some(last) if last.head == *head => {
                // The other object was the copy, and was reported.
                if last.is_sound {
                    self.find(Some(key), records, Fault::Copy);
                } else {
                    last.is_sound = true;
                }
            }
            // Without its lines, the position of an object is unproven.
            Some(_) | None if matches!(body, Body::Unread) => {
                self.find(Some(key), records, Fault::Overlap);
            }
            Some(_) | None => self.find(Some(key), records, Fault::Fork),
        }
    }

    /// Adds the next object in the order of records, possibly after a gap.
    fn place(&mut self, key: &str, head: ObjectHead, body: Body) {
        self.end_occupied(head.first);
        let gap = self.gap_before(head.first);
        let confirmed = self.unconfirmed.drain(..);
        self.gaps.extend(confirmed.filter(|gap| gap.records.start < head.first).chain(gap));
        let records = head.first..head.end();
        let is_linked = self.last.as_ref().is_none_or(|last| {
            if last.head.end() == head.first {
                head.before.root() == Some(last.head.root)
            } else {
                last.range.as_ref().is_none_or(|range| range.agrees_with(&head.before))
            }
        });
        let fault = match &body {
            // An object that contradicts its own lines is not compared with others.
            Body::Unsound(fault) => Some(fault.clone()),
            Body::Unread | Body::Sound { .. } => (!is_linked).then_some(Fault::Unlinked),
        };
        if let Some(fault) = fault {
            self.find(Some(key), Some(records.clone()), fault);
        }
        self.compare_with_seen(key, &head, &body);
        let (range, is_sound) = match body {
            Body::Unread => (Some(head.before.clone()), true),
            Body::Sound { after, .. } => (Some(after), true),
            Body::Unsound(_) => (None, false),
        };
        let range = range.filter(|_| is_linked);
        // Only the salts bind `stable`, so it counts only if the lines are valid.
        if is_sound {
            self.report.stable = self.report.stable.max(head.stable);
        }
        self.expected = head.end();
        self.is_open = false;
        self.report.size = head.end();
        self.report.root = Some(head.root);
        self.report.records += head.count;
        self.last = Some(Last { head, range, is_sound });
    }

    fn compare_with_seen(&mut self, key: &str, head: &ObjectHead, body: &Body) {
        let Some(seen) = self.known.seen.filter(|_| !self.is_seen_settled) else { return };
        let is_same = if seen.size == head.end() {
            head.root == seen.root
        } else if (head.first + 1..head.end()).contains(&seen.size) {
            match body {
                // Objects never change, so one must have ended there.
                Body::Unread => false,
                Body::Sound { roots, .. } => roots.contains(&(seen.size, seen.root)),
                Body::Unsound(_) => true,
            }
        } else {
            return;
        };
        self.is_seen_settled = true;
        if !is_same {
            self.find(Some(key), Some(0..seen.size), Fault::Rewritten(seen.size));
        }
    }

    fn take_records(&mut self, key: &str, first: u64, records: Vec<SystemRecord>) {
        let end = first + records.len() as u64;
        for (number, record) in (first..).zip(records) {
            let is_in_place = match &record {
                SystemRecord::Opened { .. } => number == 0,
                SystemRecord::Closed { .. } => number + 1 == end,
                // A void declares earlier records, none of which an earlier object states as
                // acknowledged.
                SystemRecord::Void { first, count, .. } => {
                    let is_before = |end: u64| end <= number;
                    let is_earlier = first.checked_add(*count).is_some_and(is_before);
                    *count > 0 && is_earlier && *first >= self.report.stable
                }
                SystemRecord::Heartbeat { .. } => true,
            };
            if !is_in_place {
                self.find(Some(key), Some(number..number + 1), Fault::SystemRecord);
                continue;
            }
            self.report.latest = Some(record.at());
            self.report.promised = record.next().or(self.report.promised);
            self.report.previous.extend(record.previous().cloned());
            match record {
                SystemRecord::Opened { .. } => self.report.opened = Some(record),
                SystemRecord::Heartbeat { clock_offset, .. } => {
                    let offset = clock_offset.map(i64::unsigned_abs);
                    self.report.clock_offset = self.report.clock_offset.max(offset);
                }
                SystemRecord::Void { first, count, reason, .. } => {
                    self.voids.push((first..first + count, reason));
                }
                SystemRecord::Closed { .. } => self.report.closed = Some(number + 1),
            }
        }
    }

    fn find(&mut self, object: Option<&str>, records: Option<Range<u64>>, fault: Fault) {
        let (stream, object) = (self.report.stream.clone(), object.map(str::to_owned));
        self.report.findings.push(Finding { stream, object, records, fault });
    }

    /// Ends the stream, once all objects were added.
    pub fn finish(mut self) -> StreamReport {
        self.end_voids();
        for (records, _) in self.voids.clone() {
            self.explain(&records);
        }
        self.judge_unusable();
        for (records, reason) in std::mem::take(&mut self.voids) {
            self.find(None, Some(records), Fault::SetAside { reason });
        }
        for gap in std::mem::take(&mut self.gaps) {
            // Whoever has the stream's key may state any time, but not rename the stream.
            let after = gap.after.max(opened_at(&self.report.stream));
            let is_retained = |since: u64| after.is_some_and(|written_at| written_at >= since);
            let may_have_expired = !self.known.retained_since.is_some_and(is_retained);
            let acknowledged = &self.known.acknowledged;
            for (records, fault) in gap.faults(self.report.stable, acknowledged, may_have_expired) {
                self.find(None, Some(records), fault);
            }
        }
        self.judge_end();
        self.report.is_open = self.is_open;
        self.report
    }

    /// Takes these records out of the gaps, since another finding accounts for them.
    fn explain(&mut self, records: &Range<u64>) {
        let gaps = std::mem::take(&mut self.gaps);
        self.gaps = gaps.into_iter().flat_map(|gap| gap.without(records)).collect();
    }

    /// Adds the gaps after records that were set aside. Without them, an object in their place
    /// would hide the removal of those that follow.
    fn end_voids(&mut self) {
        for Occupied { first, next, is_prefix, after } in std::mem::take(&mut self.occupied) {
            let voids = self.voids.iter().filter(|(records, _)| records.start == first);
            let end = voids.map(|(records, _)| records.end).max();
            let records = end.zip(next).map_or(0..0, |(end, next)| end..next);
            if !records.is_empty() {
                self.gaps.push(Gap { records, is_prefix, after });
            }
        }
    }

    fn judge_unusable(&mut self) {
        let has_evidence = self.report.host.is_some();
        let mut is_said = false;
        let mut explained = BTreeSet::new();
        for (first, key, unusable) in std::mem::take(&mut self.unusable) {
            // The foreign object because of which the host set records aside. Only one object has
            // their key.
            let is_aside = !matches!(unusable, Unusable::Misplaced(_))
                && self.voids.iter().any(|(records, _)| records.start == first)
                && explained.insert(first);
            // A foreign object may have any number in its name, even the highest.
            let records = Some(first..first.saturating_add(1));
            match unusable {
                Unusable::Misplaced(signed) => {
                    // Whether the key or the metadata is false, these records are not missing.
                    self.explain(&signed);
                    self.find(Some(&key), Some(signed), Fault::Place);
                }
                _ if is_aside => {}
                // The caller, which failed to read the object, reports it.
                Unusable::Unread => {}
                Unusable::Fault(fault) => self.find(Some(&key), records, fault),
                Unusable::NoEvidence if has_evidence => {
                    self.find(Some(&key), records, Fault::Stripped);
                }
                Unusable::UnknownHost(_) | Unusable::KeyValidity(_) if has_evidence => {
                    self.find(Some(&key), records, Fault::OtherKey);
                }
                // Reported once per stream.
                Unusable::NoEvidence | Unusable::UnknownHost(_) | Unusable::KeyValidity(_)
                    if is_said => {}
                Unusable::NoEvidence => {
                    is_said = true;
                    self.find(None, None, Fault::NoEvidence);
                }
                Unusable::UnknownHost(name) => {
                    is_said = true;
                    self.find(None, None, Fault::UnknownHost(name));
                }
                Unusable::KeyValidity(name) => {
                    is_said = true;
                    self.find(None, None, Fault::KeyValidity(name));
                }
            }
        }
    }

    fn judge_end(&mut self) {
        // After an object of unknown end, nothing is known to be missing.
        if self.is_open {
            return;
        }
        let size = self.report.size;
        if let Some(seen) = self.known.seen.filter(|seen| seen.size > size) {
            self.find(None, Some(size..seen.size), Fault::Truncated(seen.size));
            return;
        }
        let receipts = self.known.acknowledged.iter();
        if let Some(end) = receipts.map(|records| records.end).max().filter(|&end| end > size) {
            self.find(None, Some(size..end), Fault::Deleted);
        }
    }
}
