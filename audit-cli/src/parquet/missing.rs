//! Finds objects that are in no Parquet file, and names the missing files.

use std::collections::{BTreeMap, BTreeSet};

use audit_sink_s3::layout::{ObjectKey, Partition};
use serde::Serialize;

use super::compact::LATE_MS;
use super::index::{File, day_name, name};
use crate::units::{DAY_MS, HOUR_MS, counted};

/// A day with objects that are in none of its files.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    pub(super) day: String,
    /// The missing files: gaps in the numbers of the day's files or, if there are none, the next
    /// number.
    files: Vec<String>,
    /// The hours under which the objects are filed, in UTC, as ranges with both ends.
    hours: Vec<(u8, u8)>,
    pub(crate) objects: u64,
}

/// The maximum number of missing files that are named for a day.
const MAX_NAMED: usize = 1_000;

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Missing { files, hours, objects, .. } = self;
        let hours: Vec<String> = hours
            .iter()
            .map(|(first, last)| match first == last {
                true => format!("{first:02}"),
                false => format!("{first:02} to {last:02}"),
            })
            .collect();
        let (objects, hours) = (counted(*objects, "object"), hours.join(", "));
        write!(f, "{}: {objects} of hours {hours}", files.join(", "))
    }
}

/// Finds the listed objects that are in none of these files. Days that ended less than an hour ago
/// are left out: their files are not due yet.
pub(super) fn missing(
    files: &[File],
    is_held: impl Fn(&str) -> bool,
    listed: impl Iterator<Item = ObjectKey>,
    first_day: Option<&str>,
    now_ms: i64,
) -> Vec<Missing> {
    let mut lacking: BTreeMap<String, (BTreeSet<u8>, u64)> = BTreeMap::new();
    for key in listed {
        let partition = Partition::day_of(key.hour_ms());
        let day = day_name(&partition);
        let is_due = partition.end_ms().saturating_add(LATE_MS) <= now_ms;
        let is_wanted = is_due && first_day.is_none_or(|first| first <= day.as_str());
        if is_wanted && !is_held(&key.to_string()) {
            let (hours, count) = lacking.entry(day).or_default();
            hours.insert((key.hour_ms().rem_euclid(DAY_MS) / HOUR_MS) as u8);
            *count += 1;
        }
    }
    let of_day = |(day, (hours, objects)): (String, (BTreeSet<u8>, u64))| {
        let of_day: BTreeSet<u32> =
            files.iter().filter(|file| file.day == day).map(|file| file.number).collect();
        let (mut files, mut next) = (Vec::new(), 0);
        for number in of_day {
            // Anybody can create a file with a high number, so the list of missing files is
            // limited.
            let missing = (next..number).take(MAX_NAMED.saturating_sub(files.len()));
            files.extend(missing.map(|number| name(&day, number)));
            next = number.saturating_add(1);
        }
        if files.is_empty() {
            files.push(name(&day, next));
        }
        Missing { files, hours: runs(hours), objects, day }
    };
    lacking.into_iter().map(of_day).collect()
}

fn runs(hours: BTreeSet<u8>) -> Vec<(u8, u8)> {
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for hour in hours {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == hour => *last = hour,
            Some(_) | None => runs.push((hour, hour)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use audit_core::UniqueId;
    use audit_sink_s3::layout::Compression;

    use super::*;

    #[test]
    fn a_missing_file_is_named_with_its_hours() {
        let now_ms = 30 * DAY_MS;
        let key = |day: i64, hour: i64| {
            let stream = UniqueId::from_bits(7);
            ObjectKey::new(day * DAY_MS + hour * HOUR_MS, stream, 0, Compression::Zstd)
        };
        let file = |day: i64, number| {
            let day = day_name(&Partition::day_of(day * DAY_MS));
            File { day, number, bytes: 1 }
        };
        let held = [key(3, 1), key(5, 0)].map(|key| key.to_string());
        let is_held = |key: &str| held.iter().any(|held| held == key);
        let said = |files: &[File], keys: &[ObjectKey], first_day| {
            let keys = keys.iter().copied();
            let missing = missing(files, is_held, keys, first_day, now_ms);
            missing.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        // No object is missing.
        assert_eq!(said(&[file(3, 0), file(5, 0)], &[key(3, 1), key(5, 0)], None), none);
        // Objects of hours 04 and 05 on a day that lacks its first file, and of a day without
        // files.
        let keys = [key(3, 1), key(3, 4), key(3, 5), key(5, 0), key(7, 23), key(7, 23)];
        let files = [file(3, 1), file(5, 0)];
        let expected = [
            "dt=1970-01-04/000000.parquet: 2 objects of hours 04 to 05",
            "dt=1970-01-08/000000.parquet: 2 objects of hours 23",
        ];
        assert_eq!(said(&files, &keys, None), expected);
        assert_eq!(said(&files, &keys, Some("1970-01-05")), expected[1..]);
        // No number is missing: the objects came late, or the last file was removed.
        let late = "dt=1970-01-06/000001.parquet: 2 objects of hours 02, 05";
        assert_eq!(said(&files, &[key(5, 2), key(5, 5)], None), [late]);
        // Days that ended less than an hour ago.
        assert_eq!(said(&files, &[key(29, 2), key(30, 0)], None), none);
        // Several are missing.
        let two =
            "dt=1970-01-06/000000.parquet, dt=1970-01-06/000002.parquet: 1 object of hours 09";
        assert_eq!(said(&[file(5, 1), file(5, 3)], &[key(5, 9)], None), [two]);
    }
}
