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
    /// The beginning and the end of the timeline. A record from outside, which may claim any time,
    /// is counted in the hour of its object.
    view_ms: (i64, i64),
    /// The width of the timeline's bins, and the offset that is added to times before binning, in
    /// milliseconds.
    pub(super) bin_ms: i64,
    pub(super) offset_ms: i64,
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
        let time_ms = if (begin..end).contains(&time_ms) { time_ms } else { hour_ms };
        let shifted = time_ms.saturating_add(self.offset_ms);
        let begin = shifted.div_euclid(self.bin_ms).saturating_mul(self.bin_ms);
        begin.saturating_sub(self.offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's address may be anybody's link, and each part of a pointer is a level of a tree.
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

    proptest::proptest! {
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
