//! Bounds of settings.

use std::fmt;

/// The maximum of settings in milliseconds: one day.
pub const MAX_TIME_MS: u64 = 24 * 60 * 60 * 1_000;

/// The maximum number of objects sent at once. Each takes a connection.
pub const MAX_IN_FLIGHT: usize = 1_024;

/// Checks that a value is within its bounds.
pub fn within(
    name: &'static str,
    actual: u64,
    least: u64,
    most: u64,
) -> Result<(), InvalidSettings> {
    if (least..=most).contains(&actual) {
        Ok(())
    } else {
        Err(InvalidSettings { name, actual, least, most })
    }
}

/// A setting whose value is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSettings {
    /// The name of the setting.
    pub name: &'static str,
    actual: u64,
    least: u64,
    most: u64,
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidSettings { name, actual, least, most } = self;
        write!(f, "{name} is {actual}, and must be at least {least} and at most {most}")
    }
}

impl std::error::Error for InvalidSettings {}
