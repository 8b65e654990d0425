//! From the start of an engine to its end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use audit_runtime::FunctionKind;
use rquickjs::context::intrinsic;
use rquickjs::loader::{Loader, Resolver};
use rquickjs::promise::PromiseState;
use rquickjs::{Context, Ctx, FromJs, Function, Module, Object, Promise, Runtime, Value};
use tokio::time::Instant;

use super::host::{HOST, LogLines, Shared, natives};
use super::stopwatch::Stopwatch;
use super::{
    Bytecode, Call, Completion, Failure, FailureKind, Limits, Loaded, Ran, Seed, SyscallError, Syscalls,
};
use crate::program::Env;

/// What a context has. Left out: a clock that goes on (`performance`; the prelude has one that keeps to the seed) and references
/// that tell when garbage is collected.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
    intrinsic::DOMException,
);

/// See [`super::run`].
pub(super) fn run(call: &Call<'_>, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
    let started = Start {
        kind: Some(call.function.kind),
        seed: *seed,
        limits: *limits,
        env: call.program.env_of(call.component),
        prelude: call.program.prelude(),
    };
    let loaded = Loaded(Arc::clone(call.program.modules()));
    HOST.set(host, || started.engine(loaded.clone(), loaded, |engine| engine.call(call)))
}

/// What a module holds.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    pub(crate) functions: Vec<DescribedFunction>,
    /// What the default export's `export()` gave: a schema, crons, a component's definition.
    pub(crate) exported: Option<serde_json::Value>,
    pub(crate) is_router: bool,
    pub(crate) routes: usize,
    /// The default export itself, if it is plain data.
    pub(crate) plain: Option<serde_json::Value>,
}

/// A function that a module exports.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescribedFunction {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) is_public: bool,
    pub(crate) args: serde_json::Value,
    pub(crate) returns: serde_json::Value,
}

/// Evaluates a module and says what it holds. Its imports come from `resolver` and `loader`.
pub(crate) fn describe<M>(
    module: &str,
    modules: M,
    env: &Env,
    prelude: &Bytecode,
) -> Result<Described, Failure>
where
    M: Resolver + Loader + Clone + 'static,
{
    let limits = Limits::default();
    let seed = Seed { random: 0, now_ms: 0.0 };
    let start = Start { kind: None, seed, limits, env, prelude };
    let ran = start.engine(modules.clone(), modules, |engine| {
        let namespace = engine.module(module)?;
        engine.attempt(engine.describe.call((namespace,)))
    });
    let text: String = ran.result?;
    serde_json::from_str(&text).map_err(|error| Failure::new(FailureKind::Load, error.to_string()))
}

/// What an engine starts with.
struct Start<'a> {
    /// No kind: only to learn what modules hold.
    kind: Option<FunctionKind>,
    seed: Seed,
    limits: Limits,
    env: &'a Env,
    prelude: &'a Bytecode,
}

impl Start<'_> {
    /// Starts an engine, does `work` in it, ends it.
    fn engine<R, L>(
        &self,
        resolver: R,
        loader: L,
        work: impl for<'js, 'a> FnOnce(&Engine<'js, 'a>) -> Result<String, Failure>,
    ) -> Ran
    where
        R: Resolver + 'static,
        L: Loader + 'static,
    {
        let (sender, completions) = channel();
        let shared = Shared {
            stopwatch: Rc::new(Stopwatch::started(self.limits.time)),
            lines: Rc::new(RefCell::new(LogLines::default())),
            pending: Rc::new(RefCell::new(HashSet::new())),
            sender,
            started: Instant::now(),
        };
        let result = self.run_in(resolver, loader, &shared, &completions, work);
        let log_lines = shared.lines.borrow_mut().take();
        Ran { result, log_lines, js_time: shared.stopwatch.spent() }
    }

    fn run_in<R, L>(
        &self,
        resolver: R,
        loader: L,
        shared: &Shared,
        completions: &Receiver<Completion>,
        work: impl for<'js, 'a> FnOnce(&Engine<'js, 'a>) -> Result<String, Failure>,
    ) -> Result<String, Failure>
    where
        R: Resolver + 'static,
        L: Loader + 'static,
    {
        let out_of_memory = |_| Failure::memory_limit(&self.limits);
        let runtime = Runtime::new().map_err(out_of_memory)?;
        runtime.set_memory_limit(self.limits.memory_bytes);
        runtime.set_max_stack_size(self.limits.stack_bytes);
        let stopwatch = Rc::clone(&shared.stopwatch);
        runtime.set_interrupt_handler(Some(Box::new(move || stopwatch.is_over())));
        runtime.set_loader(resolver, loader);
        let context = Context::custom::<Intrinsics>(&runtime).map_err(out_of_memory)?;
        context.with(|ctx| {
            let engine = self.install(ctx, shared, completions).map_err(out_of_memory)?;
            work(&engine)
        })
    }

    /// Evaluates the prelude.
    fn install<'js, 'a>(
        &'a self,
        ctx: Ctx<'js>,
        shared: &'a Shared,
        completions: &'a Receiver<Completion>,
    ) -> rquickjs::Result<Engine<'js, 'a>> {
        let (prelude, evaluated) = self.prelude.declare(&ctx)?.eval()?;
        evaluated.finish::<()>()?;
        let settings = Object::new(ctx.clone())?;
        settings.set("kind", self.kind.map(FunctionKind::as_str))?;
        settings.set("nowMs", self.seed.now_ms)?;
        settings.set("env", self.env.variables_json())?;
        settings.set("auditVars", self.env.audit_vars())?;
        let install: Function<'js> = prelude.get("install")?;
        let control: Object<'js> =
            install.call((natives(&ctx, shared, self.seed.random, self.env.audit_vars())?, settings))?;
        Ok(Engine {
            invoke: control.get("invoke")?,
            settle: control.get("settle")?,
            explain: control.get("explain")?,
            describe: control.get("describe")?,
            limits: self.limits,
            shared,
            completions,
            ctx,
        })
    }
}

/// An engine that runs.
struct Engine<'js, 'a> {
    ctx: Ctx<'js>,
    limits: Limits,
    shared: &'a Shared,
    completions: &'a Receiver<Completion>,
    invoke: Function<'js>,
    settle: Function<'js>,
    explain: Function<'js>,
    describe: Function<'js>,
}

impl<'js> Engine<'js, '_> {
    /// Calls the function and waits for its result.
    fn call(&self, call: &Call<'_>) -> Result<String, Failure> {
        let function = call.function;
        let namespace = self.module(function.module())?;
        let export: Value<'js> = self.attempt(namespace.get(function.export()))?;
        let kind = function.kind.as_str();
        let returned = self.attempt(self.invoke.call((export, kind, call.request_id, call.args)))?;
        self.settled(returned)
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

    /// What a step gave, or what it threw.
    fn attempt<T>(&self, step: rquickjs::Result<T>) -> Result<T, Failure> {
        step.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rquickjs::Error) -> Failure {
        let thrown = self.ctx.catch();
        if self.shared.stopwatch.is_over() {
            return Failure::time_limit(self.limits.time);
        }
        if matches!(error, rquickjs::Error::Allocation) {
            return Failure::memory_limit(&self.limits);
        }
        if error.is_exception() {
            let failure = Failure::thrown(&self.ctx, &self.explain, thrown, &self.limits);
            // What was thrown can have getters.
            return if self.shared.stopwatch.is_over() {
                Failure::time_limit(self.limits.time)
            } else {
                failure
            };
        }
        Failure::new(FailureKind::Thrown, format!("Uncaught {error}"))
    }

    /// Runs what there is to run until the promise is settled.
    fn settled<T: FromJs<'js>>(&self, promise: Promise<'js>) -> Result<T, Failure> {
        loop {
            if self.shared.stopwatch.is_over() {
                self.ctx.catch();
                return Err(Failure::time_limit(self.limits.time));
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

    /// Waits for an operation, and settles it.
    fn wait(&self) -> Result<(), Failure> {
        let Shared { pending, stopwatch, started, .. } = self.shared;
        if pending.borrow().is_empty() {
            let message = "Returned promise will never resolve: it awaits what nothing settles";
            return Err(Failure::new(FailureKind::NeverResolves, message));
        }
        let left = self.limits.wall.saturating_sub(started.elapsed());
        match stopwatch.pause(|| self.completions.recv_timeout(left)) {
            Ok((id, answer)) => {
                // What was answered at once is not waited for.
                if !pending.borrow_mut().remove(&id) {
                    return Ok(());
                }
                let answer =
                    answer.unwrap_or_else(|| Err(SyscallError::new("the host gave up on this operation")));
                let settled = match answer {
                    Ok(text) => self.settle.call::<_, ()>((id, true, text)),
                    Err(error) => self.settle.call::<_, ()>((id, false, error.message, error.data)),
                };
                self.attempt(settled)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Failure::wall_limit(self.limits.wall))
            }
        }
    }
}
