//! From the start of an engine to its end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use audit_runtime::FunctionKind;
use rquickjs::context::intrinsic;
use rquickjs::loader::{Loader, Resolver};
use rquickjs::promise::PromiseState;
use rquickjs::{
    Context, Ctx, FromJs, Function, Module, Object, Persistent, Promise, Runtime, Value,
};
use tokio::time::Instant;

use super::built_in::{self, PRELUDE};
use super::failure;
use super::heap::{Heap, Usage};
use super::host::{HOST, LogLines, Shared, give_way, natives};
use super::rejections::Rejections;
use super::stopwatch::Stopwatch;
use super::{
    Call, Completion, Env, Failure, FailureKind, Limits, Loaded, Ran, Seed, SyscallError, Syscalls,
};

/// The intrinsics of a context. Left out are `performance`, whose clock advances (the prelude has
/// one that follows the seed), weak references, which reveal garbage collection, and `eval`: an
/// engine that runs out of memory while it compiles reads and writes memory that is not its own.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
    intrinsic::DOMException,
);

/// The first garbage collection comes at a sixteenth of the heap's limit, before which most calls
/// end. It is at least this, the engine's default.
const MIN_GC_THRESHOLD_BYTES: usize = 256 << 10;

/// The memory, in bytes, that a stalled engine can still allocate unless it stalled for want of
/// memory.
const ENOUGH_MEMORY_BYTES: usize = 64 << 10;

/// How long the modules that a module needs may take while a program is loaded.
const LOAD_TIME: Duration = Duration::from_secs(5);

/// See [`super::run`].
pub(super) fn run(call: &Call<'_>, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
    let started = Start { kind: Some(call.kind), seed: *seed, limits: *limits, env: call.env };
    let loaded = Loaded::new(Arc::clone(call.modules));
    let declare = |ctx: &Ctx<'_>| call.modules.declare(ctx, call.module, &loaded);
    HOST.set(host, || started.engine(loaded.clone(), declare, |engine| engine.call(call)))
}

/// The exports of a module.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// The functions.
    pub functions: Vec<DescribedFunction>,
    /// The result of the default export's `export()`: a schema, crons, a component's definition.
    pub exported: Option<serde_json::Value>,
    /// Whether its default export is a router of HTTP actions.
    pub is_router: bool,
    /// The default export itself, if it is plain data.
    pub plain: Option<serde_json::Value>,
}

/// A function that a module exports.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedFunction {
    /// The name of the export.
    pub name: String,
    /// `query`, `mutation` or `action`.
    pub kind: String,
    /// Whether it can be called from outside.
    pub is_public: bool,
    /// The validator of its arguments, as JSON.
    pub args: serde_json::Value,
    /// The validator of what it returns, as JSON; null if it has none.
    pub returns: serde_json::Value,
}

/// Evaluates a module and lists its exports. Its imports come from `modules`.
///
/// # Errors
///
/// If a module of them cannot be loaded or evaluated.
pub fn describe<M>(module: &str, modules: M, env: &Env) -> Result<Described, Failure>
where
    M: Resolver + Loader + Clone + 'static,
{
    let limits = Limits { time: LOAD_TIME, ..Limits::default() };
    let seed = Seed { random: 0.into(), now_ms: 0.0 };
    let start = Start { kind: None, seed, limits, env };
    let ran = start.engine(
        modules,
        |_| Ok(()),
        |engine| {
            let namespace = engine.module(module)?;
            engine.attempt(engine.describe.call((namespace,)))
        },
    );
    let text: String = ran.result?;
    serde_json::from_str(&text).map_err(|error| Failure::new(FailureKind::Load, error.to_string()))
}

/// The configuration of an engine.
struct Start<'a> {
    /// No kind: the engine only lists the exports of modules.
    kind: Option<FunctionKind>,
    seed: Seed,
    limits: Limits,
    env: &'a Env,
}

impl Start<'_> {
    /// Starts an engine, declares modules and does `work` in it, ends it.
    fn engine<M>(
        &self,
        modules: M,
        declare: impl Fn(&Ctx<'_>) -> rquickjs::Result<()>,
        work: impl for<'js, 'a> FnOnce(&Engine<'js, 'a>) -> Result<String, Failure>,
    ) -> Ran
    where
        M: Resolver + Loader + Clone + 'static,
    {
        let (sender, completions) = channel();
        let usage = Rc::new(Usage::unlimited());
        let shared = Shared {
            stopwatch: Rc::new(Stopwatch::started(&self.limits, Rc::clone(&usage))),
            lines: Rc::new(RefCell::new(LogLines::default())),
            pending: Rc::new(RefCell::new(HashSet::new())),
            hollow: Rc::default(),
            asking: Arc::default(),
            sender,
            started: Instant::now(),
        };
        let result = self.run_in(modules, declare, &usage, &shared, &completions, work);
        give_way(&shared.stopwatch);
        let log_lines = shared.lines.borrow_mut().take();
        let js_time = shared.stopwatch.spent().saturating_sub(self.limits.spent);
        Ran { result, log_lines, js_time }
    }

    fn run_in<M>(
        &self,
        modules: M,
        declare: impl Fn(&Ctx<'_>) -> rquickjs::Result<()>,
        usage: &Rc<Usage>,
        shared: &Shared,
        completions: &Receiver<Completion>,
        work: impl for<'js, 'a> FnOnce(&Engine<'js, 'a>) -> Result<String, Failure>,
    ) -> Result<String, Failure>
    where
        M: Resolver + Loader + Clone + 'static,
    {
        // A failure before the function runs.
        let out_of_memory = |_| {
            if shared.stopwatch.is_over() {
                Failure::over(&shared.stopwatch, &self.limits)
            } else {
                Failure::memory_limit(&self.limits)
            }
        };
        let heap = Heap::new(Rc::clone(usage));
        let runtime = Runtime::new_with_alloc(heap).map_err(out_of_memory)?;
        runtime.set_max_stack_size(self.limits.stack_bytes);
        runtime.set_gc_threshold((self.limits.memory_bytes / 16).max(MIN_GC_THRESHOLD_BYTES));
        let stopwatch = Rc::clone(&shared.stopwatch);
        runtime.set_interrupt_handler(Some(Box::new(move || {
            give_way(&stopwatch);
            stopwatch.is_over()
        })));
        runtime.set_loader(modules.clone(), modules);
        let rejections = Rejections::of(&runtime);
        give_way(&shared.stopwatch);
        let context = Context::custom::<Intrinsics>(&runtime).map_err(out_of_memory)?;
        give_way(&shared.stopwatch);
        let control = context.with(|ctx| {
            let control = self.install(&ctx, shared).map_err(out_of_memory)?;
            give_way(&shared.stopwatch);
            declare(&ctx)
                .map_err(|error| Failure::new(FailureKind::Load, failure::text_of(&ctx, &error)))?;
            Ok(control)
        })?;
        // Allocations so far count but cannot fail, since neither creating a context nor reading a
        // module survives that.
        usage.limit(self.limits.memory_bytes);
        context.with(|ctx| {
            let engine = control
                .restore(&ctx)
                .and_then(|control| self.started(ctx, &control, shared, completions, &rejections));
            work(&engine.map_err(out_of_memory)?)
        })
    }

    /// Evaluates the prelude and returns its functions for the engine's side of a call.
    fn install<'js>(
        &self,
        ctx: &Ctx<'js>,
        shared: &Shared,
    ) -> rquickjs::Result<Persistent<Object<'static>>> {
        let prelude =
            built_in::bytecode(PRELUDE).ok_or_else(|| rquickjs::Error::new_loading(PRELUDE))?;
        let (prelude, evaluated) = prelude.declare(ctx)?.eval()?;
        evaluated.finish::<()>()?;
        let settings = Object::new(ctx.clone())?;
        settings.set("kind", self.kind.map(FunctionKind::as_str))?;
        settings.set("nowMs", self.seed.now_ms)?;
        settings.set("env", self.env.variables_json())?;
        settings.set("auditVars", self.env.audit_vars())?;
        let install: Function<'js> = prelude.get("install")?;
        let control: Object<'js> = install
            .call((natives(ctx, shared, self.seed.random, self.env.audit_vars())?, settings))?;
        Ok(Persistent::save(ctx, control))
    }

    fn started<'js, 'a>(
        &self,
        ctx: Ctx<'js>,
        control: &Object<'js>,
        shared: &'a Shared,
        completions: &'a Receiver<Completion>,
        rejections: &'a Rejections,
    ) -> rquickjs::Result<Engine<'js, 'a>> {
        Ok(Engine {
            rejections,
            invoke: control.get("invoke")?,
            answer_http: control.get("answerHttp")?,
            settle: control.get("settle")?,
            explain: control.get("explain")?,
            describe: control.get("describe")?,
            next_timer: control.get("nextTimer")?,
            fire_timers: control.get("fireTimers")?,
            kind: self.kind,
            limits: self.limits,
            shared,
            completions,
            ctx,
        })
    }
}

/// A running engine.
struct Engine<'js, 'a> {
    ctx: Ctx<'js>,
    limits: Limits,
    shared: &'a Shared,
    completions: &'a Receiver<Completion>,
    rejections: &'a Rejections,
    invoke: Function<'js>,
    answer_http: Function<'js>,
    settle: Function<'js>,
    explain: Function<'js>,
    describe: Function<'js>,
    next_timer: Function<'js>,
    fire_timers: Function<'js>,
    kind: Option<FunctionKind>,
}

impl<'js> Engine<'js, '_> {
    /// Calls the function and waits for its result.
    fn call(&self, call: &Call<'_>) -> Result<String, Failure> {
        give_way(&self.shared.stopwatch);
        let namespace = self.module(call.module)?;
        give_way(&self.shared.stopwatch);
        let export: Value<'js> = self.attempt(namespace.get(call.export))?;
        let invoke = if call.is_http { &self.answer_http } else { &self.invoke };
        let returned = self.attempt(invoke.call((export, call.request_id, call.args)))?;
        let result = self.settled(returned).and_then(|result: String| {
            self.finish_jobs()?;
            self.check_rejections()?;
            Ok(result)
        });
        let unawaited = self.shared.pending.borrow().len();
        if unawaited > 0 {
            let line = format!(
                "[WARN] '{unawaited} operations were not awaited: the function ended without their answers'"
            );
            self.shared.lines.borrow_mut().push(&line);
        }
        result
    }

    /// Evaluates a module.
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
            let failure = Failure::thrown(&self.ctx, &self.explain, thrown, &self.limits);
            // The thrown value can have getters.
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

    /// Runs calls that the function did not await, as far as they go without waiting. A log that
    /// they emit or fail to emit counts.
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
        let mut failure = Failure::thrown(&self.ctx, &self.explain, reason, &self.limits);
        if let Some(thrown) = failure.message.strip_prefix("Uncaught ") {
            failure.message = format!("Uncaught (in promise) {thrown}");
        }
        Err(failure)
    }

    /// Waits for an operation or a timer, and settles it.
    fn wait(&self) -> Result<(), Failure> {
        let Shared { pending, stopwatch, started, .. } = self.shared;
        // Only actions have timers.
        let timer_ms = match self.kind {
            Some(FunctionKind::Action) => self.attempt(self.next_timer.call::<_, f64>(()))?,
            Some(FunctionKind::Query | FunctionKind::Mutation) | None => -1.0,
        };
        if pending.borrow().is_empty() && timer_ms < 0.0 {
            // An engine without memory for a promise's next step skips it.
            if rquickjs::String::from_str(self.ctx.clone(), &" ".repeat(ENOUGH_MEMORY_BYTES))
                .is_err()
            {
                self.ctx.catch();
                return Err(Failure::memory_limit(&self.limits));
            }
            let message = "Returned promise will never resolve: it awaits what nothing settles";
            return Err(Failure::new(FailureKind::NeverResolves, message));
        }
        let elapsed = started.elapsed();
        let left = self.limits.wall.saturating_sub(elapsed);
        let until_timer =
            Duration::try_from_secs_f64(timer_ms / 1e3).ok().map(|at| at.saturating_sub(elapsed));
        let wait = until_timer.map_or(left, |until_timer| until_timer.min(left));
        match stopwatch.pause(|| self.completions.recv_timeout(wait)) {
            Ok((id, answer)) => {
                // An operation that was answered at once is not pending, whatever else the host
                // does with it.
                if !pending.borrow_mut().remove(&id) {
                    return Ok(());
                }
                let answer = answer.unwrap_or_else(|| Err(SyscallError::given_up()));
                let settled = match answer {
                    Ok(text) => self.settle.call::<_, ()>((id, true, text)),
                    Err(error) => self.settle.call::<_, ()>((id, false, error.message, error.data)),
                };
                self.attempt(settled)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if wait == left => {
                Err(Failure::wall_limit(self.limits.wall))
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.attempt(self.fire_timers.call::<_, ()>(()))
            }
        }
    }
}
