//! The CPU time of JavaScript.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Limits;
use super::heap::Usage;
use super::outer;

/// The CPU time after which a call [gives way](super::Syscalls::give_way).
const SLICE: Duration = Duration::from_micros(100);

/// Measures the CPU time of JavaScript on this thread, so that a busy machine does not reduce what
/// a function may compute. It pauses while the host handles an operation or the engine waits for
/// one.
#[derive(Debug)]
pub(super) struct Stopwatch {
    limit: Cell<Duration>,
    spent: Cell<Duration>,
    /// The thread's CPU time when the stopwatch was started. `None` while it is paused.
    since: Cell<Option<Duration>>,
    /// The time spent when the last slice ended.
    sliced: Cell<Duration>,
    /// Whether the limit was exceeded. No JavaScript of the call runs afterwards.
    over: Cell<bool>,
    /// The engine's memory usage, which can also end the call.
    usage: Rc<Usage>,
}

impl Stopwatch {
    pub(super) fn started(limits: &Limits, usage: Rc<Usage>) -> Stopwatch {
        let spent = outer::taken().time;
        Stopwatch {
            limit: Cell::new(limits.time),
            spent: Cell::new(spent),
            since: Cell::new(Some(processor_time())),
            sliced: Cell::new(spent),
            over: Cell::new(false),
            usage,
        }
    }

    /// Restarts the stopwatch for another call.
    pub(super) fn restart(&self, limits: &Limits) {
        let spent = outer::taken().time;
        self.limit.set(limits.time);
        self.spent.set(spent);
        self.since.set(Some(processor_time()));
        self.sliced.set(spent);
        self.over.set(false);
    }

    /// How much of the limit is spent.
    pub(super) fn spent(&self) -> Duration {
        self.spent.get()
            + self
                .since
                .get()
                .map_or(Duration::ZERO, |since| processor_time().saturating_sub(since))
    }

    /// Whether a slice of CPU time has passed since this last returned true.
    pub(super) fn ends_slice(&self) -> bool {
        let spent = self.spent();
        let ends = spent.saturating_sub(self.sliced.get()) >= SLICE;
        if ends {
            self.sliced.set(spent);
        }
        ends
    }

    /// Whether the call must end: its time is up, or its memory is exhausted.
    pub(super) fn is_over(&self) -> bool {
        if !self.over.get() && (self.usage.is_exhausted() || self.spent() > self.limit.get()) {
            self.over.set(true);
        }
        self.over.get()
    }

    /// Whether the call must end for lack of memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.usage.is_exhausted()
    }

    /// Pauses the stopwatch while `outside` runs. The JavaScript of nested calls that `outside`
    /// makes counts.
    pub(super) fn pause<T>(&self, outside: impl FnOnce() -> T) -> T {
        let spent = self.spent();
        self.spent.set(spent);
        self.since.set(None);
        let (value, spent) = outer::within(spent, self.usage.bytes(), outside);
        self.spent.set(spent);
        self.since.set(Some(processor_time()));
        value
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(time: Duration) {
        let until = processor_time() + time;
        while processor_time() < until {
            std::hint::spin_loop();
        }
    }

    fn started() -> Stopwatch {
        let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
        Stopwatch::started(&limits, Rc::new(Usage::unlimited()))
    }

    #[test]
    fn waiting_takes_no_cpu_time() {
        let stopwatch = started();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let timeout = receiver.recv_timeout(Duration::from_millis(40));
        assert!(timeout.is_err() && !stopwatch.is_over(), "{:?}", stopwatch.spent());
        drop(sender);
        stopwatch.pause(|| compute(Duration::from_millis(20)));
        assert!(!stopwatch.is_over(), "{:?}", stopwatch.spent());
        compute(Duration::from_millis(20));
        assert!(stopwatch.is_over());
    }

    #[test]
    fn slices_end_once_each() {
        let stopwatch = started();
        compute(SLICE);
        assert!(stopwatch.ends_slice());
        let first = stopwatch.sliced.get();
        assert!(first >= SLICE);
        // The second check may come late, but then a whole slice has passed.
        assert!(!stopwatch.ends_slice() || stopwatch.sliced.get() >= first + SLICE);
    }
}
