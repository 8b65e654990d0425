//! How a sink is doing, for operators and for the errors it gives.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::answer::{Answer, Blocker, Refusal};
use crate::meters::Meters;

/// How a sink is doing, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it can deliver.
    pub state: HealthState,
    /// Whether a batch that it is given now can become durable.
    pub commits: Commits,
    /// Batches accepted and not yet certain.
    pub pending_batches: u64,
    /// Bytes of their lines. See
    /// [`Settings::max_pending_bytes`](crate::Settings::max_pending_bytes).
    pub pending_bytes: u64,
    /// Objects delivered since the sink was opened.
    pub objects_delivered: u64,
    /// Records in them.
    pub records_delivered: u64,
    /// Requests that had to be repeated since the sink was opened.
    pub retries: u64,
    /// Objects that were not delivered since another one stood under their key.
    pub conflicts: u64,
    /// Whether the store refuses to overwrite objects. `None` where it could not be asked when the
    /// sink was opened.
    pub create_only: Option<bool>,
    /// Disk that the segments of the journal take, in bytes. `None` in direct mode.
    pub journal_bytes: Option<u64>,
    /// When the oldest record was made that is in the journal and not in the bucket, as far as
    /// delivery has read, in milliseconds since the Unix epoch. `None` if there is none.
    pub oldest_undelivered_ms: Option<i64>,
    /// What the bucket said when it last did not carry out a request, though that may be over.
    pub last_error: Option<String>,
}

/// Whether a sink can deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing is known to be wrong.
    Ok,
    /// Requests are repeated: the bucket is out of reach, overloaded, or its answers get lost. It
    /// goes by itself.
    Retrying {
        /// What the bucket said.
        reason: String,
    },
    /// The bucket refuses, until an operator acts. Requests are repeated slowly.
    Blocked {
        /// What the bucket said, and what to do.
        reason: String,
    },
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthState::Ok => f.write_str("ok"),
            HealthState::Retrying { reason } => write!(f, "retrying: {reason}"),
            HealthState::Blocked { reason } => write!(f, "blocked: {reason}"),
        }
    }
}

/// Whether a batch that a sink is given now can become durable, which is what a readiness probe
/// asks. With a journal that is the journal's matter: it commits while the bucket is away. In
/// direct mode it is the bucket's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commits {
    /// Nothing is known to stand against it.
    Accepted,
    /// Batches fail until that passes or an operator acts. The process goes on by itself then.
    Refused {
        /// What is in the way, and what to do.
        reason: String,
    },
    /// Batches fail until the process is restarted.
    Stopped {
        /// What happened.
        reason: String,
    },
}

/// Where the parts of a sink report to.
#[derive(Debug)]
pub(crate) struct HealthBoard {
    /// The bucket's name, for the log.
    bucket: String,
    pub(crate) pending_batches: AtomicU64,
    objects_delivered: AtomicU64,
    records_delivered: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
    troubles: Mutex<Troubles>,
    pub(crate) meters: Meters,
}

#[derive(Debug, Default)]
struct Troubles {
    /// What went wrong last with each object that is under way and not certain, by its watch.
    current: BTreeMap<u64, Refusal>,
    next_watch: u64,
    /// The watch of whoever prepares segments, while that fails.
    segments: Option<u64>,
    /// Whether commits wait for a segment.
    starving: bool,
    /// Why the journal takes nothing any more.
    stopped: Option<String>,
    create_only: Option<bool>,
    journal_bytes: Option<u64>,
    oldest_undelivered_ms: Option<i64>,
    last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Retrying,
    Blocked,
}

impl Troubles {
    /// The trouble that matters most: one that needs an operator, else any.
    fn worst(&self) -> Option<&Refusal> {
        let blocked = |refusal: &&Refusal| matches!(refusal.answer, Answer::Blocked(_));
        self.current.values().find(blocked).or_else(|| self.current.values().next())
    }

    fn commits(&self) -> Commits {
        let refused = |refusal: &Refusal| Commits::Refused { reason: refusal.to_string() };
        if let Some(reason) = &self.stopped {
            return Commits::Stopped { reason: reason.clone() };
        }
        if self.journal_bytes.is_none() {
            return self.worst().map_or(Commits::Accepted, refused);
        }
        let segments = self.segments.filter(|_| self.starving);
        segments.and_then(|watch| self.current.get(&watch)).map_or(Commits::Accepted, refused)
    }

    fn level(&self) -> Level {
        match self.worst().map(|refusal| refusal.answer) {
            None => Level::Ok,
            Some(Answer::Exists | Answer::Contention | Answer::Unknown) => Level::Retrying,
            Some(Answer::Blocked(_)) => Level::Blocked,
        }
    }
}

impl HealthBoard {
    pub(crate) fn new(bucket: String) -> Arc<HealthBoard> {
        let meters = Meters::new(&bucket);
        Arc::new(HealthBoard {
            bucket,
            pending_batches: AtomicU64::new(0),
            objects_delivered: AtomicU64::new(0),
            records_delivered: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            troubles: Mutex::default(),
            meters,
        })
    }

    pub(crate) fn health(&self, pending_bytes: u64) -> Health {
        let troubles = self.lock();
        let state = match (troubles.level(), troubles.worst()) {
            (Level::Ok, _) | (_, None) => HealthState::Ok,
            (Level::Retrying, Some(refusal)) => {
                HealthState::Retrying { reason: refusal.to_string() }
            }
            (Level::Blocked, Some(refusal)) => HealthState::Blocked { reason: refusal.to_string() },
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
            create_only: troubles.create_only,
            journal_bytes: troubles.journal_bytes,
            oldest_undelivered_ms: troubles.oldest_undelivered_ms,
            last_error: troubles.last_error.clone(),
        }
    }

    /// What stands in the way now, if it is known.
    pub(crate) fn trouble(&self) -> Option<Refusal> {
        self.lock().worst().cloned()
    }

    /// What keeps a journal from being emptied or written to, if that is known. That it is full
    /// comes of something else.
    pub(crate) fn hindrance(&self) -> Option<Refusal> {
        let troubles = self.lock();
        let full = Answer::Blocked(Blocker::JournalFull);
        let other = troubles.current.values().find(|refusal| refusal.answer != full);
        other.or_else(|| troubles.worst()).cloned()
    }

    /// Whether anything is wrong with the bucket, as far as it is known; a journal that is full is
    /// not.
    pub(crate) fn bucket_in_trouble(&self) -> bool {
        let of_journal = [Answer::Blocked(Blocker::JournalFull), Answer::Blocked(Blocker::Disk)];
        self.lock().current.values().any(|refusal| !of_journal.contains(&refusal.answer))
    }

    pub(crate) fn create_only(&self, create_only: Option<bool>) {
        self.lock().create_only = create_only;
    }

    pub(crate) fn journal_bytes(&self, bytes: u64) {
        self.lock().journal_bytes = Some(bytes);
        self.meters.journal_bytes(bytes);
    }

    pub(crate) fn oldest_undelivered(&self, time_ms: Option<i64>) {
        let mut troubles = self.lock();
        if troubles.oldest_undelivered_ms != time_ms {
            troubles.oldest_undelivered_ms = time_ms;
            self.meters.oldest_undelivered(time_ms);
        }
    }

    pub(crate) fn delivered(&self, records: u64) {
        self.meters.delivered(records);
        self.objects_delivered.fetch_add(1, Ordering::Relaxed);
        self.records_delivered.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn conflict(&self, key: &str) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        self.meters.met_conflict();
        self.lock().last_error = Some(format!("another object stands at {key}"));
        tracing::error!(
            bucket = self.bucket,
            key,
            "another object stands under the key of an audit object: not delivered"
        );
    }

    /// The journal takes nothing any more, until it is opened anew.
    pub(crate) fn stopped(&self, reason: String) {
        self.lock().stopped = Some(reason);
    }

    /// Whether commits wait for a segment.
    pub(crate) fn starving(&self, starving: bool) {
        self.lock().starving = starving;
    }

    /// Follows the preparing of segments, without which nothing can be committed.
    pub(crate) fn watch_segments(self: &Arc<Self>) -> Watch {
        let watch = self.watch();
        self.lock().segments = Some(watch.number);
        watch
    }

    /// Follows one object that is under way.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        let mut troubles = self.lock();
        troubles.next_watch += 1;
        Watch { board: Arc::clone(self), number: troubles.next_watch }
    }

    /// Changes the troubles, and logs if that changes the state: once for each change, not for each
    /// repetition.
    fn change(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.lock();
        let before = troubles.level();
        change(&mut troubles);
        let after = troubles.level();
        let reason = troubles.worst().map(Refusal::to_string).unwrap_or_default();
        drop(troubles);
        self.meters.blocked(after as u8);
        let bucket = self.bucket.as_str();
        match after {
            _ if before == after => {}
            Level::Ok => tracing::info!(bucket, "the audit bucket answers again"),
            Level::Retrying => {
                tracing::warn!(bucket, reason, "requests to the audit bucket are repeated")
            }
            Level::Blocked => {
                tracing::error!(
                    bucket,
                    reason,
                    "the audit bucket is blocked until an operator acts"
                )
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One object under way. Its trouble is over when this is dropped.
pub(crate) struct Watch {
    board: Arc<HealthBoard>,
    number: u64,
}

impl Watch {
    pub(crate) fn report(&self, refusal: &Refusal) {
        self.board.retries.fetch_add(1, Ordering::Relaxed);
        self.board.meters.retried();
        self.board.change(|troubles| {
            troubles.last_error = Some(refusal.to_string());
            troubles.current.insert(self.number, refusal.clone());
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.board.change(|troubles| {
            troubles.current.remove(&self.number);
        });
    }
}
