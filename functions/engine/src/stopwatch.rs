//! The running time of JavaScript.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::heap::Usage;

/// Measures the running time of JavaScript. It is stopped while the host handles an operation or
/// the engine waits for one.
#[derive(Debug)]
pub(super) struct Stopwatch {
    limit: Duration,
    spent: Cell<Duration>,
    /// When it was started, unless it is stopped.
    since: Cell<Option<Instant>>,
    /// Set once the limit is exceeded, for good: no JavaScript runs afterwards.
    over: Cell<bool>,
    /// The engine's memory, which ends its call too.
    usage: Rc<Usage>,
}

impl Stopwatch {
    pub(super) fn started(limit: Duration, usage: Rc<Usage>) -> Stopwatch {
        Stopwatch {
            limit,
            spent: Cell::new(Duration::ZERO),
            since: Cell::new(Some(Instant::now())),
            over: Cell::new(false),
            usage,
        }
    }

    pub(super) fn spent(&self) -> Duration {
        self.spent.get() + self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the call must end: its time is over, or its memory is exhausted.
    pub(super) fn is_over(&self) -> bool {
        if !self.over.get() && (self.usage.is_exhausted() || self.spent() > self.limit) {
            self.over.set(true);
        }
        self.over.get()
    }

    /// Whether it is its memory that must end it.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.usage.is_exhausted()
    }

    /// Stops it for as long as `outside` takes.
    pub(super) fn pause<T>(&self, outside: impl FnOnce() -> T) -> T {
        self.spent.set(self.spent());
        self.since.set(None);
        let value = outside();
        self.since.set(Some(Instant::now()));
        value
    }
}
