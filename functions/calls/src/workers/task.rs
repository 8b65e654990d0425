//! Jobs, their callers and their results.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::lock;
use crate::pulse::Pulse;

/// The reason that a job has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The job panicked, with this message.
    Panicked(String),
    /// The job kept its thread for longer than this limit and was abandoned.
    Overran(Duration),
    /// The job did not begin: its caller is gone, or the pool has ended.
    NotBegun,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Panicked(message) => write!(f, "the function's thread panicked: {message}"),
            Broken::Overran(limit) => {
                write!(f, "the function's time on its thread exceeds limit of {limit:?}: abandoned")
            }
            Broken::NotBegun => f.write_str("the function did not begin"),
        }
    }
}

/// Whether the caller of a job is still there. By default this is unknown, and only the future that
/// awaits the job counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence(Option<Weak<()>>);

impl Presence {
    /// A caller that is there until `caller` is dropped.
    pub(crate) fn of(caller: &Arc<()>) -> Presence {
        Presence(Some(Arc::downgrade(caller)))
    }

    fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(|caller| caller.strong_count() > 0)
    }
}

/// A job with a result of any type.
pub(super) trait Task: Send + Sync {
    /// Whether the caller still waits for the result.
    fn is_wanted(&self) -> bool;
    /// Runs the job and keeps the result.
    fn run(&self, pulse: &Pulse);
    fn answer(&self);
    /// Sends the caller an error instead of the result.
    fn abandon(&self, broken: Broken);
}

pub(super) struct Call<T, F> {
    work: Mutex<Option<F>>,
    caller: Presence,
    done: Mutex<Option<Result<T, Broken>>>,
    /// Taken by whichever answers first: the thread or the watchdog.
    answer: Mutex<Option<oneshot::Sender<Result<T, Broken>>>>,
}

impl<T: Send, F: FnOnce(&Pulse) -> T + Send> Call<T, F> {
    /// Also returns a receiver for the result.
    pub(super) fn new(
        caller: Presence,
        work: F,
    ) -> (Call<T, F>, oneshot::Receiver<Result<T, Broken>>) {
        let (answer, answered) = oneshot::channel();
        let (work, answer) = (Mutex::new(Some(work)), Mutex::new(Some(answer)));
        (Call { work, caller, done: Mutex::default(), answer }, answered)
    }

    fn answer_with(&self, result: Result<T, Broken>) {
        if let Some(answer) = lock(&self.answer).take() {
            // Fails if the caller went away.
            drop(answer.send(result));
        }
    }
}

impl<T: Send, F: FnOnce(&Pulse) -> T + Send> Task for Call<T, F> {
    fn is_wanted(&self) -> bool {
        let is_awaited = lock(&self.answer).as_ref().is_some_and(|answer| !answer.is_closed());
        is_awaited && self.caller.is_there()
    }

    fn run(&self, pulse: &Pulse) {
        let Some(work) = lock(&self.work).take() else { return };
        let done = catch_unwind(AssertUnwindSafe(|| work(pulse)));
        *lock(&self.done) = Some(done.map_err(|panic| Broken::Panicked(panic_message(&*panic))));
    }

    fn answer(&self) {
        if let Some(result) = lock(&self.done).take() {
            self.answer_with(result);
        }
    }

    fn abandon(&self, broken: Broken) {
        self.answer_with(Err(broken));
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}
