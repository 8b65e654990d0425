//! Where the parts of a sink report how they are doing: the journal, its destination, and whatever
//! else a sink consists of.

mod metrics;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Commits, Health, HealthState};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use self::metrics::Metrics;
use self::trouble::Level;
pub use self::trouble::{DeliveryTrouble, Trouble};
use crate::shared::panic::{Panicked, catch};

/// Where the parts of a sink report to.
#[derive(Debug)]
pub struct HealthBoard {
    /// The bucket's name, for the log.
    bucket: String,
    /// How many batches are accepted and not yet durable.
    pub pending_batches: AtomicU64,
    objects_delivered: AtomicU64,
    records_delivered: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
    panics: AtomicU64,
    /// Becomes the reason when the sink takes nothing more.
    stopped: watch::Sender<Option<String>>,
    troubles: Mutex<Troubles>,
    /// Where a line that was held back is logged in the end. `None` without a runtime.
    runtime: Option<tokio::runtime::Handle>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Troubles {
    /// What went wrong last with each thing that is under way, by its watch.
    current: BTreeMap<u64, Trouble>,
    next_watch: u64,
    /// Whether commits wait for room.
    starving: bool,
    /// Why the journal takes nothing any more.
    stopped: Option<String>,
    create_only: Option<bool>,
    journal_bytes: Option<u64>,
    oldest_undelivered_ms: Option<i64>,
    verifier_key: Option<String>,
    last_error: Option<String>,
    log: Logged,
}

/// What the log was told last.
#[derive(Debug, Default)]
struct Logged {
    /// `None` if it was told that all is well, or nothing.
    trouble: Option<Trouble>,
    /// When it was last told of a trouble.
    at: Option<Instant>,
    /// How often since then a trouble began or changed that it was not told of.
    held_back: u64,
    /// Whether a task will tell it the rest.
    is_settling: bool,
}

/// How long the log is not told of another trouble after one. Troubles that come and go with every
/// object would be a line each.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

impl Troubles {
    /// The trouble that matters most: one that needs an operator, else any.
    fn worst(&self) -> Option<&Trouble> {
        let blocked = self.current.values().find(|trouble| trouble.is_blocked());
        blocked.or_else(|| self.current.values().next())
    }

    fn level(&self) -> Level {
        self.worst().map_or(Level::Ok, Trouble::level)
    }

    fn commits(&self) -> Commits {
        let refused = |trouble: &Trouble| Commits::Refused { reason: trouble.to_string() };
        if let Some(reason) = &self.stopped {
            return Commits::Stopped { reason: reason.clone() };
        }
        if self.journal_bytes.is_none() {
            return self.worst().map_or(Commits::Accepted, refused);
        }
        // What is wrong with delivery fills a journal, and that it is full is a trouble of its own.
        let is_own = |trouble: &&Trouble| !matches!(trouble, Trouble::Delivery(_));
        let own = self.current.values().find(is_own).filter(|_| self.starving);
        own.map_or(Commits::Accepted, refused)
    }

    /// What the log is to be told now. The end of a trouble that it was told of is never held back,
    /// so that it never ends on a trouble that is over.
    fn line(&mut self) -> Option<Line> {
        let now = self.worst().cloned();
        let log = &mut self.log;
        let new = match (&log.trouble, now) {
            (None, None) => return None,
            (Some(before), None) => {
                let before = before.clone();
                log.trouble = None;
                return Some(Line::Over(before));
            }
            (Some(before), Some(now)) if now.is_like(before) => return None,
            (_, Some(now)) => now,
        };
        // One that needs an operator is told at once after one that needs none.
        let is_worse = log.trouble.as_ref().is_some_and(|before| before.level() < new.level());
        if !is_worse && log.at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            log.held_back += 1;
            return None;
        }
        log.trouble = Some(new.clone());
        log.at = Some(Instant::now());
        Some(Line::Trouble(new, std::mem::take(&mut log.held_back)))
    }
}

impl Troubles {
    fn stop(&mut self, trouble: Trouble) {
        let reason = trouble.to_string();
        self.last_error = Some(reason.clone());
        self.stopped.get_or_insert(reason);
        self.next_watch += 1;
        self.current.insert(self.next_watch, trouble);
    }

    /// When somebody must come back to tell the log of the trouble that was held back, if it lasts.
    fn settle_in(&mut self) -> Option<Duration> {
        let now = self.worst()?;
        let is_told = self.log.trouble.as_ref().is_some_and(|told| now.is_like(told));
        let at = self.log.at.filter(|_| !is_told && !self.log.is_settling)?;
        self.log.is_settling = true;
        Some(LOG_INTERVAL.saturating_sub(at.elapsed()))
    }
}

/// What the log is told.
enum Line {
    /// With how many others before it were not told.
    Trouble(Trouble, u64),
    Over(Trouble),
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
            stopped: watch::Sender::new(None),
            troubles: Mutex::default(),
            runtime: tokio::runtime::Handle::try_current().ok(),
            metrics,
        })
    }

    /// What is known now; of the bytes that wait for being durable the caller knows.
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
        }
    }

    /// What stands in the way now, if it is known.
    pub fn trouble(&self) -> Option<Trouble> {
        self.lock().worst().cloned()
    }

    /// What keeps a journal from being emptied or written to, if that is known. That it is full
    /// comes of something else.
    pub(crate) fn hindrance(&self) -> Option<Trouble> {
        let troubles = self.lock();
        let is_cause = |trouble: &&Trouble| !matches!(trouble, Trouble::JournalFull(_));
        troubles.current.values().find(is_cause).or_else(|| troubles.worst()).cloned()
    }

    /// Whether delivery is in trouble, as far as it is known; the journal's own troubles are not.
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
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.metrics.panicked();
    }

    /// The sink takes nothing more, until this process is restarted.
    pub fn stop(self: &Arc<Self>, trouble: Trouble) {
        let reason = trouble.to_string();
        self.change(|troubles| troubles.stop(trouble));
        self.stopped.send_if_modified(|stopped| stopped.replace(reason).is_none());
    }

    /// Becomes the reason when the sink takes nothing more.
    pub fn when_stopped(&self) -> watch::Receiver<Option<String>> {
        self.stopped.subscribe()
    }

    /// Follows a task that must come to its end: dropped before that, with its runtime, it stops
    /// the sink.
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

    /// Changes the troubles, and tells the log if that changes what it knows.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.lock();
        change(&mut troubles);
        let level = troubles.level();
        let line = troubles.line();
        let settle_in = troubles.settle_in();
        drop(troubles);
        self.metrics.blocked(level as u8);
        if let Some(line) = line {
            self.log(&line);
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

    /// Tells the log what was held back, if it is still so.
    fn settle(self: &Arc<Self>) {
        self.change(|troubles| troubles.log.is_settling = false);
    }

    fn log(&self, line: &Line) {
        let bucket = self.bucket.as_str();
        match line {
            Line::Over(Trouble::Delivery(_)) => {
                tracing::info!(bucket, "audit logs are delivered again");
            }
            Line::Over(Trouble::Disk(_) | Trouble::Stopped(_)) => {
                tracing::info!(bucket, "the journal of audit logs can use its disk again");
            }
            Line::Over(Trouble::Panicked(_)) => {
                tracing::info!(bucket, "what panicked in the audit sink goes on");
            }
            Line::Over(Trouble::JournalFull(_)) => {
                tracing::info!(bucket, "the journal of audit logs has room again");
            }
            Line::Trouble(trouble, held_back) => {
                let (reason, held_back) = (trouble.to_string(), *held_back);
                match trouble {
                    Trouble::Delivery(_) if !trouble.is_blocked() => {
                        tracing::warn!(bucket, reason, held_back, "audit delivery is retried");
                    }
                    Trouble::Delivery(_) => tracing::error!(
                        bucket,
                        reason,
                        held_back,
                        "audit delivery is blocked until an operator acts"
                    ),
                    Trouble::Panicked(_) => {
                        tracing::error!(bucket, reason, held_back, "the audit sink panicked");
                    }
                    Trouble::Stopped(_) => tracing::error!(
                        bucket,
                        reason,
                        held_back,
                        "the audit sink has stopped: restart this process"
                    ),
                    Trouble::Disk(_) | Trouble::JournalFull(_) => {
                        tracing::error!(
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

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing under way, such as an object. What it reported is gone when this is dropped, and only
/// [`over`](Self::over) says that it ended well: a task that is dropped with its runtime knows
/// nothing of the bucket.
#[must_use]
#[derive(Debug)]
pub struct Watch {
    board: Arc<HealthBoard>,
    number: u64,
}

impl Watch {
    /// It is in this trouble now.
    pub fn report(&self, trouble: Trouble) {
        if let Trouble::Delivery(_) = trouble {
            self.board.retries.fetch_add(1, Ordering::Relaxed);
            self.board.metrics.retried();
        }
        self.board.change(|troubles| {
            troubles.last_error = Some(trouble.to_string());
            troubles.current.insert(self.number, trouble);
        });
    }

    /// It was carried out.
    pub fn over(self) {
        self.board.change(|troubles| {
            troubles.current.remove(&self.number);
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut troubles = self.board.lock();
        if troubles.current.remove(&self.number).is_some() {
            let level = troubles.level();
            drop(troubles);
            // It may be dropped by a panic, and a second one would end the process.
            let _ = catch(|| self.board.metrics.blocked(level as u8));
        }
    }
}

/// A task that must come to its end, and says so.
#[must_use]
#[derive(Debug)]
pub struct MustEnd {
    board: Option<Arc<HealthBoard>>,
    what: &'static str,
}

impl MustEnd {
    /// It ended as it should.
    pub fn ended(mut self) {
        self.board = None;
    }

    /// It panicked.
    pub fn panicked(mut self, panicked: &Panicked) {
        if let Some(board) = self.board.take() {
            board.panicked();
            board.stop(Trouble::ended(self.what, Some(panicked)));
        }
    }
}

impl Drop for MustEnd {
    fn drop(&mut self) {
        if let Some(board) = self.board.take() {
            // The log need not hear of it: the process mostly ends as well.
            let trouble = Trouble::ended(self.what, None);
            let reason = trouble.to_string();
            board.lock().stop(trouble);
            board.stopped.send_if_modified(|stopped| stopped.replace(reason).is_none());
        }
    }
}
