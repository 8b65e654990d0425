//! Jobs that are urgent, and the others that pause for them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many urgent jobs wait or run.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    jobs: Mutex<usize>,
    none: Condvar,
}

impl Urgent {
    pub(super) fn set(&self, jobs: usize) {
        let mut urgent = self.jobs();
        *urgent = jobs;
        if jobs == 0 {
            self.none.notify_all();
        }
    }

    /// Waits until there are none, but no longer than `longest`. Returns how long it waited.
    pub(super) fn wait(&self, longest: Duration) -> Duration {
        let jobs = self.jobs();
        if *jobs == 0 {
            return Duration::ZERO;
        }
        let began = Instant::now();
        drop(self.none.wait_timeout_while(jobs, longest, |jobs| *jobs > 0));
        began.elapsed()
    }

    fn jobs(&self) -> MutexGuard<'_, usize> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
