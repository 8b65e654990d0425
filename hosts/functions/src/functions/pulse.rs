//! Whether a thread is in JavaScript that its engine should have stopped long ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When the JavaScript that a thread runs was entered last, to be read by a watchdog. The engine
/// stops JavaScript at its limit, but for native code that never looks at the clock.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// In milliseconds since `start`, and one more; 0 while no JavaScript runs.
    since: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { start: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Runs JavaScript.
    pub(super) fn in_engine<T>(&self, run: impl FnOnce() -> T) -> T {
        let entered = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let before = self.since.swap(entered, Ordering::Relaxed);
        let done = run();
        self.since.store(before, Ordering::Relaxed);
        done
    }

    /// Answers an operation, in JavaScript that runs.
    pub(super) fn in_host<T>(&self, answer: impl FnOnce() -> T) -> T {
        self.since.store(0, Ordering::Relaxed);
        let answer = answer();
        let entered = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.since.store(entered, Ordering::Relaxed);
        answer
    }

    /// How long JavaScript has run since it was entered, or returned to, last.
    pub(super) fn stretch(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

/// How long one stretch of JavaScript may be that is limited to `time` in all: beyond this it is in
/// native code that no limit reaches. Far more, since a busy machine may stop a thread for a while.
pub(super) fn longest_stretch(time: Duration) -> Duration {
    let longest = time.saturating_mul(10).min(time.saturating_add(Duration::from_secs(60)));
    longest.saturating_add(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_javascript_counts() {
        let pulse = Pulse::default();
        assert_eq!(pulse.stretch(), None);
        pulse.in_engine(|| {
            assert!(pulse.stretch().is_some());
            pulse.in_host(|| {
                assert_eq!(pulse.stretch(), None);
                // A function that this one calls.
                pulse.in_engine(|| assert!(pulse.stretch().is_some()));
                assert_eq!(pulse.stretch(), None);
            });
            assert!(pulse.stretch().is_some());
        });
        assert_eq!(pulse.stretch(), None);
    }

    #[test]
    fn a_stretch_is_far_more_than_the_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(longest_stretch(seconds(1)), seconds(11));
        assert_eq!(longest_stretch(seconds(600)), seconds(661));
        assert!(longest_stretch(Duration::MAX) > seconds(u64::MAX / 2));
    }
}
