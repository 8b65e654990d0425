//! The health of a sink. All parts report to it: the journal, its destination, and any others.

mod log;
mod metrics;
#[cfg(test)]
mod tests;
mod trouble;
mod troubles;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Health, HealthState};
use tokio::sync::watch as channel;
use tokio::time::Duration;

use self::metrics::Metrics;
pub use self::trouble::{DeliveryTrouble, Trouble};
use self::troubles::Troubles;
pub use self::watch::Watch;
#[doc(hidden)]
pub use self::watch::{MustEnd, PendingBatch};

/// The health of a sink. All its parts report to it.
#[derive(Debug)]
pub struct HealthBoard {
    /// The bucket's name, for the log.
    bucket: String,
    /// The number of accepted batches that are not yet durable.
    pending_batches: AtomicU64,
    objects_delivered: AtomicU64,
    records_delivered: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
    panics: AtomicU64,
    /// Holds the reason once the sink has stopped.
    stopped: channel::Sender<Option<String>>,
    troubles: Mutex<Troubles>,
    /// Runs the task that logs a suppressed line. `None` without a runtime.
    runtime: Option<tokio::runtime::Handle>,
    metrics: Metrics,
}

impl HealthBoard {
    /// Creates a board. `bucket` is its name in the log and in the label of metrics.
    pub fn new(bucket: String) -> Arc<HealthBoard> {
        let metrics = Metrics::new(&bucket);
        Arc::new(HealthBoard {
            bucket,
            pending_batches: AtomicU64::new(0),
            objects_delivered: AtomicU64::new(0),
            records_delivered: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            stopped: channel::Sender::new(None),
            troubles: Mutex::default(),
            runtime: tokio::runtime::Handle::try_current().ok(),
            metrics,
        })
    }

    /// The current health. The caller provides the number of bytes that are not yet durable.
    pub fn health(&self, pending_bytes: u64) -> Health {
        let troubles = self.lock();
        let state = match troubles.worst() {
            None => HealthState::Ok,
            Some(trouble) if trouble.is_blocked() => {
                HealthState::Blocked { reason: trouble.to_string() }
            }
            Some(trouble) => HealthState::Retrying { reason: trouble.to_string() },
        };
        Health {
            state,
            commits: troubles.commits(),
            pending_batches: self.pending_batches.load(Ordering::Relaxed),
            pending_bytes,
            objects_delivered: self.objects_delivered.load(Ordering::Relaxed),
            records_delivered: self.records_delivered.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            create_only: troubles.create_only,
            journal_bytes: troubles.journal_bytes,
            oldest_undelivered_ms: troubles.oldest_undelivered_ms,
            verifier_key: troubles.verifier_key.clone(),
            last_error: troubles.last_error.clone(),
            followers: Vec::new(),
            witnesses: Vec::new(),
        }
    }

    /// The current worst trouble.
    #[doc(hidden)]
    pub fn trouble(&self) -> Option<Trouble> {
        self.lock().worst().cloned()
    }

    /// The trouble that keeps the journal from being written or emptied. A full journal counts only
    /// if there is no other trouble, since it is mostly a consequence.
    pub(crate) fn hindrance(&self) -> Option<Trouble> {
        let troubles = self.lock();
        let is_cause = |trouble: &&Trouble| !matches!(trouble, Trouble::JournalFull(_));
        troubles.current.values().find(is_cause).or_else(|| troubles.worst()).cloned()
    }

    /// Whether delivery is in trouble, regardless of the journal's own troubles.
    pub(crate) fn delivery_in_trouble(&self) -> bool {
        self.lock().current.values().any(|trouble| matches!(trouble, Trouble::Delivery(_)))
    }

    /// The trouble with delivery, if there is one.
    pub(crate) fn delivery_trouble(&self) -> Option<Trouble> {
        let troubles = self.lock();
        let is_its = |trouble: &&Trouble| matches!(trouble, Trouble::Delivery(_));
        troubles.current.values().find(is_its).cloned()
    }

    /// Sets whether the destination protects objects from being overwritten, if that is known.
    pub fn create_only(&self, create_only: Option<bool>) {
        self.lock().create_only = create_only;
    }

    /// Sets the public key of the evidence that the destination writes.
    pub fn verifier_key(&self, key: String) {
        self.lock().verifier_key = Some(key);
    }

    pub(crate) fn journal_bytes(&self, bytes: u64) {
        self.lock().journal_bytes = Some(bytes);
        self.metrics.journal_bytes(bytes);
    }

    /// Sets the metric of the bytes in use alone: a route counts them with each batch, and its
    /// health is asked for more rarely.
    pub(crate) fn journal_bytes_metric(&self, bytes: u64) {
        self.metrics.journal_bytes(bytes);
    }

    /// Sets the most that may be used of the journal, in bytes.
    pub(crate) fn journal_limit(&self, bytes: u64) {
        self.metrics.journal_limit(bytes);
    }

    pub(crate) fn oldest_undelivered(&self, time_ms: Option<i64>) {
        let mut troubles = self.lock();
        if troubles.oldest_undelivered_ms != time_ms {
            troubles.oldest_undelivered_ms = time_ms;
            self.metrics.oldest_undelivered(time_ms);
        }
    }

    /// Counts an object of `records` records as delivered.
    pub fn delivered(&self, records: u64) {
        self.metrics.delivered(records);
        self.objects_delivered.fetch_add(1, Ordering::Relaxed);
        self.records_delivered.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts and logs a conflict: another object has this key.
    pub fn conflict(&self, key: &str) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        self.metrics.met_conflict();
        self.lock().last_error = Some(format!("another object has the key {key}"));
        tracing::error!(
            bucket = self.bucket,
            key,
            "an audit object was not delivered: another object has its key"
        );
    }

    /// Counts a durable group.
    pub(crate) fn committed(&self, took: Duration, batches: usize, bytes: u64) {
        self.metrics.committed(took, batches, bytes);
    }

    /// Counts a panic.
    #[doc(hidden)]
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.metrics.panicked();
    }

    /// Stops the sink: it accepts nothing more until this process is restarted.
    pub(crate) fn stop(self: &Arc<Self>, trouble: Trouble) {
        let reason = trouble.to_string();
        self.change(|troubles| troubles.stop(trouble));
        self.note_stopped(reason);
    }

    /// Keeps the first reason: later ones are its consequences.
    fn note_stopped(&self, reason: String) {
        self.stopped.send_if_modified(|stopped| {
            let is_first = stopped.is_none();
            stopped.get_or_insert(reason);
            is_first
        });
    }

    /// Completes with the reason once the sink has stopped and accepts nothing more until this
    /// process is restarted. Implements [`AuditSink::stopped`](audit_core::AuditSink::stopped).
    pub fn stopped(&self) -> impl Future<Output = String> + Send + 'static {
        let mut stopped = self.stopped.subscribe();
        async move {
            match stopped.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    /// Why the sink has stopped, if it has.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// Counts a batch that is accepted and not yet durable, until the returned value is dropped.
    #[doc(hidden)]
    pub fn pending_batch(self: &Arc<Self>) -> PendingBatch {
        self.pending_batches.fetch_add(1, Ordering::Relaxed);
        PendingBatch(Arc::clone(self))
    }

    /// Follows a task that must run to completion. If it is dropped with its runtime before that,
    /// the sink stops.
    #[doc(hidden)]
    pub fn must_end(self: &Arc<Self>, what: &'static str) -> MustEnd {
        MustEnd { board: Some(Arc::clone(self)), what }
    }

    /// Sets whether commits wait for room.
    pub(crate) fn starving(&self, starving: bool) {
        self.lock().starving = starving;
    }

    /// Follows one operation, such as the delivery of an object.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let mut troubles = self.lock();
        troubles.next_watch += 1;
        Watch { board: Arc::clone(self), number: troubles.next_watch }
    }

    /// Changes the troubles, and logs the change if the log has not reported it yet.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.lock();
        change(&mut troubles);
        let level = troubles.level();
        let worst = troubles.worst().cloned();
        let line = troubles.log.line(worst.as_ref());
        let settle_in = troubles.log.settle_in(worst.as_ref());
        drop(troubles);
        self.metrics.blocked(level as u8);
        if let Some(line) = line {
            line.write(&self.bucket);
        }
        if let (Some(settle_in), Some(runtime)) = (settle_in, &self.runtime) {
            let board = Arc::downgrade(self);
            runtime.spawn(async move {
                tokio::time::sleep(settle_in).await;
                if let Some(board) = board.upgrade() {
                    board.settle();
                }
            });
        }
    }

    /// Logs the suppressed trouble if it still lasts.
    fn settle(self: &Arc<Self>) {
        self.change(|troubles| troubles.log.settle());
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
