//! The selection of records, and notes about those that were left out.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::condition::Condition;
use crate::query::{Pointer, Time};
use crate::units::{Count, counted};

/// Selects records. Shared by the tasks that read objects.
#[derive(Debug)]
pub(crate) struct Sieve {
    conditions: Vec<Condition>,
    /// For each condition, whether any record had the required member.
    named: Vec<AtomicBool>,
    time: Option<Pointer>,
    times_ms: Range<i64>,
    seen: AtomicU64,
    matched: AtomicU64,
    untimed: Untimed,
}

/// Records that a range of times leaves out because they have no valid time.
#[derive(Debug, Default)]
struct Untimed {
    missing: AtomicU64,
    unreadable: AtomicU64,
    in_other_units: [AtomicU64; UNITS.len()],
}

/// Units that may be confused with milliseconds, with their number per second.
const UNITS: [(&str, i64); 3] =
    [("seconds", 1), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// The years 2000 to 2100, in seconds since 1970. Interpreted as milliseconds, their values in
/// other units are implausible times.
const LIKELY_S: Range<i64> = 946_684_800..4_102_444_800;

impl Untimed {
    /// Counts the record if it has no time, or one that is likely in another unit.
    fn add(&self, time: Time) {
        let counter = match time {
            Time::Missing => Some(&self.missing),
            Time::Unreadable => Some(&self.unreadable),
            Time::Ms(value) => {
                let unit = UNITS.iter().position(|(_, in_a_second)| {
                    LIKELY_S.contains(&value.div_euclid(*in_a_second))
                });
                unit.map(|unit| &self.in_other_units[unit])
            }
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn note(&self, pointer: &Pointer) -> Option<String> {
        let of = |counter: &AtomicU64, what: String| match counter.load(Relaxed) {
            0 => None,
            count => Some((count, format!("{what} in {}", Count(count)))),
        };
        let Untimed { missing, unreadable, in_other_units } = self;
        let units = in_other_units
            .iter()
            .zip(UNITS)
            .map(|(counter, (unit, _))| of(counter, format!("{unit} instead of milliseconds")));
        let reasons: Vec<(u64, String)> = [
            of(missing, format!("nothing at {pointer}")),
            of(unreadable, "a value that is not a time".to_owned()),
        ]
        .into_iter()
        .chain(units)
        .flatten()
        .collect();
        let all = reasons.iter().map(|(count, _)| count).sum();
        let reasons = reasons.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join(", ");
        (all > 0)
            .then(|| format!("--time {pointer}: {} left out: {reasons}", counted(all, "record")))
    }
}

impl Sieve {
    /// Selects the records that satisfy all conditions, and whose time at `time`, if it is given,
    /// is in the range.
    pub(crate) fn new(
        conditions: Vec<Condition>,
        time: Option<Pointer>,
        times_ms: Range<i64>,
    ) -> Sieve {
        Sieve {
            named: conditions.iter().map(|_| AtomicBool::new(false)).collect(),
            conditions,
            time,
            times_ms,
            seen: AtomicU64::new(0),
            matched: AtomicU64::new(0),
            untimed: Untimed::default(),
        }
    }

    pub(crate) fn selects(&self, line: &[u8]) -> bool {
        if let Some(pointer) = &self.time
            && self.times_ms != (i64::MIN..i64::MAX)
        {
            let time = pointer.find_time(line);
            if !time.ms().is_some_and(|time| self.times_ms.contains(&time)) {
                self.untimed.add(time);
                return false;
            }
        }
        self.seen.fetch_add(1, Relaxed);
        let mut all = true;
        for (condition, named) in self.conditions.iter().zip(&self.named) {
            // Only needed until a record has the member. After that, most records can be skipped
            // without parsing.
            if !named.load(Relaxed)
                && condition.member().is_none_or(|pointer| pointer.find(line).is_some())
            {
                named.store(true, Relaxed);
            }
            all = all && condition.holds(line);
        }
        self.matched.fetch_add(u64::from(all), Relaxed);
        all
    }

    /// The number of searched records, and of selected ones. Records outside the range of times are
    /// not counted.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.seen.load(Relaxed), self.matched.load(Relaxed))
    }

    /// Notes about left-out records, for readers who expected more.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> =
            self.time.iter().filter_map(|pointer| self.untimed.note(pointer)).collect();
        let (seen, matched) = self.counts();
        let unnamed = self.conditions.iter().zip(&self.named);
        for (condition, _) in unnamed.filter(|(_, named)| seen > 0 && !named.load(Relaxed)) {
            if let Some(member) = condition.member() {
                notes.push(format!(
                    "--where {condition}: {} of {}; none has {member}",
                    Count(matched),
                    counted(seen, "record")
                ));
            }
        }
        notes
    }
}
