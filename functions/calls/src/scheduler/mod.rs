//! Runs scheduled functions and crons when they are due.
//!
//! The scheduler reads due functions from the store, and a watch on its reads wakes it. So there is
//! no second list that could differ from the store. These functions have no client, so their logs
//! have no address and no User-Agent.

mod records;
mod taken_up;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use audit_core::with_sources;
use audit_runtime::FunctionKind;
use functions_store::{StoreError, Tx};
use functions_value::ComponentPath;
use futures::FutureExt;
use serde_json::Value as Json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::call::{Answered, CallError, Caller, Failed, Mutated};
use crate::jobs::Due;
use crate::reference::full_name;
use crate::workers::{Broken, panic_message};
use crate::{Functions, Inner, action, crons};
use records::Looked;
use taken_up::{FIRST_BACKOFF, Job, MAX_AT_ONCE_PERMITS, MAX_BACKOFF, TakenUp, Task, key};

/// The longest sleep in milliseconds, in case the clock is adjusted.
const LONGEST_SLEEP_MS: f64 = 60_000.0;

/// How often old records are removed.
const CLEANING_PERIOD: Duration = Duration::from_secs(3_600);

/// The outcome of running a due function.
enum Ran {
    /// It ended, and that is recorded.
    Done,
    /// The host could not run it.
    Later,
    /// It ended, and that must still be recorded.
    Note(Note),
}

#[derive(Debug, Clone)]
enum Note {
    /// The function failed, and its transaction was rolled back.
    Failed(String),
    /// The action ended, with or without an error.
    Ended(Option<String>),
}

/// Starts the scheduler, which runs until the host stops or the last [`Functions`] is dropped.
///
/// # Errors
///
/// The store failed. Without space on its disk, the scheduler starts once there is space: until
/// then, no scheduled function could begin.
pub(crate) async fn start(functions: &Functions) -> Result<JoinHandle<()>, StoreError> {
    let prepared = match prepare(&functions.inner).await {
        Err(error) if error.lacks_room() => {
            tracing::warn!(
                error = with_sources(&error),
                "scheduled functions run once the store takes changes"
            );
            false
        }
        prepared => prepared.map(|()| true)?,
    };
    let wake = Arc::clone(&functions.inner.rescheduled);
    let stopping = functions.inner.stopping.subscribe();
    Ok(tokio::spawn(supervise(Arc::downgrade(&functions.inner), prepared, wake, stopping)))
}

/// Stores what must be known before anything runs.
async fn prepare(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let failing = Arc::clone(inner);
    tokio::task::spawn_blocking(move || failing.fail_interrupted_actions())
        .await
        .unwrap_or_else(|error| Err(StoreError::failed(error)))?;
    let (storing, now_ms) = (Arc::clone(inner), inner.now_ms() as f64);
    let store = move || {
        storing.write(|tx| {
            // A deployment meanwhile conflicts, so that crons of an earlier program are never
            // stored last.
            let deployed = storing.deployed_at(tx)?;
            crons::store(tx, &deployed.program, now_ms)
        })
    };
    let stored = tokio::task::spawn_blocking(store).await;
    stored.unwrap_or_else(|error| Err(StoreError::failed(error)))
}

/// Runs the scheduler, and restarts it if it panics. First [prepares](prepare) the store, if it
/// lacked space for that.
async fn supervise(
    inner: Weak<Inner>,
    mut prepared: bool,
    wake: Arc<Notify>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut backoff = FIRST_BACKOFF;
    while !prepared && !*stopping.borrow_and_update() {
        tokio::select! {
            () = wake.notified() => {}
            () = sleep(backoff) => {}
            _ = stopping.changed() => {}
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
        let Some(inner) = inner.upgrade() else { return };
        match prepare(&inner).await {
            Ok(()) => prepared = true,
            Err(error) if error.lacks_room() => {}
            Err(error) => {
                tracing::error!(
                    error = with_sources(&error),
                    "the scheduler cannot write to the store"
                );
            }
        }
    }
    let taken_up = TakenUp::new();
    loop {
        let running = run(inner.clone(), Arc::clone(&wake), stopping.clone(), taken_up.clone());
        let Err(panic) = AssertUnwindSafe(running).catch_unwind().await else { break };
        let panic = panic_message(&*panic);
        tracing::error!(panic, "the scheduler panicked and is restarted");
        metrics::counter!("functions_scheduler_panics_total").increment(1);
        sleep(FIRST_BACKOFF).await;
    }
    // Once all permits are free, nothing runs any more.
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
                    error = with_sources(&error),
                    "the records of old scheduled functions could not be removed"
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
                // The watches must live until the scheduler wakes.
                Some((taken_up.next(began_to_look).map_or(due, |rested| rested.min(due)), watches))
            }
            Err(error) => {
                tracing::error!(
                    error = with_sources(&error),
                    "the scheduler cannot read the store"
                );
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

/// Runs a due function once a permit is free. Only a running function holds a permit, not one that
/// waits for a retry or for its end to be recorded.
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
            let panic = CallError::of_function(Broken::Panicked(panic_message(&*panic)));
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
                    // It was cancelled, or has run.
                    Err(CallError::NotFound(_)) => return Ran::Done,
                    Err(error) if error.may_pass() => {
                        tracing::warn!(function = name, %error, "a scheduled function must be retried");
                        return Ran::Later;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(FunctionKind::Action) => {
                return self.run_due_action(due, component, function, args, caller).await;
            }
            Ok(FunctionKind::Query) => "a query cannot be scheduled".to_owned(),
            Err(error) => {
                let failed = error.to_string();
                if self.inner.deployed().is_newly_missing(&name) {
                    tracing::warn!(function = name, error = failed, "a scheduled function failed");
                }
                return Ran::Note(Note::Failed(failed));
            }
        };
        tracing::warn!(function = name, error = failed, "a scheduled function failed");
        Ran::Note(Note::Failed(failed))
    }

    /// Runs a due action. If the process crashes before the beginning of the action is recorded,
    /// the action begins later. After that, it never begins again.
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
        // The scheduler has its own permits, which callers cannot exhaust.
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

    /// Records how a function ended, retrying until the store accepts it.
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
                    tracing::error!(error, "the end of a scheduled function cannot be recorded");
                    return;
                }
                Err(error @ StoreError::Failed(_)) => {
                    tracing::error!(
                        error = with_sources(&error),
                        "the scheduler cannot write to the store"
                    );
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    /// Runs one of the scheduler's own transactions.
    async fn write_note<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || inner.write(work)).await;
        written.unwrap_or_else(|error| Err(StoreError::failed(error)))
    }
}
