//! The functions that the scheduler has begun.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use functions_value::ComponentPath;
use serde_json::Value as Json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::jobs::Due;

/// The maximum number of mutations that the scheduler runs at once. Actions, which may take
/// minutes, have a limit of their own of the same size.
pub(super) const MAX_AT_ONCE_PERMITS: u32 = 16;
const MAX_AT_ONCE: usize = MAX_AT_ONCE_PERMITS as usize;

/// The maximum number of functions of one component that run or wait for a permit, earliest first.
pub(super) const MAX_LOOKED_AT: usize = 64;

/// The maximum number of functions that wait for a retry after the host could not run them. Beyond
/// it, no others begin: the fault is the host's, so they would likely fail too.
const MAX_RESTING: usize = 1_024;

/// The first backoff before a function that the host could not run is retried. It doubles each
/// time.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(500);
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Task {
    pub(super) due: Due,
    pub(super) component: ComponentPath,
    pub(super) function: String,
    pub(super) args: Json,
}

/// The document of a due function.
pub(super) type Key = (ComponentPath, String);

/// The functions that the scheduler has begun. They outlive a panic of the scheduler.
#[derive(Clone)]
pub(super) struct TakenUp {
    pub(super) jobs: Arc<Mutex<HashMap<Key, Job>>>,
    pub(super) mutations: Arc<Semaphore>,
    pub(super) actions: Arc<Semaphore>,
}

/// The state of a begun function.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// Running, or waiting for a permit.
    Active,
    /// Waiting for a retry. Everything else is in the store.
    Resting { until: Instant, backoff: Duration },
}

impl TakenUp {
    pub(super) fn new() -> TakenUp {
        TakenUp {
            jobs: Arc::default(),
            mutations: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            actions: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        crate::lock(&self.jobs)
    }

    /// How many more functions of a component may begin.
    pub(super) fn room(&self, component: &ComponentPath) -> usize {
        let (jobs, now) = (self.jobs(), Instant::now());
        let is_resting = |job: &&Job| matches!(job, Job::Resting { until, .. } if *until > now);
        if jobs.values().filter(is_resting).count() >= MAX_RESTING {
            return 0;
        }
        let of_component = jobs.iter().filter(|((of, _), _)| of == component);
        let active = of_component.filter(|(_, job)| matches!(job, Job::Active)).count();
        MAX_LOOKED_AT.saturating_sub(active)
    }

    /// Whether a due function may begin now.
    pub(super) fn is_free(&self, key: &Key) -> bool {
        match self.jobs().get(key) {
            None => true,
            Some(Job::Active) => false,
            Some(Job::Resting { until, .. }) => *until <= Instant::now(),
        }
    }

    /// Marks a function as begun. Returns its backoff in case the host cannot run it.
    pub(super) fn take_up(&self, key: &Key) -> Duration {
        match self.jobs().insert(key.clone(), Job::Active) {
            Some(Job::Resting { backoff, .. }) => (backoff * 2).min(MAX_BACKOFF),
            Some(Job::Active) | None => FIRST_BACKOFF,
        }
    }

    /// When the next backoff ends, among those that had not ended when the store was read. The
    /// other functions have begun since, had no room, or are no longer due.
    pub(super) fn next(&self, looked: Instant) -> Option<Instant> {
        let mut jobs = self.jobs();
        let until = |job: &Job| match job {
            Job::Active => None,
            Job::Resting { until, .. } => Some(*until),
        };
        jobs.retain(|_, job| until(job).is_none_or(|until| until + MAX_BACKOFF > looked));
        jobs.values().filter_map(until).filter(|until| *until > looked).min()
    }
}

pub(super) fn key(due: &Due) -> Key {
    match due {
        Due::Scheduled { component, id } | Due::Cron { component, id, .. } => {
            (component.clone(), id.clone())
        }
    }
}
