//! What a call shares with those that it makes: one limit on time, one on memory.
//!
//! A call that asks the host for another one waits on this thread until that has run.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static OUTER: Cell<Option<Taken>> = const { Cell::new(None) };
}

/// What calls have taken of their common limits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// The processor time of all their JavaScript, that of nested calls that ended included.
    pub(super) time: Duration,
    /// The memory of the engines of those that wait.
    pub(super) bytes: usize,
}

/// What those that wait for the next call of this thread have taken.
pub(super) fn taken() -> Taken {
    OUTER.get().unwrap_or_default()
}

/// Notes at the end of a call what it and those before it took.
pub(super) fn took(time: Duration) {
    if let Some(outer) = OUTER.get() {
        OUTER.set(Some(Taken { time, ..outer }));
    }
}

/// Does something in which calls may run, for one that has taken `time` and whose engine has taken
/// `bytes`. Gives also the time after it.
pub(super) fn within<T>(time: Duration, bytes: usize, work: impl FnOnce() -> T) -> (T, Duration) {
    struct Restore(Option<Taken>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OUTER.set(self.0);
        }
    }
    let bytes = taken().bytes.saturating_add(bytes);
    let _restore = Restore(OUTER.replace(Some(Taken { time, bytes })));
    let done = work();
    (done, taken().time)
}
