//! How long a thread has been in JavaScript without a break.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a thread last entered JavaScript, for a watchdog to read. The engine stops JavaScript at
/// its limit, except in native code that never checks the clock.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0 while no JavaScript runs.
    since: AtomicU64,
    yields: bool,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse::new(false)
    }
}

impl Pulse {
    /// Of a job that [yields](Pulse::yields) the processor, or not.
    pub(super) fn new(yields: bool) -> Pulse {
        Pulse { start: Instant::now(), since: AtomicU64::new(0), yields }
    }

    /// Whether the job is to yield the processor now and then, since its caller has more jobs
    /// waiting.
    pub(super) fn yields(&self) -> bool {
        self.yields
    }

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

    /// How long JavaScript has run since it was last entered or returned to.
    pub(super) fn stretch(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

/// The longest stretch of JavaScript that is limited to `time` in all. Beyond it, the thread must
/// be in native code that no limit reaches. It is generous, since a busy machine may stop a thread
/// for a while.
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
