//! Wall time, injected so that tests control it.

use std::fmt::Debug;
use std::sync::Arc;

/// Wall time in milliseconds since the Unix epoch.
///
/// Every crate of the engine reads wall time through this trait, so that a test can set it and a
/// simulation can make it jump. It is never used to measure how long something took: it may go
/// backwards.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX time). Negative
    /// before it.
    fn now_ms(&self) -> i64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_ms(&self) -> i64 {
        (**self).now_ms()
    }
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the engine reads the system's wall time"
    )]
    fn now_ms(&self) -> i64 {
        use std::time::{SystemTime, UNIX_EPOCH};
        let to_ms =
            |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => to_ms(since),
            Err(before) => -to_ms(before.duration()),
        }
    }
}
