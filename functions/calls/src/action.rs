//! Actions: they call queries and mutations, each audited on its own, and have no audit log.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_runtime::{AuditError, FunctionKind};
use functions_engine::{
    Answer, Call, Failure, Later, Limits, Mount, Seed, SyscallError, Syscalls, UNROUTED,
};
use functions_fetch::Fetches;
use functions_program::Router;
use functions_store::StoreError;
use functions_value::ComponentPath;
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::call::{Answered, CallError, Caller, Failed};
use super::deployed::Deployed;
use super::fetching;
use super::http_action::Responding;
use super::jobs::{self, Job};
use super::operations::{function_metadata, request_metadata, unknown};
use super::pulse::{Pulse, longest_stretch};
use super::reference::{Target, for_later, resolve};
use super::validate;
use super::workers::{Broken, STACK_BYTES, panic_message};
use super::{Functions, key_of};

/// Runs an action to its end, on a thread of its own: it waits for what it calls.
pub(super) async fn run(
    functions: &Functions,
    component: ComponentPath,
    name: String,
    args: &Json,
    caller: &Caller,
    scheduled: Option<String>,
) -> Result<Answered, CallError> {
    let permit = permit(functions)?;
    run_with(permit, functions, component, name, args, caller, scheduled).await
}

fn permit(functions: &Functions) -> Result<OwnedSemaphorePermit, CallError> {
    let inner = &functions.inner;
    let most = inner.settings.max_actions;
    Arc::clone(&inner.actions)
        .try_acquire_owned()
        .map_err(|_| CallError::Overloaded(format!("{most} actions run already, as many as may")))
}

/// As [`run`], for the app's HTTP actions.
pub(super) async fn run_http(
    functions: &Functions,
    component: ComponentPath,
    name: String,
    http: Responding,
    caller: &Caller,
) -> Result<Answered, CallError> {
    let permit = permit(functions)?;
    let action = Running {
        functions: functions.clone(),
        deployed: functions.inner.deployed(),
        component,
        name,
        args: Json::Null,
        http: Some(http),
        caller: caller.clone(),
        scheduled: None,
        tasks: Handle::current(),
    };
    on_thread(permit, action).await
}

/// As [`run`], with a permit from a caller that bounds the number of actions itself. The permit is
/// released when the action ends.
pub(super) async fn run_with(
    permit: impl Send + 'static,
    functions: &Functions,
    component: ComponentPath,
    name: String,
    args: &Json,
    caller: &Caller,
    scheduled: Option<String>,
) -> Result<Answered, CallError> {
    let action = Running {
        functions: functions.clone(),
        deployed: functions.inner.deployed(),
        component,
        name,
        args: args.clone(),
        http: None,
        caller: caller.clone(),
        scheduled,
        tasks: Handle::current(),
    };
    on_thread(permit, action).await
}

async fn on_thread(permit: impl Send + 'static, action: Running) -> Result<Answered, CallError> {
    let inner = &Arc::clone(&action.functions.inner);
    let (answer, mut answered) = oneshot::channel();
    let pulse = Arc::new(Pulse::default());
    let is_lost = Arc::new(AtomicBool::new(false));
    let thread =
        std::thread::Builder::new().name("functions-action".to_owned()).stack_size(STACK_BYTES);
    let spawned = {
        let (inner, pulse, is_lost) = (Arc::clone(inner), Arc::clone(&pulse), Arc::clone(&is_lost));
        thread.spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(|| action.run(&pulse)));
            if is_lost.load(Ordering::Acquire) {
                inner.workers.find_thread();
            }
            // The caller went away.
            drop(answer.send(done));
        })
    };
    spawned.map_err(|error| {
        tracing::error!(%error, "no thread for an action");
        CallError::Overloaded("there is no thread for an action".to_owned())
    })?;
    // In a task of its own: an action runs on when its caller goes away.
    let inner = Arc::clone(inner);
    let watching = tokio::spawn(async move {
        let _permit = permit;
        // A wait for what the action calls is part of a stretch.
        let Limits { time, wall, .. } = inner.settings.action_limits;
        let limit = longest_stretch(time.max(wall));
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        let done = loop {
            tokio::select! {
                done = &mut answered => break done,
                _ = looks.tick() => {
                    if pulse.stretch().is_some_and(|stretch| stretch >= limit) {
                        is_lost.store(true, Ordering::Release);
                        inner.workers.lose_thread(limit);
                        return Err(Broken::Overran(limit).into());
                    }
                }
            }
        };
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => Err(Broken::Panicked(panic_message(&*panic)).into()),
            Err(_) => Err(CallError::internal("the action's thread is gone")),
        }
    });
    watching.await.unwrap_or_else(|error| Err(CallError::internal(error)))
}

/// How often the thread of an action is checked for being stuck.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A running action, with the program that it began with.
struct Running {
    functions: Functions,
    deployed: Arc<Deployed>,
    component: ComponentPath,
    name: String,
    args: Json,
    /// The request of an HTTP action.
    http: Option<Responding>,
    caller: Caller,
    scheduled: Option<String>,
    tasks: Handle,
}

impl Running {
    fn run(&self, pulse: &Pulse) -> Result<Answered, CallError> {
        if let Some(http) = &self.http {
            return Ok(self.answer_http(http, pulse));
        }
        let target = self.deployed.target(&self.component, &self.name)?;
        let inner = &self.functions.inner;
        // Ids are checked against the current tables.
        let tx = RefCell::new(inner.store.begin(&inner.store.latest(), 0));
        let is_id = |table: &str, id: &str| tx.borrow_mut().is_id(&target.component, table, id);
        if let Err(message) =
            self.deployed.validators.check_arguments(&target, &self.args, false, &is_id)
        {
            return Ok(Answered::failed(message));
        }
        let args = json!([self.args]).to_string();
        let request_id = self.caller.request.request_id().as_str();
        let call =
            self.deployed.program.call(&target.component, target.function, &args, request_id);
        // An action is never replayed, so it may use the current time and fresh randomness.
        let seed = Seed { random: inner.chance().next_seed(), now_ms: inner.now_ms() as f64 };
        let mut host = InAction::new(self, target.clone(), pulse);
        let limits = &inner.settings.action_limits;
        let ran = pulse.in_engine(|| functions_engine::run(&call, &seed, limits, &mut host));
        let result = match ran.result {
            Ok(value) => self
                .deployed
                .validators
                .check_returned(&target, &value, false, &is_id)
                .map(|()| value.into())
                .map_err(|message| Failed { message, data: None }),
            Err(Failure { message, data, kind: _ }) => Err(validate::failed(message, data, false)),
        };
        Ok(Answered { result, log_lines: ran.log_lines })
    }
}

impl Running {
    fn answer_http(&self, http: &Responding, pulse: &Pulse) -> Answered {
        let program = &self.deployed.program;
        let mut routers = program.routers(&http.path).into_iter().peekable();
        let mut log_lines = Vec::new();
        while let Some(Router { component, function, prefix }) = routers.next() {
            let mount = Mount { prefix, is_last: routers.peek().is_none() };
            let target = Target { component: component.clone(), function };
            let inner = &self.functions.inner;
            let request_id = self.caller.request.request_id().as_str();
            let call = program.call(component, function, &http.request, request_id);
            let call = Call { http: Some(mount), ..call };
            let seed = Seed { random: inner.chance().next_seed(), now_ms: inner.now_ms() as f64 };
            let mut host = InAction::new(self, target, pulse);
            let limits = &inner.settings.action_limits;
            let ran = pulse.in_engine(|| functions_engine::run(&call, &seed, limits, &mut host));
            log_lines.extend(ran.log_lines);
            match ran.result {
                Ok(value) if value == UNROUTED => {}
                Ok(value) => return Answered { result: Ok(value.into()), log_lines },
                Err(Failure { message, data, kind: _ }) => {
                    return Answered { result: Err(Failed { message, data }), log_lines };
                }
            }
        }
        Answered::failed("there are no HTTP actions at this path any more")
    }

    /// The request that is to be answered.
    fn responding(&self) -> Result<&Responding, SyscallError> {
        self.http.as_ref().ok_or_else(|| failed("only HTTP actions respond"))
    }
}

/// The operations of an action.
struct InAction<'a> {
    running: &'a Running,
    target: Target<'a>,
    pulse: &'a Pulse,
    /// What it fetches, which ends with it. None before the first.
    fetches: Option<Fetches>,
}

type Done = Result<String, SyscallError>;

fn failed(message: impl Into<String>) -> SyscallError {
    SyscallError { message: message.into(), data: None }
}

/// The result of a call, for the calling function.
fn passed_on(called: Result<Answered, CallError>) -> Done {
    match called {
        Ok(Answered { result: Ok(value), .. }) => Ok(value.to_string()),
        Ok(Answered { result: Err(Failed { message, data }), .. }) => {
            Err(SyscallError { message, data })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// An error of the store, as the function sees it.
fn told(error: &StoreError) -> String {
    match error {
        StoreError::User(message) => message.clone(),
        StoreError::Failed(_) => CallError::of_store(error).to_string(),
    }
}

impl<'a> InAction<'a> {
    fn new(running: &'a Running, target: Target<'a>, pulse: &'a Pulse) -> InAction<'a> {
        InAction { running, target, pulse, fetches: None }
    }

    fn now(&self, op: &str, args: &Json) -> Done {
        let Running { functions, deployed, caller, scheduled, http, .. } = self.running;
        let json = match op {
            "1.0/auditLog" => return Err(failed(AuditError::InAction.to_string())),
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

    fn called(&self, args: &Json, kind: FunctionKind) -> Result<(Target<'_>, Json), SyscallError> {
        let target = resolve(&self.running.deployed.program, &self.target.component, args)
            .map_err(failed)?;
        target.expect(kind).map_err(failed)?;
        Ok((target, args.get("args").cloned().unwrap_or_else(|| json!({}))))
    }

    /// Begins an asynchronous operation. Each function that it calls is audited on its own, for the
    /// request that called the action.
    fn begin(&self, op: &str, args: &Json, later: Later) -> Result<(), SyscallError> {
        let Running { functions, caller, scheduled, tasks, .. } = self.running;
        let (functions, caller, scheduled) = (functions.clone(), caller.clone(), scheduled.clone());
        match op {
            "1.0/actions/query" => {
                let (target, args) = self.called(args, FunctionKind::Query)?;
                let key =
                    key_of(&target, &args, &caller).map_err(|error| failed(error.to_string()))?;
                tasks.spawn(async move {
                    let answered = functions.answer(&key, &caller).await;
                    later.complete(passed_on(answered.map(|answered| Answered::clone(&answered))));
                });
            }
            "1.0/actions/mutation" => {
                let (target, args) = self.called(args, FunctionKind::Mutation)?;
                let (component, name) = target.owned();
                tasks.spawn(async move {
                    let mutated =
                        functions.mutate_within(component, name, &args, &caller, scheduled).await;
                    later.complete(passed_on(mutated.map(|mutated| mutated.answered)));
                });
            }
            "1.0/actions/action" => {
                let (target, args) = self.called(args, FunctionKind::Action)?;
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
                    later.complete(
                        written
                            .map(|id| json!(id).to_string())
                            .map_err(|error| failed(told(&error))),
                    );
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
                    later.complete(
                        written.map(|()| "null".to_owned()).map_err(|error| failed(told(&error))),
                    );
                });
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

impl InAction<'_> {
    fn fetches(&mut self) -> &Fetches {
        let Running { functions, tasks, .. } = self.running;
        self.fetches.get_or_insert_with(|| functions.inner.fetcher.fetches(tasks.clone()))
    }

    /// Once the client of a response that is being sent has gone, nothing is fetched for it.
    fn follow_client(&mut self) {
        let unwanted = self.running.http.as_ref().and_then(Responding::unwanted);
        let Some(unwanted) = unwanted else { return };
        let fetches = self.fetches().canceller();
        self.running.tasks.spawn(async move {
            // It ends with an error: its sender is dropped.
            let _ = unwanted.await;
            fetches.cancel();
        });
    }

    fn answer(&mut self, op: &str, args: &str, later: Later) -> Answer {
        let args: Json = match serde_json::from_str(args) {
            Ok(args) => args,
            Err(error) => return Answer::Now(Err(failed(format!("not JSON: {error}")))),
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
