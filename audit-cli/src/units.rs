//! Times, durations and sizes for people.

use std::fmt;
use std::str::FromStr;

use audit_core::{Clock, SystemClock};
use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};

/// A point in time from the command line, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) i64);

pub(crate) fn now_ms() -> i64 {
    SystemClock.now_ms()
}

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        moment(text, now_ms()).map(Moment).ok_or_else(|| {
            "a time is 2026-11-23, 2026-11-23T14, 2026-11-23T14:30:00Z, or an age such as 90s, 30m, 6h, 7d".to_owned()
        })
    }
}

fn moment(text: &str, now_ms: i64) -> Option<i64> {
    let units = [("s", SECOND_MS), ("m", MINUTE_MS), ("h", HOUR_MS), ("d", DAY_MS)];
    for (unit, ms) in units {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u32>().ok()) {
            return now_ms.checked_sub(i64::from(count) * ms);
        }
    }
    date_time_ms(text)
}

/// A date, or a date and a time separated by `T` or a space. Without an offset it is UTC.
pub(crate) fn date_time_ms(text: &str) -> Option<i64> {
    let with_t = match (text.get(..DATE), text.get(DATE..DATE + 1), text.get(DATE + 1..)) {
        (Some(date), Some(" " | "t"), Some(time)) => Some(format!("{date}T{time}")),
        _ => None,
    };
    let text = with_t.as_deref().unwrap_or(text);
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let naive = if let Ok(date) = text.parse::<NaiveDate>() {
        date.and_hms_opt(0, 0, 0)?
    } else {
        // Chrono rejects an hour without minutes.
        let whole = [text.to_owned(), format!("{text}:00"), format!("{text}:00:00")];
        whole.iter().find_map(|text| text.parse::<NaiveDateTime>().ok())?
    };
    Some(naive.and_utc().timestamp_millis())
}

/// Bytes of a date.
const DATE: usize = "2023-11-14".len();

/// RFC 3339 in UTC, to the second, or to the millisecond if there is a fraction.
pub(crate) fn shown(ms: i64) -> String {
    match DateTime::from_timestamp_millis(ms) {
        Some(time) if ms % SECOND_MS == 0 => time.to_rfc3339_opts(SecondsFormat::Secs, true),
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    }
}

/// A duration in its two largest units.
pub(crate) struct Span(pub(crate) i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        if ms < 0 {
            return write!(f, "-{}", Span(ms.saturating_neg()));
        }
        match ms {
            0..SECOND_MS => write!(f, "{ms}ms"),
            SECOND_MS..MINUTE_MS => write!(f, "{}.{}s", ms / SECOND_MS, ms % SECOND_MS / 100),
            MINUTE_MS..HOUR_MS => {
                write!(f, "{}m{:02}s", ms / MINUTE_MS, ms % MINUTE_MS / SECOND_MS)
            }
            HOUR_MS..DAY_MS => write!(f, "{}h{:02}m", ms / HOUR_MS, ms % HOUR_MS / MINUTE_MS),
            _ => write!(f, "{}d{:02}h", ms / DAY_MS, ms % DAY_MS / HOUR_MS),
        }
    }
}

/// A count for people: 12,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1_000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Count(self.0 / 1_000), self.0 % 1_000)
    }
}

/// A count and its noun: 1 record, 12,000 records, 2 copies.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if count == 1 => format!("1 {noun}"),
        Some(stem) if !noun.ends_with("ay") => format!("{} {stem}ies", Count(count)),
        _ => format!("{} {noun}s", Count(count)),
    }
}

/// A number of bytes for people.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut size = self.0 as f64;
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut unit = "";
        for next in units {
            if size < 1024.0 {
                break;
            }
            size /= 1024.0;
            unit = next;
        }
        f.pad(&format!("{size:.1} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let at = |text: &str| moment(text, 1_700_000_000_000);
        assert_eq!(at("2023-11-14"), Some(1_699_920_000_000));
        assert_eq!(at("2023-11-14T22"), Some(1_699_999_200_000));
        assert_eq!(at("2023-11-14T22:13"), Some(1_699_999_980_000));
        assert_eq!(at("2023-11-14T22:13Z"), Some(1_699_999_980_000));
        assert_eq!(at("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(at("2023-11-14T23:13:20+01:00"), Some(1_700_000_000_000));
        assert_eq!(at("2023-11-14 22:13:20"), Some(1_700_000_000_000));
        assert_eq!(at("20s"), Some(1_699_999_980_000));
        assert_eq!(at("2h"), Some(1_700_000_000_000 - 2 * HOUR_MS));
        assert_eq!(at("7d"), Some(1_700_000_000_000 - 7 * DAY_MS));
        for text in ["", "yesterday", "5", "-3h", "2023-02-30", "2023-11-14T25"] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn spans_and_sizes_are_short() {
        let spans = [7, 1_500, 61_000, 2 * HOUR_MS + MINUTE_MS, 3 * DAY_MS, -1_500, i64::MIN];
        assert_eq!(
            spans.map(|ms| Span(ms).to_string()),
            ["7ms", "1.5s", "1m01s", "2h01m", "3d00h", "-1.5s", "-106751991167d07h"]
        );
        let sizes = [0, 1_023, 1_024, 1_572_864, u64::MAX];
        assert_eq!(
            sizes.map(|bytes| Size(bytes).to_string()),
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "16384.0 PiB"]
        );
        let counts = [0, 999, 1_000, 12_000, 1_002_003];
        assert_eq!(
            counts.map(|count| Count(count).to_string()),
            ["0", "999", "1,000", "12,000", "1,002,003"]
        );
        assert_eq!(shown(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(shown(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
    }
}
