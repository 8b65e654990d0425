//! One run of a query or one attempt at a mutation, from a snapshot to a sealed outcome.
//!
//! Each is two functions. The first runs on a worker thread and may return early, panic, or never
//! return. The second takes its outcome, whatever that is, and seals it.

use std::sync::{Arc, OnceLock};

use audit_runtime::{AuditedTransaction, Execution, Mutation, Query};
use functions_store::{Snapshot, StoreError, Timestamp, Tx, Watch};
use functions_value::{ChanceSeed, ComponentPath};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::Inner;
use super::cache::QueryKey;
use super::cached::{CachedQuery, Facts as CachedFacts};
use super::call::{Answered, CallError, Caller, Failed};
use super::deployed::{DEPLOYMENT, Deployed};
use super::held::{Held, Log, Unsealed};
use super::jobs::{self, Due};
use super::operations::{self, Facts, Gathered};
use super::pulse::Pulse;
use super::reference::full_name;
use super::transaction::{Attempt, AttemptError};
use super::workers::Broken;

/// A call of a mutation, for all its attempts.
pub(super) struct MutationCall {
    component: ComponentPath,
    name: String,
    args: Json,
    pub(super) caller: Caller,
    /// The id of the document that scheduled it, or the action that calls it.
    scheduled: Option<String>,
    due: Option<Due>,
    pub(super) committed: Arc<OnceLock<Timestamp>>,
}

impl MutationCall {
    pub(super) fn new(
        component: ComponentPath,
        name: String,
        args: &Json,
        caller: &Caller,
        scheduled: Option<String>,
        due: Option<Due>,
    ) -> MutationCall {
        let (args, caller, committed) = (args.clone(), caller.clone(), Arc::default());
        MutationCall { component, name, args, caller, scheduled, due, committed }
    }

    pub(super) fn full_name(&self) -> String {
        full_name(&self.component, &self.name)
    }
}

impl Inner {
    /// A transaction for a function, with the program to run it from.
    fn begin(&self, at: &Snapshot, seed: ChanceSeed) -> Result<(Tx, Arc<Deployed>), StoreError> {
        self.faults.meet("begin")?;
        let mut tx = self.store.begin(at, seed);
        // A program that is deployed from here on conflicts with this transaction, and invalidates
        // its result.
        jobs::get(&mut tx, &ComponentPath::root(), DEPLOYMENT, &self.deployment_id)?;
        Ok((tx, self.deployed()))
    }

    /// Runs a query on a snapshot, on a worker thread.
    pub(super) fn run_query(
        &self,
        execution: Held<Query>,
        pulse: &Pulse,
        key: &QueryKey,
        at: &Snapshot,
    ) -> Result<QueryRan, CallError> {
        let failed = |error: StoreError| CallError::of_store(&error);
        let now_ms = execution.begin(|| self.runtime.query(key.full_name()));
        let now_ms = now_ms.ok_or_else(|| CallError::from(Broken::NotBegun))?;
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

    /// Seals a query, however it ended. From here on only a release reaches its outcome, after it
    /// made the logs durable.
    pub(super) fn seal_query(
        &self,
        execution: Unsealed,
        key: &QueryKey,
        ran: Result<Result<QueryRan, CallError>, Broken>,
    ) -> CachedQuery {
        let (outcome, facts) = match ran.unwrap_or_else(|broken| Err(broken.into())) {
            Ok(QueryRan { answered, at, watch, gathered }) => {
                let (digest, bytes) = digest(&answered);
                let facts = CachedFacts {
                    digest: Some(digest),
                    bytes,
                    at,
                    watch,
                    journal: gathered.ended,
                    is_personal: gathered.asked_identity,
                    may_be_kept: !gathered.by_chance,
                };
                (Ok(Arc::new(answered)), facts)
            }
            Err(error) => {
                let at = self.store.latest().ts();
                let facts = CachedFacts {
                    digest: None,
                    bytes: 0,
                    at,
                    watch: self.store.watch(Arc::default(), at),
                    journal: None,
                    is_personal: false,
                    may_be_kept: false,
                };
                (Err(error), facts)
            }
        };
        let sealed = execution.seal(outcome, || self.runtime.query(key.full_name()));
        CachedQuery::new(sealed, facts)
    }

    /// Runs one attempt at a mutation, on a worker thread. The returned transaction is to be
    /// committed if the function succeeded.
    pub(super) fn attempt(
        &self,
        execution: Held<Mutation>,
        pulse: &Pulse,
        now_ms: i64,
        call: &MutationCall,
    ) -> Result<(Tx, Answered), AttemptError> {
        let mut chance = self.chance();
        let (mut tx, deployed) = self.begin(&self.store.latest(), chance.next_seed())?;
        if let Some(due) = &call.due
            && !due.is_due(&mut tx)?
        {
            return Err(AttemptError::NotDue);
        }
        let failed = |answered| AttemptError::Failed(Box::new(answered));
        let target = deployed.target(&call.component, &call.name);
        // The program was replaced meanwhile.
        let target = target.map_err(|error| failed(Answered::failed(error.to_string())))?;
        let facts = Facts {
            program: &deployed.program,
            validators: &deployed.validators,
            deployment: &self.settings.deployment,
            identity: call.caller.identity.as_deref(),
            request: Some(&call.caller.request),
            scheduled: call.scheduled.as_deref(),
            now_ms,
            limits: self.settings.limits,
            faults: &self.faults,
            pulse,
        };
        let mut gathered = Gathered::default();
        let log = Log::of_mutation(execution);
        let answered =
            operations::run(&facts, &target, log, &mut tx, &mut gathered, &call.args, chance)?;
        if answered.result.is_err() {
            return Err(failed(answered));
        }
        if let Some(due) = &call.due {
            due.succeeded(&mut tx, now_ms)?;
        }
        Ok((tx, answered))
    }

    /// Ends one attempt at a mutation, however it ended.
    pub(super) fn seal_attempt(
        execution: Execution<Mutation>,
        call: &MutationCall,
        ran: Result<Result<(Tx, Answered), AttemptError>, Broken>,
    ) -> AuditedTransaction<Attempt, Answered> {
        let committed = Arc::clone(&call.committed);
        let ran = ran.unwrap_or_else(|broken| Err(AttemptError::Broken(broken.into())));
        match ran {
            Ok((tx, answered)) => {
                execution.seal_transaction(Attempt::new(Some(tx), committed), Ok(answered))
            }
            Err(error) => execution.seal_transaction(Attempt::new(None, committed), Err(error)),
        }
    }
}

/// A query that ran, before it is sealed.
pub(super) struct QueryRan {
    answered: Answered,
    at: Timestamp,
    watch: Watch,
    gathered: Gathered,
}

/// The hash and size of a result. Console output does not count.
fn digest(answered: &Answered) -> ([u8; 32], usize) {
    let (kind, text, data): (u8, &str, &str) = match &answered.result {
        Ok(value) => (0, value, ""),
        Err(Failed { message, data }) => (1, message, data.as_deref().unwrap_or("")),
    };
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    hash.update(data);
    let line = |line: &String| line.len() + size_of::<String>();
    let lines: usize = answered.log_lines.iter().map(line).sum();
    (hash.finalize().into(), text.len() + data.len() + lines)
}
