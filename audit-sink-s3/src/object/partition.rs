//! Partitions: the days and hours of a bucket.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike};

/// One hour, in milliseconds.
pub(super) const HOUR_MS: i64 = 60 * 60 * 1_000;

/// 0001-01-01T00 and 9999-12-31T23, the range of dates with four-digit years, in hours since the
/// Unix epoch.
const FIRST_HOUR: i64 = -719_162 * 24;
const LAST_HOUR: i64 = 2_932_897 * 24 - 1;

/// One directory of the layout: a day (`dt=YYYY-MM-DD`) or an hour (`dt=YYYY-MM-DD/hour=HH`), in
/// UTC.
///
/// A reader lists the partitions, then the objects of those that it needs.
///
/// ```
/// use audit_sink_s3::layout::Partition;
///
/// let day: Partition = "dt=2023-11-14".parse()?;
/// let hour: Partition = "dt=2023-11-14/hour=22".parse()?;
/// assert_eq!(hour, Partition::hour_of(1_700_000_000_000));
/// assert!(day.begin_ms() < hour.begin_ms() && hour.end_ms() < day.end_ms());
/// # Ok::<(), audit_sink_s3::layout::InvalidPartition>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Hours since the Unix epoch, within the years 1 to 9999.
    first_hour: i64,
    /// 1, or 24 for a day.
    hours: i64,
}

const HOURS_OF_DAY: i64 = 24;

impl Partition {
    /// The hour of records with this time, in milliseconds since the Unix epoch.
    pub fn hour_of(time_ms: i64) -> Partition {
        Partition { first_hour: hour_of(time_ms), hours: 1 }
    }

    /// The day of records with this time, in milliseconds since the Unix epoch.
    pub fn day_of(time_ms: i64) -> Partition {
        let first_hour = hour_of(time_ms).div_euclid(HOURS_OF_DAY) * HOURS_OF_DAY;
        Partition { first_hour, hours: HOURS_OF_DAY }
    }

    /// Its begin, in milliseconds since the Unix epoch.
    pub fn begin_ms(&self) -> i64 {
        self.first_hour * HOUR_MS
    }

    /// Its end, which is the begin of the next one, in milliseconds since the Unix epoch.
    pub fn end_ms(&self) -> i64 {
        (self.first_hour + self.hours) * HOUR_MS
    }

    /// Whether it is a whole day.
    pub fn is_day(&self) -> bool {
        self.hours == HOURS_OF_DAY
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = date_time(self.first_hour);
        write!(f, "dt={}", time.date())?;
        if self.is_day() { Ok(()) } else { write!(f, "/hour={:02}", time.hour()) }
    }
}

/// The text is not a partition of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a partition is dt=YYYY-MM-DD or dt=YYYY-MM-DD/hour=HH")]
pub struct InvalidPartition;

impl FromStr for Partition {
    type Err = InvalidPartition;

    /// Parses exactly the form that [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Partition, InvalidPartition> {
        let parse = || {
            let (date, hour) = match text.strip_prefix("dt=")?.split_once("/hour=") {
                Some((date, hour)) => (date, Some(hour)),
                None => (text.strip_prefix("dt=")?, None),
            };
            let hour_of_day = hour.map_or(Ok(0), str::parse).ok()?;
            let time = date.parse::<NaiveDate>().ok()?.and_hms_opt(hour_of_day, 0, 0)?;
            let hours = if hour.is_some() { 1 } else { HOURS_OF_DAY };
            Some(Partition { first_hour: hour_of(time.and_utc().timestamp_millis()), hours })
        };
        parse().filter(|partition| partition.to_string() == text).ok_or(InvalidPartition)
    }
}

/// The hour of a time in milliseconds, in hours since the Unix epoch.
pub(super) fn hour_of(time_ms: i64) -> i64 {
    time_ms.div_euclid(HOUR_MS).clamp(FIRST_HOUR, LAST_HOUR)
}

/// The begin of an hour of the layout, in UTC.
pub(super) fn date_time(hour: i64) -> NaiveDateTime {
    DateTime::from_timestamp(hour * 60 * 60, 0).expect("the years 1 to 9999 are dates").naive_utc()
}

#[cfg(test)]
mod tests {
    use audit_core::UniqueId;
    use proptest::prelude::*;

    use super::*;
    use crate::{Compression, ObjectKey};

    proptest! {
        #[test]
        fn partitions_round_trip_and_contain_their_keys(time_ms: i64, stream: u128) {
            let key = ObjectKey::new(time_ms, UniqueId::from_bits(stream), 0, Compression::Zstd);
            for partition in [Partition::hour_of(time_ms), Partition::day_of(time_ms)] {
                prop_assert_eq!(partition.to_string().parse(), Ok(partition));
                let directory = format!("{partition}/");
                prop_assert!(key.to_string().starts_with(&directory));
                prop_assert!((partition.begin_ms()..partition.end_ms()).contains(&key.hour_ms()));
            }
            prop_assert_eq!(key.partition(), Partition::hour_of(time_ms));
        }

        #[test]
        fn arbitrary_text_is_canonical_or_rejected(text in "(dt=)?[0-9+-]{0,12}(/hour=[0-9+]{1,3})?") {
            if let Ok(partition) = text.parse::<Partition>() {
                prop_assert_eq!(partition.to_string(), text);
            }
        }
    }
}
