//! The threads that JavaScript runs on.

mod cpu_time;
mod panics;
mod task;
mod watchdog;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::start_thread;
use audit_host::{Lane, Turn, Turns};
use functions_engine::KeptEngines;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lock;
use super::pulse::Pulse;
use super::urgent::Urgent;
use cpu_time::{StretchTime, Thread};
use panics::report;
pub(super) use panics::show_engines;
pub(super) use task::{Broken, Presence, panic_message};
use task::{Call, Task};

/// The stack of one thread, in bytes. It is large because a function that another one calls runs in
/// its own engine on the caller's stack. Memory is only taken as it is used.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// When this many jobs wait in a lane, those whose callers are gone are removed, and again each
/// time that the number has doubled.
const MIN_SWEEP: usize = 64;

/// The number of threads, and the limits of jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerSettings {
    pub(super) threads: usize,
    /// How long a job may keep its thread: far longer than the engine's own limits allow. A job
    /// that takes longer is in native code, which ignores those limits.
    pub(super) overrun_after: Duration,
    /// The longest stretch of JavaScript: see
    /// [`longest_stretch`](super::pulse::longest_stretch).
    pub(super) longest_stretch: Duration,
    /// The least CPU time of a stretch that is too long, where the system tells it. One with less
    /// is only slow, on a busy machine.
    pub(super) stretch_cpu_time: Duration,
    /// The number of stuck threads at which the pool is [exhausted](Workers::exhausted).
    pub(super) max_stuck: usize,
}

/// Threads on which queries and mutations run to their end, one at a time each. They wait for
/// nothing but the processor, so more threads than processors would not be faster. One more thread
/// is reserved for [prompt](Turns) jobs, and used while all others are busy. A running job is not
/// interrupted, but the operating system shares processors between threads, so a caller with an
/// occasional short job does not wait for the end of another caller's long one.
///
/// Jobs of a caller who has more of them waiting give way, between jobs and within them: they pause
/// while prompt jobs wait or run, but never for longer than they have run, and otherwise yield the
/// processor. Without this, each thread that a short call needs, from the one that reads it to the
/// one that syncs its logs, would wait some milliseconds for a time slice to end.
///
/// Callers take [turns](Turns). A job whose caller went away does not begin. A job that overruns
/// its time is abandoned: its caller gets an error, and another thread replaces the stuck one.
pub(super) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    settings: WorkerSettings,
    engines: KeptEngines,
    state: Mutex<State>,
    urgent: Arc<Urgent>,
    /// Notified when a job is added, and when the pool ends.
    work: Condvar,
    /// Notified when a prompt job waits and no other thread is free, and when the pool ends.
    prompt: Condvar,
    /// Notified when a job begins while the watchdog sleeps, and when the pool ends.
    began: Condvar,
    exhausted: watch::Sender<bool>,
}

struct State {
    turns: Turns<Job>,
    /// The running jobs, by the number of their thread. A thread without an entry when its job ends
    /// was abandoned.
    running: HashMap<u64, Running>,
    /// Whether the watchdog waits for a job to begin.
    watchdog_sleeps: bool,
    next_thread: u64,
    /// The number of abandoned threads that have not returned.
    stuck: usize,
    has_ended: bool,
}

struct Job {
    task: Arc<dyn Task>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Takes all jobs.
    Any,
    /// Takes only prompt jobs.
    Prompt,
}

struct Running {
    role: Role,
    task: Arc<dyn Task>,
    turn: Turn,
    began: Instant,
    pulse: Arc<Pulse>,
    thread: Thread,
    stretch_time: StretchTime,
}

impl Workers {
    pub(super) fn start(
        settings: WorkerSettings,
        engines: KeptEngines,
    ) -> std::io::Result<Workers> {
        let shared = Arc::new(Shared {
            settings,
            engines,
            state: Mutex::new(State {
                turns: Turns::default(),
                running: HashMap::new(),
                watchdog_sleeps: false,
                next_thread: 0,
                stuck: 0,
                has_ended: false,
            }),
            urgent: Arc::default(),
            work: Condvar::new(),
            prompt: Condvar::new(),
            began: Condvar::new(),
            exhausted: watch::Sender::new(false),
        });
        let workers = Workers { shared };
        for _ in 0..settings.threads {
            workers.shared.start_thread(&mut workers.shared.state(), Role::Any)?;
        }
        workers.shared.start_thread(&mut workers.shared.state(), Role::Prompt)?;
        let shared = Arc::clone(&workers.shared);
        start_thread("functions-watchdog", None, move || shared.keep_watching())?;
        Ok(workers)
    }

    /// Runs `work` on one of the threads at this lane's turn, if the caller is still there.
    ///
    /// # Errors
    ///
    /// `work` did not begin, panicked, or was abandoned. In the last case it may still be running.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped before `work` has begun, `work` is dropped. Otherwise it runs to
    /// its end, and its result is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        caller: Presence,
        work: impl FnOnce(&Pulse) -> T + Send + 'static,
    ) -> Result<T, Broken> {
        let (call, answered) = Call::new(caller, work);
        self.shared.add(lane, Job { task: Arc::new(call), since: Instant::now() });
        answered.await.unwrap_or(Err(Broken::NotBegun))
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.shared.settings.threads
    }

    /// Announces a job of this lane that waits for the lane's earlier jobs. Dropping the result
    /// withdraws the announcement.
    pub(super) fn expect(&self, lane: Lane) -> Expected {
        self.shared.state().turns.expect(lane);
        Expected { shared: Arc::clone(&self.shared), lane }
    }

    /// The number of jobs that wait for a thread.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.shared.state().turns.waiting()
    }

    /// Abandons all running jobs, as if they had overrun.
    #[cfg(test)]
    pub(super) fn abandon_all(&self) {
        self.shared.abandon(&mut self.shared.state(), |_| Some(Duration::ZERO));
    }

    /// Makes all threads drop the engines that they keep, as soon as they are idle.
    pub(super) fn drop_engines(&self) {
        self.shared.engines.drop_all();
        // Once this lock was taken, each thread either has seen the change or waits to be notified.
        drop(self.shared.state());
        self.shared.work.notify_all();
        self.shared.prompt.notify_all();
    }

    /// Counts a stuck thread that is not one of the pool's, such as an action's.
    pub(super) fn lose_thread(&self, limit: Duration) {
        self.shared.lose_thread(&mut self.shared.state(), limit);
    }

    /// The number of abandoned threads that have not returned.
    #[cfg(test)]
    pub(super) fn stuck(&self) -> usize {
        self.shared.state().stuck
    }

    /// Counts the return of a thread counted by [`lose_thread`](Self::lose_thread).
    pub(super) fn find_thread(&self) {
        self.shared.state().count_stuck(-1);
    }

    /// Becomes true once so many threads are stuck that the process should shut down and restart.
    pub(super) fn exhausted(&self) -> watch::Receiver<bool> {
        self.shared.exhausted.subscribe()
    }
}

/// An announced call: see [`Functions::expect`](crate::Functions::expect).
#[must_use = "the call is expected until this is dropped"]
pub struct Expected {
    shared: Arc<Shared>,
    lane: Lane,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.shared.state().turns.expect_no_more(self.lane);
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state().has_ended = true;
        self.shared.work.notify_all();
        self.shared.prompt.notify_all();
        self.shared.began.notify_all();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn add(&self, lane: Lane, job: Job) {
        let mut state = self.state();
        state.turns.push(lane, job);
        let waiting = state.turns.waiting_of(lane);
        if waiting >= MIN_SWEEP && waiting.is_power_of_two() {
            state.turns.retain(lane, |job| job.task.is_wanted());
        }
        self.show(&state);
        self.call_prompt(&state);
        drop(state);
        self.work.notify_one();
    }

    /// Publishes the number of waiting jobs, to running jobs and as a metric.
    fn show(&self, state: &State) {
        self.urgent.set(state.turns.prompt());
        let waiting = state.turns.waiting() as f64;
        report(|| metrics::gauge!("functions_workers_waiting").set(waiting));
    }

    /// Wakes the thread for prompt jobs, if one waits and no other thread is free.
    fn call_prompt(&self, state: &State) {
        if state.turns.has_prompt() && state.are_all_busy(self.settings.threads) {
            self.prompt.notify_one();
        }
    }

    /// Starts another thread. It ends with the pool, or after it was abandoned.
    fn start_thread(self: &Arc<Self>, state: &mut State, role: Role) -> std::io::Result<()> {
        let number = state.next_thread;
        let (shared, name) = (Arc::clone(self), format!("functions-{number}"));
        start_thread(&name, Some(STACK_BYTES), move || shared.keep_working(number, role))?;
        state.next_thread += 1;
        Ok(())
    }

    /// `has_job` is true while a job runs that the pool may abandon.
    fn work(&self, number: u64, role: Role, has_job: &Cell<bool>) {
        let (_keeping, thread) = (self.engines.on_this_thread(), Thread::current());
        while let Some((task, pulse)) = self.begin(number, role, &thread) {
            has_job.set(true);
            task.run(&pulse);
            has_job.set(false);
            let mut state = self.state();
            let Some(Running { turn, began, .. }) = state.running.remove(&number) else {
                // The thread was abandoned, and another one has replaced it.
                state.count_stuck(-1);
                return;
            };
            state.turns.end(turn, Some(began.elapsed()));
            self.show(&state);
            drop(state);
            // Only after the turn has ended: the caller's next job may arrive right after the
            // answer.
            task.answer();
            drop(task);
            show_engines(&self.engines);
            pulse.give_way();
        }
    }

    /// Waits for a job whose caller is still there. Returns `None` if the pool has ended.
    fn begin(
        &self,
        number: u64,
        role: Role,
        thread: &Thread,
    ) -> Option<(Arc<dyn Task>, Arc<Pulse>)> {
        let mut state = self.state();
        loop {
            if state.has_ended {
                return None;
            }
            let (next, added) = match role {
                Role::Any => (state.turns.pop(), &self.work),
                Role::Prompt if state.are_all_busy(self.settings.threads) => {
                    (state.turns.pop_prompt(), &self.prompt)
                }
                Role::Prompt => (None, &self.prompt),
            };
            let Some((job, turn)) = next else {
                if KeptEngines::has_to_trim() {
                    drop(state);
                    KeptEngines::trim();
                    show_engines(&self.engines);
                    state = self.state();
                } else {
                    state = added.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                continue;
            };
            self.show(&state);
            if !job.task.is_wanted() {
                state.turns.end(turn, None);
                self.show(&state);
                report(|| metrics::counter!("functions_workers_skipped_total").increment(1));
                continue;
            }
            let waited = job.since.elapsed();
            report(|| metrics::histogram!("functions_workers_wait_seconds").record(waited));
            let gives_way = state.turns.has_more(turn.lane());
            let pulse = Pulse::new(gives_way.then(|| Arc::clone(&self.urgent)));
            let (task, pulse) = (Arc::clone(&job.task), Arc::new(pulse));
            let running = Running {
                role,
                task: job.task,
                turn,
                began: Instant::now(),
                pulse: Arc::clone(&pulse),
                thread: thread.clone(),
                stretch_time: StretchTime::default(),
            };
            state.running.insert(number, running);
            self.call_prompt(&state);
            let wakes_watchdog = std::mem::take(&mut state.watchdog_sleeps);
            drop(state);
            if wakes_watchdog {
                self.began.notify_one();
            }
            return Some((task, pulse));
        }
    }
}

impl State {
    /// Whether all threads but the one for prompt jobs run jobs.
    fn are_all_busy(&self, threads: usize) -> bool {
        self.running.values().filter(|running| running.role == Role::Any).count() == threads
    }
}

#[cfg(test)]
mod tests;
