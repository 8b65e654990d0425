//! The question of the page, parsed from its query.

use audit_core::UniqueId;
use audit_sink_s3::layout::ObjectKey;

use crate::bucket::{Listed, Wanted};
use crate::condition::Condition;
use crate::query::Pointer;
use crate::sieve::Sieve;
use crate::units::{DAY_MS, HOUR_MS};

const MAX_ROWS: usize = 1_000;

/// The maximum number of members that are columns or are counted.
const MAX_MEMBERS: usize = 32;

/// The maximum number of changes of a zone's offset within a timeline.
const MAX_SHIFTS: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Question {
    from_ms: i64,
    until_ms: i64,
    stream: Option<UniqueId>,
    conditions: Vec<Condition>,
    pub(super) time: Option<Pointer>,
    /// The member by whose values the timeline is divided.
    pub(super) stack: Option<Pointer>,
    pub(super) facets: Vec<Pointer>,
    pub(super) columns: Vec<Pointer>,
    /// The beginning and the end of the timeline. A record whose time is outside is counted in the
    /// hour of its object, since it may claim any time.
    view_ms: (i64, i64),
    /// The width of the timeline's bins, and the offset that is added to times before binning, in
    /// milliseconds.
    pub(super) bin_ms: i64,
    offset_ms: i64,
    /// The changes of the offset, in order: the time of each, and the offset from then on.
    shifts: Vec<(i64, i64)>,
    pub(super) newest_first: bool,
    pub(super) rows: usize,
    pub(super) after: Option<Cursor>,
}

/// The position of a record in the order of the bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) key: ObjectKey,
    pub(super) sequence: u64,
}

impl Cursor {
    fn parse(text: &str) -> Option<Cursor> {
        let (key, sequence) = text.rsplit_once('~')?;
        Some(Cursor { key: key.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl Question {
    /// Parses the query of a request.
    ///
    /// # Errors
    ///
    /// The reason why it is invalid.
    pub(super) fn parse(query: Option<&str>) -> Result<Question, String> {
        let mut question = Question {
            from_ms: i64::MIN,
            until_ms: i64::MAX,
            stream: None,
            conditions: Vec::new(),
            time: None,
            stack: None,
            facets: Vec::new(),
            columns: Vec::new(),
            view_ms: (i64::MIN, i64::MAX),
            bin_ms: HOUR_MS,
            offset_ms: 0,
            shifts: Vec::new(),
            newest_first: true,
            rows: 100,
            after: None,
        };
        let query = query.unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = &*value;
            let number = || value.parse::<i64>().map_err(|_| format!("{name} is not an integer"));
            let pointer = || value.parse::<Pointer>();
            match &*name {
                "from" => question.from_ms = number()?,
                "until" => question.until_ms = number()?,
                "stream" => {
                    question.stream =
                        Some(value.parse().map_err(|_| "stream is not an identifier")?);
                }
                "where" => question.conditions.push(value.parse()?),
                "text" if value.is_empty() => {}
                "text" => question.conditions.push(Condition::anywhere(value)),
                "time" => question.time = Some(pointer()?),
                "stack" => question.stack = Some(pointer()?),
                "facet" => question.facets.push(pointer()?),
                "column" => question.columns.push(pointer()?),
                "begin" => question.view_ms.0 = number()?,
                "end" => question.view_ms.1 = number()?,
                "bin" => question.bin_ms = number()?.clamp(1, 366 * DAY_MS),
                "offset" => question.offset_ms = number()?.clamp(-DAY_MS, DAY_MS),
                "shift" => question.shifts.push(shift(value)?),
                "order" => question.newest_first = value != "oldest",
                "rows" => {
                    question.rows = usize::try_from(number()?).unwrap_or(0).min(MAX_ROWS);
                }
                "after" => {
                    let cursor =
                        Cursor::parse(value).ok_or("after is not a position in the bucket")?;
                    question.after = Some(cursor);
                }
                // Parameters that only the page uses.
                _ => {}
            }
        }
        if question.shifts.len() > MAX_SHIFTS {
            let count = question.shifts.len();
            return Err(format!("{count} shifts exceed limit of {MAX_SHIFTS}"));
        }
        question.shifts.sort_unstable();
        question.facets.truncate(MAX_MEMBERS);
        question.columns.truncate(MAX_MEMBERS);
        if question.from_ms >= question.until_ms {
            return Err("the range of times ends before it begins".to_owned());
        }
        Ok(question)
    }

    /// The partitions that may hold selected records.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::new(self.from_ms..self.until_ms, self.stream).with_margin(self.time.is_some())
    }

    /// The conditions on records, except their time: see [`Self::when`].
    pub(super) fn sieve(&self) -> Sieve {
        Sieve::new(self.conditions.clone(), None, i64::MIN..i64::MAX)
    }

    /// The time of a record, if it is in the range, and whether it is the record's own. A record
    /// without a time has that of its object's hour.
    pub(super) fn when(&self, hour_ms: i64, line: &[u8]) -> Option<(i64, bool)> {
        let own = self.time.as_ref().and_then(|time| time.find_time(line).ms());
        let range = self.from_ms..self.until_ms;
        match own {
            Some(ms) => range.contains(&ms).then_some((ms, true)),
            None if hour_ms < range.end && range.start < hour_ms.saturating_add(HOUR_MS) => {
                Some((hour_ms, false))
            }
            None => None,
        }
    }

    /// Whether an object may hold records after the cursor.
    pub(super) fn is_ahead(&self, object: &Listed) -> bool {
        self.after.is_none_or(|Cursor { key, .. }| match self.newest_first {
            true => object.key <= key,
            false => object.key >= key,
        })
    }

    /// Whether a record comes after the cursor.
    pub(super) fn is_record_ahead(&self, key: &ObjectKey, sequence: u64) -> bool {
        self.after.is_none_or(|after| {
            *key != after.key
                || match self.newest_first {
                    true => sequence < after.sequence,
                    false => sequence > after.sequence,
                }
        })
    }

    /// The beginning of the timeline's bin for a record of this time, whose object is filed under
    /// this hour.
    pub(super) fn bin_of(&self, time_ms: i64, hour_ms: i64) -> i64 {
        let (begin, end) = self.view_ms;
        self.bin_at(if (begin..end).contains(&time_ms) { time_ms } else { hour_ms })
    }

    /// The beginning of the bin at a time. Bins begin at multiples of their width by the zone's
    /// clock, so that a bin in which the offset changes is shorter or longer.
    fn bin_at(&self, time_ms: i64) -> i64 {
        // The offset after the first `n` changes.
        let offset = |n: usize| n.checked_sub(1).map_or(self.offset_ms, |last| self.shifts[last].1);
        let mut count = self.shifts.partition_point(|(at, _)| *at <= time_ms);
        let clock = time_ms.saturating_add(offset(count));
        let clock = clock.div_euclid(self.bin_ms).saturating_mul(self.bin_ms);
        loop {
            let begin = clock.saturating_sub(offset(count));
            let Some(before) = count.checked_sub(1) else { return begin };
            let (shift_ms, _) = self.shifts[before];
            if begin >= shift_ms {
                return begin;
            }
            // The bin began before the change, unless the change skipped this time of the clock.
            if clock.saturating_sub(offset(before)) >= shift_ms {
                return shift_ms;
            }
            count = before;
        }
    }

    /// The end of the bin that begins at `begin_ms`.
    pub(super) fn end_of_bin(&self, begin_ms: i64) -> i64 {
        let mut within_ms = begin_ms.saturating_add(self.bin_ms);
        loop {
            let end = self.bin_at(within_ms);
            // Where the clock is set back, a bin is longer than its width.
            if end > begin_ms || within_ms == i64::MAX {
                // Where the clock is set forward, another bin may begin.
                let mut shifts = self.shifts.iter().map(|(at, _)| *at);
                let within = |at: &i64| {
                    (begin_ms.saturating_add(1)..end).contains(at) && self.bin_at(*at) == *at
                };
                return shifts.find(within).unwrap_or(end).max(begin_ms);
            }
            within_ms = within_ms.saturating_add(HOUR_MS);
        }
    }
}

/// A time, a colon, and the zone's offset from then on.
fn shift(text: &str) -> Result<(i64, i64), String> {
    let parsed = text.split_once(':').and_then(|(at, offset)| {
        Some((at.parse().ok()?, offset.parse::<i64>().ok()?.clamp(-DAY_MS, DAY_MS)))
    });
    parsed.ok_or_else(|| "shift is not a time, a colon and an offset".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anybody can make a link to the page with any pointers, and each part of a pointer is a level
    /// of recursion.
    #[test]
    fn deep_pointers_are_refused_wherever_they_stand() {
        for name in ["where", "time", "stack", "facet", "column"] {
            let of =
                |parts: usize| Question::parse(Some(&format!("{name}={}", "/a".repeat(parts))));
            assert!(of(128).is_ok(), "{name}");
            for parts in [129, 30_000] {
                let refused = of(parts).unwrap_err();
                assert!(refused.contains("exceeds limit of 128"), "{name}: {refused}");
            }
        }
    }

    /// The two changes in Berlin: an hour is skipped in March and repeated in October.
    #[test]
    fn bins_begin_by_the_clock_of_the_zone_whatever_its_offset() {
        let ms = |text: &str| crate::units::date_time_ms(text).unwrap();
        let shifts = [("2026-03-29T01:00Z", 2), ("2026-10-25T01:00Z", 1)];
        let shifts = shifts.map(|(at, hours)| format!("&shift={}:{}", ms(at), hours * HOUR_MS));
        let question = |bin: i64| {
            let query = format!("bin={bin}&offset={HOUR_MS}{}", shifts.concat());
            Question::parse(Some(&query)).unwrap()
        };
        for (bin, time, begin, end) in [
            (DAY_MS, "2026-03-28T12:00+01:00", "2026-03-28T00:00+01:00", "2026-03-29T00:00+01:00"),
            (DAY_MS, "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
            (DAY_MS, "2026-03-30T00:30+02:00", "2026-03-30T00:00+02:00", "2026-03-31T00:00+02:00"),
            (DAY_MS, "2026-10-25T23:30+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
            (DAY_MS, "2026-10-26T00:00+01:00", "2026-10-26T00:00+01:00", "2026-10-27T00:00+01:00"),
            (HOUR_MS, "2026-03-29T03:10+02:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"),
            (
                2 * HOUR_MS,
                "2026-03-29T03:10+02:00",
                "2026-03-29T03:00+02:00",
                "2026-03-29T04:00+02:00",
            ),
            (HOUR_MS, "2026-10-25T02:10+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
            (HOUR_MS, "2026-10-25T02:10+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
            (
                6 * HOUR_MS,
                "2026-10-25T02:10+01:00",
                "2026-10-25T00:00+02:00",
                "2026-10-25T06:00+01:00",
            ),
        ] {
            let question = question(bin);
            let found = question.bin_at(ms(&with_seconds(time)));
            assert_eq!(found, ms(&with_seconds(begin)), "{time}");
            assert_eq!(question.end_of_bin(found), ms(&with_seconds(end)), "{time}");
        }
        for (query, says) in [
            ("shift=5".to_owned(), "a colon"),
            ("shift=5:x".to_owned(), "a colon"),
            ("shift=5:6&".repeat(257), "257 shifts exceed limit of 256"),
        ] {
            assert!(Question::parse(Some(&query)).unwrap_err().contains(says), "{query}");
        }
    }

    fn with_seconds(text: &str) -> String {
        format!("{}:00{}", &text[..16], &text[16..])
    }

    proptest::proptest! {
        #[test]
        fn bins_are_without_gaps(
            hours in proptest::sample::select(vec![1, 2, 6, 24, 7 * 24]),
            quarters in -48..=56i64,
            shifts in proptest::collection::btree_set(0..400i64, 0..6),
            minutes in 0..24 * 60i64,
            times in proptest::collection::vec(0..400 * DAY_MS, 20),
        ) {
            let offset = quarters * HOUR_MS / 4;
            let mut query = format!("bin={}&offset={offset}", hours * HOUR_MS);
            // Clocks are set back at full hours, and forward at any time.
            for (n, day) in shifts.iter().enumerate() {
                let (at, hours) = match minutes % 2 {
                    0 => (minutes / 60 * HOUR_MS - offset, 1 - n as i64 % 2),
                    _ => (minutes * 60_000, 1 + n as i64),
                };
                let shift = day * DAY_MS + at;
                query += &format!("&shift={shift}:{}", offset + hours * HOUR_MS);
            }
            let question = Question::parse(Some(&query)).unwrap();
            for time_ms in times {
                let begin = question.bin_at(time_ms);
                let end = question.end_of_bin(begin);
                proptest::prop_assert!((begin..end).contains(&time_ms), "{} {}", begin, end);
                proptest::prop_assert_eq!(question.bin_at(begin), begin);
                proptest::prop_assert_eq!(question.bin_at(end), end);
                proptest::prop_assert_eq!(question.bin_at(end - 1), begin);
            }
        }

        #[test]
        fn every_time_has_a_bin(time_ms: i64, bin: i64, offset: i64) {
            let query = format!("bin={bin}&offset={offset}");
            let question = Question::parse(Some(&query)).unwrap();
            for time_ms in [time_ms, i64::MIN, i64::MAX, time_ms % (1 << 50)] {
                let begin = question.bin_of(time_ms, time_ms);
                if time_ms.unsigned_abs() < 1 << 62 {
                    let bin = begin..begin + question.bin_ms;
                    proptest::prop_assert!(bin.contains(&time_ms), "{} {:?}", time_ms, bin);
                }
            }
        }
    }
}
