//! An engine that is ready for calls.
//!
//! What starting an engine costs is what is the same for each call: the language's own objects, the
//! reading of modules, their evaluation. So an engine can be kept: an image of its heap is taken
//! once it is ready, and after each call the heap is made what it was. A call leaves nothing
//! behind, as in an engine of its own, since all that an engine knows is in its heap.
//!
//! One of the three places in this crate with `unsafe`. An image can be restored if what is outside
//! of the heap is as it was:
//!
//! - Rust values that refer to values of the engine. Those of a call ([`Rejections`]) are dropped
//!   before; those that stay ([`Kept`]) were made before the image, which counts them.
//! - Rust values that values of the engine refer to. They are the functions of `host.rs`, all made
//!   before the image. A function in the heap is freed with its Rust closure, so [`Kept`] holds
//!   each of them: no call can free one that the image brings back.
//! - What the engine's bindings keep beside the heap: the handlers of the runtime, set once, and
//!   the prototypes of Rust classes. Functions are the only class in use, and are made before.
//! - The engine itself keeps nothing outside of its heap but the addresses of C functions.
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

/// An engine, with the modules that a call can reach.
pub(super) struct Realm {
    // Values of an engine are dropped before it.
    kept: Kept,
    rejections: Rejections,
    context: Context,
    shared: Rc<Shared>,
    image: Option<(Image, Outside)>,
    heap: Heap,
    runtime: Runtime,
}

/// What is outside of the heap and changes with it.
struct Outside {
    loaded: Loaded,
    names: HashSet<String>,
}

/// Values of the engine that outlive calls.
struct Kept {
    control: Persistent<Object<'static>>,
    /// The exports of the functions' module, if it was evaluated before any call.
    namespace: Option<Persistent<Object<'static>>>,
    /// The functions of Rust.
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
        // Allocations so far count but cannot fail, since neither creating a context nor reading a
        // module survives that.
        let kept = context.with(|ctx| {
            let kept = install(&ctx, env, &shared).map_err(out_of_memory)?;
            give_way(&shared.stopwatch);
            declare(&ctx)
                .map_err(|error| Failure::new(FailureKind::Load, failure::text_of(&ctx, &error)))?;
            Ok(kept)
        })?;
        Ok(Realm { kept, rejections, context, shared, image: None, heap, runtime })
    }

    /// Makes it one that can be kept for other calls of this module's functions, evaluated already
    /// if that does not depend on the call: on the time, on chance, on the kind of the function, or
    /// on what the host says. What cannot be evaluated so is evaluated by each call, within its
    /// limits.
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

    /// The memory that it takes if it is kept, in bytes.
    pub(super) fn kept_bytes(&self) -> Option<usize> {
        self.image.as_ref().map(|(image, _)| image.bytes())
    }

    /// Makes it what it was before the call, if it can be kept.
    pub(super) fn restore(&mut self) {
        self.rejections.clear();
        self.shared.end();
        let Some((image, Outside { loaded, names })) = &self.image else { return };
        loaded.restore(names);
        // SAFETY: it is the heap's last image, since `take_image` alone takes any. The engine runs
        // in `with` only, which nothing that has this as `&mut` is in. Why nothing refers to what a
        // call left behind, and all that the heap refers to is as it was: see above.
        unsafe { self.heap.restore(image) };
    }

    /// Does something in the engine within limits, which begin now.
    pub(super) fn with<T>(
        &self,
        limits: &Limits,
        work: impl for<'js> FnOnce(Ctx<'js>, Control<'js>, Option<Object<'js>>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Limits { stack_bytes, memory_bytes, .. } = *limits;
        // SAFETY: the pointer is that of the living runtime. From here on its stack is measured
        // from this frame: it may have been started deeper or less deep in it.
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
    /// An engine ends as it was before its call, whatever that did to it.
    fn drop(&mut self) {
        self.restore();
    }
}

/// Evaluates the prelude.
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
