//! One call of one function, in one JavaScript engine of its own.
//!
//! Every call has a fresh engine: nothing that a call does to its globals, its modules or its
//! memory reaches another call, and the memory limit is exact. Precompiled modules make that
//! affordable (see `bytecode.rs`), and threads that keep engines ([`KeptEngines`]) restore one to
//! how it was before any call (see `realm.rs`), which is the same and takes less.
//!
//! A function reaches the host through the three operations of Convex's function ABI,
//! `Convex.syscall`, `Convex.asyncSyscall` and `Convex.jsSyscall`. The first two go to the
//! [`Syscalls`] of the call, JSON text in and out.

mod audit;
pub mod built_in;
mod bytecode;
mod bytes;
mod crypto;
mod env;
mod failure;
mod heap;
mod host;
mod kept;
mod modules;
mod outer;
mod realm;
mod rejections;
mod running;
mod stopwatch;
mod url;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use audit_runtime::FunctionKind;
use functions_value::ChanceSeed;

pub use bytecode::{Bytecode, Keep};
pub use env::Env;
pub use kept::{Keeping, KeptEngines};
use modules::Loaded;
pub use modules::{ModuleName, Modules};
pub use running::{Described, DescribedFunction, describe};

/// Where the routes of a router are.
#[derive(Debug, Clone, Copy)]
pub struct Mount<'a> {
    /// The beginning of their paths, with a slash at its end.
    pub prefix: &'a str,
    /// Whether no other router may have a route for the request. The last one answers 404, others
    /// give [`UNROUTED`].
    pub is_last: bool,
}

/// What a call of a router gives that has no route for its request, as JSON.
pub const UNROUTED: &str = "\"unrouted\"";

/// A function and its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The modules of its program.
    pub modules: &'a Arc<Modules>,
    /// The module that it is in.
    pub module: &'a str,
    /// What the module exports it as.
    pub export: &'a str,
    /// Query, mutation or action.
    pub kind: FunctionKind,
    /// If the export is a router, which answers the HTTP request that `args` describes.
    pub http: Option<Mount<'a>>,
    /// What it finds around it.
    pub env: &'a Env,
    /// The arguments as the text of a JSON array, such as `[{"id":"…"}]`.
    pub args: &'a str,
    /// A token that an action passes back with some operations.
    pub request_id: &'a str,
}

/// The limits of one call. Exceeding one fails that call alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processor time of JavaScript, with that of the calls that it makes on its thread. Neither
    /// the time that the host takes for operations nor what other threads take counts.
    pub time: Duration,
    /// Time from the beginning to the end of the call, waiting included.
    pub wall: Duration,
    /// The heap of the engine, in bytes, everything that the engine itself needs included (about
    /// 400 KB), together with the engines of the calls that wait for this one. A call that goes
    /// beyond it is ended soon after, so that the engine can have 32 MiB more for a moment.
    pub memory_bytes: usize,
    /// The stack, in bytes.
    pub stack_bytes: usize,
}

impl Default for Limits {
    /// Those of a query or a mutation: 1 s of JavaScript, 64 MiB, and 512 KiB of stack.
    fn default() -> Limits {
        Limits {
            time: Duration::from_secs(1),
            wall: Duration::from_secs(600),
            memory_bytes: 64 << 20,
            stack_bytes: 512 << 10,
        }
    }
}

/// The randomness and time of a call. The same seed gives the same run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seed {
    /// The seed of `Math.random` and `crypto`.
    pub random: ChanceSeed,
    /// `Date.now()`, in milliseconds since the Unix epoch. In a query and a mutation the clock
    /// stands still; in an action it goes on from here.
    pub now_ms: f64,
}

/// The handler of the operations of one call.
pub trait Syscalls {
    /// `Convex.syscall(op, args)`. JSON text in, JSON text out.
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError>;

    /// `Convex.asyncSyscall(op, args)`, answered now, or by [`Later`] from any thread.
    fn async_syscall(&mut self, op: &str, args: &str, later: Later) -> Answer;

    /// The body of an audit log has no JSON. The function must fail, whatever it does about the
    /// error. Returns the error that it sees.
    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        SyscallError::new(reason)
    }

    /// Called each 100 µs of processor time that the call takes, or the start of its engine.
    /// The call goes on when this returns: a host can let others go first.
    fn give_way(&mut self) {}
}

/// The answer to an asynchronous operation.
#[derive(Debug)]
pub enum Answer {
    /// Now. The [`Later`] of the operation is ignored.
    Now(Result<String, SyscallError>),
    /// Later, by [`Later::complete`].
    Later,
}

/// Completes one asynchronous operation and wakes the engine that waits for it. Dropped, it fails
/// the operation.
pub struct Later {
    id: u32,
    asking: Arc<Asking>,
    sender: Option<Sender<Completion>>,
}

/// The number of an operation, and its answer unless the host dropped it.
type Completion = (u32, Option<Result<String, SyscallError>>);

impl Later {
    /// Answers the operation. If the call has ended already, nothing happens.
    pub fn complete(mut self, answer: Result<String, SyscallError>) {
        self.send(Some(answer));
    }

    fn send(&mut self, answer: Option<Result<String, SyscallError>>) {
        if let Some(sender) = self.sender.take() {
            // The engine may be gone.
            let _ = sender.send((self.id, answer));
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // During the host's call its return value decides, since most operations are answered at
        // once.
        if self.sender.is_some() && !self.asking.given_up(self.id) {
            self.send(None);
        }
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The operation that the host is handling now, if any. Operations are numbered from 1.
#[derive(Debug, Default)]
struct Asking(AtomicU32);

impl Asking {
    const NOTHING: u32 = 0;
    const GIVEN_UP: u32 = u32::MAX;

    fn begin(&self, id: u32) {
        self.0.store(id, Ordering::Release);
    }

    /// Ends the host's call. True if the host dropped the operation's [`Later`] meanwhile.
    fn end(&self) -> bool {
        self.0.swap(Self::NOTHING, Ordering::AcqRel) == Self::GIVEN_UP
    }

    /// Records that the host dropped the [`Later`] of `id`. False if it is not handling `id` now.
    fn given_up(&self, id: u32) -> bool {
        self.0.compare_exchange(id, Self::GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// An operation that failed. In JavaScript it is an `Error` that the function can catch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallError {
    /// The error's message.
    pub message: String,
    /// The JSON text of a `ConvexError`'s data, if that is what failed.
    pub data: Option<String>,
}

impl SyscallError {
    /// The error of an operation that was never answered.
    fn given_up() -> SyscallError {
        SyscallError::new("the host gave up on this operation")
    }

    /// An error without data.
    pub fn new(message: impl Into<String>) -> SyscallError {
        SyscallError { message: message.into(), data: None }
    }
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ran {
    /// What the function returned, as JSON text, or how it failed.
    pub result: Result<String, Failure>,
    /// What it wrote to the console, such as `[LOG] 'text'`.
    pub log_lines: Vec<String>,
    /// How long its JavaScript ran.
    pub js_time: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The message for people: `Uncaught Error: boom`, and the author's lines of the stack trace.
    pub message: String,
    /// The JSON text of the data, if a `ConvexError` was thrown.
    pub data: Option<String>,
    /// What kind of failure it is.
    pub kind: FailureKind,
}

/// Kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The function threw.
    Thrown,
    /// It ran or waited for too long.
    TimeLimit,
    /// It needed too much memory.
    MemoryLimit,
    /// Its calls nested too deeply. It could have caught that.
    StackOverflow,
    /// It awaits a promise that nothing will settle.
    NeverResolves,
    /// A module could not be evaluated, or does not hold the function.
    Load,
}

/// Runs one call to its end on this thread. It blocks while an operation is answered later.
///
/// A [`Syscalls`] may call this function again, for a nested call: that is a new engine, on the
/// same thread's stack.
pub fn run(call: &Call<'_>, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
    running::run(call, seed, limits, host)
}
