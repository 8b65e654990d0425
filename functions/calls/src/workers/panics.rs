//! Panics on the pool's threads outside of jobs, as in the waker of a caller or the metrics.
//! Without this, the thread would end without a word.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use audit_host::lasting;
use functions_engine::KeptEngines;

use super::task::{Broken, panic_message};
use super::{Role, Running, Shared};

impl Shared {
    /// Runs the watchdog, and again if it panics.
    pub(super) fn keep_watching(self: &Arc<Self>) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.watch())) {
            lasting::panicked("the watchdog of functions", &panic_message(&*panic));
        }
    }

    /// Runs jobs until the pool ends or the thread was abandoned, and goes on after a panic.
    pub(super) fn keep_working(&self, number: u64, role: Role) {
        let has_job = Cell::new(false);
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(number, role, &has_job)))
        {
            let message = panic_message(&*panic);
            lasting::panicked("a thread of functions", &message);
            let mut state = self.state();
            let running = state.running.remove(&number);
            if let Some(Running { task, turn, began, .. }) = running {
                state.turns.end(turn, Some(began.elapsed()));
                drop(state);
                report(|| task.abandon(Broken::Panicked(message)));
            } else if has_job.take() {
                // The thread was abandoned, and another one has replaced it.
                return state.count_stuck(-1);
            }
        }
    }
}

/// Reports something by means that may panic, which affects nothing else.
pub(super) fn report(report: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(report)));
}

/// Publishes the memory of kept engines as a metric.
pub(crate) fn show_engines(engines: &KeptEngines) {
    report(|| metrics::gauge!("functions_kept_engines_bytes").set(engines.bytes() as f64));
}
