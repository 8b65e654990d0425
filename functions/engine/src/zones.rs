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

/// The time as jiff represents it, whose range ends with the year 9999: a later time is taken for
/// the last one. Times before the range are before the year 1, which callers refuse.
fn time(epoch_ms: f64) -> Timestamp {
    Timestamp::from_millisecond(epoch_ms as i64).unwrap_or(Timestamp::MAX)
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
}
