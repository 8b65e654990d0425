//! Runs functions when they are due: those that functions scheduled, and crons.
//!
//! What is due is read from the store, and a watch on what was read says when to look again: there
//! is no second list that could differ from the first. Functions that run here have nobody behind
//! them: their logs have no address and no User-Agent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use audit_runtime::FunctionKind;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::call::{Answered, CallError, Caller, Failed, Mutated, chain};
use super::jobs::{self, CRONS, Due, SCHEDULED};
use super::schedule::Schedule;
use super::{Functions, Inner, action};
use crate::store::{StoreError, Tx, Watch};
use crate::value::{ComponentPath, Value};

/// How many functions the scheduler runs at once.
const MAX_AT_ONCE_PERMITS: u32 = 16;
const MAX_AT_ONCE: usize = MAX_AT_ONCE_PERMITS as usize;

/// How many of a component's functions are looked at together, the earliest first.
const MAX_LOOKED_AT: usize = 64;

/// How long a function that is due waits after the host could not run it, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// It looks again after this time at the latest, should the clock have been set.
const LONGEST_SLEEP_MS: f64 = 60_000.0;

/// How long a function that ran can be looked up.
const KEPT_MS: f64 = 7.0 * 24.0 * 3_600.0 * 1_000.0;

/// How often those that ran before that are removed.
const CLEANING_PERIOD: Duration = Duration::from_secs(3_600);

/// What is to be run.
struct Task {
    due: Due,
    component: ComponentPath,
    function: String,
    args: Json,
}

/// Takes up what an earlier process left, and goes on in the background until it is told to stop,
/// or the last [`Functions`] is gone.
pub(super) async fn start(functions: &Functions) -> Result<JoinHandle<()>, StoreError> {
    let inner = Arc::clone(&functions.inner);
    tokio::task::spawn_blocking(move || inner.note_what_was_cut_short())
        .await
        .expect("it does not panic")?;
    write_down_crons(&functions.inner).await?;
    let wake = Arc::clone(&functions.inner.rescheduled);
    Ok(tokio::spawn(run(
        Arc::downgrade(&functions.inner),
        wake,
        functions.inner.stopping.subscribe(),
    )))
}

async fn run(inner: Weak<Inner>, wake: Arc<Notify>, mut stopping: watch::Receiver<bool>) {
    let running = Arc::new(Mutex::new(HashSet::new()));
    let permits = Arc::new(Semaphore::new(MAX_AT_ONCE));
    let mut cleaned = None::<Instant>;
    loop {
        if *stopping.borrow_and_update() {
            break;
        }
        let Some(functions) = inner.upgrade().map(|inner| Functions { inner }) else { return };
        if cleaned.is_none_or(|at| at.elapsed() > CLEANING_PERIOD) {
            cleaned = Some(Instant::now());
            let inner = Arc::clone(&functions.inner);
            let cleaning = tokio::task::spawn_blocking(move || inner.remove_old_jobs()).await;
            if let Ok(Err(error)) = cleaning {
                tracing::warn!(
                    error = chain(&error),
                    "functions that ran long ago could not be removed"
                );
            }
        }
        let looking = Arc::clone(&functions.inner);
        let looked =
            tokio::task::spawn_blocking(move || looking.look()).await.expect("it does not panic");
        let until = match looked {
            Ok(Looked { due, until_ms, watches }) => {
                for task in due {
                    let fresh = running
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(key(&task.due));
                    if fresh {
                        begin(
                            functions.clone(),
                            task,
                            Arc::clone(&running),
                            Arc::clone(&permits),
                            Arc::clone(&wake),
                        );
                    }
                }
                for watch in &watches {
                    watch.on_invalid(&wake);
                }
                let now_ms = functions.inner.now_ms() as f64;
                let wait_ms = (until_ms - now_ms).clamp(0.0, LONGEST_SLEEP_MS);
                // The watches live until it has woken.
                Some((Instant::now() + Duration::from_secs_f64(wait_ms / 1_000.0), watches))
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the scheduler cannot read the store");
                None
            }
        };
        drop(functions);
        let (until, _watches) = until.unwrap_or_else(|| (Instant::now() + FIRST_PAUSE, Vec::new()));
        tokio::select! {
            () = wake.notified() => {}
            () = sleep_until(until) => {}
            _ = stopping.changed() => {}
        }
    }
    // Whoever has all permits knows that nothing runs.
    drop(permits.acquire_many(MAX_AT_ONCE_PERMITS).await);
}

fn key(due: &Due) -> (ComponentPath, String) {
    match due {
        Due::Scheduled { component, id } | Due::Cron { component, id, .. } => {
            (component.clone(), id.clone())
        }
    }
}

type RunningSet = Arc<Mutex<HashSet<(ComponentPath, String)>>>;

fn begin(
    functions: Functions,
    task: Task,
    running: RunningSet,
    permits: Arc<Semaphore>,
    wake: Arc<Notify>,
) {
    tokio::spawn(async move {
        let key = key(&task.due);
        let permit = permits.acquire_owned().await;
        if *functions.inner.stopping.borrow() {
            return;
        }
        // One that panics is not begun again at once and for ever: it stays in the set until the
        // host starts again.
        functions.run_task(task).await;
        drop(permit);
        running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        wake.notify_one();
    });
}

impl Functions {
    /// Runs one function that is due, and notes how it ended. Tries again for as long as the host
    /// is at fault.
    async fn run_task(&self, task: Task) {
        let Task { due, component, function, args } = task;
        let mut pause = FIRST_PAUSE;
        let kind =
            self.inner.deployed().target(&component, &function).map(|target| target.function.kind);
        loop {
            let caller = Caller::host(self.runtime().new_request());
            let ran = match kind {
                Ok(FunctionKind::Mutation) => {
                    let ran = self
                        .mutate(
                            component.clone(),
                            function.clone(),
                            &args,
                            &caller,
                            Some(due.clone()),
                        )
                        .await;
                    match ran {
                        Ok(Mutated { answered: Answered { result: Ok(_), .. }, .. }) => return,
                        Ok(Mutated { answered: Answered { result: Err(failed), .. }, .. }) => {
                            Ok(failed)
                        }
                        // It was cancelled, or ran.
                        Err(CallError::NotFound(_)) => return,
                        Err(error) => Err(error),
                    }
                }
                Ok(FunctionKind::Action) => {
                    self.run_due_action(due, component, function, args, caller).await;
                    return;
                }
                Ok(FunctionKind::Query) => {
                    Ok(Failed { message: "a query cannot be scheduled".to_owned(), data: None })
                }
                Err(ref error) => Ok(Failed { message: error.to_string(), data: None }),
            };
            match ran {
                Ok(Failed { message, data: _ }) => {
                    tracing::warn!(function, error = message, "a scheduled function failed");
                    let now_ms = self.inner.now_ms();
                    self.note(move |tx| {
                        if due.is_due(tx)? { due.failed(tx, &message, now_ms) } else { Ok(()) }
                    })
                    .await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(function, %error, "a scheduled function has to wait");
                    if self.stops_within(pause).await {
                        return;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits, unless the scheduler is to stop.
    async fn stops_within(&self, pause: Duration) -> bool {
        let mut stopping = self.inner.stopping.subscribe();
        timeout(pause, stopping.wait_for(|stopping| *stopping)).await.is_ok()
    }

    /// A crash before it is noted that the action begins: it begins later. After: it does not begin
    /// again.
    async fn run_due_action(
        &self,
        due: Due,
        component: ComponentPath,
        function: String,
        args: Json,
        caller: Caller,
    ) {
        let beginning = due.clone();
        let begins = self.note(move |tx| {
            let is_due = beginning.is_due(tx)?;
            if is_due {
                beginning.begins(tx)?;
            }
            Ok(is_due)
        });
        if !begins.await {
            return;
        }
        let scheduled = due.scheduled_id().map(str::to_owned);
        let error =
            match action::run(self, component, function.clone(), &args, &caller, scheduled).await {
                Ok(Answered { result: Ok(_), .. }) => None,
                Ok(Answered { result: Err(Failed { message, data: _ }), .. }) => Some(message),
                Err(error) => Some(error.to_string()),
            };
        if let Some(error) = &error {
            tracing::warn!(function, error, "a scheduled action failed");
        }
        let now_ms = self.inner.now_ms();
        self.note(move |tx| due.ended(tx, error.as_deref(), now_ms)).await;
    }

    /// A transaction of the scheduler's own, until it succeeds.
    async fn note<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        let work = Arc::new(Mutex::new(work));
        let mut pause = FIRST_PAUSE;
        loop {
            let (inner, work) = (Arc::clone(&self.inner), Arc::clone(&work));
            let written = tokio::task::spawn_blocking(move || {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                inner.write(&mut *work)
            });
            match written.await.expect("it does not panic") {
                Ok(done) => return done,
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the scheduler cannot write to the store"
                    );
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// What the store says.
struct Looked {
    due: Vec<Task>,
    /// When the next one is due, in milliseconds since the Unix epoch.
    until_ms: f64,
    /// They say when that changes.
    watches: Vec<Watch>,
}

impl Inner {
    fn look(&self) -> Result<Looked, StoreError> {
        let deployed = self.deployed();
        let now_ms = self.now_ms() as f64;
        let at = self.store.latest();
        let mut looked = Looked { due: Vec::new(), until_ms: f64::MAX, watches: Vec::new() };
        for (path, component) in deployed.program.components() {
            let mut tx = self.store.begin(&at, 0);
            for (id, job) in jobs::in_state(&mut tx, path, "pending", MAX_LOOKED_AT)? {
                if job.at_ms > now_ms {
                    looked.until_ms = looked.until_ms.min(job.at_ms);
                    continue;
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
                let (function, args) =
                    (cron.function.clone(), cron.args.get(0).cloned().unwrap_or_else(|| json!({})));
                looked.due.push(Task { due, component: path.clone(), function, args });
            }
            looked.watches.push(self.store.watch(Arc::new(tx.take_reads()), at.ts()));
        }
        Ok(looked)
    }

    /// Actions that had begun when an earlier process ended: nobody knows how far they came, and
    /// they are not begun again.
    fn note_what_was_cut_short(&self) -> Result<(), StoreError> {
        let deployed = self.deployed();
        let now_ms = self.now_ms();
        for (path, _) in deployed.program.components() {
            self.write(|tx| {
                for (id, _) in jobs::in_state(tx, path, "inProgress", usize::MAX)? {
                    let due = Due::Scheduled { component: path.clone(), id };
                    due.ended(tx, Some("the host ended while the action ran"), now_ms)?;
                }
                Ok(())
            })?;
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
                    ids.iter()
                        .try_for_each(|id| tx.system_remove(path, Some(SCHEDULED), id).map(drop))?;
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

/// Makes what is written down of crons what the program says. A cron whose schedule stays keeps its
/// beat.
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
                    tx.system_remove(path, Some(CRONS), &gone.id)?;
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
                            let document =
                                json!({ "name": cron.name, "schedule": schedule, "next": next });
                            tx.system_insert(path, CRONS, Value::from_json(document)?)?;
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    });
    written.await.expect("it does not panic")
}
