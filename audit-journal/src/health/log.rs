//! What the log says of troubles: each once, and not one line for each object.

use std::time::Duration;

use tokio::time::Instant;

use super::trouble::Trouble;

/// The least time between two lines about troubles. Troubles that come and go with every object
/// would be a line each.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// The target of the lines, by which an operator selects them.
const TARGET: &str = "audit_journal::health";

/// The last state that was logged.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// The trouble that was logged. `None` if the log says that all is well, or says nothing.
    trouble: Option<Trouble>,
    /// When a trouble was last logged.
    at: Option<Instant>,
    /// How many troubles began or changed since then without a line.
    held_back: u64,
    /// Whether a task will log the trouble that was held back, if it lasts.
    is_settling: bool,
}

/// A line of the log.
pub(super) enum Line {
    /// With how many others before it were not logged.
    Trouble(Trouble, u64),
    /// The trouble has ended.
    Over(Trouble),
}

impl Logged {
    /// The line to be logged now, if the worst trouble is this. The end of a trouble that was
    /// logged is never held back: the log never ends on a trouble that is over.
    pub(super) fn line(&mut self, worst: Option<&Trouble>) -> Option<Line> {
        let new = match (&self.trouble, worst) {
            (None, None) => return None,
            (Some(_), None) => return self.trouble.take().map(Line::Over),
            (Some(before), Some(now)) if now.is_like(before) => return None,
            (_, Some(now)) => now,
        };
        // One that needs an operator is logged at once after one that needs none.
        let is_worse = self.trouble.as_ref().is_some_and(|before| before.level() < new.level());
        if !is_worse && self.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.trouble = Some(new.clone());
        self.at = Some(Instant::now());
        Some(Line::Trouble(new.clone(), std::mem::take(&mut self.held_back)))
    }

    /// When a task must look again at a trouble that was held back, if it has to be started.
    /// [`settle`](Self::settle) is its call.
    pub(super) fn settle_in(&mut self, worst: Option<&Trouble>) -> Option<Duration> {
        let worst = worst?;
        let is_logged = self.trouble.as_ref().is_some_and(|logged| worst.is_like(logged));
        let at = self.at.filter(|_| !is_logged && !self.is_settling)?;
        self.is_settling = true;
        Some(LOG_INTERVAL.saturating_sub(at.elapsed()))
    }

    /// The task that was to look again does so.
    pub(super) fn settle(&mut self) {
        self.is_settling = false;
    }
}

impl Line {
    /// Writes the line, for the sink with this name.
    pub(super) fn write(&self, bucket: &str) {
        match self {
            Line::Over(Trouble::Delivery(_)) => {
                tracing::info!(target: TARGET, bucket, "audit logs are delivered again");
            }
            Line::Over(Trouble::Disk(_) | Trouble::Stopped(_)) => {
                tracing::info!(
                    target: TARGET,
                    bucket,
                    "the journal of audit logs can use its disk again"
                );
            }
            Line::Over(Trouble::Panicked(_)) => {
                tracing::info!(target: TARGET, bucket, "what panicked in the audit sink goes on");
            }
            Line::Over(Trouble::JournalFull(_)) => {
                tracing::info!(target: TARGET, bucket, "the journal of audit logs has room again");
            }
            Line::Trouble(trouble, held_back) => {
                let (reason, held_back) = (trouble.to_string(), *held_back);
                match trouble {
                    Trouble::Delivery(_) if !trouble.is_blocked() => {
                        tracing::warn!(
                            target: TARGET,
                            bucket,
                            reason,
                            held_back,
                            "audit delivery is retried"
                        );
                    }
                    Trouble::Delivery(_) => tracing::error!(
                        target: TARGET,
                        bucket,
                        reason,
                        held_back,
                        "audit delivery is blocked until an operator acts"
                    ),
                    Trouble::Panicked(_) => {
                        tracing::error!(
                            target: TARGET,
                            bucket,
                            reason,
                            held_back,
                            "the audit sink panicked"
                        );
                    }
                    Trouble::Stopped(_) => tracing::error!(
                        target: TARGET,
                        bucket,
                        reason,
                        held_back,
                        "the audit sink has stopped: restart this process"
                    ),
                    Trouble::Disk(_) | Trouble::JournalFull(_) => {
                        tracing::error!(
                            target: TARGET,
                            bucket,
                            reason,
                            held_back,
                            "the journal of audit logs is blocked until an operator acts"
                        )
                    }
                }
            }
        }
    }
}
