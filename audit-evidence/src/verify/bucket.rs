//! The verification of a whole bucket.

use std::collections::{BTreeMap, BTreeSet};

use super::{Alarm, Fault, Finding, Remembered, State, StreamReport, opened_at};
use crate::{StreamEnd, SystemRecord};

/// The result of verifying a bucket.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BucketReport {
    /// The streams, sorted by name and so by opening time.
    pub streams: Vec<StreamReport>,
    /// All findings, by stream and record.
    pub findings: Vec<Finding>,
}

/// What the streams of a bucket are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What was seen of the bucket before.
    pub state: &'a State,
    /// The names of the bucket, to compare with those that hosts state. If there are none, all
    /// streams must state the same name as the first stream that states one.
    pub names: &'a [String],
    /// What was written before this time may have expired, in milliseconds since the Unix epoch.
    pub retained_since: Option<u64>,
    /// The time of the verification, in milliseconds since the Unix epoch.
    pub now: u64,
}

/// More than a day, which is the maximum age of a stream. If a stream was opened this long before
/// another one, it had ended when the other one was opened, or its host was cut off.
const LONG_MS: u64 = 25 * 60 * 60 * 1_000;

impl BucketReport {
    /// Combines the reports of a bucket's streams.
    pub fn new(mut streams: Vec<StreamReport>, context: Context<'_>) -> BucketReport {
        let Context { state, names, retained_since, now } = context;
        streams.sort_by(|one, other| one.stream.cmp(&other.stream));
        for report in &mut streams {
            if let Some(seen) = state.get(&report.stream) {
                report.lost_evidence(seen.size, true);
            }
        }
        let mut findings = compare_successors(&mut streams, retained_since);
        let standing: BTreeSet<&str> = streams.iter().map(|report| &*report.stream).collect();
        let is_missing = |stream: &str| !standing.contains(stream);
        let missing = state.streams().filter(|(stream, _)| is_missing(stream));
        // The comparison with a successor may have reported the stream already.
        let is_said = |stream: &str| findings.iter().any(|finding| finding.stream == stream);
        let missing: Vec<Finding> = missing
            .filter(|(stream, _)| !is_said(stream))
            .map(|(stream, seen)| vanished(stream, seen.size, retained_since))
            .collect();
        findings.extend(missing);
        findings.extend(other_buckets(&streams, names));
        findings.extend(unopened(&streams, state, names));
        findings.extend(appeared(&streams, state));
        for report in &streams {
            let overdue = report.promised.filter(|&promised| promised < now);
            if let Some(promised) = overdue.filter(|_| !report.has_ended()) {
                findings.push(Finding {
                    stream: report.stream.clone(),
                    object: None,
                    records: Some(report.size..report.size),
                    fault: Fault::Overdue(promised),
                });
            }
        }
        for report in &mut streams {
            findings.append(&mut report.findings);
        }
        let place = |finding: &Finding| {
            let first = finding.records.as_ref().map_or(0, |records| records.start);
            (finding.stream.clone(), first)
        };
        findings.sort_by_cached_key(place);
        BucketReport { streams, findings }
    }

    /// Whether the stream has a finding of tampering.
    pub fn is_tampered(&self, stream: &str) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.stream == stream && finding.alarm() == Alarm::Tampered)
    }
}

/// The bucket that a stream was written to, as its host states it.
fn stated(report: &StreamReport) -> Option<String> {
    match &report.opened {
        // A host that made its store itself has no URL for it.
        Some(SystemRecord::Opened { bucket: Some(name), .. }) if name.contains("://") => {
            Some(name.clone())
        }
        Some(_) | None => None,
    }
}

/// Streams that are not remembered and whose first record, which names their bucket, is reported as
/// expired. Somebody who copies a stream from another bucket may omit that record.
fn unopened(streams: &[StreamReport], state: &State, names: &[String]) -> Vec<Finding> {
    if names.is_empty() && streams.iter().all(|report| stated(report).is_none()) {
        return Vec::new();
    }
    let is_first = |finding: &Finding| {
        let first = finding.records.as_ref().is_some_and(|records| records.start == 0);
        first && finding.fault == Fault::Expired
    };
    let unopened = streams.iter().filter(|report| {
        report.findings.iter().any(is_first) && state.get(&report.stream).is_none()
    });
    let finding = |report: &StreamReport| Finding {
        stream: report.stream.clone(),
        object: None,
        records: Some(0..1),
        fault: Fault::Unopened,
    };
    unopened.map(finding).collect()
}

/// The streams that were written to another bucket, by what their hosts state.
fn other_buckets(streams: &[StreamReport], names: &[String]) -> Vec<Finding> {
    let first = streams.iter().find_map(stated);
    let is_ours = |name: &String| match names {
        [] => first.as_ref() == Some(name),
        names => names.contains(name),
    };
    let others = streams.iter().filter_map(|report| {
        let name = stated(report).filter(|name| !is_ours(name))?;
        let (stream, fault) = (report.stream.clone(), Fault::OtherBucket(name));
        Some(Finding { stream, object: None, records: Some(0..1), fault })
    });
    others.collect()
}

/// Streams that claim to be old, but were absent when later ones were seen.
fn appeared(streams: &[StreamReport], state: &State) -> Vec<Finding> {
    // Names sort by time.
    let times: Vec<u64> = state.streams().filter_map(|(stream, _)| opened_at(stream)).collect();
    let [oldest, .., newest] = times[..] else { return Vec::new() };
    let appeared = streams.iter().filter(|report| {
        let opened = opened_at(&report.stream);
        let is_within = |opened| oldest < opened && opened + LONG_MS < newest;
        report.host.is_some()
            && state.get(&report.stream).is_none()
            && opened.is_some_and(is_within)
    });
    let finding = |report: &StreamReport| Finding {
        stream: report.stream.clone(),
        object: None,
        records: None,
        fault: Fault::Appeared,
    };
    appeared.map(finding).collect()
}

impl StreamReport {
    /// Reports a stream without usable evidence, which had some when it had `size` records, as
    /// tampered with. An unknown host counts only if the stream is remembered: the key of another
    /// stream may never have been given.
    fn lost_evidence(&mut self, size: u64, is_remembered: bool) {
        if self.host.is_some() {
            return;
        }
        for finding in &mut self.findings {
            let fault = if finding.fault == Fault::NoEvidence {
                Fault::Stripped
            } else if is_remembered && matches!(finding.fault, Fault::UnknownHost(_)) {
                Fault::OtherKey
            } else {
                continue;
            };
            (finding.fault, finding.records) = (fault, Some(0..size));
        }
    }
}

impl State {
    /// Updates the state with a report. Streams that were tampered with keep their former state,
    /// and so do streams that were seen with more records than in the report.
    pub fn update(&mut self, report: &BucketReport) {
        for stream in &report.streams {
            let Some(root) = stream.root.filter(|_| !report.is_tampered(&stream.stream)) else {
                continue;
            };
            let seen = Remembered { size: stream.size, root, has_ended: stream.has_ended() };
            if self.get(&stream.stream).is_none_or(|known| known.size <= seen.size) {
                self.remember(stream.stream.clone(), seen);
            }
        }
    }
}

/// Compares each stream's end with what its successor states.
fn compare_successors(streams: &mut [StreamReport], retained_since: Option<u64>) -> Vec<Finding> {
    let places: BTreeMap<String, usize> =
        streams.iter().enumerate().map(|(at, report)| (report.stream.clone(), at)).collect();
    let mut findings = Vec::new();
    let mut succeeded = BTreeSet::new();
    for later in 0..streams.len() {
        for end in streams[later].previous.clone() {
            let StreamEnd { stream, size, root } = end;
            let finding = |stream: &str, records, fault| Finding {
                stream: stream.to_owned(),
                object: None,
                records,
                fault,
            };
            if !succeeded.insert(stream.clone()) {
                let fault = Fault::TwoSuccessors { of: stream };
                findings.push(finding(&streams[later].stream, None, fault));
                continue;
            }
            let Some(&at) = places.get(&stream) else {
                findings.push(vanished(&stream, size, retained_since));
                continue;
            };
            let earlier = &mut streams[at];
            earlier.is_succeeded = true;
            earlier.lost_evidence(size, false);
            let is_said = earlier
                .findings
                .iter()
                .any(|finding| matches!(finding.fault, Fault::Truncated(_) | Fault::Rewritten(_)));
            if earlier.is_open || is_said {
                // Its last object is unusable, or its end was already reported as missing.
            } else if earlier.size < size {
                let records = Some(earlier.size..size);
                findings.push(finding(&stream, records, Fault::Truncated(size)));
            } else if earlier.size > size {
                let records = Some(size..earlier.size);
                findings.push(finding(&stream, records, Fault::AfterEnd));
            } else if earlier.root != Some(root) {
                findings.push(finding(&stream, Some(0..size), Fault::Rewritten(size)));
            }
        }
    }
    findings
}

/// The finding for a stream of `size` records with no object left.
fn vanished(stream: &str, size: u64, retained_since: Option<u64>) -> Finding {
    let opened = opened_at(stream);
    let may_have_expired =
        retained_since.is_some_and(|since| opened.is_some_and(|opened| opened < since));
    let fault = if may_have_expired { Fault::Expired } else { Fault::Vanished };
    Finding { stream: stream.to_owned(), object: None, records: Some(0..size), fault }
}
