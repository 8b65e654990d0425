//! Threads that JavaScript runs on, and the watchdog that replaces those that do not come back.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use functions_engine::KeptEngines;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::pulse::Pulse;
use super::turns::{Lane, Turn, Turns};
use super::urgent::Urgent;

/// The stack of one thread, in bytes: functions call functions, each in an engine of its own on the
/// stack of its caller. It is address space; memory is taken as it is used.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// Jobs of a lane that nobody waits for are removed when more than this wait, and each time that
/// the number has doubled since.
const MIN_SWEEP: usize = 64;

/// How many threads there are, and how long one job may keep its thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerSettings {
    pub(super) threads: usize,
    /// Far more than the engine's own limits allow: a job that takes longer is in native code that
    /// those limits do not reach.
    pub(super) overrun_after: Duration,
    /// How long one stretch of JavaScript may be: see
    /// [`longest_stretch`](super::pulse::longest_stretch).
    pub(super) longest_stretch: Duration,
    /// With this many threads that did not come back, the pool is [exhausted](Workers::exhausted).
    pub(super) max_stuck: usize,
}

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// It panicked, with this message.
    Panicked(String),
    /// It kept its thread for so long that it was given up.
    Overran(Duration),
    /// It was not begun: its caller is gone, or the pool has ended.
    NotBegun,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Panicked(message) => write!(f, "the function's thread panicked: {message}"),
            Broken::Overran(limit) => {
                write!(f, "the function kept its thread for more than {limit:?} and was given up")
            }
            Broken::NotBegun => f.write_str("the function was not begun"),
        }
    }
}

/// Threads on which queries and mutations run to their end, one at a time each. They wait for
/// nothing but the processor, so more threads than processors would not make them faster. One more
/// is kept for [prompt](Turns) jobs, and used while all others are busy: a running job is not
/// interrupted, but the system divides a processor between threads, so that a caller with a short
/// job now and then does not wait for the rest of another caller's long one.
///
/// Jobs of a caller who has more of them waiting give way between and within them: they pause while
/// prompt jobs wait or run, though never for longer than they have run, and yield the processor
/// otherwise. Without that, each thread that a short call needs, from the one that reads it to the
/// one that syncs its logs, would wait for the system to end a time slice, some milliseconds each
/// time.
///
/// Callers take [turns](Turns). A job whose caller went away is not begun. A job that overruns its
/// time is given up: its caller is answered, its thread is left to itself and another one started.
pub(super) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    settings: WorkerSettings,
    engines: KeptEngines,
    state: Mutex<State>,
    urgent: Arc<Urgent>,
    /// Told when a job was added, or the pool ends.
    work: Condvar,
    /// Told when a prompt job waits that no other thread is free for, or the pool ends.
    prompt: Condvar,
    /// Told when a job begins, or the pool ends.
    began: Condvar,
    exhausted: watch::Sender<bool>,
}

struct State {
    turns: Turns<Job>,
    /// What each thread runs, by the thread's number. A thread that is not in here when its job
    /// ends was given up.
    running: HashMap<u64, Running>,
    next_thread: u64,
    /// Threads that were given up and have not come back.
    stuck: usize,
    has_ended: bool,
}

struct Job {
    task: Arc<dyn Task>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Takes every job.
    Any,
    /// Takes prompt jobs.
    Prompt,
}

struct Running {
    role: Role,
    task: Arc<dyn Task>,
    turn: Turn,
    began: Instant,
    pulse: Arc<Pulse>,
}

impl Running {
    /// The limit that it is beyond, if it is.
    fn overran(&self, settings: &WorkerSettings) -> Option<Duration> {
        let WorkerSettings { overrun_after, longest_stretch, .. } = *settings;
        let stretch = self.pulse.stretch().filter(|stretch| *stretch >= longest_stretch);
        stretch
            .map(|_| longest_stretch)
            .or_else(|| (self.began.elapsed() >= overrun_after).then_some(overrun_after))
    }
}

/// Whether the caller of a job is still there, besides the one who awaits its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence(Option<Weak<()>>);

impl Presence {
    /// There as long as this is not dropped.
    pub(super) fn of(caller: &Arc<()>) -> Presence {
        Presence(Some(Arc::downgrade(caller)))
    }

    fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(|caller| caller.strong_count() > 0)
    }
}

/// A job with its answer, whatever that is.
trait Task: Send + Sync {
    fn is_wanted(&self) -> bool;
    /// Runs it and keeps the result.
    fn run(&self, pulse: &Pulse);
    /// Answers with the result.
    fn answer(&self);
    fn give_up(&self, broken: Broken);
}

struct Call<T, F> {
    work: Mutex<Option<F>>,
    caller: Presence,
    done: Mutex<Option<Result<T, Broken>>>,
    /// Taken by the first to answer: the thread, or the watchdog.
    answer: Mutex<Option<oneshot::Sender<Result<T, Broken>>>>,
}

impl<T: Send, F: FnOnce(&Pulse) -> T + Send> Call<T, F> {
    fn answer_with(&self, result: Result<T, Broken>) {
        if let Some(answer) = lock(&self.answer).take() {
            // A caller that went away is not told.
            drop(answer.send(result));
        }
    }
}

impl<T: Send, F: FnOnce(&Pulse) -> T + Send> Task for Call<T, F> {
    fn is_wanted(&self) -> bool {
        let is_awaited = lock(&self.answer).as_ref().is_some_and(|answer| !answer.is_closed());
        is_awaited && self.caller.is_there()
    }

    fn run(&self, pulse: &Pulse) {
        let Some(work) = lock(&self.work).take() else { return };
        let done = catch_unwind(AssertUnwindSafe(|| work(pulse)));
        *lock(&self.done) = Some(done.map_err(|panic| Broken::Panicked(panic_message(&*panic))));
    }

    fn answer(&self) {
        if let Some(result) = lock(&self.done).take() {
            self.answer_with(result);
        }
    }

    fn give_up(&self, broken: Broken) {
        self.answer_with(Err(broken));
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let watchdog = std::thread::Builder::new().name("functions-watchdog".to_owned());
        watchdog.spawn(move || shared.watch())?;
        Ok(workers)
    }

    /// Runs `work` on one of the threads, when it is this lane's turn and if the caller is still
    /// there then.
    ///
    /// # Errors
    ///
    /// It panicked, or did not come back. In the second case it may still be running.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before `work` has begun drops `work`. It does not stop what has begun;
    /// the result is dropped then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        caller: Presence,
        work: impl FnOnce(&Pulse) -> T + Send + 'static,
    ) -> Result<T, Broken> {
        let (answer, answered) = oneshot::channel();
        let (work, answer) = (Mutex::new(Some(work)), Mutex::new(Some(answer)));
        let call = Call { work, caller, done: Mutex::default(), answer };
        self.shared.add(lane, Job { task: Arc::new(call), since: Instant::now() });
        answered.await.unwrap_or(Err(Broken::NotBegun))
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.shared.settings.threads
    }

    /// Announces a job of this lane that waits for the lane's jobs before it. It is no more
    /// expected when the result is dropped.
    pub(super) fn expect(&self, lane: Lane) -> Expected {
        self.shared.state().turns.expect(lane);
        Expected { shared: Arc::clone(&self.shared), lane }
    }

    /// How many jobs wait for a thread.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.shared.state().turns.waiting()
    }

    /// Gives up all that runs now, as if its time were over.
    #[cfg(test)]
    pub(super) fn give_up_all(&self) {
        self.shared.give_up(&mut self.shared.state(), |_| Some(Duration::ZERO));
    }

    /// Has all threads drop the engines that they keep, as soon as they run nothing.
    pub(super) fn drop_engines(&self) {
        self.shared.engines.drop_all();
        self.shared.work.notify_all();
        self.shared.prompt.notify_all();
    }

    /// Counts a thread that is not one of these and was given up.
    pub(super) fn lose_thread(&self, limit: Duration) {
        self.shared.lose_thread(&mut self.shared.state(), limit);
    }

    /// How many threads are given up and have not come back.
    #[cfg(test)]
    pub(super) fn stuck(&self) -> usize {
        self.shared.state().stuck
    }

    /// Counts one of those that came back after all.
    pub(super) fn find_thread(&self) {
        self.shared.state().count_stuck(-1);
    }

    /// Becomes true once so many threads have not come back that the process should end in order
    /// and start again.
    pub(super) fn exhausted(&self) -> watch::Receiver<bool> {
        self.shared.exhausted.subscribe()
    }
}

/// A call that is announced: see [`Functions::expect`](crate::Functions::expect).
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

    /// Shows those who run, and the operator, how many jobs wait.
    fn show(&self, state: &State) {
        self.urgent.set(state.turns.prompt());
        metrics::gauge!("functions_workers_waiting").set(state.turns.waiting() as f64);
    }

    fn show_engines(&self) {
        metrics::gauge!("functions_kept_engines_bytes").set(self.engines.bytes() as f64);
    }

    /// Wakes the thread for prompt jobs if one waits that no other thread is free for.
    fn call_prompt(&self, state: &State) {
        if state.turns.has_prompt() && state.are_all_busy(self.settings.threads) {
            self.prompt.notify_one();
        }
    }

    /// Starts one more thread. It ends with the pool, or once it was given up.
    fn start_thread(self: &Arc<Self>, state: &mut State, role: Role) -> std::io::Result<()> {
        let number = state.next_thread;
        let shared = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("functions-{number}"))
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work(number, role))?;
        state.next_thread += 1;
        Ok(())
    }

    fn work(&self, number: u64, role: Role) {
        let _keeping = self.engines.on_this_thread();
        while let Some((task, pulse)) = self.begin(number, role) {
            task.run(&pulse);
            let mut state = self.state();
            let Some(Running { turn, began, .. }) = state.running.remove(&number) else {
                // It was given up, and another thread is in its place.
                state.count_stuck(-1);
                return;
            };
            state.turns.end(turn, Some(began.elapsed()));
            self.show(&state);
            drop(state);
            // After its turn: the caller's next job may arrive as soon as this one is answered.
            task.answer();
            drop(task);
            self.show_engines();
            pulse.give_way();
        }
    }

    /// Waits for a job whose caller is still there. `None`: the pool has ended.
    fn begin(&self, number: u64, role: Role) -> Option<(Arc<dyn Task>, Arc<Pulse>)> {
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
                state = added.wait(state).unwrap_or_else(PoisonError::into_inner);
                if KeptEngines::has_to_trim() {
                    drop(state);
                    KeptEngines::trim();
                    self.show_engines();
                    state = self.state();
                }
                continue;
            };
            self.show(&state);
            if !job.task.is_wanted() {
                state.turns.end(turn, None);
                self.show(&state);
                metrics::counter!("functions_workers_skipped_total").increment(1);
                continue;
            }
            metrics::histogram!("functions_workers_wait_seconds").record(job.since.elapsed());
            let gives_way = state.turns.has_more(turn.lane());
            let pulse = Pulse::new(gives_way.then(|| Arc::clone(&self.urgent)));
            let (task, pulse) = (Arc::clone(&job.task), Arc::new(pulse));
            let running = Running {
                role,
                task: job.task,
                turn,
                began: Instant::now(),
                pulse: Arc::clone(&pulse),
            };
            state.running.insert(number, running);
            self.call_prompt(&state);
            drop(state);
            self.began.notify_one();
            return Some((task, pulse));
        }
    }

    /// Gives up jobs that overrun, until the pool ends.
    fn watch(self: &Arc<Self>) {
        let mut state = self.state();
        while !state.has_ended {
            self.give_up(&mut state, |running| running.overran(&self.settings));
            state = if state.running.is_empty() {
                self.began.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let WorkerSettings { overrun_after, longest_stretch, .. } = self.settings;
                let pause = (overrun_after.min(longest_stretch) / 10).min(Duration::from_secs(1));
                let waited = self.began.wait_timeout(state, pause);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn give_up(
        self: &Arc<Self>,
        state: &mut State,
        overran: impl Fn(&Running) -> Option<Duration>,
    ) {
        let mut limits = HashMap::new();
        let is_over = |number: &u64, running: &mut Running| {
            overran(running).map(|limit| limits.insert(*number, limit)).is_some()
        };
        let over: Vec<_> = state.running.extract_if(is_over).collect();
        for (number, Running { role, task, turn, began, .. }) in over {
            let limit = limits[&number];
            state.turns.end(turn, Some(began.elapsed()));
            self.show(state);
            self.lose_thread(state, limit);
            if let Err(error) = self.start_thread(state, role) {
                tracing::error!(%error, "no thread can be started in the place of one given up");
                self.exhausted.send_replace(true);
            }
            // Last, so that whoever hears of it finds the pool as it is from now on.
            task.give_up(Broken::Overran(limit));
        }
    }

    fn lose_thread(&self, state: &mut State, limit: Duration) {
        state.count_stuck(1);
        metrics::counter!("functions_workers_given_up_total").increment(1);
        tracing::error!(
            stuck = state.stuck,
            ?limit,
            "a function kept its thread for too long: it is given up, and its thread replaced"
        );
        if state.stuck >= self.settings.max_stuck {
            self.exhausted.send_replace(true);
        }
    }
}

impl State {
    /// Whether all threads but the one for prompt jobs run jobs.
    fn are_all_busy(&self, threads: usize) -> bool {
        self.running.values().filter(|running| running.role == Role::Any).count() == threads
    }

    fn count_stuck(&mut self, change: isize) {
        self.stuck = self.stuck.saturating_add_signed(change);
        metrics::gauge!("functions_workers_stuck").set(self.stuck as f64);
    }
}

#[cfg(test)]
mod tests;
