//! Bounds of settings.

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {actual}, and must be at least {least} and at most {most}")]
pub struct InvalidSettings {
    /// The name of the setting.
    pub name: &'static str,
    actual: u64,
    least: u64,
    most: u64,
}
