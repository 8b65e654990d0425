//! The totals of the objects so far.

use std::collections::BTreeMap;

use audit_core::UniqueId;
use audit_sink_s3::layout::{ObjectKey, Partition};
use serde::Serialize;

use super::durations::{Durations, Lag};
use super::finding::Finding;
use super::holders::Holders;
use super::remembered::Remembered;
use super::seen::Seen;
use crate::query::Time;
use crate::ranges::Ranges;

#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) objects: u64,
    /// The size as stored.
    pub(super) stored_bytes: u64,
    pub(super) logs: u64,
    /// The size of the logs without line feeds. Unknown with `--heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metered_bytes: Option<u64>,
}

impl Totals {
    pub(super) fn add(&mut self, seen: &Seen) {
        self.objects += 1;
        // The sums saturate: with `--heads`, the number of logs is what metadata claims, and
        // anybody may have written it.
        self.stored_bytes = self.stored_bytes.saturating_add(seen.object.bytes);
        self.logs = self.logs.saturating_add(seen.logs);
        if let Some(usage) = seen.usage {
            *self.bytes.get_or_insert(0) += usage.bytes();
            *self.metered_bytes.get_or_insert(0) += usage.metered_bytes();
        }
    }
}

/// The totals of the objects so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) totals: Totals,
    pub(super) days: BTreeMap<Partition, Totals>,
    pub(super) streams: BTreeMap<UniqueId, Ranges>,
    remembered: Remembered,
    holders: Holders,
    pub(super) lag: Durations,
    pub(super) lag_from_records: bool,
    /// Objects whose first record has no time.
    pub(super) untimed: u64,
    pub(super) last_arrival_ms: Option<i64>,
    pub(super) gaps: u64,
    pub(super) missing_records: u64,
    pub(super) duplicates: u64,
    pub(super) same_lines: u64,
    pub(super) damaged: u64,
}

impl Tally {
    pub(super) fn add(&mut self, seen: &Seen) -> Vec<Finding> {
        let Seen { object, count, logs: _, sha256, usage: _, time, contradiction } = seen;
        let time_ms = time.and_then(Time::ms);
        self.untimed += u64::from(time.is_some() && time_ms.is_none());
        let key = object.key;
        let mut findings = Vec::new();
        self.totals.add(seen);
        self.days.entry(Partition::day_of(key.hour_ms())).or_default().add(seen);
        self.last_arrival_ms = self.last_arrival_ms.max(Some(object.modified_ms));
        // If the time of the first record is unknown, only an arrival after its hour is certainly
        // late.
        let from = time_ms.unwrap_or(key.partition().end_ms());
        self.lag_from_records |= time_ms.is_some();
        self.lag.add(object.modified_ms.saturating_sub(from).max(0));

        if let Some(what) = contradiction {
            findings
                .push(Finding::Damaged { key: object.location.to_string(), what: what.clone() });
        }
        let records = key.first_sequence()..key.first_sequence().saturating_add(*count);
        let doubles = self.streams.entry(key.stream()).or_default().add(records.clone());
        // Before the object itself becomes a holder.
        let also = doubles.iter().map(|double| self.holders.of(key.stream(), double));
        let also: Vec<Option<ObjectKey>> = also.collect();
        self.holders.add(&key, &records, &doubles);
        for (double, also) in doubles.into_iter().zip(also) {
            findings.push(Finding::Duplicate {
                stream: key.stream().to_string(),
                first_sequence: double.start,
                last_sequence: double.end - 1,
                key: key.to_string(),
                also: also.map(|also| also.to_string()),
            });
        }
        let same = sha256.as_ref().and_then(|sha256| self.remembered.add(sha256, key));
        if let Some(also) = same {
            findings.push(Finding::SameLines { key: key.to_string(), also: also.to_string() });
        }
        findings
    }

    /// Adds an object with a host's records about its stream, so that their numbers do not count as
    /// a gap.
    pub(super) fn add_system(&mut self, seen: &Seen) {
        let (key, count) = (seen.object.key, seen.count);
        let records = key.first_sequence()..key.first_sequence().saturating_add(count);
        // A stream that has only records of its host about itself is not counted.
        if let Some(ranges) = self.streams.get_mut(&key.stream()) {
            ranges.add(records);
        }
    }

    /// The missing records, once all objects were added. `from_the_beginning` says whether the
    /// first records of each stream must be there.
    pub(super) fn gaps(&self, from_the_beginning: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (stream, ranges) in &self.streams {
            let before = ranges
                .first()
                .filter(|first| from_the_beginning && *first > 0)
                .map(|first| 0..first);
            for gap in before.into_iter().chain(ranges.gaps()) {
                let stream = stream.to_string();
                findings.push(Finding::Gap {
                    stream,
                    first_sequence: gap.start,
                    last_sequence: gap.end - 1,
                });
            }
        }
        findings
    }

    pub(super) fn count(&mut self, finding: &Finding) {
        match finding {
            Finding::Gap { first_sequence, last_sequence, .. } => {
                self.gaps += 1;
                let missing = (last_sequence - first_sequence).saturating_add(1);
                self.missing_records = self.missing_records.saturating_add(missing);
            }
            Finding::Duplicate { .. } => self.duplicates += 1,
            Finding::SameLines { .. } => self.same_lines += 1,
            Finding::Damaged { .. } => self.damaged += 1,
            Finding::NoStreams { .. } => {}
        }
    }

    pub(super) fn lag(&self) -> Option<Lag> {
        let from = if self.lag_from_records { "first record" } else { "end of the hour" };
        self.lag.lag(from)
    }
}
