//! The health of a sink, to which all its parts report: the journal, its destination, and whatever
//! else it consists of.

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
    /// How many batches are accepted and not yet durable.
    pending_batches: AtomicU64,
    objects_delivered: AtomicU64,
    records_delivered: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
    panics: AtomicU64,
    /// Becomes the reason when the sink takes nothing more.
    stopped: channel::Sender<Option<String>>,
    troubles: Mutex<Troubles>,
    /// Where a line that was held back is logged in the end. `None` without a runtime.
    runtime: Option<tokio::runtime::Handle>,
    metrics: Metrics,
}

impl HealthBoard {
    /// A board under this name, in the log and as the label of metrics.
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

    /// The health now. The caller knows how many bytes wait to become durable.
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
        }
    }

    /// The worst trouble now.
    #[doc(hidden)]
    pub fn trouble(&self) -> Option<Trouble> {
        self.lock().worst().cloned()
    }

    /// The trouble that keeps a journal from being emptied or written to. That it is full is a
    /// consequence of another trouble.
    pub(crate) fn hindrance(&self) -> Option<Trouble> {
        let troubles = self.lock();
        let is_cause = |trouble: &&Trouble| !matches!(trouble, Trouble::JournalFull(_));
        troubles.current.values().find(is_cause).or_else(|| troubles.worst()).cloned()
    }

    /// Whether delivery is in trouble. The journal's own troubles do not count.
    pub(crate) fn delivery_in_trouble(&self) -> bool {
        self.lock().current.values().any(|trouble| matches!(trouble, Trouble::Delivery(_)))
    }

    /// Whether the destination protects objects from being overwritten, if that is known.
    pub fn create_only(&self, create_only: Option<bool>) {
        self.lock().create_only = create_only;
    }

    /// The public key of the evidence that the destination writes.
    pub fn verifier_key(&self, key: String) {
        self.lock().verifier_key = Some(key);
    }

    pub(crate) fn journal_bytes(&self, bytes: u64) {
        self.lock().journal_bytes = Some(bytes);
        self.metrics.journal_bytes(bytes);
    }

    pub(crate) fn oldest_undelivered(&self, time_ms: Option<i64>) {
        let mut troubles = self.lock();
        if troubles.oldest_undelivered_ms != time_ms {
            troubles.oldest_undelivered_ms = time_ms;
            self.metrics.oldest_undelivered(time_ms);
        }
    }

    /// An object of so many records is at the destination.
    pub fn delivered(&self, records: u64) {
        self.metrics.delivered(records);
        self.objects_delivered.fetch_add(1, Ordering::Relaxed);
        self.records_delivered.fetch_add(records, Ordering::Relaxed);
    }

    /// Another object stands under this key.
    pub fn conflict(&self, key: &str) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        self.metrics.met_conflict();
        self.lock().last_error = Some(format!("another object stands at {key}"));
        tracing::error!(
            bucket = self.bucket,
            key,
            "another object stands under the key of an audit object: not delivered"
        );
    }

    /// One group of so many batches and bytes was made durable.
    pub(crate) fn committed(&self, took: Duration, batches: usize, bytes: u64) {
        self.metrics.committed(took, batches, bytes);
    }

    /// Something panicked.
    #[doc(hidden)]
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.metrics.panicked();
    }

    /// The sink takes nothing more, until this process is restarted.
    pub(crate) fn stop(self: &Arc<Self>, trouble: Trouble) {
        let reason = trouble.to_string();
        self.change(|troubles| troubles.stop(trouble));
        self.stopped.send_if_modified(|stopped| stopped.replace(reason).is_none());
    }

    /// Completes with the reason when the sink takes nothing more, until this process is restarted:
    /// for [`AuditSink::stopped`](audit_core::AuditSink::stopped).
    pub fn stopped(&self) -> impl Future<Output = String> + Send + 'static {
        let mut stopped = self.stopped.subscribe();
        async move {
            match stopped.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    /// Why the sink takes nothing more, if so.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// Counts a batch that is accepted and not yet durable, until the returned value is dropped.
    #[doc(hidden)]
    pub fn pending_batch(self: &Arc<Self>) -> PendingBatch {
        self.pending_batches.fetch_add(1, Ordering::Relaxed);
        PendingBatch(Arc::clone(self))
    }

    /// Follows a task that must come to its end: dropped before that, with its runtime, it stops
    /// the sink.
    #[doc(hidden)]
    pub fn must_end(self: &Arc<Self>, what: &'static str) -> MustEnd {
        MustEnd { board: Some(Arc::clone(self)), what }
    }

    /// Whether commits wait for room.
    pub(crate) fn starving(&self, starving: bool) {
        self.lock().starving = starving;
    }

    /// Follows one thing that is under way.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let mut troubles = self.lock();
        troubles.next_watch += 1;
        Watch { board: Arc::clone(self), number: troubles.next_watch }
    }

    /// Changes the troubles, and logs the change if it is news.
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

    /// Logs the trouble that was held back, if it lasts.
    fn settle(self: &Arc<Self>) {
        self.change(|troubles| troubles.log.settle());
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
