//! The outcome of each attempt at a mutation that logged something, as a record of its own.
//!
//! A log is durable before its effect, so it cannot say whether the effect took place. These
//! records say so afterwards. No caller waits for them: they queue in memory, and a task passes
//! them to the sink in batches.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{AuditSink, Batch, BatchBuilder, Clock, Outcome, Random, SinkErrorKind, UniqueId};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::metrics::{Loss, Metrics};
use crate::retry_policy::RetryPolicy;

/// How long an outcome waits for others to fill its batch, unless the host drains them. So outcomes
/// cost at most one journal sync a second or, without a journal, one object a second.
const LINGER: Duration = Duration::from_secs(1);

/// The longest record, with its line feed, in bytes.
const RECORD_BYTES: usize =
    r#"{"$audit":{"execution":"","attempt":4294967295,"outcome":"rolled back"}}"#.len()
        + UniqueId::TEXT_BYTES
        + 1;

/// The number of outcomes in a full batch: less than 1 MiB of records.
const BATCH_OUTCOMES: usize = 8_192;

const _: () = assert!(BATCH_OUTCOMES * RECORD_BYTES <= 1 << 20);

/// The maximum number of queued outcomes: 2 MiB at 32 bytes each. The queue fills only while the
/// sink fails, or is slower than the database for seconds.
const MAX_QUEUED: usize = 65_536;

const _: () = assert!(size_of::<Ended>() <= 32);

/// The backoff for batches that the sink did not persist.
const RETRIES: RetryPolicy =
    RetryPolicy { max_attempts: u32::MAX, base_backoff_ms: 100, max_backoff_ms: 5_000 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    Committed,
    /// The function succeeded but nothing is committed: its logs did not become durable in time,
    /// its caller went away, or the host or the database aborted the transaction.
    RolledBack,
    /// A statement or the commit met a write conflict.
    Conflict,
    /// The function failed: with an error, a panic, or a refused log.
    Failed,
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttemptOutcome::Committed => "committed",
            AttemptOutcome::RolledBack => "rolled back",
            AttemptOutcome::Conflict => "conflict",
            AttemptOutcome::Failed => "failed",
        })
    }
}

pub(crate) struct Ended {
    pub(crate) execution: UniqueId,
    pub(crate) attempt: u32,
    pub(crate) outcome: AttemptOutcome,
}

impl Ended {
    fn append(&self, record: &mut Vec<u8>) {
        let Ended { execution, attempt, outcome } = self;
        let written = write!(
            record,
            r#"{{"$audit":{{"execution":"{execution}","attempt":{attempt},"outcome":"{outcome}"}}}}"#
        );
        written.expect("writing to memory does not fail");
    }
}

/// The outcomes of one runtime that are not durable yet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outcomes(Arc<Inner>);

struct Inner {
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    metrics: Metrics,
    state: Mutex<State>,
    /// Notified when the state changes in a way that a task may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Ended>,
    is_sending: bool,
    /// The number of outcomes that found the queue full since it was last empty. The first one is
    /// reported at once.
    refused: u64,
    /// The number of callers that wait in `drain`.
    drains: usize,
    commits: usize,
}

impl State {
    /// Whether the next batch is sent without waiting for more.
    fn is_due(&self) -> bool {
        self.queue.len() >= BATCH_OUTCOMES || self.drains > 0
    }

    fn is_drained(&self) -> bool {
        self.queue.is_empty() && !self.is_sending && self.commits == 0
    }
}

impl Outcomes {
    pub(crate) fn new(
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        metrics: Metrics,
    ) -> Outcomes {
        let (state, changed) = (Mutex::default(), Notify::new());
        Outcomes(Arc::new(Inner { sink, clock, random, metrics, state, changed }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an outcome without waiting. If the queue is full it is lost and counted.
    pub(crate) fn queue(&self, ended: Ended) {
        let mut state = self.state();
        if state.queue.len() == MAX_QUEUED {
            self.0.metrics.outcomes_lost(Loss::Full, 1);
            state.refused += 1;
            if state.refused == 1 {
                tracing::warn!(
                    waiting = MAX_QUEUED,
                    "outcomes of mutations are lost: too many wait for the audit sink"
                );
            }
            return;
        }
        state.queue.push_back(ended);
        let is_due = state.is_due();
        self.ensure_sending(state);
        if is_due {
            self.0.changed.notify_waiters();
        }
    }

    /// Starts the sending task, unless it runs or the queue is empty.
    fn ensure_sending(&self, mut state: MutexGuard<'_, State>) {
        if state.is_sending || state.queue.is_empty() {
            return;
        }
        // Without an executor, the queued outcomes wait for the next one to start the task, or for
        // a drain.
        let Ok(executor) = Handle::try_current() else { return };
        state.is_sending = true;
        drop(state);
        // An executor that shuts down drops the task, perhaps before its first poll.
        executor.spawn(Sending { outcomes: self.clone(), taken: 0, is_last: false }.run());
    }

    /// Registers a commit in progress until the returned value is dropped: a drain waits for the
    /// commit's outcome.
    pub(crate) fn commit_begins(&self) -> Committing {
        self.state().commits += 1;
        Committing(self.clone())
    }

    /// Waits until every outcome is durable or lost, those of commits in progress included.
    pub(crate) async fn drain(&self) {
        let _draining = Draining::begin(self);
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.state();
                if state.is_drained() {
                    return;
                }
                self.ensure_sending(state);
            }
            changed.await;
        }
    }
}

/// A caller that waits in `drain`.
struct Draining<'o>(&'o Outcomes);

impl Draining<'_> {
    fn begin(outcomes: &Outcomes) -> Draining<'_> {
        outcomes.state().drains += 1;
        outcomes.0.changed.notify_waiters();
        Draining(outcomes)
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.state().drains -= 1;
    }
}

pub(crate) struct Committing(Outcomes);

impl Drop for Committing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.commits -= 1;
        // Only drains wait for commits.
        if state.drains > 0 {
            drop(state);
            self.0.0.changed.notify_waiters();
        }
    }
}

/// The task that sends queued outcomes. At most one runs. It ends when it finds the queue empty.
struct Sending {
    outcomes: Outcomes,
    /// The number of outcomes that the sink is persisting.
    taken: usize,
    /// Whether the task found the queue empty, so that the next outcome starts a new one.
    is_last: bool,
}

impl Sending {
    /// A crash here loses the queued outcomes: the bucket then does not say how their attempts
    /// ended.
    async fn run(mut self) {
        loop {
            // Waits for more outcomes, until the linger elapses or a batch is due.
            let _ = timeout(LINGER, self.due()).await;
            let Some(batch) = self.take() else { return };
            self.send(batch).await;
        }
    }

    /// Completes when a batch is due.
    async fn due(&self) {
        loop {
            let changed = self.outcomes.0.changed.notified();
            if self.outcomes.state().is_due() {
                return;
            }
            changed.await;
        }
    }

    /// The next batch. `None` ends the task.
    fn take(&mut self) -> Option<Batch> {
        let (taken, refused) = {
            let mut state = self.outcomes.state();
            let count = state.queue.len().min(BATCH_OUTCOMES);
            (self.taken, self.is_last) = (count, count == 0);
            state.is_sending = count > 0;
            let taken: Vec<Ended> = state.queue.drain(..count).collect();
            let is_empty = state.queue.is_empty();
            (taken, if is_empty { std::mem::take(&mut state.refused) } else { 0 })
        };
        if refused > 0 {
            tracing::warn!(
                lost = refused,
                "outcomes of mutations are no longer lost: the audit sink has caught up"
            );
        }
        let mut builder = BatchBuilder::with_capacity(taken.len() * RECORD_BYTES);
        taken.iter().for_each(|ended| builder.record(|record| ended.append(record)));
        builder.build(self.outcomes.0.clock.now_ms())
    }

    /// Persists a batch, and retries while the sink reports it as not persisted. Without a
    /// deadline, since no caller waits.
    async fn send(&mut self, batch: Batch) {
        for retry in 1.. {
            let Inner { sink, random, .. } = &*self.outcomes.0;
            let persisted = AssertUnwindSafe(sink.persist(batch.clone())).catch_unwind();
            let error = match persisted.await {
                Ok(Ok(_receipt)) => {
                    self.taken = 0;
                    return;
                }
                Ok(Err(error)) => error,
                Err(_panic) => return self.lose(Loss::Indeterminate),
            };
            match (error.outcome(), error.kind()) {
                // A retry could store two outcomes for one attempt.
                (Outcome::Indeterminate, _) => return self.lose(Loss::Indeterminate),
                (_, SinkErrorKind::Closed) => return self.lose(Loss::Closed),
                (_, SinkErrorKind::Unavailable | SinkErrorKind::Blocked) => {}
            }
            let backoff = RETRIES.backoff(retry, random.next_u64());
            sleep(backoff).await;
        }
    }

    fn lose(&mut self, why: Loss) {
        let lost = std::mem::take(&mut self.taken);
        self.outcomes.0.metrics.outcomes_lost(why, lost as u64);
        tracing::warn!(lost, ?why, "outcomes of mutations may not reach the bucket");
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // The executor shut down while the sink was persisting them.
        if self.taken > 0 {
            self.lose(Loss::Indeterminate);
        }
        if !self.is_last {
            self.outcomes.state().is_sending = false;
        }
        self.outcomes.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
