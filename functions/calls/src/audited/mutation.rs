//! Mutations: attempts, each sealed and settled, until one commits.

use std::sync::{Arc, OnceLock};

use audit_runtime::{AuditedTransaction, Execution, Mutation, MutationError};
use functions_store::{Timestamp, Tx};
use functions_value::ComponentPath;
use serde_json::Value as Json;
use tracing::Instrument;

use super::held::{Held, Log};
use super::transaction::{Attempt, AttemptError, uncommitted};
use crate::call::{Answered, CallError, Caller, Mutated};
use crate::jobs::Due;
use crate::operations::{self, Facts, Gathered};
use crate::pulse::Pulse;
use crate::reference::full_name;
use crate::workers::{Broken, Presence};
use crate::{Functions, Inner};

/// A call of a mutation, shared by all its attempts.
struct MutationCall {
    component: ComponentPath,
    name: String,
    args: Json,
    caller: Caller,
    /// The id of the scheduled function's document, if the mutation or the action that calls it was
    /// scheduled.
    scheduled: Option<String>,
    due: Option<Due>,
    committed: Arc<OnceLock<Timestamp>>,
}

impl MutationCall {
    fn new(
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

    fn full_name(&self) -> String {
        full_name(&self.component, &self.name)
    }
}

impl Functions {
    /// Runs a mutation until it commits, fails, or has had too many write conflicts. `due` is the
    /// scheduled function or cron that makes it run, if no caller does.
    pub(crate) async fn mutate(
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

    /// Runs a mutation that an action calls. `scheduled` is the id of the action's document, if it
    /// was scheduled.
    pub(crate) async fn mutate_within(
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
        // A separate task, so that a mutation that has begun runs to its end even if its caller
        // goes away: its logs then match an outcome. A mutation that has not begun by then never
        // begins.
        let present = Arc::new(());
        let (functions, caller) = (self.clone(), Presence::of(&present));
        let attempts = async move { functions.attempts(call, caller).await };
        let running = tokio::spawn(attempts.in_current_span());
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
            let execution = execution.take().expect("only this task takes it");
            Ok(Inner::seal_attempt(execution, &call, ran))
        };
        match inner.runtime.run_mutation(full_name, &call.caller.request, attempt).await {
            Ok(answered) => {
                let committed = call.committed.get().copied();
                Ok(Mutated { answered: answered.committed_at(committed), committed })
            }
            Err(MutationError::Function(AttemptError::NotDue)) => {
                Err(CallError::NotFound(AttemptError::NotDue.to_string()))
            }
            Err(error) => uncommitted(error),
        }
    }
}

impl Inner {
    /// Runs one attempt at a mutation, on a worker thread. Returns the transaction to commit if the
    /// function succeeded.
    fn attempt(
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
        // The function is gone if the program was replaced meanwhile.
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

    /// Seals one attempt at a mutation, however it ended.
    fn seal_attempt(
        execution: Execution<Mutation>,
        call: &MutationCall,
        ran: Result<Result<(Tx, Answered), AttemptError>, Broken>,
    ) -> AuditedTransaction<Attempt, Answered> {
        let committed = Arc::clone(&call.committed);
        let ran = ran.unwrap_or_else(|broken| {
            Err(match broken.outcome() {
                Ok(answered) => AttemptError::Failed(Box::new(answered)),
                Err(error) => AttemptError::Broken(error),
            })
        });
        match ran {
            Ok((tx, answered)) => {
                execution.seal_transaction(Attempt::new(Some(tx), committed), Ok(answered))
            }
            Err(error) => execution.seal_transaction(Attempt::new(None, committed), Err(error)),
        }
    }
}
