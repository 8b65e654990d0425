//! Runs one call of one function in a JavaScript engine of its own.
//!
//! Every call has a fresh engine. Nothing that a call does to its globals, modules or memory
//! reaches another call, and the memory limit is exact. Precompiled modules make this affordable
//! (see `bytecode.rs`). Threads that keep engines ([`KeptEngines`]) restore one to its state before
//! any call instead, which is equivalent and cheaper (see `realm.rs`).
//!
//! A function reaches the host through the three operations of Convex's function ABI,
//! `Convex.syscall`, `Convex.asyncSyscall` and `Convex.jsSyscall`. The first two go to the call's
//! [`Syscalls`] as JSON text.

mod audit;
pub mod built_in;
mod bytecode;
mod bytes;
mod crypto;
mod encodings;
mod env;
mod failure;
mod heap;
mod host;
mod kept;
mod modules;
mod names;
mod outer;
mod realm;
mod rejections;
mod running;
mod stopwatch;
mod url;
mod zones;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use audit_runtime::FunctionKind;
use functions_value::ChanceSeed;

pub use bytecode::{Bytecode, Keep};
pub use env::Env;
pub use host::LogLines;
pub use kept::{Keeping, KeptEngines};
use modules::Loaded;
pub use modules::{ModuleName, Modules};
pub use running::{Described, DescribedFunction, describe};

/// The place at which a router is mounted.
#[derive(Debug, Clone, Copy)]
pub struct Mount<'a> {
    /// The prefix of the paths of its routes, which ends with a slash.
    pub prefix: &'a str,
    /// Whether no other router may have a route for the request. Without a route, the last router
    /// answers 404, and the others return [`UNROUTED`].
    pub is_last: bool,
}

/// The result, as JSON, of calling a router that has no route for the request.
pub const UNROUTED: &str = "\"unrouted\"";

/// A function and its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The modules of the program.
    pub modules: &'a Arc<Modules>,
    /// The function's module.
    pub module: &'a str,
    /// The name of the function's export.
    pub export: &'a str,
    /// The kind of the function.
    pub kind: FunctionKind,
    /// Set if the export is a router, which answers the HTTP request that `args` describes.
    pub http: Option<Mount<'a>>,
    /// The function's environment.
    pub env: &'a Env,
    /// The arguments as the text of a JSON array, such as `[{"id":"…"}]`.
    pub args: &'a str,
    /// A token that an action passes back with some operations.
    pub request_id: &'a str,
}

/// The limits of one call. Exceeding one fails only that call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The CPU time of JavaScript, including that of calls that it makes on its thread. The host's
    /// operations and other threads do not count.
    pub time: Duration,
    /// The wall-clock time of the call, including waiting.
    pub wall: Duration,
    /// The size of the engine's heap, in bytes, including what the engine itself needs (about
    /// 400 KB), together with the engines of calls that wait for this one. A call that exceeds it
    /// is ended soon after; until then the engine can take up to 32 MiB more.
    pub memory_bytes: usize,
    /// The size of the stack, in bytes.
    pub stack_bytes: usize,
}

impl Default for Limits {
    /// The limits of a query or mutation: 1 s of JavaScript, 600 s in all, 64 MiB of heap, and
    /// 512 KiB of stack.
    fn default() -> Limits {
        Limits {
            time: Duration::from_secs(1),
            wall: Duration::from_secs(600),
            memory_bytes: 64 << 20,
            stack_bytes: 512 << 10,
        }
    }
}

/// The randomness and time of a call. Calls with the same seed run the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seed {
    /// The seed of `Math.random` and `crypto`.
    pub random: ChanceSeed,
    /// `Date.now()`, in milliseconds since the Unix epoch. The clock stands still in queries and
    /// mutations, and advances from here in actions.
    pub now_ms: f64,
}

/// The handler of the operations of one call.
pub trait Syscalls {
    /// Handles `Convex.syscall(op, args)`. Arguments and result are JSON text.
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError>;

    /// Handles `Convex.asyncSyscall(op, args)`: answers it now, or through `later` from any thread.
    fn async_syscall(&mut self, op: &str, args: &str, later: Later) -> Answer;

    /// Called when the body of an audit log cannot be written as JSON. The function must then fail,
    /// even if it catches the error that this returns.
    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        SyscallError::new(reason)
    }

    /// Called after every 100 µs of CPU time that the call or the start of its engine takes. The
    /// call continues when this returns, so a host can let other calls run first.
    fn give_way(&mut self) {}
}

/// The answer to an asynchronous operation.
#[derive(Debug)]
pub enum Answer {
    /// The answer. The operation's [`Later`] is ignored.
    Now(Result<String, SyscallError>),
    /// [`Later::complete`] answers the operation.
    Later,
}

/// Completes one asynchronous operation and wakes the engine that waits for it. Dropping it fails
/// the operation.
pub struct Later {
    id: u32,
    asking: Arc<Asking>,
    sender: Option<Sender<Completion>>,
}

/// The number of an operation, and its answer unless the host dropped it.
type Completion = (u32, Option<Result<String, SyscallError>>);

impl Later {
    /// Answers the operation. Does nothing if the call has ended.
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
        // While the host handles the operation, its return value decides: most operations are
        // answered immediately.
        if self.sender.is_some() && !self.asking.is_dropped(self.id) {
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
    const DROPPED: u32 = u32::MAX;

    fn begin(&self, id: u32) {
        self.0.store(id, Ordering::Release);
    }

    /// Ends the operation. Returns whether the host dropped its [`Later`] meanwhile.
    fn end(&self) -> bool {
        self.0.swap(Self::NOTHING, Ordering::AcqRel) == Self::DROPPED
    }

    /// Records that the host dropped the [`Later`] of `id`. Returns false if it is not handling
    /// `id` now.
    fn is_dropped(&self, id: u32) -> bool {
        self.0.compare_exchange(id, Self::DROPPED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A failed operation. In JavaScript it is an `Error` that the function can catch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallError {
    /// The error's message.
    pub message: String,
    /// The JSON text of the data, if the error is a `ConvexError`.
    pub data: Option<String>,
}

impl SyscallError {
    /// The error of an operation that was never answered.
    fn dropped() -> SyscallError {
        SyscallError::new("the host dropped this operation")
    }

    /// An error without data.
    pub fn new(message: impl Into<String>) -> SyscallError {
        SyscallError { message: message.into(), data: None }
    }
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ran {
    /// The function's result as JSON text, or its failure.
    pub result: Result<String, Failure>,
    /// The lines that it wrote to the console, such as `[LOG] 'text'`.
    pub log_lines: Vec<String>,
    /// The CPU time of its JavaScript.
    pub js_time: Duration,
}

/// The failure of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The message, such as `Uncaught Error: boom`, and the author's frames of the stack trace.
    pub message: String,
    /// The JSON text of the data, if a `ConvexError` was thrown.
    pub data: Option<String>,
    /// The kind of the failure.
    pub kind: FailureKind,
}

/// The kind of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The function threw.
    Thrown,
    /// The call ran or waited for too long.
    TimeLimit,
    /// The call needed too much memory.
    MemoryLimit,
    /// The function's calls nested too deeply. The function could have caught this error.
    StackOverflow,
    /// The function awaits a promise that nothing will settle.
    NeverResolves,
    /// A module could not be evaluated, or lacks the function.
    Load,
}

/// Runs one call to its end on this thread, blocking while it waits for an operation.
///
/// A [`Syscalls`] may call this function for a nested call, which has its own engine on the same
/// thread's stack.
pub fn run(call: &Call<'_>, seed: &Seed, limits: &Limits, host: &mut dyn Syscalls) -> Ran {
    running::run(call, seed, limits, host)
}
