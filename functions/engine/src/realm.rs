//! An engine that is ready for calls.
//!
//! Starting an engine spends its time on work that is the same for each call: creating the
//! built-in objects, and reading and evaluating modules. So an engine can be kept: an image of its
//! heap is taken once it is ready, and restored after each call. Since all state of an engine is in
//! its heap, a call leaves nothing behind, as if each had its own engine.
//!
//! One of the three files in this crate with `unsafe`. An image may be restored if everything
//! outside the heap is as it was:
//!
//! - Rust values that refer to values of the engine: those of a call ([`Rejections`]) are dropped
//!   before; those that stay ([`Kept`]) were created before the image, whose reference counts
//!   include them.
//! - Rust values that values of the engine refer to: these are the functions of `host.rs`, all
//!   created before the image. Freeing a function in the heap frees its Rust closure, so [`Kept`]
//!   holds each of them, and no call can free one that the image brings back.
//! - The state of the engine's bindings outside the heap: the handlers of the runtime, which are
//!   set once, and the prototypes of Rust classes. Functions are the only class in use, and their
//!   prototype is created before the image.
//! - The engine itself has nothing outside its heap but the addresses of C functions.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::rc::Rc;

use rquickjs::context::intrinsic;
use rquickjs::loader::{Loader, Resolver};
use rquickjs::{Context, Ctx, Function, Object, Persistent, Runtime, Value, qjs};

use super::built_in::{self, PRELUDE};
use super::failure;
use super::heap::{Heap, Image, Usage};
use super::host::{Shared, give_way, natives};
use super::outer;
use super::rejections::Rejections;
use super::stopwatch::Stopwatch;
use super::{Env, Failure, FailureKind, Limits, Loaded};

/// The intrinsics of a context. `performance` is left out, since its clock advances (the prelude
/// has one that follows the seed), and so are weak references, which reveal garbage collection, and
/// `eval`, since an engine that runs out of memory while it compiles reads and writes out of
/// bounds.
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

/// Garbage collection starts at a sixteenth of the heap's limit, which most calls never reach, but
/// at no less than this many bytes: the engine's default.
const MIN_GC_THRESHOLD_BYTES: usize = 256 << 10;

/// An engine, with the modules that a call can reach.
pub(super) struct Realm {
    // Fields drop in this order: the engine's values must go before the engine.
    kept: Kept,
    rejections: Rejections,
    context: Context,
    shared: Rc<Shared>,
    image: Option<(Image, Outside)>,
    heap: Heap,
    runtime: Runtime,
}

/// The state outside the heap that is restored with it.
struct Outside {
    loaded: Loaded,
    names: HashSet<String>,
}

/// Values of the engine that outlive calls.
struct Kept {
    control: Persistent<Object<'static>>,
    /// The exports of the functions' module, if it was evaluated before any call.
    namespace: Option<Persistent<Object<'static>>>,
    _natives: Vec<Persistent<Value<'static>>>,
}

/// The prelude's functions for the engine's side of a call.
pub(super) struct Control<'js> {
    pub(super) invoke: Function<'js>,
    pub(super) answer_http: Function<'js>,
    pub(super) settle: Function<'js>,
    pub(super) explain: Function<'js>,
    pub(super) describe: Function<'js>,
    pub(super) next_timer: Function<'js>,
    pub(super) fire_timers: Function<'js>,
}

impl<'js> Control<'js> {
    fn of(control: &Object<'js>) -> rquickjs::Result<Control<'js>> {
        Ok(Control {
            invoke: control.get("invoke")?,
            answer_http: control.get("answerHttp")?,
            settle: control.get("settle")?,
            explain: control.get("explain")?,
            describe: control.get("describe")?,
            next_timer: control.get("nextTimer")?,
            fire_timers: control.get("fireTimers")?,
        })
    }
}

impl Realm {
    /// Starts an engine and declares modules.
    pub(super) fn start<M>(
        env: &Env,
        limits: &Limits,
        modules: M,
        declare: impl Fn(&Ctx<'_>) -> rquickjs::Result<()>,
    ) -> Result<Realm, Failure>
    where
        M: Resolver + Loader + Clone + 'static,
    {
        let usage = Rc::new(Usage::unlimited());
        let stopwatch = Stopwatch::started(limits, Rc::clone(&usage));
        let shared = Rc::new(Shared::new(stopwatch, Rc::clone(&usage)));
        let out_of_memory = |_| Failure::memory_limit(limits);
        let heap = Heap::new(usage);
        let runtime = Runtime::new_with_alloc(heap.clone()).map_err(out_of_memory)?;
        runtime.set_max_stack_size(limits.stack_bytes);
        let interrupted = Rc::clone(&shared);
        runtime.set_interrupt_handler(Some(Box::new(move || {
            give_way(&interrupted.stopwatch);
            interrupted.stopwatch.is_over()
        })));
        runtime.set_loader(modules.clone(), modules);
        let rejections = Rejections::of(&runtime);
        give_way(&shared.stopwatch);
        let context = Context::custom::<Intrinsics>(&runtime).map_err(out_of_memory)?;
        give_way(&shared.stopwatch);
        // Until a call begins, allocations count but never fail: the engine would not survive a
        // failure while it creates a context or reads a module.
        let kept = context.with(|ctx| {
            let kept = install(&ctx, env, &shared).map_err(out_of_memory)?;
            give_way(&shared.stopwatch);
            declare(&ctx)
                .map_err(|error| Failure::new(FailureKind::Load, failure::text_of(&ctx, &error)))?;
            Ok(kept)
        })?;
        Ok(Realm { kept, rejections, context, shared, image: None, heap, runtime })
    }

    /// Prepares the engine to be kept for other calls of this module's functions. Evaluates the
    /// module in advance, unless its evaluation depends on the call: on the time, on randomness, on
    /// the kind of the function, or on the host. Such a module is evaluated by each call, within
    /// the call's limits.
    pub(super) fn keep(&mut self, loaded: Loaded, module: &str, limits: &Limits) {
        let warmed = self.context.with(|ctx| {
            let control = self.kept.control.clone().restore(&ctx)?;
            let warmed = control.get::<_, Function<'_>>("warm")?.call::<_, ()>(());
            warmed.inspect_err(|_| drop(ctx.catch()))
        });
        if warmed.is_err() {
            return;
        }
        self.take_image(loaded.clone());
        match self.evaluated(module, limits) {
            Some(namespace) => {
                self.kept.namespace = Some(namespace);
                self.shared.end();
                self.take_image(loaded);
            }
            None => self.restore(),
        }
    }

    fn take_image(&mut self, loaded: Loaded) {
        let names = loaded.names();
        self.image = Some((self.heap.image(), Outside { loaded, names }));
    }

    /// The memory of the kept engine, in bytes, or `None` if it cannot be kept.
    pub(super) fn kept_bytes(&self) -> Option<usize> {
        self.image.as_ref().map(|(image, _)| image.bytes())
    }

    /// Restores the state before the call, if there is an image.
    pub(super) fn restore(&mut self) {
        self.rejections.clear();
        self.shared.end();
        let Some((image, Outside { loaded, names })) = &self.image else { return };
        loaded.restore(names);
        // SAFETY: this is the heap's last image, since only `take_image` takes one. The engine runs
        // only within `with`, which borrows `self`, so it is not running now. The module's
        // documentation explains why nothing outside refers to values of the call, and why
        // everything that the heap refers to is unchanged.
        unsafe { self.heap.restore(image) };
    }

    /// Does `work` in the engine within the limits, which start now.
    pub(super) fn with<T>(
        &self,
        limits: &Limits,
        work: impl for<'js> FnOnce(Ctx<'js>, Control<'js>, Option<Object<'js>>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Limits { stack_bytes, memory_bytes, .. } = *limits;
        // SAFETY: the pointer is that of the live runtime. This measures its stack from the current
        // frame, since the engine may have been started at another depth.
        unsafe { qjs::JS_UpdateStackTop(self.context.get_runtime_ptr()) };
        self.runtime.set_max_stack_size(stack_bytes);
        self.runtime.set_gc_threshold((memory_bytes / 16).max(MIN_GC_THRESHOLD_BYTES));
        self.shared.stopwatch.restart(limits);
        self.shared.usage.limit(memory_bytes.saturating_sub(outer::taken().bytes));
        let done = self.context.with(|ctx| {
            let restored = || {
                let control = Control::of(&self.kept.control.clone().restore(&ctx)?)?;
                let namespace = self.kept.namespace.clone();
                Ok((control, namespace.map(|namespace| namespace.restore(&ctx)).transpose()?))
            };
            let restored = restored().map_err(|_: rquickjs::Error| {
                if self.shared.stopwatch.is_over() {
                    Failure::over(&self.shared.stopwatch, limits)
                } else {
                    Failure::memory_limit(limits)
                }
            });
            let (control, namespace) = restored?;
            work(ctx.clone(), control, namespace)
        });
        self.shared.usage.limit(usize::MAX);
        done
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn rejections(&self) -> &Rejections {
        &self.rejections
    }
}

impl Drop for Realm {
    /// Restores the engine before it ends, so that it ends cleanly whatever its call did to it.
    fn drop(&mut self) {
        self.restore();
    }
}

fn install(ctx: &Ctx<'_>, env: &Env, shared: &Rc<Shared>) -> rquickjs::Result<Kept> {
    let prelude =
        built_in::bytecode(PRELUDE).ok_or_else(|| rquickjs::Error::new_loading(PRELUDE))?;
    let (prelude, evaluated) = prelude.declare(ctx)?.eval()?;
    evaluated.finish::<()>()?;
    let settings = Object::new(ctx.clone())?;
    settings.set("env", env.variables_json())?;
    settings.set("auditVars", env.audit_vars())?;
    let install: Function<'_> = prelude.get("install")?;
    let natives = natives(ctx, shared, env.audit_vars())?;
    let functions = natives.props::<String, Value<'_>>();
    let functions = functions.map(|member| Ok(Persistent::save(ctx, member?.1)));
    let functions = functions.collect::<rquickjs::Result<_>>()?;
    let control: Object<'_> = install.call((natives, settings))?;
    Ok(Kept { control: Persistent::save(ctx, control), namespace: None, _natives: functions })
}
