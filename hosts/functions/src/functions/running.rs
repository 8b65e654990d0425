//! One run of a query, one attempt at a mutation: from a state of the store to a sealed outcome.

use std::sync::{Arc, OnceLock};

use audit_runtime::{AuditedTransaction, Execution, Mutation};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::Inner;
use super::cache::QueryKey;
use super::cached::{CachedQuery, Facts as CachedFacts};
use super::call::{Answered, CallError, Caller, Failed, chain};
use super::deployed::{DEPLOYMENT, Deployed};
use super::jobs::Due;
use super::operations::{self, Facts, Gathered, Log};
use super::transaction::{Attempt, AttemptError};
use crate::store::{Snapshot, StoreError, Timestamp, Tx};
use crate::value::ComponentPath;

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
        if self.component.is_root() {
            self.name.clone()
        } else {
            format!("{}/{}", self.component, self.name)
        }
    }
}

impl Inner {
    /// A transaction in which a function is to run, with the program that it is to run from.
    fn begin(&self, at: &Snapshot, seed: u64) -> Result<(Tx, Arc<Deployed>), StoreError> {
        let mut tx = self.store.begin(at, seed);
        // A program that is deployed from here on is in the way of this transaction, and
        // invalidates what it gave.
        tx.system_get(&ComponentPath::root(), Some(DEPLOYMENT), &self.deployment_id)?;
        Ok((tx, self.deployed()))
    }

    /// Runs a query at a state of the store. Also says whether it asked who calls.
    pub(super) fn run_query(
        &self,
        key: &QueryKey,
        at: &Snapshot,
    ) -> Result<(CachedQuery, bool), CallError> {
        let failed = |error: StoreError| CallError::Store(chain(&error));
        let seed = self.seed();
        let (mut tx, deployed) = self.begin(at, seed).map_err(failed)?;
        let target = deployed.target(&key.component, &key.name)?;
        let execution = self.runtime.query(target.full_name());
        let facts = Facts {
            program: &deployed.program,
            validators: &deployed.validators,
            deployment: &self.settings.deployment,
            identity: key.identity.as_deref(),
            request: None,
            scheduled: None,
            now_ms: execution.now_ms(),
            limits: self.settings.limits,
        };
        let mut gathered = Gathered::following(key.journal.as_deref());
        let args: Json = serde_json::from_str(&key.args).expect("it was written as JSON");
        let log = Log::Query(execution.log());
        let ran = operations::run(&facts, &target, log, &mut tx, &mut gathered, &args, seed);
        let answered = ran.map_err(failed)?;
        let (digest, bytes) = digest(&answered);
        let watch = self.store.watch(Arc::new(tx.take_reads()), at.ts());
        let facts = CachedFacts {
            digest,
            bytes,
            at: at.ts(),
            watch,
            journal: gathered.ended,
            may_be_kept: !gathered.by_chance,
        };
        // From here on nobody reaches the result but by a release.
        Ok((CachedQuery::new(execution.seal(Arc::new(answered)), facts), gathered.asked_identity))
    }

    /// One attempt at a mutation.
    pub(super) fn attempt(
        &self,
        execution: Execution<Mutation>,
        call: &MutationCall,
    ) -> Result<AuditedTransaction<Attempt, Answered>, AttemptError> {
        let seed = self.seed();
        let (mut tx, deployed) = self.begin(&self.store.latest(), seed)?;
        if let Some(due) = &call.due
            && !due.is_due(&mut tx)?
        {
            return Err(AttemptError::NotDue);
        }
        let target = match deployed.target(&call.component, &call.name) {
            Ok(target) => target,
            // The program is another by now.
            Err(error) => {
                return Err(AttemptError::Failed(Box::new(Answered::failed(error.to_string()))));
            }
        };
        let facts = Facts {
            program: &deployed.program,
            validators: &deployed.validators,
            deployment: &self.settings.deployment,
            identity: call.caller.identity.as_deref(),
            request: Some(execution.request()),
            scheduled: call.scheduled.as_deref(),
            now_ms: execution.now_ms(),
            limits: self.settings.limits,
        };
        let mut gathered = Gathered::default();
        let log = Log::Mutation(execution.log());
        let answered =
            operations::run(&facts, &target, log, &mut tx, &mut gathered, &call.args, seed)?;
        let now_ms = execution.now_ms();
        let result = match answered.result {
            Err(_) => Err(AttemptError::Failed(Box::new(answered))),
            Ok(_) => match &call.due {
                Some(due) => {
                    due.succeeded(&mut tx, now_ms).map(|()| answered).map_err(AttemptError::Store)
                }
                None => Ok(answered),
            },
        };
        Ok(execution.seal_transaction(Attempt::new(tx, Arc::clone(&call.committed)), result))
    }
}

/// What tells one result from another, and how large it is. Console output does not count.
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
    let lines: usize = answered.log_lines.iter().map(String::len).sum();
    (hash.finalize().into(), text.len() + data.len() + lines)
}
