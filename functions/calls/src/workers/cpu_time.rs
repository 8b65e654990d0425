//! The CPU time of the pool's threads, for the watchdog.
//!
//! A busy machine may suspend a thread for a while, and a function that is only slow must not be
//! taken for a stuck one. Linux tells the CPU time of other threads; elsewhere it is unknown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A thread whose CPU time can be read by others.
#[derive(Debug, Clone)]
pub(super) struct Thread(Option<Arc<Path>>);

impl Thread {
    pub(super) fn current() -> Thread {
        let task = std::fs::read_link("/proc/thread-self").ok();
        let path = task.map(|task| PathBuf::from("/proc").join(task).join("schedstat"));
        Thread(path.map(Arc::from))
    }

    /// The CPU time that the thread has used. `None` if it is unknown.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(self.0.as_ref()?).ok()?;
        let nanos = text.split_whitespace().next()?.parse().ok()?;
        // Some kernels do not count it.
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// The CPU time of a thread since the watchdog first saw its current stretch of JavaScript.
#[derive(Debug, Default)]
pub(super) struct StretchTime {
    /// The stretch, and the thread's CPU time then.
    first: Option<(u64, Duration)>,
}

impl StretchTime {
    /// The CPU time of this stretch. `None` if it is unknown.
    pub(super) fn of(&mut self, stretch: u64, thread: &Thread) -> Option<Duration> {
        let now = thread.cpu_time()?;
        let (seen, first) = self.first.get_or_insert((stretch, now));
        if *seen != stretch {
            (*seen, *first) = (stretch, now);
        }
        Some(now.saturating_sub(*first))
    }
}
