//! The running time of JavaScript.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Measures the running time of JavaScript. It is stopped while the host handles an operation or
/// the engine waits for one.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    limit: Duration,
    spent: Cell<Duration>,
    /// When it was started, unless it is stopped.
    since: Cell<Option<Instant>>,
    /// Set once the limit is exceeded, for good: no JavaScript runs afterwards.
    over: Cell<bool>,
}

impl Stopwatch {
    pub(crate) fn started(limit: Duration) -> Stopwatch {
        Stopwatch {
            limit,
            spent: Cell::new(Duration::ZERO),
            since: Cell::new(Some(Instant::now())),
            over: Cell::new(false),
        }
    }

    pub(crate) fn spent(&self) -> Duration {
        self.spent.get() + self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the limit is exceeded.
    pub(crate) fn is_over(&self) -> bool {
        if !self.over.get() && self.spent() > self.limit {
            self.over.set(true);
        }
        self.over.get()
    }

    /// Stops it for as long as `outside` takes.
    pub(crate) fn pause<T>(&self, outside: impl FnOnce() -> T) -> T {
        self.spent.set(self.spent());
        self.since.set(None);
        let value = outside();
        self.since.set(Some(Instant::now()));
        value
    }
}
