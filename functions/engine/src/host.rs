//! The functions of Rust that JavaScript can call.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use functions_value::{Chance, ChanceSeed};
use rquickjs::{Array, Ctx, Exception, Function, Object, String as Text, Value};
use scoped_tls_hkt::scoped_thread_local;
use tokio::time::Instant;

use super::audit::{self, Refused, Rules, Written};
use super::built_in;
use super::stopwatch::Stopwatch;
use super::{Answer, Asking, Completion, Later, SyscallError, Syscalls, bytes, crypto, url};

scoped_thread_local! {
    /// The handler of the operations of the call that runs on this thread. A nested call has its
    /// own, after which the outer one is restored. It is kept here since the functions of an engine
    /// live as long as the engine and cannot borrow it.
    pub(super) static mut HOST: for<'a> &'a mut (dyn Syscalls + 'a)
}

/// The most lines that one call can write to the console.
const MAX_LOG_LINES: usize = 256;

/// The most bytes of all those lines.
const MAX_LOG_BYTES: usize = 256 << 10;

/// The console output of a call.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    lines: Vec<String>,
    bytes: usize,
    is_full: bool,
}

impl LogLines {
    pub(super) fn push(&mut self, line: &str) {
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

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

/// The state that the functions of one engine share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) stopwatch: Rc<Stopwatch>,
    pub(super) lines: Rc<RefCell<LogLines>>,
    /// The pending operations.
    pub(super) pending: Rc<RefCell<HashSet<u32>>>,
    /// The members of audit logs that the call was warned about.
    pub(super) hollow: Rc<RefCell<HashSet<String>>>,
    pub(super) asking: Arc<Asking>,
    pub(super) sender: Sender<Completion>,
    pub(super) started: Instant,
}

impl Shared {
    /// Starts the asynchronous operation `id`. None if it is answered later.
    fn start(
        &self,
        ctx: &Ctx<'_>,
        id: u32,
        op: &str,
        args: &str,
    ) -> rquickjs::Result<Option<String>> {
        let later =
            Later { id, asking: Arc::clone(&self.asking), sender: Some(self.sender.clone()) };
        self.asking.begin(id);
        let answer = asked(&self.stopwatch, |host| Ok(host.async_syscall(op, args, later)));
        let is_given_up = self.asking.end();
        let answer = match answer {
            Ok(Answer::Now(answer)) => answer,
            Ok(Answer::Later) if is_given_up => Err(SyscallError::given_up()),
            Ok(Answer::Later) => {
                self.pending.borrow_mut().insert(id);
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        answer.map(Some).map_err(|error| throw(ctx, &error))
    }
}

impl Shared {
    /// `log.audit`. None if it is answered later.
    fn audit<'js>(
        &self,
        ctx: &Ctx<'js>,
        id: u32,
        rules: &Rules<'_, 'js>,
        body: Value<'js>,
    ) -> rquickjs::Result<Option<String>> {
        let refuse = |reason: &str| {
            let refused = asked(&self.stopwatch, |host| Ok(host.refuse_audit(reason)));
            refused.unwrap_or_else(|error| error)
        };
        match audit::write(ctx, rules, body) {
            Ok(Written { args, hollow }) => {
                for (path, class) in hollow {
                    self.warn_of_hollow(&path, &class);
                }
                self.start(ctx, id, "1.0/auditLog", &args)
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

    /// Warns once that a member's content is not logged.
    fn warn_of_hollow(&self, path: &str, class: &str) {
        // The elements of an array count as one member.
        let elements =
            path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
        let member = elements.collect::<Vec<_>>().join("[]");
        if self.hollow.borrow().len() < MAX_LOG_LINES && self.hollow.borrow_mut().insert(member) {
            self.lines.borrow_mut().push(&format!(
                "[WARN] 'log.audit: {path} is logged as {{}}: JSON has no form for what a {class} holds'"
            ));
        }
    }
}

/// The functions passed to the prelude.
pub(super) fn natives<'js>(
    ctx: &Ctx<'js>,
    shared: &Shared,
    random: ChanceSeed,
    audit_vars: Vec<String>,
) -> rquickjs::Result<Object<'js>> {
    let natives = Object::new(ctx.clone())?;

    let stopwatch = Rc::clone(&shared.stopwatch);
    let syscall = move |ctx: Ctx<'js>, op: Text<'js>, args: Text<'js>| {
        let (op, args) = (op.to_string()?, args.to_string()?);
        let answer = asked(&stopwatch, |host| host.syscall(&op, &args));
        answer.map_err(|error| throw(&ctx, &error))
    };
    natives.set("syscall", Function::new(ctx.clone(), syscall)?)?;

    let operations = shared.clone();
    let async_syscall = move |ctx: Ctx<'js>, id: u32, op: Text<'js>, args: Text<'js>| {
        operations.start(&ctx, id, &op.to_string()?, &args.to_string()?)
    };
    natives.set("asyncSyscall", Function::new(ctx.clone(), async_syscall)?)?;

    let operations = shared.clone();
    let audit = move |ctx: Ctx<'js>,
                      id: u32,
                      body: Value<'js>,
                      plain: Value<'js>,
                      arrays: Object<'js>,
                      symbols: Array<'js>,
                      rare: Function<'js>| {
        let stopwatch = &*operations.stopwatch;
        let rules = Rules { symbols, names: &audit_vars, plain, arrays, rare, stopwatch };
        operations.audit(&ctx, id, &rules, body)
    };
    natives.set("audit", Function::new(ctx.clone(), audit)?)?;

    let lines = Rc::clone(&shared.lines);
    let log = move |line: Text<'js>| -> rquickjs::Result<()> {
        lines.borrow_mut().push(&line.to_string()?);
        Ok(())
    };
    natives.set("log", Function::new(ctx.clone(), log)?)?;

    let chance: OnceCell<RefCell<Chance>> = OnceCell::new();
    let random = move || {
        let chance = chance.get_or_init(|| RefCell::new(Chance::new(random)));
        unit(chance.borrow_mut().next_u64())
    };
    natives.set("random", Function::new(ctx.clone(), random)?)?;

    let started = shared.started;
    natives.set(
        "elapsedMs",
        Function::new(ctx.clone(), move || started.elapsed().as_secs_f64() * 1e3)?,
    )?;

    let stopwatch = Rc::clone(&shared.stopwatch);
    natives.set("isOver", Function::new(ctx.clone(), move || stopwatch.is_over())?)?;

    // Without proxies, which can report any length.
    let is_array = |value: Value<'js>| value.is_array();
    natives.set("isArray", Function::new(ctx.clone(), is_array)?)?;

    let load = |ctx: Ctx<'js>, name: String| built_in::load(&ctx, &name);
    natives.set("load", Function::new(ctx.clone(), load)?)?;

    // Those that few calls need are added when one does.
    let extend = |ctx: Ctx<'js>, natives: Object<'js>| {
        bytes::add(&ctx, &natives)?;
        crypto::add(&ctx, &natives)?;
        url::add(&ctx, &natives)
    };
    natives.set("extend", Function::new(ctx.clone(), extend)?)?;
    Ok(natives)
}

/// Lets the host pause the call if a slice of its processor time is over. Called by the engine
/// every so often while JavaScript runs, and between the steps that start and end an engine.
pub(super) fn give_way(stopwatch: &Stopwatch) {
    if stopwatch.ends_slice() && HOST.is_set() {
        stopwatch.pause(|| HOST.with(|host| host.give_way()));
    }
}

/// Calls the host while the stopwatch is stopped.
fn asked<T>(
    stopwatch: &Stopwatch,
    ask: impl FnOnce(&mut dyn Syscalls) -> Result<T, SyscallError>,
) -> Result<T, SyscallError> {
    if stopwatch.is_over() {
        return Err(SyscallError::new("the function's time is over"));
    }
    if !HOST.is_set() {
        return Err(SyscallError::new(
            "Convex operations cannot be used while modules are loaded, only in a function's handler",
        ));
    }
    stopwatch.pause(|| HOST.with(|host| ask(host)))
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

/// The upper 53 bits as a number from 0 up to but not including 1.
fn unit(bits: u64) -> f64 {
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    (bits >> 11) as f64 * STEP
}
