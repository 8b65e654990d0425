//! [`Pulse`]: how long a thread has been in JavaScript, and its pauses for urgent jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::urgent::Urgent;

/// The longest single pause for urgent jobs.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// When a thread last entered JavaScript, for a watchdog to read. The engine stops JavaScript at
/// its time limit, but not in native code that never checks the clock.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0 while no JavaScript runs.
    since: AtomicU64,
    /// The urgent jobs that this job gives way to, if it does.
    urgent: Option<Arc<Urgent>>,
    /// How long the job has paused for urgent ones, in nanoseconds.
    paused: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse::new(None)
    }
}

impl Pulse {
    /// The pulse of a job that gives way to urgent jobs, or to none.
    pub(super) fn new(urgent: Option<Arc<Urgent>>) -> Pulse {
        Pulse { start: Instant::now(), since: AtomicU64::new(0), urgent, paused: AtomicU64::new(0) }
    }

    /// Lets other jobs run first, if this job gives way: pauses while there are urgent jobs, but
    /// never for longer in total than the job has run.
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

    /// Handles an operation of the running JavaScript.
    pub(super) fn in_host<T>(&self, answer: impl FnOnce() -> T) -> T {
        self.since.store(0, Ordering::Relaxed);
        let answer = answer();
        let entered = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.since.store(entered, Ordering::Relaxed);
        answer
    }

    /// How long JavaScript has run since the thread last entered it or returned to it.
    pub(super) fn stretch(&self) -> Option<Duration> {
        self.stretch_since().map(|(_, stretch)| stretch)
    }

    /// As [`stretch`](Self::stretch), with the time of that entry, in milliseconds since the start.
    pub(super) fn stretch_since(&self) -> Option<(u64, Duration)> {
        let since = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some((since, self.start.elapsed().saturating_sub(Duration::from_millis(since))))
    }
}

/// How much longer a job may pause, if it began `since_start` ago and has paused for `paused`.
fn longest_pause(since_start: Duration, paused: Duration) -> Duration {
    since_start.saturating_sub(paused * 2).min(LONGEST_PAUSE)
}

/// The longest possible stretch of JavaScript that is limited to `time`, of CPU time. A longer one
/// must be in native code, which ignores the limit. It is generous, since a busy machine may
/// suspend a thread for a while.
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
                // A nested call.
                pulse.in_engine(|| assert!(pulse.stretch().is_some()));
                assert_eq!(pulse.stretch(), None);
            });
            assert!(pulse.stretch().is_some());
        });
        assert_eq!(pulse.stretch(), None);
    }

    #[test]
    fn a_job_pauses_no_longer_than_it_runs() {
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
