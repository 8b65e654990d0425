//! Recent commits, and watches on read sets.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Inner, Store, Timestamp, intervals::Intervals, key::Key, reads::ReadSet};

pub(super) const MAX_RECENT_COMMITS: usize = 16_384;
/// The maximum number of keys written by recent commits.
const MAX_RECENT_KEYS: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Written {
    pub(super) ts: Timestamp,
    pub(super) keys: Vec<Key>,
}

/// The recent commits, and the active watches.
#[derive(Debug)]
pub(super) struct Recent {
    log: VecDeque<Arc<Written>>,
    keys: usize,
    /// The log no longer has commits up to this timestamp.
    horizon: Timestamp,
    /// Not a hash table: growing one with 100,000 watches would hold the lock for 20 ms.
    watches: BTreeMap<u64, Arc<Watched>>,
    /// The watched ranges. Their owners are the numbers of watches.
    ranges: Intervals,
    next_watch: u64,
}

impl Recent {
    pub(super) fn new(last: Timestamp) -> Self {
        Self {
            log: VecDeque::new(),
            keys: 0,
            horizon: last,
            watches: BTreeMap::new(),
            ranges: Intervals::default(),
            next_watch: 0,
        }
    }

    /// Adds a commit. Returns the invalidated watches, for the caller to notify.
    pub(super) fn push(&mut self, written: Arc<Written>) -> Vec<Arc<Watched>> {
        let mut numbers = Vec::new();
        for key in &written.keys {
            self.ranges.find(key, &mut |number| numbers.push(number));
        }
        // A watch is invalidated only once.
        let invalid: Vec<_> =
            numbers.into_iter().filter_map(|number| self.remove(number)).collect();
        for watched in &invalid {
            watched.invalidate(written.ts);
        }
        self.keys += written.keys.len();
        self.log.push_back(written);
        while self.log.len() > MAX_RECENT_COMMITS || self.keys > MAX_RECENT_KEYS {
            let Some(first) = self.log.pop_front() else { break };
            self.keys -= first.keys.len();
            self.horizon = first.ts;
        }
        invalid
    }

    fn add(&mut self, watched: &Arc<Watched>) -> u64 {
        let number = self.next_watch;
        self.next_watch += 1;
        for (start, end) in watched.reads.ranges() {
            self.ranges.insert(start.clone(), end.clone(), number);
        }
        self.watches.insert(number, Arc::clone(watched));
        number
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Watched>> {
        let watched = self.watches.remove(&number)?;
        for (start, _) in watched.reads.ranges() {
            self.ranges.remove(start, number);
        }
        Some(watched)
    }

    /// All commits after `ts`. `None` if some have been dropped.
    pub(super) fn since(&self, ts: Timestamp) -> Option<Vec<Arc<Written>>> {
        if ts < self.horizon {
            return None;
        }
        let first = self.log.partition_point(|written| written.ts <= ts);
        Some(self.log.range(first..).cloned().collect())
    }
}

#[derive(Debug)]
pub(super) struct Watched {
    reads: Arc<ReadSet>,
    /// The timestamp of the first commit that wrote to the read set, or 0 if none did.
    invalid_since: AtomicU64,
    /// Weak: while a result stays unchanged, many followers may come and go.
    notifies: Mutex<Vec<Weak<Notify>>>,
}

impl Watched {
    fn invalidate(&self, ts: Timestamp) {
        self.invalid_since.store(ts, Ordering::Release);
    }

    pub(super) fn notify(&self) {
        for notify in self.notifies.lock().drain(..).filter_map(|notify| notify.upgrade()) {
            notify.notify_one();
        }
    }
}

/// A watch on a read set, which later writes to it invalidate. Dropping it ends the watch.
pub struct Watch {
    watched: Arc<Watched>,
    store: Weak<Inner>,
    /// `None` if it was invalid from the start.
    number: Option<u64>,
}

impl Watch {
    pub(super) fn new(store: &Store, reads: Arc<ReadSet>, at: Timestamp) -> Self {
        let watched = Arc::new(Watched {
            reads,
            invalid_since: AtomicU64::new(0),
            notifies: Mutex::default(),
        });
        let mut recent = store.0.recent.lock();
        let number = match recent.since(at) {
            Some(since) => {
                match since.iter().find(|written| watched.reads.find(&written.keys).is_some()) {
                    Some(first) => {
                        watched.invalidate(first.ts);
                        None
                    }
                    None => Some(recent.add(&watched)),
                }
            }
            // The log no longer has the commits since then. The first one is assumed to have
            // written to the read set.
            None => {
                watched.invalidate(at + 1);
                None
            }
        };
        Self { watched, store: Arc::downgrade(&store.0), number }
    }

    /// The watched read set.
    pub fn reads(&self) -> &ReadSet {
        &self.watched.reads
    }

    /// The first commit after the read that wrote to the read set, if any. It is set before a
    /// snapshot shows that commit.
    pub fn invalid_since(&self) -> Option<Timestamp> {
        match self.watched.invalid_since.load(Ordering::Acquire) {
            0 => None,
            ts => Some(ts),
        }
    }

    /// Gives `notify` a permit ([`Notify::notify_one`]) once [`invalid_since`](Self::invalid_since)
    /// is set and [`Store::latest`] shows the invalidating commit, or immediately if both are
    /// already the case.
    pub fn on_invalid(&self, notify: &Arc<Notify>) {
        let mut notifies = self.watched.notifies.lock();
        if notifies.len() == notifies.capacity() {
            notifies.retain(|notify| notify.strong_count() > 0);
        }
        notifies.push(Arc::downgrade(notify));
        drop(notifies);
        if self.invalid_since().is_some() {
            // The committer holds this lock until the commit is published.
            if let Some(store) = self.store.upgrade() {
                drop(store.recent.lock());
            }
            self.watched.notify();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((store, number)) = self.store.upgrade().zip(self.number) {
            let watched = store.recent.lock().remove(number);
            drop(watched);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("invalid_since", &self.invalid_since())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_watches_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let watch = store.watch(Arc::default(), store.latest().ts());
        let stays = Arc::new(Notify::new());
        watch.on_invalid(&stays);
        for _ in 0..10_000 {
            watch.on_invalid(&Arc::new(Notify::new()));
        }
        let notifies = watch.watched.notifies.lock();
        assert!(notifies.len() < 100, "{} are remembered", notifies.len());
        assert!(
            notifies
                .iter()
                .any(|notify| notify.upgrade().is_some_and(|there| Arc::ptr_eq(&there, &stays)))
        );
    }
}
