//! The time zones of the IANA, which are the same on every machine.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rquickjs::{Ctx, Function, Object};

/// Adds the functions that the built-in modules use.
pub(super) fn add<'js>(ctx: &Ctx<'js>, natives: &Object<'js>) -> rquickjs::Result<()> {
    natives.set("zoneName", Function::new(ctx.clone(), named)?)?;
    natives.set("zoneOffset", Function::new(ctx.clone(), offset)?)?;
    natives.set("zoneAbbreviation", Function::new(ctx.clone(), abbreviation)?)
}

/// The name of a zone as it is usually written, or `None` if there is no such zone.
fn named(name: String) -> Option<String> {
    TimeZone::get(&name).ok()?.iana_name().map(str::to_owned)
}

/// The seconds that a zone is ahead of UTC at a time in milliseconds since the epoch.
fn offset(name: String, epoch_ms: f64) -> Option<i32> {
    Some(TimeZone::get(&name).ok()?.to_offset(time(epoch_ms)).seconds())
}

/// The abbreviation of a zone's time at a time, such as `EST`.
fn abbreviation(name: String, epoch_ms: f64) -> Option<String> {
    let zone = TimeZone::get(&name).ok()?;
    Some(zone.to_offset_info(time(epoch_ms)).abbreviation().to_owned())
}

/// The time as jiff represents it, whose range ends with the year 9999. A later time is taken for
/// one of an earlier cycle of 400 years: days of the week repeat with it, and so does daylight
/// saving. Times before the range are before the year 1, which callers refuse.
fn time(epoch_ms: f64) -> Timestamp {
    const CYCLE_MS: i64 = 146_097 * 24 * 3_600 * 1_000;
    let (epoch_ms, last_ms) = (epoch_ms as i64, Timestamp::MAX.as_millisecond());
    let over_ms = epoch_ms.saturating_sub(last_ms).max(0);
    let cycles = over_ms.unsigned_abs().div_ceil(CYCLE_MS.unsigned_abs()).cast_signed();
    Timestamp::from_millisecond(epoch_ms.saturating_sub(cycles.saturating_mul(CYCLE_MS)))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_by_any_case() {
        let name = |name: &str| named(name.to_owned());
        assert_eq!(name("america/new_york").as_deref(), Some("America/New_York"));
        assert_eq!(name("Asia/Calcutta").as_deref(), Some("Asia/Calcutta"));
        assert_eq!(name("Mars/Olympus"), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn offsets_follow_daylight_saving() {
        let new_york = |ms| offset("America/New_York".to_owned(), ms);
        assert_eq!(new_york(1_704_448_800_000.0), Some(-5 * 3_600));
        assert_eq!(new_york(1_720_000_000_000.0), Some(-4 * 3_600));
        assert_eq!(offset("Asia/Kolkata".to_owned(), 0.0), Some(19_800));
    }

    /// As Node.js has them: until the last time of JavaScript, and on both sides of the last of
    /// jiff.
    #[test]
    fn daylight_saving_goes_on_after_the_year_9999() {
        let last = 253_402_207_200_999.0;
        assert_eq!(Timestamp::MAX.as_millisecond() as f64, last);
        let (winter, summer) = (253_403_596_800_000.0, 253_419_235_200_000.0);
        for (zone, in_winter, in_summer) in
            [("America/New_York", -5, -4), ("Europe/Berlin", 1, 2), ("Australia/Sydney", 11, 10)]
        {
            let hours = |ms| offset(zone.to_owned(), ms).unwrap() / 3_600;
            for ms in [last, last + 1.0, winter, 316_517_414_400_000.0] {
                assert_eq!(hours(ms), in_winter, "{zone} at {ms}");
            }
            for ms in [summer, 316_533_139_200_000.0, 8_640_000_000_000_000.0 - 60.0 * 86_400_000.0]
            {
                assert_eq!(hours(ms), in_summer, "{zone} at {ms}");
            }
        }
        let abbreviation = |ms| abbreviation("America/New_York".to_owned(), ms);
        assert_eq!(abbreviation(winter).as_deref(), Some("EST"));
        assert_eq!(abbreviation(summer).as_deref(), Some("EDT"));
    }
}
