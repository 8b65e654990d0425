//! One call of one function, in one JavaScript engine of its own.
//!
//! Every call has a fresh engine: nothing that a call does to its globals, its modules or its
//! memory reaches another call, and the memory limit is exact. What makes that affordable is that
//! modules come compiled (see `bytecode.rs`).
//!
//! A function reaches the host through the three operations of Convex's function ABI,
//! `Convex.syscall`, `Convex.asyncSyscall` and `Convex.jsSyscall`. The first two go to the
//! [`Syscalls`] of the call, JSON text in and out.

mod audit;
mod built_in;
mod bytecode;
mod failure;
mod host;
mod modules;
mod rejections;
mod running;
mod stopwatch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

pub(crate) use built_in::{
    bytecode as built_in_bytecode, import as built_in_import, replacing as built_in_replacing,
    source as built_in_source, standing_for as built_in_for,
};
pub(crate) use bytecode::{Bytecode, Keep};
pub(crate) use modules::{Loaded, ModuleName, Modules};
pub(crate) use running::{Described, describe};

use crate::chance::ChanceSeed;
use crate::program::{Function, Program};
use crate::value::ComponentPath;

/// A function and what it is called with.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Where the function's modules are.
    pub program: &'a Program,
    /// The component that it belongs to.
    pub component: &'a ComponentPath,
    /// The function.
    pub function: &'a Function,
    /// The arguments as the text of a JSON array, such as `[{"id":"…"}]`.
    pub args: &'a str,
    /// What an action hands back to the host with some operations.
    pub request_id: &'a str,
}

/// What one call may use. Each limit fails its call alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// JavaScript that runs. The time that the host takes to answer operations does not count.
    pub time: Duration,
    /// From the beginning to the end of the call, waiting included.
    pub wall: Duration,
    /// The heap of the engine, in bytes, everything that the engine itself needs included (about
    /// 400 KB).
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

/// What a call is to take for chance and time. The same seed gives the same run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seed {
    /// What `Math.random` and `crypto` draw from.
    pub random: ChanceSeed,
    /// `Date.now()`, in milliseconds since the Unix epoch. In a query and a mutation the clock
    /// stands still; in an action it goes on from here.
    pub now_ms: f64,
}

/// What answers the operations of one call.
pub trait Syscalls {
    /// `Convex.syscall(op, args)`. JSON text in, JSON text out.
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError>;

    /// `Convex.asyncSyscall(op, args)`, answered now, or by [`Later`] from any thread.
    fn async_syscall(&mut self, op: &str, args: &str, later: Later) -> Answer;

    /// The body of an audit log was refused before it was JSON: the function must fail, whatever it
    /// does about the error. Gives what the function sees.
    fn refuse_audit(&mut self, reason: &str) -> SyscallError {
        SyscallError::new(reason)
    }
}

/// How an asynchronous operation is answered.
#[derive(Debug)]
pub enum Answer {
    /// At once. The [`Later`] of the operation has no meaning then.
    Now(Result<String, SyscallError>),
    /// By [`Later::complete`].
    Later,
}

/// Completes one asynchronous operation and wakes the engine that waits for it. Dropped, it fails
/// the operation.
pub struct Later {
    id: u32,
    asking: Arc<Asking>,
    sender: Option<Sender<Completion>>,
}

/// The number of an operation, and its answer unless the host gave up on it.
type Completion = (u32, Option<Result<String, SyscallError>>);

impl Later {
    /// Answers the operation. If the call has ended already, nothing happens.
    pub fn complete(mut self, answer: Result<String, SyscallError>) {
        self.send(Some(answer));
    }

    fn send(&mut self, answer: Option<Result<String, SyscallError>>) {
        if let Some(sender) = self.sender.take() {
            // An engine that is gone has nobody who waits.
            let _ = sender.send((self.id, answer));
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // While the host is being asked its answer says what this means; most operations are
        // answered at once.
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

/// The operation that the host is being asked about, if any. Operations are numbered from 1.
#[derive(Debug, Default)]
struct Asking(AtomicU32);

impl Asking {
    const NOTHING: u32 = 0;
    const GIVEN_UP: u32 = u32::MAX;

    fn begin(&self, id: u32) {
        self.0.store(id, Ordering::Release);
    }

    /// The host has answered. True if it gave up on the operation before it did.
    fn end(&self) -> bool {
        self.0.swap(Self::NOTHING, Ordering::AcqRel) == Self::GIVEN_UP
    }

    /// Notes that the host gave up on `id`; false if it is not being asked about it any more.
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
    /// What a function sees of an operation that nobody will answer.
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
    /// How long its JavaScript ran, the engine's own start included.
    pub js_time: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people: `Uncaught Error: boom`, and the lines of the stack trace that are the user's
    /// own.
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
    /// It called itself too deeply. It could have caught that.
    StackOverflow,
    /// It awaits what nothing will settle.
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

#[cfg(test)]
mod tests;
