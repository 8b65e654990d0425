//! The operations of actions.

use audit_runtime::{AuditError, FunctionKind};
use functions_engine::{Answer, Later, SyscallError, Syscalls};
use functions_fetch::Fetches;
use functions_store::StoreError;
use serde_json::{Value as Json, json};

use super::{Running, run};
use crate::cache::QueryKey;
use crate::call::{Answered, CallError, Caller, Failed};
use crate::fetching;
use crate::http_action::Responding;
use crate::jobs::{self, Job};
use crate::operations::{failed, function_metadata, parse, request_metadata, unknown};
use crate::pulse::Pulse;
use crate::reference::{Target, for_later, resolve};

/// A running action's side of its operations.
pub(super) struct InAction<'a> {
    running: &'a Running,
    target: Target<'a>,
    pulse: &'a Pulse,
    /// The action's fetches, which end with it. `None` before the first.
    fetches: Option<Fetches>,
}

type Done = Result<String, SyscallError>;

/// The result of a call, as the action receives it.
fn passed_on(called: Result<Answered, CallError>) -> Done {
    match called {
        Ok(Answered { result: Ok(value), .. }) => Ok(value.to_string()),
        Ok(Answered { result: Err(Failed { message, data }), .. }) => {
            Err(SyscallError { message, data })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// An error of the store, as the action receives it.
fn store_failed(error: &StoreError) -> SyscallError {
    match error {
        StoreError::User(message) => failed(message),
        StoreError::Failed(_) => failed(CallError::of_store(error).to_string()),
    }
}

impl<'a> InAction<'a> {
    pub(super) fn new(running: &'a Running, target: Target<'a>, pulse: &'a Pulse) -> InAction<'a> {
        InAction { running, target, pulse, fetches: None }
    }

    /// Handles an operation that is answered immediately.
    fn now(&self, op: &str, args: &Json) -> Done {
        let Running { functions, deployed, caller, scheduled, http, .. } = self.running;
        let json = match op {
            "1.0/getUserIdentity" => {
                if let Some(why) = http.as_ref().and_then(|http| http.refused_token.as_ref()) {
                    return Err(failed(format!("the token of the request is invalid: {why}")));
                }
                caller.identity.as_ref().map_or(Json::Null, |identity| identity.claims().clone())
            }
            "1.0/createFunctionHandle" => {
                let (target, _) =
                    for_later(&deployed.program, &self.target.component, args).map_err(failed)?;
                json!(target.handle())
            }
            "1.0/getDeploymentMetadata" => functions.inner.settings.deployment.to_json(),
            "1.0/getFunctionMetadata" => function_metadata(&self.target),
            "1.0/getRequestMetadata" => request_metadata(
                Some(&caller.request),
                scheduled.as_deref(),
                caller.identity.as_deref(),
            ),
            _ => return Err(unknown(op, FunctionKind::Action)),
        };
        Ok(json.to_string())
    }

    /// The function that the action calls, its arguments, and its caller. As on Convex, a function
    /// of another component does not learn who the action's caller is.
    fn called(
        &self,
        args: &Json,
        kind: FunctionKind,
    ) -> Result<(Target<'_>, Json, Caller), SyscallError> {
        let target = resolve(&self.running.deployed.program, &self.target.component, args)
            .map_err(failed)?;
        target.expect(kind).map_err(failed)?;
        let caller = self.running.caller.clone();
        let is_foreign = target.component != self.target.component;
        let caller = if is_foreign { caller.with_identity(None) } else { caller };
        Ok((target, args.get("args").cloned().unwrap_or_else(|| json!({})), caller))
    }

    /// Begins an asynchronous operation. Each function that the action calls is audited on its own,
    /// for the action's request.
    fn begin(&self, op: &str, args: &Json, later: Later) -> Result<(), SyscallError> {
        let Running { functions, scheduled, tasks, .. } = self.running;
        let (functions, scheduled) = (functions.clone(), scheduled.clone());
        match op {
            "1.0/actions/query" => {
                let (target, args, caller) = self.called(args, FunctionKind::Query)?;
                let key = QueryKey::new(&target, &args, &caller)
                    .map_err(|error| failed(error.to_string()))?;
                tasks.spawn(async move {
                    let answered = functions.answer(&key, &caller).await;
                    later.complete(passed_on(answered.map(|answered| Answered::clone(&answered))));
                });
            }
            "1.0/actions/mutation" => {
                let (target, args, caller) = self.called(args, FunctionKind::Mutation)?;
                let (component, name) = target.owned();
                tasks.spawn(async move {
                    let mutated =
                        functions.mutate_within(component, name, &args, &caller, scheduled).await;
                    later.complete(passed_on(mutated.map(|mutated| mutated.answered)));
                });
            }
            "1.0/actions/action" => {
                let (target, args, caller) = self.called(args, FunctionKind::Action)?;
                let (component, name) = target.owned();
                tasks.spawn(async move {
                    let answered =
                        Box::pin(run(&functions, component, name, &args, &caller, scheduled)).await;
                    later.complete(passed_on(answered));
                });
            }
            "1.0/actions/schedule" => {
                let program = &self.running.deployed.program;
                let target = for_later(program, &self.target.component, args).map_err(failed)?;
                let job = Job::from_json(target, args, functions.inner.now_ms()).map_err(failed)?;
                let from = self.target.component.clone();
                tasks.spawn_blocking(move || {
                    let written = functions.inner.write(|tx| jobs::schedule(tx, &from, &job));
                    let id = written.map(|id| json!(id).to_string());
                    later.complete(id.map_err(|error| store_failed(&error)));
                });
            }
            "1.0/actions/cancel_job" => {
                let id = args
                    .get("id")
                    .and_then(Json::as_str)
                    .ok_or_else(|| failed("id must be a string"))?
                    .to_owned();
                let from = self.target.component.clone();
                tasks.spawn_blocking(move || {
                    let now_ms = functions.inner.now_ms();
                    let written = functions.inner.write(|tx| jobs::cancel(tx, &from, &id, now_ms));
                    let done = written.map(|()| "null".to_owned());
                    later.complete(done.map_err(|error| store_failed(&error)));
                });
            }
            "host/requestPiece" => {
                later.complete(Ok(self.running.responding()?.request_piece(args)));
            }
            "host/respond" => {
                self.running.responding()?.head(args)?;
                later.complete(Ok("null".to_owned()));
            }
            "host/respondPiece" | "host/respondEnd" => {
                let args = (op == "host/respondPiece").then_some(args);
                let sending = self.running.responding()?.piece(args)?;
                tasks.spawn(async move {
                    later.complete(sending.await.map(|()| "null".to_owned()));
                });
            }
            _ => return Err(unknown(op, FunctionKind::Action)),
        }
        Ok(())
    }

    fn fetches(&mut self) -> &Fetches {
        let Running { functions, tasks, .. } = self.running;
        self.fetches.get_or_insert_with(|| functions.inner.fetcher.fetches(tasks.clone()))
    }

    /// Ends the action's fetches when the client of its response is gone.
    fn follow_client(&mut self) {
        let unwanted = self.running.http.as_ref().and_then(Responding::unwanted);
        let Some(unwanted) = unwanted else { return };
        let fetches = self.fetches().canceller();
        self.running.tasks.spawn(async move {
            // Nothing is ever sent: this ends when the sender is dropped.
            let _ = unwanted.await;
            fetches.cancel();
        });
    }

    fn answer(&mut self, op: &str, args: &str, later: Later) -> Answer {
        if op == "1.0/auditLog" {
            return Answer::Now(Err(failed(AuditError::InAction.to_string())));
        }
        let args = match parse(args) {
            Ok(args) => args,
            Err(error) => return Answer::Now(Err(error)),
        };
        if !op.starts_with("1.0/actions/") && !op.starts_with("host/") {
            return Answer::Now(self.now(op, &args));
        }
        let begun = if op.starts_with("host/fetch") {
            let running = self.running;
            fetching::begin(self.fetches(), &running.tasks, op, &args, later)
        } else {
            self.begin(op, &args, later)
        };
        self.follow_client();
        match begun {
            Ok(()) => Answer::Later,
            Err(error) => Answer::Now(Err(error)),
        }
    }
}

impl Syscalls for InAction<'_> {
    fn syscall(&mut self, op: &str, _args: &str) -> Done {
        Err(unknown(op, FunctionKind::Action))
    }

    fn refuse_audit(&mut self, _reason: &str) -> SyscallError {
        failed(AuditError::InAction.to_string())
    }

    fn async_syscall(&mut self, op: &str, args: &str, later: Later) -> Answer {
        let pulse = self.pulse;
        pulse.in_host(|| self.answer(op, args, later))
    }
}
