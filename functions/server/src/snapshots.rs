//! Snapshots at whose times clients may read for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long clients may read at a snapshot.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(30);

/// The maximum number of snapshots. Each prevents the store from reclaiming data overwritten since,
/// so the oldest is dropped first.
const MAX_KEPT: usize = 1_024;

#[derive(Debug)]
pub(super) struct Snapshots<S>(Arc<Mutex<BTreeMap<u64, (S, Instant)>>>);

impl<S> Clone for Snapshots<S> {
    fn clone(&self) -> Snapshots<S> {
        Snapshots(Arc::clone(&self.0))
    }
}

impl<S> Default for Snapshots<S> {
    fn default() -> Snapshots<S> {
        Snapshots(Arc::default())
    }
}

impl<S: Clone + Send + 'static> Snapshots<S> {
    pub(super) fn keep(&self, ts: u64, snapshot: S) {
        let until = Instant::now() + KEPT_FOR;
        let mut kept = self.0.lock();
        if kept.is_empty() {
            // Ends when no snapshot is kept any more.
            tokio::spawn(self.clone().expire());
        }
        kept.insert(ts, (snapshot, until));
        if kept.len() > MAX_KEPT {
            kept.pop_first();
        }
    }

    /// The snapshot of this time, if it is still kept.
    pub(super) fn at(&self, ts: u64) -> Option<S> {
        let kept = self.0.lock();
        kept.get(&ts)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(snapshot, _)| snapshot.clone())
    }

    async fn expire(self) {
        loop {
            let next = {
                let mut kept = self.0.lock();
                let now = Instant::now();
                kept.retain(|_, (_, until)| *until > now);
                match kept.values().map(|(_, until)| *until).min() {
                    Some(next) => next,
                    None => return,
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_kept_for_a_while_and_then_dropped() {
        let snapshots = Snapshots::default();
        let snapshot = Arc::new(());
        snapshots.keep(5, Arc::clone(&snapshot));
        assert!(snapshots.at(5).is_some() && snapshots.at(4).is_none());
        tokio::time::sleep(KEPT_FOR / 2).await;
        // Keeping it a second time restarts its time.
        snapshots.keep(5, Arc::clone(&snapshot));
        tokio::time::sleep(KEPT_FOR - Duration::from_millis(1)).await;
        assert!(snapshots.at(5).is_some());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(snapshots.at(5).is_none());
        assert_eq!(Arc::strong_count(&snapshot), 1, "it is dropped without another request");
        snapshots.keep(6, snapshot);
        assert!(snapshots.at(6).is_some());
    }

    #[tokio::test]
    async fn the_number_of_snapshots_is_limited() {
        let snapshots = Snapshots::default();
        for ts in 0..=MAX_KEPT as u64 {
            snapshots.keep(ts, ());
        }
        assert!(snapshots.at(0).is_none() && snapshots.at(1).is_some());
    }
}
