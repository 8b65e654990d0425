//! Runs scheduled functions and crons when they are due.
//!
//! Due functions are read from the store, and a watch on what was read wakes the scheduler: no
//! second list could differ from the first. These functions have no client, so their logs have no
//! address and no User-Agent.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use audit_runtime::FunctionKind;
use functions_store::{StoreError, Tx, Watch};
use functions_value::{ComponentPath, Value};
use futures::FutureExt;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::call::{Answered, CallError, Caller, Failed, Mutated, chain};
use super::jobs::{self, CRONS, Due, SCHEDULED};
use super::reference::full_name;
use super::schedule::Schedule;
use super::workers::{Broken, panic_message};
use super::{Functions, Inner, action};

/// The most mutations that the scheduler runs at once, and the most actions, which may take
/// minutes.
const MAX_AT_ONCE_PERMITS: u32 = 16;
const MAX_AT_ONCE: usize = MAX_AT_ONCE_PERMITS as usize;

/// The most functions of one component that run or wait for a permit at once, the earliest first.
const MAX_LOOKED_AT: usize = 64;

/// The most functions that wait for another attempt after the host could not run them. Beyond it no
/// others are begun: the fault is the host's, and they would likely fail too.
const MAX_RESTING: usize = 1_024;

/// The least and the greatest backoff before another attempt at a function that the host could not
/// run. It doubles in between.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// The longest sleep, in case the clock was set.
const LONGEST_SLEEP_MS: f64 = 60_000.0;

/// How long the record of an ended function is kept.
const KEPT_MS: f64 = 7.0 * 24.0 * 3_600.0 * 1_000.0;

/// How often older records are removed.
const CLEANING_PERIOD: Duration = Duration::from_secs(3_600);

/// A due function.
#[derive(Clone)]
struct Task {
    due: Due,
    component: ComponentPath,
    function: String,
    args: Json,
}

/// The document of a due function.
type Key = (ComponentPath, String);

/// The functions that the scheduler has begun. They outlive a panic of the scheduler.
#[derive(Clone)]
struct TakenUp {
    jobs: Arc<Mutex<HashMap<Key, Job>>>,
    mutations: Arc<Semaphore>,
    actions: Arc<Semaphore>,
}

/// The state of a begun function.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// Running, or waiting for a permit.
    Active,
    /// Waiting for another attempt. Nothing else of it is held.
    Resting { until: Instant, backoff: Duration },
}

impl TakenUp {
    fn new() -> TakenUp {
        TakenUp {
            jobs: Arc::default(),
            mutations: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            actions: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more functions of a component may be begun.
    fn room(&self, component: &ComponentPath) -> usize {
        let (jobs, now) = (self.jobs(), Instant::now());
        let is_resting = |job: &&Job| matches!(job, Job::Resting { until, .. } if *until > now);
        if jobs.values().filter(is_resting).count() >= MAX_RESTING {
            return 0;
        }
        let of_component = jobs.iter().filter(|((of, _), _)| of == component);
        let active = of_component.filter(|(_, job)| matches!(job, Job::Active)).count();
        MAX_LOOKED_AT.saturating_sub(active)
    }

    /// Whether a due function may be begun now.
    fn is_free(&self, key: &Key) -> bool {
        match self.jobs().get(key) {
            None => true,
            Some(Job::Active) => false,
            Some(Job::Resting { until, .. }) => *until <= Instant::now(),
        }
    }

    /// Begins it. Returns its backoff in case the host cannot run it.
    fn take_up(&self, key: &Key) -> Duration {
        match self.jobs().insert(key.clone(), Job::Active) {
            Some(Job::Resting { backoff, .. }) => (backoff * 2).min(MAX_BACKOFF),
            Some(Job::Active) | None => FIRST_BACKOFF,
        }
    }

    /// When the next backoff ends, of those that had not ended when the store was read. The others
    /// have been begun by now, or there was no room, or they are no longer due.
    fn next(&self, looked: Instant) -> Option<Instant> {
        let mut jobs = self.jobs();
        let until = |job: &Job| match job {
            Job::Active => None,
            Job::Resting { until, .. } => Some(*until),
        };
        jobs.retain(|_, job| until(job).is_none_or(|until| until + MAX_BACKOFF > looked));
        jobs.values().filter_map(until).filter(|until| *until > looked).min()
    }
}

/// The outcome of running a due function.
enum Ran {
    /// Ended, and recorded.
    Done,
    /// The host could not run it.
    Later,
    /// Ended, and still to be recorded.
    Note(Note),
}

/// What is to be recorded.
#[derive(Debug, Clone)]
enum Note {
    /// It failed, and its own transaction was rolled back.
    Failed(String),
    /// The action ended, with an error or without.
    Ended(Option<String>),
}

/// Picks up what an earlier process left, and runs in the background until it is stopped or the
/// last [`Functions`] is dropped.
pub(super) async fn start(functions: &Functions) -> Result<JoinHandle<()>, StoreError> {
    let inner = Arc::clone(&functions.inner);
    tokio::task::spawn_blocking(move || inner.note_what_was_cut_short())
        .await
        .unwrap_or_else(|error| Err(StoreError::failed(error)))?;
    write_down_crons(&functions.inner).await?;
    let wake = Arc::clone(&functions.inner.rescheduled);
    let stopping = functions.inner.stopping.subscribe();
    Ok(tokio::spawn(supervise(Arc::downgrade(&functions.inner), wake, stopping)))
}

/// Runs the scheduler, and restarts it if it panics.
async fn supervise(inner: Weak<Inner>, wake: Arc<Notify>, stopping: watch::Receiver<bool>) {
    let taken_up = TakenUp::new();
    loop {
        let running = run(inner.clone(), Arc::clone(&wake), stopping.clone(), taken_up.clone());
        let Err(panic) = AssertUnwindSafe(running).catch_unwind().await else { break };
        let panic = panic_message(&*panic);
        tracing::error!(panic, "the scheduler panicked: it begins again");
        metrics::counter!("functions_scheduler_panics_total").increment(1);
        sleep(FIRST_BACKOFF).await;
    }
    // With all permits in hand, nothing runs.
    drop(taken_up.mutations.acquire_many(MAX_AT_ONCE_PERMITS).await);
    drop(taken_up.actions.acquire_many(MAX_AT_ONCE_PERMITS).await);
}

async fn run(
    inner: Weak<Inner>,
    wake: Arc<Notify>,
    mut stopping: watch::Receiver<bool>,
    taken_up: TakenUp,
) {
    let mut cleaned = None::<Instant>;
    loop {
        if *stopping.borrow_and_update() {
            return;
        }
        let Some(functions) = inner.upgrade().map(|inner| Functions { inner }) else { return };
        if cleaned.is_none_or(|at| at.elapsed() > CLEANING_PERIOD) {
            cleaned = Some(Instant::now());
            let inner = Arc::clone(&functions.inner);
            let cleaning = tokio::task::spawn_blocking(move || inner.remove_old_jobs()).await;
            if let Err(error) = cleaning.unwrap_or_else(|error| Err(StoreError::failed(error))) {
                tracing::warn!(
                    error = chain(&error),
                    "functions that ran long ago could not be removed"
                );
            }
        }
        let (looking, known) = (Arc::clone(&functions.inner), taken_up.clone());
        let began_to_look = Instant::now();
        let looked = tokio::task::spawn_blocking(move || looking.look(&known)).await;
        let until = match looked.unwrap_or_else(|error| Err(StoreError::failed(error))) {
            Ok(Looked { due, until_ms, watches }) => {
                for task in due {
                    begin(functions.clone(), task, &taken_up, Arc::clone(&wake));
                }
                for watch in &watches {
                    watch.on_invalid(&wake);
                }
                let now_ms = functions.inner.now_ms() as f64;
                let wait_ms = (until_ms - now_ms).clamp(0.0, LONGEST_SLEEP_MS);
                let due = Instant::now() + Duration::from_secs_f64(wait_ms / 1_000.0);
                // The watches live until the scheduler wakes.
                Some((taken_up.next(began_to_look).map_or(due, |rested| rested.min(due)), watches))
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the scheduler cannot read the store");
                None
            }
        };
        drop(functions);
        let (until, _watches) =
            until.unwrap_or_else(|| (Instant::now() + FIRST_BACKOFF, Vec::new()));
        tokio::select! {
            () = wake.notified() => {}
            () = sleep_until(until) => {}
            _ = stopping.changed() => {}
        }
    }
}

fn key(due: &Due) -> Key {
    match due {
        Due::Scheduled { component, id } | Due::Cron { component, id, .. } => {
            (component.clone(), id.clone())
        }
    }
}

/// Runs a due function once there is a permit. Only a running function holds one, not one that
/// waits for another attempt or for its end to be recorded.
fn begin(functions: Functions, task: Task, taken_up: &TakenUp, wake: Arc<Notify>) {
    let key = key(&task.due);
    let backoff = taken_up.take_up(&key);
    let taken_up = taken_up.clone();
    tokio::spawn(async move {
        let kind = functions.kind_of(&task);
        let permits = match kind {
            Ok(FunctionKind::Action) => &taken_up.actions,
            Ok(FunctionKind::Query | FunctionKind::Mutation) | Err(_) => &taken_up.mutations,
        };
        let permit = Arc::clone(permits).acquire_owned().await;
        if *functions.inner.stopping.borrow() {
            return;
        }
        let due = task.due.clone();
        let running = functions.run_task(task, kind);
        let ran = AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|panic| {
            let panic = CallError::from(Broken::Panicked(panic_message(&*panic)));
            Ran::Note(Note::Failed(panic.to_string()))
        });
        drop(permit);
        let rests = match ran {
            Ran::Done => None,
            Ran::Later => Some(Job::Resting { until: Instant::now() + backoff, backoff }),
            Ran::Note(note) => {
                functions.note_end(due, note).await;
                None
            }
        };
        match rests {
            Some(rests) => taken_up.jobs().insert(key, rests),
            None => taken_up.jobs().remove(&key),
        };
        wake.notify_one();
    });
}

impl Functions {
    fn kind_of(&self, task: &Task) -> Result<FunctionKind, CallError> {
        let deployed = self.inner.deployed();
        deployed.target(&task.component, &task.function).map(|target| target.function.kind)
    }

    /// Makes one attempt at a due function.
    async fn run_task(&self, task: Task, kind: Result<FunctionKind, CallError>) -> Ran {
        let Task { due, component, function, args } = task;
        let name = full_name(&component, &function);
        let caller = Caller::host(self.runtime().new_request());
        let failed = match kind {
            Ok(FunctionKind::Mutation) => {
                let ran = self.mutate(component, function, &args, &caller, Some(due)).await;
                match ran {
                    Ok(Mutated { answered: Answered { result: Ok(_), .. }, .. }) => {
                        return Ran::Done;
                    }
                    Ok(Mutated { answered: Answered { result: Err(failed), .. }, .. }) => {
                        failed.message
                    }
                    // It was cancelled, or ran.
                    Err(CallError::NotFound(_)) => return Ran::Done,
                    Err(error) if error.may_pass() => {
                        tracing::warn!(function = name, %error, "a scheduled function has to wait");
                        return Ran::Later;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(FunctionKind::Action) => {
                return self.run_due_action(due, component, function, args, caller).await;
            }
            Ok(FunctionKind::Query) => "a query cannot be scheduled".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(function = name, error = failed, "a scheduled function failed");
        Ran::Note(Note::Failed(failed))
    }

    /// If the process dies before the beginning of the action is recorded, it begins later. After:
    /// it does not begin again.
    async fn run_due_action(
        &self,
        due: Due,
        component: ComponentPath,
        function: String,
        args: Json,
        caller: Caller,
    ) -> Ran {
        let beginning = due.clone();
        let begins = self.write_note(move |tx| {
            let is_due = beginning.is_due(tx)?;
            if is_due {
                beginning.begins(tx)?;
            }
            Ok(is_due)
        });
        match begins.await {
            Ok(true) => {}
            Ok(false) => return Ran::Done,
            Err(error) if CallError::of_store(&error).may_pass() => return Ran::Later,
            Err(error) => return Ran::Note(Note::Failed(CallError::of_store(&error).to_string())),
        }
        let scheduled = due.scheduled_id().map(str::to_owned);
        let name = full_name(&component, &function);
        // The scheduler has permits of its own, so that callers cannot use up all of them.
        let ran = action::run_with((), self, component, function, &args, &caller, scheduled).await;
        let error = match ran {
            Ok(Answered { result: Ok(_), .. }) => None,
            Ok(Answered { result: Err(Failed { message, data: _ }), .. }) => Some(message),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = &error {
            tracing::warn!(function = name, error, "a scheduled action failed");
        }
        Ran::Note(Note::Ended(error))
    }

    /// Records how a function ended, as soon as the store accepts it.
    async fn note_end(&self, due: Due, note: Note) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let (due, note, now_ms) = (due.clone(), note.clone(), self.inner.now_ms());
            let written = self.write_note(move |tx| match &note {
                Note::Failed(error) if due.is_due(tx)? => due.failed(tx, error, now_ms),
                Note::Failed(_) => Ok(()),
                Note::Ended(error) => due.ended(tx, error.as_deref(), now_ms),
            });
            match written.await {
                Ok(()) => return,
                Err(StoreError::User(error)) => {
                    tracing::error!(error, "how a scheduled function ended cannot be noted");
                    return;
                }
                Err(error @ StoreError::Failed(_)) => {
                    tracing::error!(
                        error = chain(&error),
                        "the scheduler cannot write to the store"
                    );
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    /// A transaction of the scheduler's own.
    async fn write_note<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || inner.write(work)).await;
        written.unwrap_or_else(|error| Err(StoreError::failed(error)))
    }
}

/// What was read from the store.
struct Looked {
    due: Vec<Task>,
    /// When the next one is due, in milliseconds since the Unix epoch.
    until_ms: f64,
    /// Watches on what was read.
    watches: Vec<Watch>,
}

impl Inner {
    fn look(&self, taken_up: &TakenUp) -> Result<Looked, StoreError> {
        self.faults.meet("look")?;
        let deployed = self.deployed();
        let now_ms = self.now_ms() as f64;
        let at = self.store.latest();
        let mut looked = Looked { due: Vec::new(), until_ms: f64::MAX, watches: Vec::new() };
        for (path, component) in deployed.program.components() {
            let mut tx = self.store.begin(&at, 0);
            let room = taken_up.room(path);
            let is_free = |id: &str| taken_up.is_free(&(path.clone(), id.to_owned()));
            // Without room the next one is read all the same, for its due time.
            let jobs = jobs::in_state(&mut tx, path, "pending", room.max(1), now_ms, &is_free)?;
            for (id, job) in jobs {
                if job.at_ms > now_ms {
                    looked.until_ms = looked.until_ms.min(job.at_ms);
                    continue;
                }
                if room == 0 {
                    // Its end wakes the scheduler.
                    break;
                }
                let due = Due::Scheduled { component: path.clone(), id };
                looked.due.push(Task {
                    due,
                    component: job.component,
                    function: job.function,
                    args: job.args,
                });
            }
            for state in jobs::crons(&mut tx, path)? {
                if state.next_ms > now_ms {
                    looked.until_ms = looked.until_ms.min(state.next_ms);
                    continue;
                }
                let cron = component.crons.iter().find(|cron| cron.name == state.name);
                let Some(cron) = cron else { continue };
                // It was checked when the program was deployed.
                let Ok(schedule) = Schedule::from_json(&cron.schedule) else { continue };
                let next_ms = schedule.next_ms(state.next_ms, now_ms);
                let due = Due::Cron {
                    component: path.clone(),
                    id: state.id,
                    at_ms: state.next_ms,
                    next_ms,
                };
                if !taken_up.is_free(&key(&due)) {
                    continue;
                }
                let (function, args) =
                    (cron.function.clone(), cron.args.get(0).cloned().unwrap_or_else(|| json!({})));
                looked.due.push(Task { due, component: path.clone(), function, args });
            }
            looked.watches.push(self.store.watch(Arc::new(tx.take_reads()), at.ts()));
        }
        Ok(looked)
    }

    /// Fails the actions that had begun when an earlier process ended. How far they came is
    /// unknown, so they are not begun again.
    fn note_what_was_cut_short(&self) -> Result<(), StoreError> {
        let deployed = self.deployed();
        let now_ms = self.now_ms();
        for (path, _) in deployed.program.components() {
            // In batches, since each may have arguments of up to a whole document.
            let some = |tx: &mut Tx| {
                let jobs =
                    jobs::in_state(tx, path, "inProgress", MAX_LOOKED_AT, f64::MAX, &|_| true)?;
                for (id, _) in &jobs {
                    let due = Due::Scheduled { component: path.clone(), id: id.clone() };
                    due.ended(tx, Some("the host ended while the action ran"), now_ms)?;
                }
                Ok(jobs.len())
            };
            while self.write(some)? > 0 {}
        }
        Ok(())
    }

    fn remove_old_jobs(&self) -> Result<(), StoreError> {
        let deployed = self.deployed();
        let before_ms = self.now_ms() as f64 - KEPT_MS;
        for (path, _) in deployed.program.components() {
            loop {
                let removed = self.write(|tx| {
                    let ids = jobs::ended_before(tx, path, before_ms, MAX_LOOKED_AT)?;
                    tx.as_host(|tx| {
                        let mut ids = ids.iter();
                        ids.try_for_each(|id| tx.remove(path, Some(SCHEDULED), id).map(drop))
                    })?;
                    Ok(ids.len())
                })?;
                if removed == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Brings the stored crons in line with the program. A cron whose schedule is unchanged keeps its
/// next time.
pub(super) async fn write_down_crons(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let inner = Arc::clone(inner);
    let written = tokio::task::spawn_blocking(move || {
        let deployed = inner.deployed();
        let now_ms = inner.now_ms() as f64;
        for (path, component) in deployed.program.components() {
            inner.write(|tx| {
                let known = jobs::crons(tx, path)?;
                for gone in known
                    .iter()
                    .filter(|state| component.crons.iter().all(|cron| cron.name != state.name))
                {
                    tx.as_host(|tx| tx.remove(path, Some(CRONS), &gone.id))?;
                }
                for cron in &component.crons {
                    let schedule = cron.schedule.to_string();
                    let state = known.iter().find(|state| state.name == cron.name);
                    if state.is_some_and(|state| state.schedule == schedule) {
                        continue;
                    }
                    // It was checked when the program was deployed.
                    let Ok(parsed) = Schedule::from_json(&cron.schedule) else { continue };
                    let next = parsed.first_ms(now_ms);
                    match state {
                        Some(state) => {
                            let members = json!({ "schedule": schedule, "next": next });
                            jobs::patch(tx, path, CRONS, &state.id, members)?;
                        }
                        None => {
                            let document = Value::from_json(
                                json!({ "name": cron.name, "schedule": schedule, "next": next }),
                            )?;
                            tx.as_host(|tx| tx.insert(path, CRONS, document))?;
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    });
    written.await.unwrap_or_else(|error| Err(StoreError::failed(error)))
}
