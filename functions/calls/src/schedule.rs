//! The schedules of crons.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron;
use serde_json::Value as Json;

/// How far the clock may be set back before due times are corrected, in milliseconds. With less, a
/// cron that has just run would run again.
const TOLERANCE_MS: f64 = 3_600_000.0;

/// The longest interval, in milliseconds: 100 years. After an infinite one, the next due time would
/// not be a number.
const LONGEST_MS: f64 = 100.0 * 365.25 * 86_400_000.0;

/// When a cron is due.
#[derive(Debug)]
pub(super) enum Schedule {
    /// Every this many milliseconds.
    Interval { period_ms: f64 },
    /// At times that match a cron expression, in UTC.
    At(Box<Cron>),
}

impl Schedule {
    /// Parses a schedule of `crons.ts`, as the client library exports it.
    pub(super) fn from_json(json: &Json) -> Result<Schedule, String> {
        let number = |name: &str| json.get(name).and_then(Json::as_f64);
        let field = |name: &str, default: f64| number(name).unwrap_or(default);
        let expression = match json.get("type").and_then(Json::as_str) {
            Some("interval") => {
                let units = [("seconds", 1_000.0), ("minutes", 60_000.0), ("hours", 3_600_000.0)];
                let period = units.iter().find_map(|(unit, ms)| Some(number(unit)? * ms));
                let period_ms = period.filter(|ms| (1_000.0..=LONGEST_MS).contains(ms));
                return match period_ms {
                    Some(period_ms) => Ok(Schedule::Interval { period_ms }),
                    None => {
                        Err("an interval needs seconds, minutes or hours above 0, and at most \
                                 100 years"
                            .to_owned())
                    }
                };
            }
            Some("hourly") => format!("{} * * * *", field("minuteUTC", 0.0)),
            Some("daily") => format!("{} {} * * *", field("minuteUTC", 0.0), field("hourUTC", 0.0)),
            Some("weekly") => {
                let day = json.get("dayOfWeek").and_then(Json::as_str).unwrap_or_default();
                let days =
                    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
                let day = days.iter().position(|name| *name == day);
                let day = day.ok_or("a weekly cron needs a day of the week, like \"monday\"")?;
                format!("{} {} * * {day}", field("minuteUTC", 0.0), field("hourUTC", 0.0))
            }
            Some("monthly") => {
                format!(
                    "{} {} {} * *",
                    field("minuteUTC", 0.0),
                    field("hourUTC", 0.0),
                    field("day", 1.0)
                )
            }
            Some("cron") => json.get("cron").and_then(Json::as_str).unwrap_or_default().to_owned(),
            _ => return Err(format!("{json} is not a schedule")),
        };
        // The parser also reads seconds, years, names like `@daily`, and `+`, as Convex does not.
        if expression.split_whitespace().count() != 5 || expression.contains('+') {
            return Err(format!(
                "{expression:?}: a cron expression has five fields, minute, hour, day of the \
                 month, month and day of the week, of numbers, names, and the signs `* , - /`"
            ));
        }
        let cron = Cron::from_str(&expression);
        cron.map(|cron| Schedule::At(Box::new(cron)))
            .map_err(|error| format!("{expression:?}: {error}"))
    }

    /// When the cron is first due, in milliseconds since the Unix epoch. An interval is due
    /// immediately.
    pub(super) fn first_ms(&self, now_ms: f64) -> f64 {
        match self {
            Schedule::Interval { .. } => now_ms,
            Schedule::At(_) => self.next_ms(now_ms, now_ms),
        }
    }

    /// The first due time after `due_ms` that is in the future, in milliseconds since the Unix
    /// epoch. Times missed while the host was down are skipped.
    pub(super) fn next_ms(&self, due_ms: f64, now_ms: f64) -> f64 {
        match self {
            Schedule::Interval { period_ms } => {
                let missed = ((now_ms - due_ms) / period_ms).floor().max(0.0);
                due_ms + (missed + 1.0) * period_ms
            }
            Schedule::At(cron) => {
                let after = DateTime::<Utc>::from_timestamp_millis(now_ms.max(due_ms) as i64);
                let next = after.and_then(|after| cron.find_next_occurrence(&after, false).ok());
                // There may be no such date, such as 31 February.
                next.map_or(f64::MAX, |next| next.timestamp_millis() as f64)
            }
        }
    }

    /// The due time to use instead of `next_ms`, in milliseconds since the Unix epoch, if the clock
    /// has been set back since `next_ms` was computed. Otherwise a clock that was once years ahead
    /// would stop the cron for years.
    pub(super) fn corrected_ms(&self, next_ms: f64, now_ms: f64) -> Option<f64> {
        let tolerated_ms = now_ms + TOLERANCE_MS;
        match self {
            Schedule::Interval { period_ms } => {
                let whole = ((next_ms - now_ms) / period_ms).ceil() - 1.0;
                (next_ms > tolerated_ms + period_ms).then(|| next_ms - whole * period_ms)
            }
            Schedule::At(_) => (next_ms > self.next_ms(tolerated_ms, tolerated_ms))
                .then(|| self.next_ms(now_ms, now_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schedule(json: Json) -> Schedule {
        Schedule::from_json(&json).unwrap()
    }

    /// 2026-11-24T13:00:00Z, a Tuesday.
    const TUESDAY_MS: f64 = 1_795_525_200_000.0;
    const HOUR_MS: f64 = 3_600_000.0;

    #[test]
    fn intervals_begin_immediately_and_stay_in_phase() {
        let every = schedule(json!({ "type": "interval", "minutes": 2 }));
        assert_eq!(every.first_ms(TUESDAY_MS), TUESDAY_MS);
        assert_eq!(every.next_ms(TUESDAY_MS, TUESDAY_MS + 5.0), TUESDAY_MS + 120_000.0);
        // A host that was down for an hour and a second runs the cron once, and then on time.
        let missed = every.next_ms(TUESDAY_MS, TUESDAY_MS + HOUR_MS + 1_000.0);
        assert_eq!(missed, TUESDAY_MS + HOUR_MS + 120_000.0);
    }

    #[test]
    fn clocks_set_back_delay_no_cron() {
        let schedules = [
            json!({ "type": "interval", "seconds": 7 }),
            json!({ "type": "interval", "hours": 100 }),
            json!({ "type": "hourly", "minuteUTC": 30 }),
            json!({ "type": "daily", "hourUTC": 13 }),
            json!({ "type": "monthly", "day": 25 }),
            json!({ "type": "cron", "cron": "0 0 29 2 *" }),
        ];
        for schedule in schedules.map(schedule) {
            let first = schedule.next_ms(TUESDAY_MS, TUESDAY_MS);
            for ahead_ms in [0.0, 1.0, HOUR_MS, 25.0 * HOUR_MS, 2e11, 2.5e14] {
                let next = schedule.next_ms(TUESDAY_MS + ahead_ms, TUESDAY_MS + ahead_ms);
                let corrected = schedule.corrected_ms(next, TUESDAY_MS);
                if ahead_ms <= HOUR_MS {
                    assert_eq!(corrected, None, "{schedule:?} {ahead_ms}");
                }
                let due = corrected.unwrap_or(next);
                assert!(due > TUESDAY_MS, "{schedule:?} {ahead_ms}: {due}");
                let late = schedule.next_ms(first + HOUR_MS, first + HOUR_MS);
                assert!(due <= late, "{schedule:?} {ahead_ms}: {due} after {late}");
                assert_eq!(schedule.corrected_ms(due, TUESDAY_MS), None, "{schedule:?} {ahead_ms}");
            }
        }
        // A date that never comes.
        let never = schedule(json!({ "type": "cron", "cron": "0 0 31 2 *" }));
        assert_eq!(never.corrected_ms(f64::MAX, TUESDAY_MS), None);
    }

    #[test]
    fn times_are_utc() {
        let next = |json| schedule(json).first_ms(TUESDAY_MS) - TUESDAY_MS;
        assert_eq!(next(json!({ "type": "hourly", "minuteUTC": 30 })), HOUR_MS / 2.0);
        assert_eq!(
            next(json!({ "type": "daily", "hourUTC": 14, "minuteUTC": 15 })),
            1.25 * HOUR_MS
        );
        assert_eq!(
            next(json!({ "type": "weekly", "dayOfWeek": "wednesday", "hourUTC": 13 })),
            24.0 * HOUR_MS
        );
        assert_eq!(
            next(json!({ "type": "monthly", "day": 25, "hourUTC": 13, "minuteUTC": 0 })),
            24.0 * HOUR_MS
        );
        assert_eq!(next(json!({ "type": "cron", "cron": "15 14 * * *" })), 1.25 * HOUR_MS);
    }

    #[test]
    fn invalid_schedules_are_refused() {
        let refused = |json| Schedule::from_json(&json).unwrap_err();
        for hours in [json!(null), json!(-1), json!(0), json!(1e6), json!(1e306)] {
            let interval = json!({ "type": "interval", "hours": hours });
            assert!(refused(interval).contains("seconds, minutes or hours above 0"));
        }
        assert!(refused(json!({ "type": "cron", "cron": "61 * * * *" })).contains("61 * * * *"));
        for cron in
            ["", "@daily", "@HOURLY", "0 * * *", "0 0 0 * * *", "0 0 0 * * * 2026", "0 0 1 * +MON"]
        {
            let refused = refused(json!({ "type": "cron", "cron": cron }));
            assert!(
                refused.contains(&format!("{cron:?}: a cron expression has five fields")),
                "{refused}"
            );
        }
        assert!(refused(json!({ "type": "weekly", "dayOfWeek": "Montag" })).contains("monday"));
        assert!(refused(json!({ "type": "yearly" })).contains("yearly"));
    }
}
