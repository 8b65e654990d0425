//! The Rust functions that JavaScript can call.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use audit_runtime::FunctionKind;
use functions_value::{Chance, Scanned};
use rquickjs::{Array, Ctx, Exception, Function, Object, String as Text, Value};
use scoped_tls_hkt::scoped_thread_local;
use tokio::time::Instant;

use super::audit::{self, Refused, Rules, Written};
use super::built_in;
use super::heap::Usage;
use super::stopwatch::Stopwatch;
use super::{
    Answer, Asking, Completion, Later, Seed, SyscallError, Syscalls, bytes, crypto, encodings,
    names, url, zones,
};

scoped_thread_local! {
    /// The handler of the operations of the call that runs on this thread. A nested call has its
    /// own, after which the outer one is restored. It is thread-local because the engine's
    /// functions live as long as the engine and so cannot borrow it.
    pub(super) static mut HOST: for<'a> &'a mut (dyn Syscalls + 'a)
}

/// The operation of an audit log.
const AUDIT_LOG: &str = "1.0/auditLog";

/// The maximum number of lines that one call can write to the console.
const MAX_LOG_LINES: usize = 256;

/// The maximum size of the lines that one call can write to the console, in bytes.
const MAX_LOG_BYTES: usize = 256 << 10;

/// The console output of a call, or of several, up to a limit.
#[derive(Debug, Default)]
pub struct LogLines {
    lines: Vec<String>,
    bytes: usize,
    is_full: bool,
}

impl LogLines {
    /// Adds a line. Lines beyond the limit are left out, and a last line says so.
    pub fn push(&mut self, line: &str) {
        if self.is_full {
            return;
        }
        if self.lines.len() == MAX_LOG_LINES || self.bytes + line.len() > MAX_LOG_BYTES {
            self.is_full = true;
            self.lines.push(format!(
                "[WARN] 'what follows is left out: a call can log {MAX_LOG_LINES} lines and {MAX_LOG_BYTES} bytes'"
            ));
            return;
        }
        self.bytes += line.len();
        self.lines.push(line.to_owned());
    }

    /// Takes the lines.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

/// The state that the functions of one engine share.
pub(super) struct Shared {
    pub(super) stopwatch: Stopwatch,
    pub(super) usage: Rc<Usage>,
    call: RefCell<OfCall>,
    /// Set while the engine is being prepared for calls.
    preparing: Cell<Option<Touched>>,
}

/// Whether the preparation used anything that differs between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touched(bool);

struct OfCall {
    kind: Option<FunctionKind>,
    seed: Seed,
    /// The random bits of the seed; created on first use.
    chance: Option<Chance>,
    started: Instant,
    lines: LogLines,
    /// The operations that are answered later, with the memory of their arguments, in bytes.
    pending: HashMap<u32, usize>,
    /// The members of audit logs that the call has been warned about.
    hollow: HashSet<String>,
    /// Not shared between calls, since a [`Later`] can outlive its call.
    asking: Arc<Asking>,
    sender: Option<Sender<Completion>>,
}

impl OfCall {
    fn new(kind: Option<FunctionKind>, seed: Seed, sender: Option<Sender<Completion>>) -> OfCall {
        OfCall {
            kind,
            seed,
            chance: None,
            started: Instant::now(),
            lines: LogLines::default(),
            pending: HashMap::new(),
            hollow: HashSet::new(),
            asking: Arc::default(),
            sender,
        }
    }
}

impl Shared {
    /// The state of an engine that is being prepared.
    pub(super) fn new(stopwatch: Stopwatch, usage: Rc<Usage>) -> Shared {
        let call = OfCall::new(None, Seed { random: 0.into(), now_ms: 0.0 }, None);
        let preparing = Cell::new(Some(Touched(false)));
        Shared { stopwatch, usage, call: RefCell::new(call), preparing }
    }

    pub(super) fn begin(&self, kind: Option<FunctionKind>, seed: Seed, sender: Sender<Completion>) {
        self.preparing.set(None);
        *self.call.borrow_mut() = OfCall::new(kind, seed, Some(sender));
    }

    pub(super) fn end(&self) {
        *self.call.borrow_mut() = OfCall::new(None, Seed { random: 0.into(), now_ms: 0.0 }, None);
        self.preparing.set(Some(Touched(false)));
    }

    /// Whether the preparation used anything that differs between calls.
    pub(super) fn is_touched(&self) -> bool {
        self.preparing.get() == Some(Touched(true))
    }

    /// Records the use of something that differs between calls.
    fn touch(&self) {
        if self.preparing.get().is_some() {
            self.preparing.set(Some(Touched(true)));
        }
    }

    pub(super) fn push_line(&self, line: &str) {
        self.call.borrow_mut().lines.push(line);
    }

    pub(super) fn take_lines(&self) -> Vec<String> {
        self.call.borrow_mut().lines.take()
    }

    pub(super) fn pending(&self) -> usize {
        self.call.borrow().pending.len()
    }

    /// Removes an operation from the pending ones. Returns whether it was pending.
    pub(super) fn settles(&self, id: u32) -> bool {
        let held = self.call.borrow_mut().pending.remove(&id);
        held.inspect(|bytes| self.usage.give_back(*bytes)).is_some()
    }

    /// The time since the call began.
    pub(super) fn elapsed(&self) -> Duration {
        self.call.borrow().started.elapsed()
    }

    fn random(&self) -> u64 {
        self.touch();
        let call = &mut *self.call.borrow_mut();
        call.chance.get_or_insert_with(|| Chance::new(call.seed.random)).next_u64()
    }

    /// Counts the host's copy of an operation's arguments, which may be many times as large as
    /// their text, towards the function's memory. The body of a log is not parsed.
    fn hold(&self, op: &str, args: &str) -> Result<usize, SyscallError> {
        if op == AUDIT_LOG {
            return Ok(0);
        }
        // Half of the maximum, which is reached only while the arguments are parsed.
        let bytes = Scanned::of(args.as_bytes()).tree_bytes() / 2;
        if self.usage.hold(bytes) {
            return Ok(bytes);
        }
        Err(SyscallError::new("the function has too little memory for the operation's arguments"))
    }

    /// Calls the host while the stopwatch is stopped.
    fn ask<T>(
        &self,
        operation: impl FnOnce(&mut dyn Syscalls) -> Result<T, SyscallError>,
    ) -> Result<T, SyscallError> {
        self.touch();
        if self.stopwatch.is_over() {
            return Err(SyscallError::new("the function's time is over"));
        }
        if self.preparing.get().is_some() || !HOST.is_set() {
            return Err(SyscallError::new(
                "Convex operations cannot be used while modules are loaded, only in a function's handler",
            ));
        }
        self.stopwatch.pause(|| HOST.with(|host| operation(host)))
    }

    /// Starts the asynchronous operation `id`. Returns `None` if it is answered later.
    fn start(
        &self,
        ctx: &Ctx<'_>,
        id: u32,
        op: &str,
        args: &str,
    ) -> rquickjs::Result<Option<String>> {
        let (asking, sender) = {
            let call = self.call.borrow();
            (Arc::clone(&call.asking), call.sender.clone())
        };
        let held = self.hold(op, args).map_err(|error| throw(ctx, &error))?;
        let later = Later { id, asking: Arc::clone(&asking), sender };
        asking.begin(id);
        let answer = self.ask(|host| Ok(host.async_syscall(op, args, later)));
        let is_dropped = asking.end();
        let answer = match answer {
            Ok(Answer::Now(answer)) => answer,
            Ok(Answer::Later) if is_dropped => Err(SyscallError::dropped()),
            Ok(Answer::Later) => {
                self.call.borrow_mut().pending.insert(id, held);
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        self.usage.give_back(held);
        answer.map(Some).map_err(|error| throw(ctx, &error))
    }

    /// Runs `log.audit`. Returns `None` if it is answered later.
    fn audit<'js>(
        &self,
        ctx: &Ctx<'js>,
        id: u32,
        rules: &Rules<'_, 'js>,
        body: Value<'js>,
    ) -> rquickjs::Result<Option<String>> {
        let refuse = |reason: &str| {
            let refused = self.ask(|host| Ok(host.refuse_audit(reason)));
            refused.unwrap_or_else(|error| error)
        };
        match audit::write(ctx, rules, body) {
            Ok(Written { args, hollow }) => {
                for (path, class) in hollow {
                    self.warn_of_hollow(&path, &class);
                }
                self.start(ctx, id, AUDIT_LOG, &args)
            }
            Err(Refused::Because(reason)) => Err(throw(ctx, &refuse(&reason))),
            Err(Refused::Thrown(thrown, place)) => {
                let at = if place.is_empty() { place } else { format!(" (at {place})") };
                refuse(&format!("something in the audit log body threw an error{at}"));
                Err(ctx.throw(thrown))
            }
            Err(Refused::Stopped(error)) => Err(error),
        }
    }

    /// Warns once per member that its content is not logged.
    fn warn_of_hollow(&self, path: &str, class: &str) {
        // The elements of an array count as one member.
        let elements =
            path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
        let member = elements.collect::<Vec<_>>().join("[]");
        let call = &mut *self.call.borrow_mut();
        if call.hollow.len() < MAX_LOG_LINES && call.hollow.insert(member) {
            call.lines.push(&format!(
                "[WARN] 'log.audit: {path} is logged as {{}}: \
                 JSON has no form for the content of {class}'"
            ));
        }
    }
}

/// The functions passed to the prelude.
///
/// All are created here, before an image of the engine is taken. The closure of a function is
/// outside the engine's heap and freed with the function; restoring the image would leak that of a
/// function created by a call.
pub(super) fn natives<'js>(
    ctx: &Ctx<'js>,
    shared: &Rc<Shared>,
    audit_vars: Vec<String>,
) -> rquickjs::Result<Object<'js>> {
    let natives = Object::new(ctx.clone())?;

    let operations = Rc::clone(shared);
    let syscall = move |ctx: Ctx<'js>, op: Text<'js>, args: Text<'js>| {
        let (op, args) = (op.to_string()?, args.to_string()?);
        let held = operations.hold(&op, &args).map_err(|error| throw(&ctx, &error))?;
        let answer = operations.ask(|host| host.syscall(&op, &args));
        operations.usage.give_back(held);
        answer.map_err(|error| throw(&ctx, &error))
    };
    natives.set("syscall", Function::new(ctx.clone(), syscall)?)?;

    let operations = Rc::clone(shared);
    let async_syscall = move |ctx: Ctx<'js>, id: u32, op: Text<'js>, args: Text<'js>| {
        operations.start(&ctx, id, &op.to_string()?, &args.to_string()?)
    };
    natives.set("asyncSyscall", Function::new(ctx.clone(), async_syscall)?)?;

    let operations = Rc::clone(shared);
    let audit = move |ctx: Ctx<'js>,
                      id: u32,
                      body: Value<'js>,
                      plain: Value<'js>,
                      arrays: Object<'js>,
                      symbols: Array<'js>,
                      rare: Function<'js>| {
        let stopwatch = &operations.stopwatch;
        let rules = Rules { symbols, names: &audit_vars, plain, arrays, rare, stopwatch };
        operations.audit(&ctx, id, &rules, body)
    };
    natives.set("audit", Function::new(ctx.clone(), audit)?)?;

    let of_call = Rc::clone(shared);
    let log = move |line: Text<'js>| -> rquickjs::Result<()> {
        of_call.touch();
        of_call.push_line(&line.to_string()?);
        Ok(())
    };
    natives.set("log", Function::new(ctx.clone(), log)?)?;

    let of_call = Rc::clone(shared);
    let random = move || unit(of_call.random());
    natives.set("random", Function::new(ctx.clone(), random)?)?;

    let of_call = Rc::clone(shared);
    let kind = move || {
        of_call.touch();
        of_call.call.borrow().kind.map(FunctionKind::as_str)
    };
    natives.set("kind", Function::new(ctx.clone(), kind)?)?;

    let of_call = Rc::clone(shared);
    let start = move || {
        of_call.touch();
        of_call.call.borrow().seed.now_ms
    };
    natives.set("startMs", Function::new(ctx.clone(), start)?)?;

    let of_call = Rc::clone(shared);
    let elapsed = move || {
        of_call.touch();
        of_call.elapsed().as_secs_f64() * 1e3
    };
    natives.set("elapsedMs", Function::new(ctx.clone(), elapsed)?)?;

    let of_call = Rc::clone(shared);
    let is_over = move || of_call.stopwatch.is_over();
    natives.set("isOver", Function::new(ctx.clone(), is_over)?)?;

    // Excludes proxies, which can report any length.
    let is_array = |value: Value<'js>| value.is_array();
    natives.set("isArray", Function::new(ctx.clone(), is_array)?)?;
    let collide = |json: Text<'js>| rquickjs::Result::Ok(names::collide(&json.to_string()?));
    natives.set("namesCollide", Function::new(ctx.clone(), collide)?)?;

    let usage = Rc::clone(&shared.usage);
    let load = move |ctx: Ctx<'js>, name: String| built_in::load(&ctx, &name, &usage);
    natives.set("load", Function::new(ctx.clone(), load)?)?;

    bytes::add(ctx, &natives)?;
    encodings::add(ctx, &natives)?;
    zones::add(ctx, &natives)?;
    crypto::add(ctx, &natives)?;
    url::add(ctx, &natives)?;
    Ok(natives)
}

/// Lets the host pause the call at the end of a time slice. Called by the engine periodically while
/// JavaScript runs, and between the steps that start and end an engine.
pub(super) fn give_way(stopwatch: &Stopwatch) {
    if stopwatch.ends_slice() && HOST.is_set() {
        stopwatch.pause(|| HOST.with(|host| host.give_way()));
    }
}

/// Throws a failed operation as an `Error`, with its data where `convex/server` looks for it.
fn throw(ctx: &Ctx<'_>, error: &SyscallError) -> rquickjs::Error {
    let thrown = || {
        let exception = Exception::from_message(ctx.clone(), &error.message)?;
        if let Some(data) = &error.data {
            exception.set("data", ctx.json_parse(data.as_str())?)?;
        }
        Ok(ctx.throw(exception.into_value()))
    };
    thrown().unwrap_or_else(|error: rquickjs::Error| error)
}

/// The upper 53 bits as a number in [0, 1).
fn unit(bits: u64) -> f64 {
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    (bits >> 11) as f64 * STEP
}
