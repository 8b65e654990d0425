//! Runs functions: the way from a client's call to a running function and back.
//!
//! No result of a query leaves this crate, and no mutation commits, before the audit logs are
//! durable. Results come sealed from [`audit_runtime`], the cache keeps them sealed, and every
//! release is for one caller. A reading order: `public.rs` has the calls; `workers.rs`
//! decides when and where they run; `audited` has every seal, release and settlement;
//! `operations` and `action.rs` have what functions can ask of the host; then `scheduler`, and
//! `deployed.rs`, which replaces one program with another.

mod action;
mod audited;
mod cache;
mod call;
mod crons;
mod deployed;
mod faults;
mod fetching;
mod http;
mod http_action;
mod jobs;
mod operations;
mod public;
mod pulse;
mod reference;
mod schedule;
mod scheduler;
mod settings;
#[cfg(test)]
mod tests;
mod urgent;
mod validate;
mod workers;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use audit_host::Places;
use audit_runtime::AuditRuntime;
use functions_engine::KeptEngines;
use functions_fetch::Fetcher;
use functions_program::{AuthProvider, Program};
use functions_store::{CommitError, Snapshot, Store, StoreError, Tx};
use functions_value::{Chance, ChanceSeed};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use audit_host::Lane;
pub use audited::{CachedQuery, Followed};
pub use cache::QueryKey;
pub use call::{Answered, CallError, Caller, Failed, Identity, Internal, Mutated};
pub use deployed::DeployError;
pub use http_action::{BrokenOff, HttpError, HttpPieces, HttpRequest, HttpResponse};
pub use operations::audit_body;
pub use settings::{Deployment, FunctionSettings};
pub use workers::Expected;

use action::ActionThreads;
use cache::QueryCache;
use deployed::{Deployed, Served, deployment_document};
use faults::Faults;
use pulse::longest_stretch;
use workers::{WorkerSettings, Workers};

/// Runs functions. Cheap to clone.
#[derive(Clone)]
pub struct Functions {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: AuditRuntime,
    store: Store,
    settings: FunctionSettings,
    served: RwLock<Served>,
    /// The id of the document that every function reads and every deployment writes, so that a
    /// deployment invalidates all earlier results.
    deployment_id: String,
    cache: QueryCache,
    workers: Workers,
    action_threads: ActionThreads,
    faults: Faults,
    actions: Arc<Places>,
    fetcher: Fetcher,
    /// Notified when something new is scheduled.
    rescheduled: Arc<Notify>,
    stopping: watch::Sender<bool>,
    scheduler: Mutex<Option<JoinHandle<()>>>,
}

impl Functions {
    /// Serves the functions of a program on a store. Also starts the scheduler, which runs until
    /// [`stop_scheduler`](Self::stop_scheduler) or until the last clone is dropped.
    ///
    /// # Errors
    ///
    /// The program is invalid, documents violate its schema, or the store failed.
    pub async fn start(
        runtime: AuditRuntime,
        store: Store,
        program: Program,
        settings: FunctionSettings,
    ) -> Result<Functions, DeployError> {
        let failed = |error: &dyn std::error::Error| DeployError(audit_core::with_sources(error));
        let deployed = Deployed::new(program)?;
        deployed.apply_schema(&store)?;
        let (deployment_id, deployments) =
            deployment_document(&store).map_err(|error| failed(&error))?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let engines = KeptEngines::new(settings.kept_engine_bytes);
        let workers = WorkerSettings {
            threads,
            overrun_after: settings.overrun_after,
            longest_stretch: longest_stretch(settings.limits.time),
            // The engine stops JavaScript at its limit.
            stretch_cpu_time: settings.limits.time.saturating_mul(2),
            max_stuck: settings.max_stuck_threads,
        };
        let action_threads = ActionThreads::new(engines.clone(), threads);
        let workers = Workers::start(workers, engines).map_err(|error| failed(&error))?;
        let inner = Inner {
            runtime,
            store,
            actions: Arc::new(Places::new("functions_actions", settings.max_actions)),
            fetcher: Fetcher::new(settings.fetch.clone()),
            served: RwLock::new(Served::new(deployments, deployed)),
            deployment_id,
            cache: QueryCache::new(settings.query_cache_bytes),
            settings,
            workers,
            action_threads,
            faults: Faults::default(),
            rescheduled: Arc::new(Notify::new()),
            stopping: watch::Sender::new(false),
            scheduler: Mutex::new(None),
        };
        let functions = Functions { inner: Arc::new(inner) };
        let scheduler = scheduler::start(&functions).await.map_err(|error| failed(&error))?;
        *lock(&functions.inner.scheduler) = Some(scheduler);
        Ok(functions)
    }

    /// Frees the memory of kept engines, as soon as their threads are idle.
    pub fn drop_kept_engines(&self) {
        self.inner.workers.drop_engines();
        self.inner.action_threads.trim_engines();
    }

    /// Stops the scheduler, so that no more scheduled functions begin. Returns when the running
    /// ones have ended. Functions can still be called.
    ///
    /// # Cancellation
    ///
    /// The scheduler stops even if the future is dropped.
    pub async fn stop_scheduler(&self) {
        self.inner.stopping.send_replace(true);
        let scheduler = lock(&self.inner.scheduler).take();
        if let Some(scheduler) = scheduler
            && let Err(error) = scheduler.await
        {
            tracing::error!(%error, "the scheduler did not end cleanly");
        }
    }

    /// Announces a call in this lane that waits for the lane's earlier calls, as a session's
    /// mutations do. While calls are announced, the lane's calls give way to those of callers with
    /// a single call. Drop the result when the call begins, or when it will not.
    pub fn expect(&self, lane: Lane) -> Expected {
        self.inner.workers.expect(lane)
    }

    /// Returns once so many threads are stuck that the process should shut down and restart: what
    /// they run cannot be stopped in any other way.
    pub async fn exhausted(&self) {
        let mut exhausted = self.inner.workers.exhausted();
        // The sender lives as long as the functions.
        drop(exhausted.wait_for(|exhausted| *exhausted).await);
    }

    /// Checks whether [`start`](Self::start) would refuse the program: its functions' validators,
    /// its crons and its schemas; with a store, also for the documents in it.
    ///
    /// # Errors
    ///
    /// The program is invalid, documents violate its schema, or the store failed.
    pub fn check(program: Program, store: Option<&Store>) -> Result<(), DeployError> {
        Deployed::new(program)?.check_schema(store)
    }

    /// Serves another program from now on. Subscribed queries run again, and running mutations are
    /// retried.
    ///
    /// # Errors
    ///
    /// The program is invalid, documents violate its schema, or the store takes no changes or
    /// failed. The previous program is then still served, with its schemas, crons and results.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the program is served later, unless that fails.
    pub async fn deploy(&self, program: Program) -> Result<(), DeployError> {
        let deployed = Deployed::new(program)?;
        let functions = self.clone();
        let replaced = tokio::task::spawn_blocking(move || {
            functions.inner.replace(deployed)?;
            // The engines belong to the previous program.
            functions.drop_kept_engines();
            Ok(())
        });
        replaced.await.unwrap_or_else(|error| Err(DeployError(error.to_string())))
    }

    /// Whether the files of the served program have changed since it was loaded.
    pub fn has_changed(&self) -> bool {
        self.inner.deployed().program.has_changed()
    }

    /// The latest snapshot of the store.
    pub fn latest(&self) -> Snapshot {
        self.inner.store.latest()
    }

    /// The store, for data that functions cannot read, such as receipts.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The issuers of tokens that the app's `auth.config` names.
    pub fn auth_providers(&self) -> Arc<[AuthProvider]> {
        self.inner.deployed().program.auth_providers()
    }

    /// The client that functions fetch with.
    pub fn fetcher(&self) -> &Fetcher {
        &self.inner.fetcher
    }

    /// The runtime that audits the functions.
    pub fn runtime(&self) -> &AuditRuntime {
        &self.inner.runtime
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// Locks a mutex, ignoring poison: every holder leaves the content consistent, even if it panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn deployed(&self) -> Arc<Deployed> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).now()
    }

    /// Runs one of the host's own transactions, retrying it on conflicts. Blocks until it is
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
                Err(CommitError::Refused(error) | CommitError::Failed(error)) => return Err(error),
            }
        }
    }

    fn now_ms(&self) -> i64 {
        self.runtime.clock().now_ms()
    }

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
