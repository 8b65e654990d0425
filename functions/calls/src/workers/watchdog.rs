//! The watchdog, which abandons jobs that overrun and replaces their threads.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::panics::report;
use super::task::Broken;
use super::{Running, Shared, State, WorkerSettings};

impl Running {
    /// The limit that the job exceeds, if any.
    pub(super) fn overran(&mut self, settings: &WorkerSettings) -> Option<Duration> {
        let WorkerSettings { overrun_after, longest_stretch, stretch_cpu_time, .. } = *settings;
        if let Some((since, stretch)) = self.pulse.stretch_since() {
            let cpu_time = self.stretch_time.of(since, &self.thread);
            let is_only_slow = cpu_time.is_some_and(|time| time < stretch_cpu_time);
            if stretch >= longest_stretch && !is_only_slow {
                return Some(longest_stretch);
            }
        }
        (self.began.elapsed() >= overrun_after).then_some(overrun_after)
    }
}

impl State {
    pub(super) fn count_stuck(&mut self, change: isize) {
        self.stuck = self.stuck.saturating_add_signed(change);
        report(|| metrics::gauge!("functions_workers_stuck").set(self.stuck as f64));
    }
}

impl Shared {
    /// Abandons jobs that overrun, until the pool ends.
    pub(super) fn watch(self: &Arc<Self>) {
        let WorkerSettings { overrun_after, longest_stretch, .. } = self.settings;
        let pause = (overrun_after.min(longest_stretch) / 10).min(Duration::from_secs(1));
        let mut state = self.state();
        while !state.has_ended {
            self.abandon(&mut state, |running| running.overran(&self.settings));
            // Jobs that begin during a pause do not end it: under load, the watchdog would hold the
            // lock most of the time.
            state.watchdog_sleeps = state.running.is_empty();
            let sleeps = |state: &mut State| !state.has_ended && state.watchdog_sleeps;
            state = if state.watchdog_sleeps {
                self.began.wait_while(state, sleeps).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.began.wait_timeout_while(state, pause, |it| !it.has_ended);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Abandons the jobs for which `overran` returns a limit.
    pub(super) fn abandon(
        self: &Arc<Self>,
        state: &mut State,
        mut overran: impl FnMut(&mut Running) -> Option<Duration>,
    ) {
        // One after the other: if the waker of a caller panics, the others still run, and the
        // restarted watchdog abandons them.
        let mut over = |state: &mut State| {
            let limit =
                |(number, running): (&u64, &mut Running)| Some((*number, overran(running)?));
            let (number, limit) = state.running.iter_mut().find_map(limit)?;
            Some((state.running.remove(&number)?, limit))
        };
        while let Some((Running { role, task, turn, began, .. }, limit)) = over(state) {
            state.turns.end(turn, Some(began.elapsed()));
            self.show(state);
            self.lose_thread(state, limit);
            if let Err(error) = self.start_thread(state, role) {
                report(|| tracing::error!(%error, "an abandoned thread could not be replaced"));
                self.exhausted.send_replace(true);
            }
            // Last, so that the caller finds the pool in its new state.
            task.abandon(Broken::Overran(limit));
        }
    }

    pub(super) fn lose_thread(&self, state: &mut State, limit: Duration) {
        state.count_stuck(1);
        report(|| metrics::counter!("functions_workers_given_up_total").increment(1));
        report(|| {
            tracing::error!(
                stuck = state.stuck,
                ?limit,
                "a function kept its thread for too long: it is abandoned, and its thread replaced"
            );
        });
        if state.stuck >= self.settings.max_stuck {
            self.exhausted.send_replace(true);
        }
    }
}
