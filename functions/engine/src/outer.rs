//! The limits on time and memory that a call shares with the calls nested in it.
//!
//! A nested call runs on the thread of its caller, which waits for it.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static OUTER: Cell<Option<Taken>> = const { Cell::new(None) };
}

/// The used part of the limits that a call shares with those nested in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// The CPU time of their JavaScript, including nested calls that have ended.
    pub(super) time: Duration,
    /// The memory of the engines of the waiting calls, in bytes.
    pub(super) bytes: usize,
}

/// The use of the calls that wait on this thread.
pub(super) fn taken() -> Taken {
    OUTER.get().unwrap_or_default()
}

/// Records, at the end of a nested call, the CPU time used so far including it.
pub(super) fn took(time: Duration) {
    if let Some(outer) = OUTER.get() {
        OUTER.set(Some(Taken { time, ..outer }));
    }
}

/// Runs `work`, in which a call that has used `time`, and whose engine has `bytes`, may make nested
/// calls. Also returns the time used afterwards.
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
