//! How long a thread has been in JavaScript without a break, and when it takes one for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::urgent::Urgent;

/// The longest single pause for urgent jobs.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// When a thread last entered JavaScript, for a watchdog to read. The engine stops JavaScript at
/// its limit, except in native code that never checks the clock.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0 while no JavaScript runs.
    since: AtomicU64,
    /// What the job gives way to, if it does.
    urgent: Option<Arc<Urgent>>,
    /// Nanoseconds that it has paused for urgent jobs.
    paused: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse::new(None)
    }
}

impl Pulse {
    /// Of a job that gives way to urgent jobs, or to none.
    pub(super) fn new(urgent: Option<Arc<Urgent>>) -> Pulse {
        Pulse { start: Instant::now(), since: AtomicU64::new(0), urgent, paused: AtomicU64::new(0) }
    }

    /// Lets others have the processor, if the job is one that gives way: pauses while jobs are
    /// urgent, but never for longer in all than the job has run.
    pub(super) fn give_way(&self) {
        let Some(urgent) = &self.urgent else { return };
        let paused = Duration::from_nanos(self.paused.load(Ordering::Relaxed));
        let paused = urgent.wait(longest_pause(self.start.elapsed(), paused));
        if paused.is_zero() {
            std::thread::yield_now();
        } else {
            let nanos = u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX);
            self.paused.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn gives_way(&self) -> bool {
        self.urgent.is_some()
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

/// How long a job may pause that began this long ago and has paused for some of that.
fn longest_pause(since_start: Duration, paused: Duration) -> Duration {
    since_start.saturating_sub(paused * 2).min(LONGEST_PAUSE)
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
    fn pauses_are_no_longer_than_what_has_run() {
        let ms = Duration::from_millis;
        assert_eq!(longest_pause(ms(0), ms(0)), ms(0));
        assert_eq!(longest_pause(ms(10), ms(0)), LONGEST_PAUSE);
        let (mut ran, mut paused) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..1_000 {
            ran += Duration::from_micros(100);
            paused += longest_pause(ran + paused, paused);
            assert!(paused <= ran);
        }
        assert!(paused > ran / 2, "{paused:?}");
    }

    #[test]
    fn a_stretch_is_far_more_than_the_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(longest_stretch(seconds(1)), seconds(11));
        assert_eq!(longest_stretch(seconds(600)), seconds(661));
        assert!(longest_stretch(Duration::MAX) > seconds(u64::MAX / 2));
    }
}
