//! The threads of actions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use audit_core::start_thread;
use functions_engine::KeptEngines;

use crate::lock;
use crate::workers::{STACK_BYTES, show_engines};

type Job = Box<dyn FnOnce() + Send>;

/// The threads of actions. Each running action has a thread to itself, which blocks while the
/// functions that it calls run. Afterwards the thread waits for another action and keeps its
/// engines, unless enough threads are idle already.
pub(crate) struct ActionThreads(Arc<Shared>);

struct Shared {
    engines: KeptEngines,
    max_idle: usize,
    state: Mutex<State>,
    /// Notified when a job is added, when engines are to be dropped, and at the end.
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs for idle threads: never more jobs than idle threads.
    jobs: VecDeque<Job>,
    idle: usize,
    has_ended: bool,
}

impl ActionThreads {
    /// At most `max_idle` threads wait for an action.
    pub(crate) fn new(engines: KeptEngines, max_idle: usize) -> ActionThreads {
        let (state, work) = Default::default();
        ActionThreads(Arc::new(Shared { engines, max_idle, state, work }))
    }

    /// Runs `job` now, on an idle thread or a new one. The job must not panic.
    ///
    /// # Errors
    ///
    /// No thread is idle, and none can be started.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        {
            let mut state = lock(&self.0.state);
            if state.jobs.len() < state.idle {
                state.jobs.push_back(Box::new(job));
                self.0.work.notify_one();
                return Ok(());
            }
        }
        let shared = Arc::clone(&self.0);
        start_thread("functions-action", Some(STACK_BYTES), move || shared.work(job))
    }

    /// Makes idle threads drop the engines that are no longer needed: see [`KeptEngines::trim`].
    pub(crate) fn trim_engines(&self) {
        // Once this lock was taken, each thread either has seen the change or waits to be notified.
        drop(lock(&self.0.state));
        self.0.work.notify_all();
    }
}

#[cfg(test)]
impl ActionThreads {
    pub(crate) fn idle(&self) -> usize {
        lock(&self.0.state).idle
    }

    pub(crate) fn max_idle(&self) -> usize {
        self.0.max_idle
    }

    /// The memory of the kept engines of these threads and of the workers, in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.0.engines.bytes()
    }
}

impl Shared {
    fn work(&self, first: impl FnOnce()) {
        let _keeping = self.engines.on_this_thread();
        first();
        while let Some(job) = self.wait() {
            job();
        }
    }

    /// Waits for another job. Returns `None` if the thread is not needed any more.
    fn wait(&self) -> Option<Job> {
        show_engines(&self.engines);
        let mut state = lock(&self.state);
        if state.has_ended || state.idle - state.jobs.len() >= self.max_idle {
            return None;
        }
        state.idle += 1;
        loop {
            let job = state.jobs.pop_front();
            if job.is_some() || state.has_ended {
                state.idle -= 1;
                return job;
            }
            if KeptEngines::has_to_trim() {
                drop(state);
                KeptEngines::trim();
                show_engines(&self.engines);
                state = lock(&self.state);
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for ActionThreads {
    fn drop(&mut self) {
        lock(&self.0.state).has_ended = true;
        self.0.work.notify_all();
    }
}

impl fmt::Debug for ActionThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionThreads").field("max_idle", &self.0.max_idle).finish_non_exhaustive()
    }
}
