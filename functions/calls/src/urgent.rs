//! [`Urgent`].

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// The number of urgent jobs that wait or run. Other jobs pause for them.
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

    /// Waits until there are no urgent jobs, at most for `longest`. Returns how long it waited.
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
        super::lock(&self.jobs)
    }
}
