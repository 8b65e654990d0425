//! What became of each attempt at a mutation that logged something, as records of their own.
//!
//! A log is durable before its effect, so it cannot say whether the effect came. These records say
//! it afterwards. No caller waits for them: they queue up in memory, and a task hands them to the
//! sink together.

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

/// How long outcomes wait for others, unless a batch is full or the host drains them: so they cost
/// at most one sync of a journal a second, or one object of a sink without one.
const LINGER: Duration = Duration::from_secs(1);

/// The longest record, with its line feed, in bytes.
const RECORD_BYTES: usize =
    r#"{"$audit":{"execution":"","attempt":4294967295,"outcome":"rolled back"}}"#.len()
        + UniqueId::TEXT_BYTES
        + 1;

/// Outcomes of one batch: less than 1 MiB of records.
const BATCH_OUTCOMES: usize = 8_192;

const _: () = assert!(BATCH_OUTCOMES * RECORD_BYTES <= 1 << 20);

/// The most outcomes that wait, 32 bytes each: 2 MiB. So many wait only while the sink fails, or is
/// slower than the database for seconds.
const MAX_QUEUED: usize = 65_536;

const _: () = assert!(size_of::<Ended>() <= 32);

/// How a batch is retried that the sink did not persist.
const RETRIES: RetryPolicy =
    RetryPolicy { max_attempts: u32::MAX, base_backoff_ms: 100, max_backoff_ms: 5_000 };

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The transaction is committed.
    Committed,
    /// The function did not fail, and nothing is committed: its logs did not become durable in
    /// time, its caller went away, or the host or the database gave the transaction up.
    RolledBack,
    /// A statement or the commit met a write conflict.
    Conflict,
    /// The function failed: by an error, by a panic, or for a log that was refused.
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

/// An attempt that ended.
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
        written.expect("memory takes what is written");
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
    /// Notified when the state changes that someone may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Ended>,
    /// Whether a task takes from the queue.
    is_sending: bool,
    /// Whether a full queue was reported since it was last empty.
    was_full: bool,
    /// How many callers wait until all is sent.
    drains: usize,
    /// How many commits are under way.
    commits: usize,
}

impl State {
    /// Whether a batch is sent without waiting for more.
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

    /// Adds an outcome without waiting. One that finds the queue full is lost and counted.
    pub(crate) fn queue(&self, ended: Ended) {
        let mut state = self.state();
        if state.queue.len() == MAX_QUEUED {
            self.0.metrics.outcomes_lost(Loss::Full, 1);
            if !std::mem::replace(&mut state.was_full, true) {
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

    /// Starts a task that sends what waits, unless one runs.
    fn ensure_sending(&self, mut state: MutexGuard<'_, State>) {
        if state.is_sending || state.queue.is_empty() {
            return;
        }
        // Without an executor they wait for the next outcome, or for a drain.
        let Ok(executor) = Handle::try_current() else { return };
        state.is_sending = true;
        drop(state);
        // An executor that ends drops the task, perhaps before its first step.
        executor.spawn(Sending { outcomes: self.clone(), taken: 0, is_last: false }.run());
    }

    /// Notes that a commit is under way until the returned value is dropped: a drain waits for its
    /// outcome.
    pub(crate) fn commit_begins(&self) -> Committing {
        self.state().commits += 1;
        Committing(self.clone())
    }

    /// Returns once every outcome is durable or lost, those of commits under way among them.
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

/// A caller that waits until all is sent.
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

/// A commit under way.
pub(crate) struct Committing(Outcomes);

impl Drop for Committing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.commits -= 1;
        // The task that sends what waits has nothing to do for it.
        if state.drains > 0 {
            drop(state);
            self.0.0.changed.notify_waiters();
        }
    }
}

/// The task that sends what waits. There is one at a time, and none while nothing waits.
struct Sending {
    outcomes: Outcomes,
    /// How many outcomes are on their way to the sink.
    taken: usize,
    /// Whether it found the queue empty, so that the next outcome starts another task.
    is_last: bool,
}

impl Sending {
    /// A crash in here: the outcomes that waited are in no bucket, and the bucket does not say what
    /// became of their attempts.
    async fn run(mut self) {
        loop {
            // It is time once this elapsed, or as soon as a batch is due.
            let _ = timeout(LINGER, self.due()).await;
            let Some(batch) = self.take() else { return };
            self.send(batch).await;
        }
    }

    /// Completes when there is no need to wait for more.
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
        let taken: Vec<Ended> = {
            let mut state = self.outcomes.state();
            let count = state.queue.len().min(BATCH_OUTCOMES);
            (self.taken, self.is_last) = (count, count == 0);
            state.is_sending = count > 0;
            state.was_full &= count == 0;
            state.queue.drain(..count).collect()
        };
        let mut builder = BatchBuilder::with_capacity(taken.len() * RECORD_BYTES);
        taken.iter().for_each(|ended| builder.record(|record| ended.append(record)));
        builder.build(self.outcomes.0.clock.now_ms())
    }

    /// Hands a batch to the sink, and retries while the sink says that it does not have it. It
    /// waits as long as the sink takes, since no caller waits for this.
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
                // A second copy would make two outcomes of one attempt.
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
        // Its executor ended while the sink had them.
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
mod tests {
    use audit_core::testing::{ManualClock, MemoryFault, MemorySink, SeededRandom};

    use super::*;

    fn outcomes() -> (Arc<MemorySink>, Outcomes) {
        let sink = Arc::new(MemorySink::new());
        let (clock, random) = (Arc::new(ManualClock::at(7)), Arc::new(SeededRandom::new(7)));
        let outcomes = Outcomes::new(Arc::clone(&sink) as _, clock, random, Metrics::new());
        (sink, outcomes)
    }

    fn ended(attempt: u32) -> Ended {
        Ended { execution: UniqueId::from_bits(1), attempt, outcome: AttemptOutcome::RolledBack }
    }

    /// The attempts whose outcomes are in the sink.
    fn attempts(sink: &MemorySink) -> Vec<u64> {
        let attempt = |line: String| {
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            record["$audit"]["attempt"].as_u64().unwrap()
        };
        sink.lines().into_iter().map(attempt).collect()
    }

    #[test]
    fn a_record_fits_its_bound() {
        let mut record = Vec::new();
        ended(u32::MAX).append(&mut record);
        assert_eq!(record.len() + 1, RECORD_BYTES);
        let expected = r#"{"$audit":{"execution":"00000000000000000000000001","attempt":4294967295,"outcome":"rolled back"}}"#;
        assert_eq!(String::from_utf8(record).unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_share_a_batch_within_a_second() {
        let (sink, outcomes) = outcomes();
        for attempt in 0..3 {
            outcomes.queue(ended(attempt));
            sleep(LINGER / 4).await;
        }
        assert!(sink.lines().is_empty());
        sleep(LINGER).await;
        assert_eq!((attempts(&sink), sink.batches().len()), (vec![0, 1, 2], 1));
        // The next one starts another task.
        outcomes.queue(ended(3));
        sleep(2 * LINGER).await;
        assert_eq!((attempts(&sink).len(), sink.batches().len()), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let (sink, outcomes) = outcomes();
        let began = tokio::time::Instant::now();
        (0..BATCH_OUTCOMES as u32).for_each(|attempt| outcomes.queue(ended(attempt)));
        while sink.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((sink.lines().len(), began.elapsed()), (BATCH_OUTCOMES, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_retried_until_the_sink_has_it_once() {
        let (sink, outcomes) = outcomes();
        sink.script([MemoryFault::FailBefore; 20]);
        outcomes.queue(ended(1));
        outcomes.drain().await;
        assert_eq!(attempts(&sink), [1]);
        // The sink may have it: a retry could store it twice.
        sink.script([MemoryFault::FailAfter]);
        outcomes.queue(ended(2));
        outcomes.drain().await;
        assert_eq!(attempts(&sink), [1, 2]);
        sink.close().await.unwrap();
        outcomes.queue(ended(3));
        outcomes.drain().await;
        assert_eq!(attempts(&sink), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_bounds_what_waits() {
        let (sink, outcomes) = outcomes();
        sink.script([MemoryFault::HangBefore]);
        outcomes.queue(ended(0));
        sink.hanging(1).await;
        (0..MAX_QUEUED as u32 + 100).for_each(|attempt| outcomes.queue(ended(attempt)));
        assert_eq!(outcomes.state().queue.len(), MAX_QUEUED);
        let drained = timeout(Duration::from_secs(3_600), outcomes.drain()).await;
        assert!(drained.is_err(), "it waits for the sink");
        assert_eq!(outcomes.state().drains, 0, "and stops when its caller does");
    }

    #[test]
    fn waiting_outcomes_survive_their_executor() {
        let (sink, outcomes) = outcomes();
        let run = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        outcomes.queue(ended(1));
        // This executor ends before the outcomes are due.
        run().block_on(async { outcomes.queue(ended(2)) });
        assert!(sink.lines().is_empty());
        run().block_on(outcomes.drain());
        assert_eq!(attempts(&sink), [1, 2]);
    }
}
