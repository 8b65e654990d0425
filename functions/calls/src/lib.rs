//! Calls of functions, from a client's request to a running function and back.
//!
//! No query's result and no mutation's commit leaves this module before its audit logs are durable:
//! results come sealed from [`audit_runtime`], a cache holds them sealed, and every hand-out
//! releases them for its own caller. Read it in this order: this file, what can be called;
//! `turns.rs` and `workers.rs`, when and where it runs; `running.rs` and `held.rs`, one run, sealed
//! whatever way it ends; `transaction.rs` and `cached.rs`, how its effects wait for logs;
//! `operations.rs`, what a function can ask for; `action.rs`; `scheduler.rs`; `deployed.rs`, how
//! one program takes another's place.

mod action;
mod cache;
mod cached;
mod call;
mod deployed;
mod faults;
mod held;
mod jobs;
mod operations;
mod pulse;
mod reference;
mod running;
mod schedule;
mod scheduler;
#[cfg(test)]
mod tests;
mod transaction;
mod turns;
mod validate;
mod workers;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use audit_runtime::{AuditRuntime, Execution, FunctionKind, Mutation, MutationError};
use functions_engine::Limits;
use functions_program::Program;
use functions_store::{CommitError, Snapshot, Store, StoreError, Tx};
use functions_value::{Chance, ChanceSeed, ComponentPath, Value};
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

pub use cache::QueryKey;
pub use cached::CachedQuery;
pub use call::{Answered, CallError, Caller, Failed, Identity, Internal, Mutated};
pub use deployed::DeployError;
pub use operations::audit_body;
pub use turns::Lane;

use cache::{Flight, QueryCache, Wanted};
use deployed::{Deployed, deployment_document};
use faults::Faults;
use held::{Held, Unsealed};
use jobs::Due;
use pulse::{Pulse, longest_stretch};
use reference::Target;
use running::MutationCall;
use transaction::{AttemptError, uncommitted};
use workers::{Broken, Presence, WorkerSettings, Workers, panic_message};

/// Runs functions. Cheap to clone.
#[derive(Clone)]
pub struct Functions {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: AuditRuntime,
    store: Store,
    settings: FunctionSettings,
    deployed: RwLock<Arc<Deployed>>,
    /// The document that every function reads and every deployment writes, so that a deployment
    /// invalidates all earlier results.
    deployment_id: String,
    cache: QueryCache,
    workers: Workers,
    faults: Faults,
    actions: Arc<Semaphore>,
    /// Notified when something new is scheduled.
    rescheduled: Arc<Notify>,
    stopping: watch::Sender<bool>,
    scheduler: Mutex<Option<JoinHandle<()>>>,
}

/// The limits of functions, and what they can read about where they run.
#[derive(Debug, Clone)]
pub struct FunctionSettings {
    /// The result of `ctx.meta.getDeploymentMetadata()`.
    pub deployment: Deployment,
    /// The limits of one query or mutation and all functions that it calls.
    pub limits: Limits,
    /// The limits of one action's JavaScript.
    pub action_limits: Limits,
    /// How many actions may run at once. Each has a thread of its own, since it waits for others.
    pub max_actions: usize,
    /// How long one query or mutation may keep its thread, all that the host does for it included:
    /// then it is given up, and its thread replaced. The default is 60 seconds, far more than the
    /// limits on JavaScript, reads and writes allow on a slow disk. JavaScript that its engine does
    /// not stop, since it is in native code, is given up earlier: after ten times its limit, or a
    /// minute more than its limit if that is less, and a second.
    pub overrun_after: Duration,
    /// With as many threads that did not come back, [`Functions::exhausted`] completes. Each takes
    /// a processor and up to the memory of one function. The default is 8.
    pub max_stuck_threads: usize,
    /// How many bytes the cache of queries' results may hold: of results, of the arguments and
    /// identities that they are found by, of their sealed logs, and of what they read. What is used
    /// least goes first. The default is 256 MiB: some ten thousand results of usual size, and no
    /// more than four functions may take by default.
    pub query_cache_bytes: usize,
}

impl Default for FunctionSettings {
    fn default() -> FunctionSettings {
        let limits = Limits::default();
        FunctionSettings {
            deployment: Deployment::default(),
            limits,
            action_limits: Limits { time: Duration::from_secs(600), ..limits },
            max_actions: 64,
            overrun_after: Duration::from_secs(60),
            max_stuck_threads: 8,
            query_cache_bytes: 256 << 20,
        }
    }
}

/// Where functions run, as they can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its name, `local` by default.
    pub name: String,
    /// The region that it is in, if it has one.
    pub region: Option<String>,
    /// How large it is, in Convex's classes: `s16` by default.
    pub class: String,
}

impl Default for Deployment {
    fn default() -> Deployment {
        Deployment { name: "local".to_owned(), region: None, class: "s16".to_owned() }
    }
}

impl Deployment {
    fn to_json(&self) -> Json {
        let Deployment { name, region, class } = self;
        json!({ "name": name, "region": region, "class": class })
    }
}

impl Functions {
    /// Functions of a program, on a store. Starts the scheduler too, which ends when it is [told
    /// to](Self::stop_scheduler), and with the last clone.
    ///
    /// # Errors
    ///
    /// When the program does not fit what the store holds, or the store fails.
    pub async fn start(
        runtime: AuditRuntime,
        store: Store,
        program: Program,
        settings: FunctionSettings,
    ) -> Result<Functions, DeployError> {
        let failed = |error: &dyn std::error::Error| DeployError(call::chain(error));
        let deployed = Arc::new(Deployed::new(program)?);
        deployed.apply_schema(&store)?;
        let deployment_id = deployment_document(&store).map_err(|error| failed(&error))?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let workers = Workers::start(WorkerSettings {
            threads,
            overrun_after: settings.overrun_after,
            longest_stretch: longest_stretch(settings.limits.time),
            max_stuck: settings.max_stuck_threads,
        });
        let workers = workers.map_err(|error| failed(&error))?;
        let inner = Inner {
            runtime,
            store,
            actions: Arc::new(Semaphore::new(settings.max_actions)),
            deployed: RwLock::new(deployed),
            deployment_id,
            cache: QueryCache::new(settings.query_cache_bytes),
            settings,
            workers,
            faults: Faults::default(),
            rescheduled: Arc::new(Notify::new()),
            stopping: watch::Sender::new(false),
            scheduler: Mutex::new(None),
        };
        let functions = Functions { inner: Arc::new(inner) };
        let scheduler = scheduler::start(&functions).await.map_err(|error| failed(&error))?;
        *functions.inner.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheduler);
        Ok(functions)
    }

    /// Stops the scheduler: no scheduled function begins any more. Returns when the running ones
    /// have ended. Functions can still be called.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the scheduler stopping.
    pub async fn stop_scheduler(&self) {
        self.inner.stopping.send_replace(true);
        let scheduler = self.inner.scheduler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(scheduler) = scheduler
            && let Err(error) = scheduler.await
        {
            tracing::error!(%error, "the scheduler did not end in order");
        }
    }

    /// Returns once so many threads were given up that the process should end in order and be
    /// started again: what they run cannot be stopped in any other way.
    pub async fn exhausted(&self) {
        let mut exhausted = self.inner.workers.exhausted();
        // The sender lives as long as the functions.
        drop(exhausted.wait_for(|exhausted| *exhausted).await);
    }

    /// Serves another program from now on. Queries that are followed run again; mutations that are
    /// under way begin again.
    ///
    /// # Errors
    ///
    /// When it does not fit what the store holds: the one before is served on.
    pub async fn deploy(&self, program: Program) -> Result<(), DeployError> {
        let deployed = Arc::new(Deployed::new(program)?);
        let inner = Arc::clone(&self.inner);
        let applied = tokio::task::spawn_blocking(move || {
            deployed.apply_schema(&inner.store)?;
            // In this order: a function that sees the new document sees the new program.
            *inner.deployed.write().unwrap_or_else(PoisonError::into_inner) = deployed;
            inner.note_deployment().map_err(|error| DeployError(call::chain(&error)))
        });
        applied.await.unwrap_or_else(|error| Err(DeployError(error.to_string())))?;
        scheduler::write_down_crons(&self.inner)
            .await
            .map_err(|error| DeployError(call::chain(&error)))?;
        self.inner.rescheduled.notify_one();
        Ok(())
    }

    /// Whether the files of the program that is served have changed since it was loaded.
    pub fn has_changed(&self) -> bool {
        self.inner.deployed().program.has_changed()
    }

    /// The newest state of the store.
    pub fn latest(&self) -> Snapshot {
        self.inner.store.latest()
    }

    /// The runtime that the functions are audited by.
    pub fn runtime(&self) -> &AuditRuntime {
        &self.inner.runtime
    }

    /// Calls a public query, or hands out what an earlier call gave.
    ///
    /// # Errors
    ///
    /// A function that fails is an answer. For the rest see [`CallError`].
    pub async fn query(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let key = self.query_key(path, args, caller)?;
        self.answer(&key, caller).await
    }

    /// As [`query`](Self::query), at an earlier state of the store.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn query_at(
        &self,
        at: &Snapshot,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let key = self.query_key(path, args, caller)?;
        self.sealed_at(at, &key, None).await.release(caller).await
    }

    /// The key of a call of a public query.
    ///
    /// # Errors
    ///
    /// [`CallError::NotFound`] and [`CallError::Invalid`].
    pub fn query_key(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<QueryKey, CallError> {
        let deployed = self.inner.deployed();
        let target = deployed.public(path, FunctionKind::Query)?;
        key_of(&target, args, caller)
    }

    /// The sealed result of a query on a snapshot. Callers of the same query share one computation.
    ///
    /// `journal` is [that](CachedQuery::journal) of the result that is to be replaced. A query that
    /// failed is sealed too: its release says so.
    pub async fn sealed_at(
        &self,
        at: &Snapshot,
        key: &QueryKey,
        journal: Option<&str>,
    ) -> Arc<CachedQuery> {
        let key = QueryKey { journal: journal.map(Into::into), ..key.clone() };
        self.sealed(&key, Some(at)).await
    }

    /// Calls a public mutation.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves open whether it commits; if it does, its logs are durable.
    pub async fn mutation(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Mutated, CallError> {
        let (component, name) = self.inner.deployed().public(path, FunctionKind::Mutation)?.owned();
        self.mutate(component, name, args, caller, None).await
    }

    /// Calls a public action.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    ///
    /// # Cancellation
    ///
    /// An action that has begun goes on to its end.
    pub async fn action(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Answered, CallError> {
        let (component, name) = self.inner.deployed().public(path, FunctionKind::Action)?.owned();
        action::run(self, component, name, args, caller, None).await
    }

    /// Calls a public function of any kind.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn any(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let kind = {
            let deployed = self.inner.deployed();
            reference::public(&deployed.program, path).map_err(CallError::NotFound)?.function.kind
        };
        match kind {
            FunctionKind::Query => self.query(path, args, caller).await,
            FunctionKind::Mutation => {
                Ok(Arc::new(self.mutation(path, args, caller).await?.answered))
            }
            FunctionKind::Action => Ok(Arc::new(self.action(path, args, caller).await?)),
        }
    }

    /// Calls the public query that a [key](Self::query_key) names, or hands out what an earlier
    /// call gave. The key holds the arguments, so its caller need not.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn answer(
        &self,
        key: &QueryKey,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let sealed = self.sealed(key, None).await;
        sealed.release(caller).await
    }

    async fn sealed(&self, key: &QueryKey, at: Option<&Snapshot>) -> Arc<CachedQuery> {
        let cache = &self.inner.cache;
        let wanted = at.map_or(Wanted::Fresh, |at| Wanted::At(at.ts()));
        loop {
            if let Some(hit) = cache.get(key, wanted) {
                metrics::counter!("functions_query_cache_hits_total").increment(1);
                return hit;
            }
            let flight = cache.join(key);
            if flight.boards(key.lane) {
                let is_mine = Arc::new(AtomicBool::new(false));
                let mut computing =
                    pin!(self.compute(key, &flight, at.cloned(), Arc::clone(&is_mine)));
                let computed = tokio::select! {
                    biased;
                    () = flight.landed() => match is_mine.load(Ordering::Acquire) {
                        // A query that has begun is sealed, even if its caller has gone.
                        true => computing.await,
                        false => continue,
                    },
                    computed = &mut computing => computed,
                };
                if let Some(result) = computed {
                    return result;
                }
            }
            // Another caller computes it. A computation whose thread never returns, and whose
            // caller is gone too, is abandoned.
            let patience = self.inner.settings.overrun_after;
            if tokio::time::timeout(patience, flight.landed()).await.is_err() {
                cache.land(&flight);
            }
        }
    }

    /// Computes a result once a thread is free. `None` if another caller computes it.
    async fn compute(
        &self,
        key: &QueryKey,
        flight: &Arc<Flight>,
        at: Option<Snapshot>,
        is_mine: Arc<AtomicBool>,
    ) -> Option<Arc<CachedQuery>> {
        let execution = Unsealed::new();
        let work = {
            let (inner, held, key) = (Arc::clone(&self.inner), execution.held(), key.clone());
            let flight = Arc::clone(flight);
            move |pulse: &Pulse| {
                let landing = Landing::claim(&inner, flight)?;
                is_mine.store(true, Ordering::Release);
                let at = at.unwrap_or_else(|| inner.store.latest());
                // The landing outlives a panic, so that callers look for a result after it was
                // sealed.
                let run = AssertUnwindSafe(|| inner.run_query(held, pulse, &key, &at));
                let ran = catch_unwind(run);
                Some((landing, ran.map_err(|panic| Broken::Panicked(panic_message(&*panic)))))
            }
        };
        let ran = self.inner.workers.run(key.lane, Presence::default(), work).await;
        let (landing, ran) = match ran {
            Ok(None) => return None,
            Ok(Some((landing, ran))) => (Some(landing), ran),
            Err(broken) => (None, Err(broken)),
        };
        metrics::counter!("functions_query_cache_misses_total").increment(1);
        let result = Arc::new(self.inner.seal_query(execution, key, ran));
        self.inner.cache.insert(key, &result);
        drop(landing);
        // A computation that was given up holds its landing as long as it is stuck.
        self.inner.cache.land(flight);
        Some(result)
    }

    /// Runs a mutation until it commits, fails, or has met too many write conflicts. `due` is what
    /// made it run, if nobody called it.
    async fn mutate(
        &self,
        component: ComponentPath,
        name: String,
        args: &Json,
        caller: &Caller,
        due: Option<Due>,
    ) -> Result<Mutated, CallError> {
        let scheduled = due.as_ref().and_then(Due::scheduled_id).map(str::to_owned);
        self.run_mutation(MutationCall::new(component, name, args, caller, scheduled, due)).await
    }

    /// Runs a mutation that an action calls. `scheduled` is the id of what scheduled the action.
    async fn mutate_within(
        &self,
        component: ComponentPath,
        name: String,
        args: &Json,
        caller: &Caller,
        scheduled: Option<String>,
    ) -> Result<Mutated, CallError> {
        self.run_mutation(MutationCall::new(component, name, args, caller, scheduled, None)).await
    }

    async fn run_mutation(&self, call: MutationCall) -> Result<Mutated, CallError> {
        // In a task of its own: a mutation that has begun runs to its end when its caller goes
        // away, so that its logs match an outcome. One that has not begun is not begun.
        let present = Arc::new(());
        let (functions, caller) = (self.clone(), Presence::of(&present));
        let running = tokio::spawn(async move { functions.attempts(call, caller).await });
        let ran = running.await;
        drop(present);
        ran.unwrap_or_else(|error| Err(CallError::internal(error)))
    }

    async fn attempts(self, call: MutationCall, caller: Presence) -> Result<Mutated, CallError> {
        let call = Arc::new(call);
        let full_name = call.full_name();
        let inner = &self.inner;
        let attempt = async |execution: Execution<Mutation>| {
            let now_ms = execution.now_ms();
            let execution = Held::new(execution);
            // Each attempt reads the newest snapshot.
            let (running, held, called) = (Arc::clone(inner), execution.share(), Arc::clone(&call));
            let work = move |pulse: &Pulse| running.attempt(held, pulse, now_ms, &called);
            let ran = inner.workers.run(call.caller.lane, caller.clone(), work).await;
            let execution = execution.take().expect("nobody else takes it");
            Ok(Inner::seal_attempt(execution, &call, ran))
        };
        match inner.runtime.run_mutation(full_name, &call.caller.request, attempt).await {
            Ok(answered) => Ok(Mutated { answered, committed: call.committed.get().copied() }),
            Err(MutationError::Function(AttemptError::NotDue)) => {
                Err(CallError::NotFound(AttemptError::NotDue.to_string()))
            }
            Err(error) => uncommitted(error),
        }
    }
}

/// Ends a computation when it is dropped: after its result was sealed, or when it was abandoned.
struct Landing {
    inner: Arc<Inner>,
    flight: Arc<Flight>,
}

impl Landing {
    fn claim(inner: &Arc<Inner>, flight: Arc<Flight>) -> Option<Landing> {
        flight.claim().then(|| Landing { inner: Arc::clone(inner), flight })
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.cache.land(&self.flight);
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// What a call of a query asks for.
fn key_of(target: &Target<'_>, args: &Json, caller: &Caller) -> Result<QueryKey, CallError> {
    let args = Value::from_json(args.clone())
        .map_err(|error| CallError::Invalid(format!("the arguments are no value: {error}")))?;
    Ok(QueryKey {
        component: target.component.clone(),
        name: target.function.name.as_str().into(),
        // Without a second tree, since arguments may have 16 MiB.
        args: serde_json::to_string(&args).expect("values are JSON").into(),
        identity: caller.identity.clone(),
        journal: None,
        lane: caller.lane,
    })
}

impl Inner {
    fn deployed(&self) -> Arc<Deployed> {
        Arc::clone(&self.deployed.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A transaction of the host's own, retried until it conflicts with nothing. Blocks until it is
    /// durable.
    fn write<T>(
        &self,
        mut work: impl FnMut(&mut Tx) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let mut tx = self.store.begin(&self.store.latest(), self.chance().next_seed());
            let done = work(&mut tx)?;
            match tx.commit() {
                Ok(_) => return Ok(done),
                Err(CommitError::Conflict { .. } | CommitError::Expired) => {}
                Err(CommitError::Failed(error)) => return Err(error),
            }
        }
    }

    fn now_ms(&self) -> i64 {
        self.runtime.clock().now_ms()
    }

    /// The random bits of one execution.
    fn chance(&self) -> Chance {
        Chance::new(ChanceSeed::from_bits(|| self.runtime.random().next_u64()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The scheduler wakes, finds the functions gone, and ends.
        self.rescheduled.notify_one();
    }
}
