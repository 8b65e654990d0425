//! One call in an engine.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use audit_runtime::FunctionKind;
use rquickjs::loader::{Loader, Resolver};
use rquickjs::promise::PromiseState;
use rquickjs::{Ctx, FromJs, Module, Object, Persistent, Promise, Value};

use super::host::{HOST, Shared, give_way};
use super::kept;
use super::outer;
use super::realm::{Control, Realm};
use super::rejections::Rejections;
use super::{
    Call, Completion, Env, Failure, FailureKind, Limits, Loaded, Mount, Ran, Seed, SyscallError,
    Syscalls,
};

/// If a stalled engine cannot allocate this many bytes, it stalled for lack of memory.
const ENOUGH_MEMORY_BYTES: usize = 64 << 10;

/// The CPU time limit for evaluating a module and its imports while a program is loaded.
const LOAD_TIME: Duration = Duration::from_secs(5);

/// The memory limit for evaluating a module and its imports while a program is loaded, in bytes:
/// eight times that of a function. A program is loaded one module at a time, and a module may
/// import all of the app.
const LOAD_MEMORY_BYTES: usize = 512 << 20;

/// See [`super::run`].
pub(super) fn run(call: &Call<'_>, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
    HOST.set(host, || {
        let realm = match kept::take(call).map_or_else(|| started(call, limits), Ok) {
            Ok(realm) => realm,
            Err(failure) => {
                return Ran {
                    result: Err(failure),
                    log_lines: Vec::new(),
                    js_time: Duration::ZERO,
                };
            }
        };
        let ran = realm.call(Some(call.kind), seed, limits, |engine| engine.call(call));
        kept::put_back(call, realm);
        ran
    })
}

/// Starts an engine for the functions of the call's module. It can be kept if the thread keeps
/// engines.
fn started(call: &Call<'_>, limits: &Limits) -> Result<Realm, Failure> {
    let loaded = Loaded::new(call.modules);
    let declare = |ctx: &Ctx<'_>| call.modules.declare(ctx, call.module, &loaded);
    let mut realm = Realm::start(call.env, limits, loaded.clone(), declare)?;
    if kept::is_on() {
        realm.keep(loaded, call.module, limits);
    }
    Ok(realm)
}

/// The exports of a module.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// The functions.
    pub functions: Vec<DescribedFunction>,
    /// The result of the default export's `export()`: a schema, crons, or a component's definition.
    pub exported: Option<serde_json::Value>,
    /// Whether the default export is a router of HTTP actions.
    pub is_router: bool,
    /// The default export itself, if it is plain data.
    pub plain: Option<serde_json::Value>,
}

/// A function exported by a module.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedFunction {
    /// The name of the export.
    pub name: String,
    /// `query`, `mutation` or `action`.
    pub kind: String,
    /// Whether it can be called from outside.
    pub is_public: bool,
    /// The validator of the arguments, as JSON.
    pub args: serde_json::Value,
    /// The validator of the result, as JSON; null if there is none.
    pub returns: serde_json::Value,
}

/// Evaluates a module and lists its exports. Its imports come from `modules`.
///
/// # Errors
///
/// The module or one of its imports cannot be loaded or evaluated.
pub fn describe<M>(module: &str, modules: M, env: &Env) -> Result<Described, Failure>
where
    M: Resolver + Loader + Clone + 'static,
{
    let limits = Limits { time: LOAD_TIME, memory_bytes: LOAD_MEMORY_BYTES, ..Limits::default() };
    let seed = Seed { random: 0.into(), now_ms: 0.0 };
    let realm = Realm::start(env, &limits, modules, |_| Ok(()))?;
    let ran = realm.call(None, &seed, &limits, |engine| {
        let namespace = engine.module(module)?;
        engine.attempt(engine.control.describe.call((namespace,)))
    });
    let text: String = ran.result?;
    serde_json::from_str(&text).map_err(|error| Failure::new(FailureKind::Load, error.to_string()))
}

impl Realm {
    /// Does `work` for one call.
    pub(super) fn call(
        &self,
        kind: Option<FunctionKind>,
        seed: &Seed,
        limits: &Limits,
        work: impl for<'js, 'a> FnOnce(&Engine<'js, 'a>) -> Result<String, Failure>,
    ) -> Ran {
        let (sender, completions) = channel();
        let shared = self.shared();
        shared.begin(kind, *seed, sender);
        let result = self.with(limits, |ctx, control, namespace| {
            let (shared, rejections) = (self.shared(), self.rejections());
            let completions = &completions;
            let limits = *limits;
            work(&Engine { ctx, limits, shared, completions, rejections, kind, control, namespace })
        });
        give_way(&shared.stopwatch);
        let log_lines = shared.take_lines();
        let spent = shared.stopwatch.spent();
        let js_time = spent.saturating_sub(outer::taken().time);
        outer::took(spent);
        Ran { result, log_lines, js_time }
    }

    /// Evaluates a module before any call, without waiting. Returns `None` if that failed or
    /// depended on the call.
    pub(super) fn evaluated(
        &self,
        module: &str,
        limits: &Limits,
    ) -> Option<Persistent<Object<'static>>> {
        let (_, completions) = channel();
        let namespace = self.with(limits, |ctx, control, namespace| {
            let engine = Engine {
                ctx: ctx.clone(),
                limits: *limits,
                shared: self.shared(),
                completions: &completions,
                rejections: self.rejections(),
                kind: None,
                control,
                namespace,
            };
            engine.module(module).map(|namespace| Persistent::save(&ctx, namespace))
        });
        let shared = self.shared();
        let is_same = !shared.is_touched()
            && shared.pending() == 0
            && !shared.stopwatch.is_over()
            && self.rejections().is_empty();
        namespace.ok().filter(|_| is_same)
    }
}

pub(super) struct Engine<'js, 'a> {
    ctx: Ctx<'js>,
    limits: Limits,
    shared: &'a Shared,
    completions: &'a Receiver<Completion>,
    rejections: &'a Rejections,
    kind: Option<FunctionKind>,
    control: Control<'js>,
    /// The exports of the function's module, if it was evaluated before the call.
    namespace: Option<Object<'js>>,
}

impl<'js> Engine<'js, '_> {
    /// Calls the function and waits for its result.
    fn call(&self, call: &Call<'_>) -> Result<String, Failure> {
        give_way(&self.shared.stopwatch);
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => self.module(call.module)?,
        };
        give_way(&self.shared.stopwatch);
        let export: Value<'js> = self.attempt(namespace.get(call.export))?;
        let Control { invoke, answer_http, .. } = &self.control;
        let returned = match call.http {
            Some(Mount { prefix, is_last }) => {
                answer_http.call((export, call.args, prefix, is_last))
            }
            None => invoke.call((export, call.request_id, call.args)),
        };
        let settled: Result<String, Failure> = self.settled(self.attempt(returned)?);
        // A function that throws may have begun calls as well, which may log.
        let result = self.finish_jobs().and(settled).and_then(|result| {
            self.check_rejections()?;
            Ok(result)
        });
        let unawaited = self.shared.pending();
        if unawaited > 0 {
            let line = format!(
                "[WARN] '{unawaited} operations were not awaited: the function ended without their answers'"
            );
            self.shared.push_line(&line);
        }
        result
    }

    fn module(&self, name: &str) -> Result<Object<'js>, Failure> {
        let load = |failure: Failure| match failure.kind {
            FailureKind::Thrown | FailureKind::StackOverflow => {
                Failure { kind: FailureKind::Load, ..failure }
            }
            FailureKind::TimeLimit
            | FailureKind::MemoryLimit
            | FailureKind::NeverResolves
            | FailureKind::Load => failure,
        };
        let promise = self.attempt(Module::import(&self.ctx, name)).map_err(load)?;
        self.settled(promise).map_err(load)
    }

    /// The result of a step, or the exception that it threw.
    fn attempt<T>(&self, step: rquickjs::Result<T>) -> Result<T, Failure> {
        step.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rquickjs::Error) -> Failure {
        let thrown = self.ctx.catch();
        if self.shared.stopwatch.is_over() {
            return Failure::over(&self.shared.stopwatch, &self.limits);
        }
        if matches!(error, rquickjs::Error::Allocation) {
            return Failure::memory_limit(&self.limits);
        }
        if error.is_exception() {
            let failure = Failure::thrown(&self.ctx, &self.control.explain, thrown, &self.limits);
            // Describing the thrown value may run its getters, which can exceed a limit.
            return if self.shared.stopwatch.is_over() {
                Failure::over(&self.shared.stopwatch, &self.limits)
            } else {
                failure
            };
        }
        Failure::new(FailureKind::Thrown, format!("Uncaught {error}"))
    }

    /// Runs jobs until the promise is settled.
    fn settled<T: FromJs<'js>>(&self, promise: Promise<'js>) -> Result<T, Failure> {
        loop {
            if self.shared.stopwatch.is_over() {
                self.ctx.catch();
                return Err(Failure::over(&self.shared.stopwatch, &self.limits));
            }
            if promise.state() != PromiseState::Pending {
                let Some(result) = promise.result() else { continue };
                return self.attempt(result);
            }
            if !self.ctx.execute_pending_job() {
                self.wait()?;
            }
        }
    }

    /// Runs the pending jobs, of calls that the function did not await, without waiting. Logs that
    /// they emit, or fail to emit, count.
    fn finish_jobs(&self) -> Result<(), Failure> {
        loop {
            if self.shared.stopwatch.is_over() {
                self.ctx.catch();
                return Err(Failure::over(&self.shared.stopwatch, &self.limits));
            }
            if !self.ctx.execute_pending_job() {
                return Ok(());
            }
        }
    }

    /// Fails a function that leaves a rejection unhandled.
    fn check_rejections(&self) -> Result<(), Failure> {
        let Some(reason) = self.rejections.first(&self.ctx) else { return Ok(()) };
        let mut failure = Failure::thrown(&self.ctx, &self.control.explain, reason, &self.limits);
        if let Some(thrown) = failure.message.strip_prefix("Uncaught ") {
            failure.message = format!("Uncaught (in promise) {thrown}");
        }
        Err(failure)
    }

    /// Waits for an operation or a timer, and settles it.
    fn wait(&self) -> Result<(), Failure> {
        let (shared, stopwatch) = (self.shared, &self.shared.stopwatch);
        // Only actions have timers.
        let timer_ms = match self.kind {
            Some(FunctionKind::Action) => {
                self.attempt(self.control.next_timer.call::<_, f64>(()))?
            }
            Some(FunctionKind::Query | FunctionKind::Mutation) | None => -1.0,
        };
        if shared.pending() == 0 && timer_ms < 0.0 {
            // An engine that lacks memory for a promise's next step skips that step.
            if rquickjs::String::from_str(self.ctx.clone(), &" ".repeat(ENOUGH_MEMORY_BYTES))
                .is_err()
            {
                self.ctx.catch();
                return Err(Failure::memory_limit(&self.limits));
            }
            let message = "Returned promise will never resolve: it awaits what nothing settles";
            return Err(Failure::new(FailureKind::NeverResolves, message));
        }
        let elapsed = shared.elapsed();
        let left = self.limits.wall.saturating_sub(elapsed);
        let until_timer =
            Duration::try_from_secs_f64(timer_ms / 1e3).ok().map(|at| at.saturating_sub(elapsed));
        let wait = until_timer.map_or(left, |until_timer| until_timer.min(left));
        match stopwatch.pause(|| self.completions.recv_timeout(wait)) {
            Ok((id, answer)) => {
                // An operation that was answered immediately is not pending, even if the host
                // answers it a second time.
                if !shared.settles(id) {
                    return Ok(());
                }
                let answer = answer.unwrap_or_else(|| Err(SyscallError::dropped()));
                let settled = match answer {
                    Ok(text) => self.control.settle.call::<_, ()>((id, true, text)),
                    Err(error) => {
                        self.control.settle.call::<_, ()>((id, false, error.message, error.data))
                    }
                };
                self.attempt(settled)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if wait == left => {
                Err(Failure::wall_limit(self.limits.wall))
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.attempt(self.control.fire_timers.call::<_, ()>(()))
            }
        }
    }
}
