//! Snapshots at whose times clients may read for a while.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use audit_host::Lane;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long clients may read at a snapshot.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(30);

/// The maximum number of snapshots. Each prevents the store from reclaiming data overwritten since.
/// Beyond it, the client that keeps the most loses its oldest one.
const MAX_KEPT: usize = 1_024;

#[derive(Debug)]
struct Kept<S> {
    snapshot: S,
    until: Instant,
    /// The clients that keep it.
    clients: HashSet<Lane>,
}

#[derive(Debug)]
pub(super) struct Snapshots<S>(Arc<Mutex<BTreeMap<u64, Kept<S>>>>);

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
    /// Keeps a snapshot for a client. Others may read at it too.
    pub(super) fn keep(&self, client: Lane, ts: u64, snapshot: S) {
        let until = Instant::now() + KEPT_FOR;
        let mut all = self.0.lock();
        if all.is_empty() {
            // Ends when no snapshot is kept any more.
            tokio::spawn(self.clone().expire());
        }
        let clients = HashSet::new();
        let kept = all.entry(ts).or_insert(Kept { snapshot, until, clients });
        kept.until = until;
        kept.clients.insert(client);
        while all.len() > MAX_KEPT {
            forget_one(&mut all);
        }
    }

    /// The snapshot of this time, if it is still kept.
    pub(super) fn at(&self, ts: u64) -> Option<S> {
        let all = self.0.lock();
        let kept = all.get(&ts).filter(|kept| kept.until > Instant::now());
        kept.map(|kept| kept.snapshot.clone())
    }

    async fn expire(self) {
        loop {
            let next = {
                let mut all = self.0.lock();
                let now = Instant::now();
                all.retain(|_, kept| kept.until > now);
                match all.values().map(|kept| kept.until).min() {
                    Some(next) => next,
                    None => return,
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Takes the oldest snapshot from the client that keeps the most. It is dropped unless another
/// client keeps it too.
fn forget_one<S>(all: &mut BTreeMap<u64, Kept<S>>) {
    let mut counts: HashMap<Lane, usize> = HashMap::new();
    for client in all.values().flat_map(|kept| &kept.clients) {
        *counts.entry(*client).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(client, count)| (*count, *client));
    let Some((most, _)) = most else { return all.clear() };
    let Some((ts, kept)) = all.iter_mut().find(|(_, kept)| kept.clients.contains(&most)) else {
        return;
    };
    kept.clients.remove(&most);
    let (ts, is_unused) = (*ts, kept.clients.is_empty());
    if is_unused {
        all.remove(&ts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_kept_for_a_while_and_then_dropped() {
        let snapshots = Snapshots::default();
        let (client, snapshot) = (Lane::unique(), Arc::new(()));
        snapshots.keep(client, 5, Arc::clone(&snapshot));
        assert!(snapshots.at(5).is_some() && snapshots.at(4).is_none());
        tokio::time::sleep(KEPT_FOR / 2).await;
        // Keeping it a second time restarts its time.
        snapshots.keep(client, 5, Arc::clone(&snapshot));
        tokio::time::sleep(KEPT_FOR - Duration::from_millis(1)).await;
        assert!(snapshots.at(5).is_some());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(snapshots.at(5).is_none());
        assert_eq!(Arc::strong_count(&snapshot), 1, "it is dropped without another request");
        snapshots.keep(client, 6, snapshot);
        assert!(snapshots.at(6).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_client_makes_another_lose_its_snapshots() {
        let (one, other, flooding) = (Lane::unique(), Lane::unique(), Lane::unique());
        let snapshots = Snapshots::default();
        // The snapshots of the other clients are older, newer, or shared with the client that
        // floods.
        let first = 0..10;
        first.clone().for_each(|ts| snapshots.keep(one, ts, ()));
        let flood = 10..3 * MAX_KEPT as u64;
        for ts in flood.clone() {
            snapshots.keep(flooding, ts, ());
            if ts % 300 == 0 {
                snapshots.keep(other, ts, ());
            }
            assert!(snapshots.0.lock().len() <= MAX_KEPT);
        }
        let shared: Vec<u64> = flood.clone().filter(|ts| ts % 300 == 0).collect();
        assert!(first.clone().chain(shared.clone()).all(|ts| snapshots.at(ts).is_some()));
        // The client that floods keeps its newest ones.
        let kept: Vec<u64> = flood.filter(|ts| snapshots.at(*ts).is_some()).collect();
        let newest = 3 * MAX_KEPT as u64 - 900..3 * MAX_KEPT as u64;
        assert!(newest.clone().all(|ts| kept.contains(&ts)));
        assert_eq!(kept.len() + 10, MAX_KEPT);
        tokio::time::sleep(KEPT_FOR).await;
        assert!(shared.into_iter().chain(newest).chain(first).all(|ts| snapshots.at(ts).is_none()));
    }
}
