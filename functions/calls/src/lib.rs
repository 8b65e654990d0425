//! Calls of functions, from a client's request to a running function and back.
//!
//! No query's result and no mutation's commit leaves this crate before its audit logs are durable:
//! results come sealed from [`audit_runtime`], a cache holds them sealed, and every hand-out
//! releases them for its own caller. Read it in this order: this file, the calls; `turns.rs` and
//! `workers.rs`, when and where they run; `audited`, every seal, release and settlement;
//! `operations.rs`, what a function can ask for; `action.rs`; `scheduler.rs`; `deployed.rs`, how
//! one program takes another's place.

mod action;
mod audited;
mod cache;
mod call;
mod deployed;
mod faults;
mod fetching;
mod http;
mod http_action;
mod jobs;
mod operations;
mod pulse;
mod reference;
mod schedule;
mod scheduler;
mod settings;
#[cfg(test)]
mod tests;
mod turns;
mod urgent;
mod validate;
mod workers;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use audit_runtime::{AuditRuntime, FunctionKind};
use functions_engine::KeptEngines;
use functions_fetch::Fetcher;
use functions_program::{AuthProvider, Program};
use functions_store::{CommitError, Snapshot, Store, StoreError, Tx};
use functions_value::{Chance, ChanceSeed, Value};
use serde_json::Value as Json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

pub use audited::CachedQuery;
pub use cache::QueryKey;
pub use call::{Answered, CallError, Caller, Failed, Identity, Internal, Mutated};
pub use deployed::DeployError;
pub use http_action::{BrokenOff, HttpError, HttpPieces, HttpRequest, HttpResponse};
pub use operations::audit_body;
pub use settings::{Deployment, FunctionSettings};
pub use turns::Lane;
pub use workers::Expected;

use cache::QueryCache;
use deployed::{Deployed, deployment_document};
use faults::Faults;
use pulse::longest_stretch;
use reference::Target;
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
    deployed: RwLock<Arc<Deployed>>,
    /// The document that every function reads and every deployment writes, so that a deployment
    /// invalidates all earlier results.
    deployment_id: String,
    cache: QueryCache,
    workers: Workers,
    faults: Faults,
    actions: Arc<Semaphore>,
    fetcher: Fetcher,
    /// Notified when something new is scheduled.
    rescheduled: Arc<Notify>,
    stopping: watch::Sender<bool>,
    scheduler: Mutex<Option<JoinHandle<()>>>,
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
        let failed = |error: &dyn std::error::Error| DeployError(audit_core::with_sources(error));
        let deployed = Arc::new(Deployed::new(program)?);
        deployed.apply_schema(&store)?;
        let deployment_id = deployment_document(&store).map_err(|error| failed(&error))?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let engines = KeptEngines::new(settings.kept_engine_bytes);
        let workers = WorkerSettings {
            threads,
            overrun_after: settings.overrun_after,
            longest_stretch: longest_stretch(settings.limits.time),
            max_stuck: settings.max_stuck_threads,
        };
        let workers = Workers::start(workers, engines).map_err(|error| failed(&error))?;
        let inner = Inner {
            runtime,
            store,
            actions: Arc::new(Semaphore::new(settings.max_actions)),
            fetcher: Fetcher::new(settings.fetch.clone()),
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

    /// Frees the memory of engines that are kept for later calls, as soon as their threads run
    /// nothing: others need it.
    pub fn drop_kept_engines(&self) {
        self.inner.workers.drop_engines();
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

    /// Announces a call in this lane that waits for the lane's calls before it, as a session's
    /// mutations do. While any is announced, the lane's calls give way to those of callers who have
    /// sent one. Drop the result when the call begins, or will not.
    pub fn expect(&self, lane: Lane) -> Expected {
        self.inner.workers.expect(lane)
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
        // Those of the program that goes.
        self.drop_kept_engines();
        let applied = tokio::task::spawn_blocking(move || {
            deployed.apply_schema(&inner.store)?;
            // In this order: a function that sees the new document sees the new program.
            *inner.deployed.write().unwrap_or_else(PoisonError::into_inner) = deployed;
            inner.note_deployment().map_err(|error| DeployError(audit_core::with_sources(&error)))
        });
        applied.await.unwrap_or_else(|error| Err(DeployError(error.to_string())))?;
        scheduler::write_down_crons(&self.inner)
            .await
            .map_err(|error| DeployError(audit_core::with_sources(&error)))?;
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

    /// The store, for what no function can read, such as receipts.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The issuers of tokens that the app's `auth.config` names.
    pub fn auth_providers(&self) -> Arc<[AuthProvider]> {
        self.inner.deployed().program.auth_providers()
    }

    /// What functions fetch with.
    pub fn fetcher(&self) -> &Fetcher {
        &self.inner.fetcher
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
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

/// What a call of a query asks for.
fn key_of(target: &Target<'_>, args: &Json, caller: &Caller) -> Result<QueryKey, CallError> {
    let args = Value::from_json(args.clone())
        .map_err(|error| CallError::Invalid(format!("the arguments are not a value: {error}")))?;
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
                Err(CommitError::Refused(error) | CommitError::Failed(error)) => return Err(error),
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
