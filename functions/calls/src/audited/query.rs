//! Queries: run on a snapshot, sealed and cached.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_runtime::Query;
use functions_store::{Snapshot, StoreError, Timestamp, Watch};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::cached::{CachedQuery, Facts as CachedFacts};
use super::held::{Held, Log, Unsealed};
use crate::cache::{Flight, QueryKey, Wanted};
use crate::call::{Answered, CallError, Failed};
use crate::operations::{self, Facts, Gathered};
use crate::pulse::Pulse;
use crate::workers::{Broken, Presence, panic_message};
use crate::{Functions, Inner};

impl Functions {
    /// The sealed result of a query, from the cache or computed.
    pub(crate) async fn sealed(&self, key: &QueryKey, at: Option<&Snapshot>) -> Arc<CachedQuery> {
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
                        // A query that has begun is sealed even if its caller is gone.
                        true => computing.await,
                        false => continue,
                    },
                    computed = &mut computing => computed,
                };
                if let Some(result) = computed {
                    return result;
                }
            }
            // Another caller computes the result. If its thread does not return and the caller is
            // gone too, the computation is abandoned.
            let patience = self.inner.settings.overrun_after;
            if tokio::time::timeout(patience, flight.landed()).await.is_err() {
                cache.land(&flight);
            }
        }
    }

    /// Computes a result once a thread is free. Returns `None` if another caller computes it.
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
                // The landing outlives a panic, so that callers look for the result only after it
                // was sealed.
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
        // The stuck thread of an abandoned computation still holds the landing.
        self.inner.cache.land(flight);
        Some(result)
    }
}

/// Ends a computation when dropped: after its result was sealed, or when it was abandoned.
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

impl Inner {
    /// Runs a query on a snapshot, on a worker thread.
    fn run_query(
        &self,
        execution: Held<Query>,
        pulse: &Pulse,
        key: &QueryKey,
        at: &Snapshot,
    ) -> Result<QueryRan, CallError> {
        let failed = |error: StoreError| CallError::of_store(&error);
        let now_ms = execution.begin(|| self.runtime.query(key.full_name()));
        let now_ms = now_ms.ok_or_else(|| CallError::Overloaded(Broken::NotBegun.to_string()))?;
        let mut chance = self.chance();
        let (mut tx, deployed) = self.begin(at, chance.next_seed()).map_err(failed)?;
        let target = deployed.target(&key.component, &key.name)?;
        let facts = Facts {
            program: &deployed.program,
            validators: &deployed.validators,
            deployment: &self.settings.deployment,
            identity: key.identity.as_deref(),
            request: None,
            scheduled: None,
            now_ms,
            limits: self.settings.limits,
            faults: &self.faults,
            pulse,
        };
        let mut gathered = Gathered::following(key.journal.as_deref());
        let args: Json = serde_json::from_str(&key.args).expect("it was written as JSON");
        let log = Log::of_query(execution);
        let ran = operations::run(&facts, &target, log, &mut tx, &mut gathered, &args, chance);
        let answered = ran.map_err(failed)?;
        let watch = self.store.watch(Arc::new(tx.take_reads()), at.ts());
        Ok(QueryRan { answered, at: at.ts(), watch, gathered })
    }

    /// Seals a query, however it ended. From here on its outcome can be reached only by a release,
    /// which makes the logs durable first.
    fn seal_query(
        &self,
        execution: Unsealed,
        key: &QueryKey,
        ran: Result<Result<QueryRan, CallError>, Broken>,
    ) -> CachedQuery {
        let ran = ran.map_err(Broken::outcome).and_then(|ran| ran.map_err(Err));
        let (outcome, facts) = match ran {
            Ok(QueryRan { answered, at, watch, gathered }) => {
                let facts = CachedFacts {
                    digest: Some(digest(&answered)),
                    bytes: answered.bytes(),
                    at,
                    watch,
                    journal: gathered.ended,
                    is_personal: gathered.asked_identity,
                    may_be_kept: !gathered.by_chance,
                };
                (Ok(Arc::new(answered)), facts)
            }
            // What the query read is unknown.
            Err(outcome) => {
                let at = self.store.latest().ts();
                let facts = CachedFacts {
                    digest: outcome.as_ref().ok().map(digest),
                    bytes: outcome.as_ref().map_or(0, Answered::bytes),
                    at,
                    watch: self.store.watch(Arc::default(), at),
                    journal: None,
                    is_personal: false,
                    may_be_kept: false,
                };
                (outcome.map(Arc::new), facts)
            }
        };
        let sealed = execution.seal(outcome, || self.runtime.query(key.full_name()));
        CachedQuery::new(sealed, facts)
    }
}

/// A query that ran, before it is sealed.
struct QueryRan {
    answered: Answered,
    at: Timestamp,
    watch: Watch,
    gathered: Gathered,
}

fn digest(answered: &Answered) -> [u8; 32] {
    let (kind, text, data): (u8, &str, &str) = match &answered.result {
        Ok(value) => (0, value, ""),
        Err(Failed { message, data }) => (1, message, data.as_deref().unwrap_or("")),
    };
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    hash.update(data);
    hash.finalize().into()
}
