//! Actions, which call queries and mutations that are each audited on their own, and have no audit
//! log.

mod operations;
mod threads;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_host::{Place, PlaceRefusal};
use functions_engine::{Call, Failure, Limits, Mount, Seed, SyscallError, UNROUTED};
use functions_program::Router;
use functions_value::ComponentPath;
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Functions;
use super::call::{Answered, CallError, Caller, Failed};
use super::deployed::Deployed;
use super::http_action::Responding;
use super::operations::failed;
use super::pulse::{Pulse, longest_stretch};
use super::reference::Target;
use super::validate;
use super::workers::{Broken, panic_message};
use operations::InAction;

pub(super) use threads::ActionThreads;

/// Runs an action to its end on a thread of its own, which blocks while the functions that it calls
/// run.
pub(super) async fn run(
    functions: &Functions,
    component: ComponentPath,
    name: String,
    args: &Json,
    caller: &Caller,
    scheduled: Option<String>,
) -> Result<Answered, CallError> {
    let permit = permit(functions, caller)?;
    run_with(permit, functions, component, name, args, caller, scheduled).await
}

/// Takes a place for an action. Actions may run for minutes, so no address has more places than are
/// left for others. An action that another action calls takes one too. The host itself has no
/// address, and no such limit.
fn permit(functions: &Functions, caller: &Caller) -> Result<Place, CallError> {
    let inner = &functions.inner;
    let most = inner.settings.max_actions;
    let taken = match caller.request.ip() {
        Some(address) => inner.actions.take(address, Some(most)),
        None => inner.actions.take(Ipv4Addr::UNSPECIFIED.into(), None),
    };
    taken.map_err(|refusal| {
        CallError::Overloaded(match refusal {
            PlaceRefusal::Full => format!("the limit of {most} running actions is reached"),
            PlaceRefusal::Address => format!(
                "this address runs as many actions as are left for others, of {most} in all"
            ),
        })
    })
}

/// As [`run`], for the app's HTTP actions.
pub(super) async fn run_http(
    functions: &Functions,
    component: ComponentPath,
    name: String,
    http: Responding,
    caller: &Caller,
) -> Result<Answered, CallError> {
    let permit = permit(functions, caller)?;
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

/// As [`run`], for a caller that limits the number of actions itself. `permit` is dropped when the
/// action ends.
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
    let begun = {
        let (lost, pulse, is_lost) = (Arc::clone(inner), Arc::clone(&pulse), Arc::clone(&is_lost));
        inner.action_threads.run(move || {
            let done = catch_unwind(AssertUnwindSafe(|| action.run(&pulse)));
            if is_lost.load(Ordering::Acquire) {
                lost.workers.find_thread();
            }
            // Fails if the caller was dropped.
            drop(answer.send(done));
        })
    };
    begun.map_err(|error| {
        tracing::error!(%error, "the thread of an action cannot be started");
        CallError::Overloaded("the thread of the action cannot be started".to_owned())
    })?;
    // A separate task, since an action continues when its caller is dropped.
    let inner = Arc::clone(inner);
    let watching = tokio::spawn(async move {
        let _permit = permit;
        // A stretch includes the time that the action waits for functions that it calls.
        let Limits { time, wall, .. } = inner.settings.action_limits;
        let limit = longest_stretch(time.max(wall));
        let mut checks = tokio::time::interval(CHECK_PERIOD);
        let done = loop {
            tokio::select! {
                done = &mut answered => break done,
                _ = checks.tick() => {
                    if pulse.stretch().is_some_and(|stretch| stretch >= limit) {
                        is_lost.store(true, Ordering::Release);
                        inner.workers.lose_thread(limit);
                        return Broken::Overran(limit).outcome();
                    }
                }
            }
        };
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => Broken::Panicked(panic_message(&*panic)).outcome(),
            Err(_) => Err(CallError::internal("the action's thread is gone")),
        }
    });
    watching.await.unwrap_or_else(|error| Err(CallError::internal(error)))
}

/// How often the thread of an action is checked for being stuck.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// A running action, with the program that it started from.
struct Running {
    functions: Functions,
    deployed: Arc<Deployed>,
    component: ComponentPath,
    name: String,
    args: Json,
    /// The request, if this is an HTTP action.
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
        // An action is never retried, so it may use the current time and fresh randomness.
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
        Answered::failed("the app no longer has HTTP actions at this path")
    }

    fn responding(&self) -> Result<&Responding, SyscallError> {
        self.http.as_ref().ok_or_else(|| failed("only HTTP actions respond"))
    }
}
