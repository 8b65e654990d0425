//! Decides which troubles are logged: each one once, rather than a line for each object.

use std::time::Duration;

use tokio::time::Instant;

use super::trouble::Trouble;

/// The minimum time between two lines about troubles. Otherwise troubles that come and go with
/// every object would be logged for each object.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// The target of the lines, by which an operator selects them.
const TARGET: &str = "audit_journal::health";

#[derive(Debug, Default)]
pub(super) struct Logged {
    /// The logged trouble. `None` if nothing was logged yet or the last line reported an end.
    trouble: Option<Trouble>,
    /// When a trouble was last logged.
    at: Option<Instant>,
    /// The number of changes since then that were not logged.
    held_back: u64,
    /// Whether a task is scheduled to log the suppressed trouble if it lasts.
    is_settling: bool,
}

pub(super) enum Line {
    /// A trouble, with the number of suppressed changes before it.
    Trouble(Trouble, u64),
    Over(Trouble),
}

impl Logged {
    /// The line to log now, given the worst trouble. The end of a logged trouble is always logged,
    /// so the last line of the log never reports a trouble that is over.
    pub(super) fn line(&mut self, worst: Option<&Trouble>) -> Option<Line> {
        let new = match (&self.trouble, worst) {
            (None, None) => return None,
            (Some(_), None) => return self.trouble.take().map(Line::Over),
            (Some(before), Some(now)) if now.is_like(before) => return None,
            (_, Some(now)) => now,
        };
        // A blocked state is logged at once, even shortly after a lesser trouble.
        let is_worse = self.trouble.as_ref().is_some_and(|before| before.level() < new.level());
        if !is_worse && self.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.trouble = Some(new.clone());
        self.at = Some(Instant::now());
        Some(Line::Trouble(new.clone(), std::mem::take(&mut self.held_back)))
    }

    /// The delay after which a new task must call [`settle`](Self::settle), if one has to be
    /// started for a suppressed trouble.
    pub(super) fn settle_in(&mut self, worst: Option<&Trouble>) -> Option<Duration> {
        let worst = worst?;
        let is_logged = self.trouble.as_ref().is_some_and(|logged| worst.is_like(logged));
        let at = self.at.filter(|_| !is_logged && !self.is_settling)?;
        self.is_settling = true;
        Some(LOG_INTERVAL.saturating_sub(at.elapsed()))
    }

    /// Called by the scheduled task after its delay.
    pub(super) fn settle(&mut self) {
        self.is_settling = false;
    }
}

impl Line {
    /// Writes the line, for the sink with this name.
    pub(super) fn write(&self, bucket: &str) {
        match self {
            Line::Over(trouble) => {
                tracing::info!(target: TARGET, bucket, "{}", end_of(trouble));
            }
            Line::Trouble(trouble, held_back) => {
                let (reason, held_back) = (trouble.to_string(), *held_back);
                let begin = begin_of(trouble);
                if matches!(trouble, Trouble::Delivery(_)) && !trouble.is_blocked() {
                    tracing::warn!(target: TARGET, bucket, reason, held_back, "{begin}");
                } else {
                    tracing::error!(target: TARGET, bucket, reason, held_back, "{begin}");
                }
            }
        }
    }
}

fn begin_of(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Delivery(_) if !trouble.is_blocked() => "audit delivery is retried",
        Trouble::Delivery(_) => "audit delivery is blocked until an operator acts",
        Trouble::Panicked(_) => "the audit sink panicked",
        Trouble::Stopped(_) => "the audit sink has stopped: restart this process",
        Trouble::Disk(_) | Trouble::JournalFull(_) => {
            "the journal of audit logs is blocked until an operator acts"
        }
    }
}

fn end_of(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Delivery(_) => "audit logs are delivered again",
        Trouble::Disk(_) | Trouble::Stopped(_) => {
            "the journal of audit logs can use its disk again"
        }
        Trouble::Panicked(_) => "the audit sink has recovered from a panic",
        Trouble::JournalFull(_) => "the journal of audit logs has room again",
    }
}
