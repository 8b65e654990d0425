//! Recent commits, and watches on what was read.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Inner, Store, Timestamp, key::Key, lock, reads::ReadSet};

/// Recent commits are forgotten once they are more than this.
const MAX_RECENT_COMMITS: usize = 16_384;
/// Recent commits are forgotten once they wrote more keys than this.
const MAX_RECENT_KEYS: usize = 1 << 20;

/// Which keys a commit wrote.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) ts: Timestamp,
    pub(super) keys: Vec<Key>,
}

/// The last commits, and who watches for the next ones.
#[derive(Debug)]
pub(super) struct Recent {
    log: VecDeque<Arc<Written>>,
    keys: usize,
    /// Commits up to here are not in the log.
    horizon: Timestamp,
    watches: HashMap<u64, Arc<Watched>>,
    next_watch: u64,
}

impl Recent {
    pub(super) fn new(last: Timestamp) -> Self {
        Self { log: VecDeque::new(), keys: 0, horizon: last, watches: HashMap::new(), next_watch: 0 }
    }

    /// Adds a commit; returns the watches that it made invalid, which are to be notified.
    pub(super) fn push(&mut self, written: Arc<Written>) -> Vec<Arc<Watched>> {
        let told = self.watches.values().filter(|watched| watched.reads.find(&written.keys).is_some());
        let told: Vec<_> = told.filter(|watched| watched.invalidate(written.ts)).cloned().collect();
        self.keys += written.keys.len();
        self.log.push_back(written);
        while self.log.len() > MAX_RECENT_COMMITS || self.keys > MAX_RECENT_KEYS {
            let Some(first) = self.log.pop_front() else { break };
            self.keys -= first.keys.len();
            self.horizon = first.ts;
        }
        told
    }

    /// All commits after `ts`, unless some of them are forgotten.
    pub(super) fn since(&self, ts: Timestamp) -> Option<Vec<Arc<Written>>> {
        if ts < self.horizon {
            return None;
        }
        let first = self.log.partition_point(|written| written.ts <= ts);
        Some(self.log.range(first..).cloned().collect())
    }
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Watched {
    reads: Arc<ReadSet>,
    /// The first commit that wrote into it; 0 while there is none.
    invalid_since: AtomicU64,
    notifies: Mutex<Vec<Arc<Notify>>>,
}

impl Watched {
    /// Whether this commit is the first.
    fn invalidate(&self, ts: Timestamp) -> bool {
        self.invalid_since.compare_exchange(0, ts, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn notify(&self) {
        for notify in lock(&self.notifies).drain(..) {
            notify.notify_one();
        }
    }
}

/// Knows whether something that was read has been written since. Dropping it ends the watch.
pub struct Watch {
    watched: Arc<Watched>,
    store: Weak<Inner>,
    number: u64,
}

impl Watch {
    pub(super) fn new(store: &Store, reads: Arc<ReadSet>, at: Timestamp) -> Self {
        let watched =
            Arc::new(Watched { reads, invalid_since: AtomicU64::new(0), notifies: Mutex::default() });
        let mut recent = lock(&store.0.recent);
        match recent.since(at) {
            Some(since) => {
                if let Some(first) = since.iter().find(|written| watched.reads.find(&written.keys).is_some())
                {
                    watched.invalidate(first.ts);
                }
            }
            // What was written since is not known: at worst the commit right after.
            None => {
                watched.invalidate(at + 1);
            }
        }
        let number = recent.next_watch;
        recent.next_watch += 1;
        if watched.invalid_since.load(Ordering::Acquire) == 0 {
            recent.watches.insert(number, Arc::clone(&watched));
        }
        Self { watched, store: Arc::downgrade(&store.0), number }
    }

    /// The first commit after the read that wrote into what was read. Every snapshot from that commit on comes after
    /// this is known.
    pub fn invalid_since(&self) -> Option<Timestamp> {
        match self.watched.invalid_since.load(Ordering::Acquire) {
            0 => None,
            ts => Some(ts),
        }
    }

    /// Gives `notify` a permit ([`Notify::notify_one`]) once [`invalid_since`](Self::invalid_since) is known and
    /// [`Store::latest`] has what made it so: right now if that has happened, never if it does not happen.
    pub fn on_invalid(&self, notify: Arc<Notify>) {
        lock(&self.watched.notifies).push(notify);
        if self.invalid_since().is_some() {
            self.watched.notify();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            let watched = lock(&store.recent).watches.remove(&self.number);
            drop(watched);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("invalid_since", &self.invalid_since()).finish_non_exhaustive()
    }
}
