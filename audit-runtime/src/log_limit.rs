//! Limits how often a trouble is logged.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// The least time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits how often a trouble is logged that each request or batch meets while it lasts: at most
/// once a second, with the number of cases left out.
///
/// Use either [`case`](Self::case) for a trouble whose end nobody sees, or [`fails`](Self::fails)
/// with [`works`](Self::works), which log each change once.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
    /// Whether the log says that it fails.
    is_failing: bool,
}

impl State {
    fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let may_log = self.last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if may_log {
            self.last = Some(now);
        }
        may_log
    }

    fn case(&mut self, may_log: bool) -> Option<u64> {
        if may_log {
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

impl LogLimit {
    /// A limit without a case so far.
    pub const fn new() -> LogLimit {
        LogLimit(Mutex::new(State { last: None, left_out: 0, is_failing: false }))
    }

    /// Notes a case. Returns the number of cases left out before it, if it is to be logged.
    pub fn case(&self) -> Option<u64> {
        let mut state = self.state();
        let may_log = state.may_log();
        state.case(may_log)
    }

    /// Notes a failure. Returns the number of failures left out before it, if it is to be logged:
    /// unless the log says already that it fails.
    pub fn fails(&self) -> Option<u64> {
        let mut state = self.state();
        let may_log = !state.is_failing && state.may_log();
        state.is_failing |= may_log;
        state.case(may_log)
    }

    /// Notes a success. Returns the number of failures left out, if the recovery is to be logged.
    pub fn works(&self) -> Option<u64> {
        let mut state = self.state();
        if !state.is_failing || !state.may_log() {
            return None;
        }
        state.is_failing = false;
        state.case(true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_case_is_logged_once_a_second_with_the_number_of_others() {
        let limit = LogLimit::new();
        assert_eq!(limit.case(), Some(0));
        for _ in 0..5 {
            assert_eq!(limit.case(), None);
        }
        advance(INTERVAL).await;
        assert_eq!((limit.case(), limit.case()), (Some(5), None));
        advance(INTERVAL * 60).await;
        assert_eq!(limit.case(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_logged_once() {
        let limit = LogLimit::new();
        assert_eq!((limit.works(), limit.fails()), (None, Some(0)));
        for _ in 0..100 {
            advance(INTERVAL).await;
            assert_eq!(limit.fails(), None);
        }
        advance(INTERVAL).await;
        assert_eq!((limit.works(), limit.works()), (Some(100), None));
    }

    #[tokio::test(start_paused = true)]
    async fn frequent_changes_are_not_all_logged_but_the_last_is() {
        let limit = LogLimit::new();
        assert_eq!(limit.fails(), Some(0));
        for _ in 0..100 {
            assert_eq!((limit.works(), limit.fails()), (None, None));
        }
        advance(INTERVAL).await;
        assert_eq!(limit.works(), Some(100));
        assert_eq!((limit.fails(), limit.fails()), (None, None));
        advance(INTERVAL).await;
        assert_eq!(limit.fails(), Some(2));
    }
}
