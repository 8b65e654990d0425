//! Group commit: requests are validated, written in groups, and published in timestamp order.
//!
//! The first caller becomes the leader. It takes all waiting requests and checks each one for
//! conflicts with the commits since its snapshot and with the earlier requests of the group. It
//! writes the rest as one atomic batch, syncs and publishes it, and passes the lead to the first
//! caller that has arrived meanwhile.

mod error;
mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use fjall::PersistMode;

use super::catalog::{Catalog, Table};
use super::error::StoreError;
use super::gate::Gate;
use super::key::{self, Key};
use super::reads::ReadSet;
use super::watch::Written;
use super::write::Write;
use super::{Snapshot, SnapshotInner, Store, Timestamp};

pub use self::error::CommitError;
pub(super) use self::queue::Queue;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) reads: ReadSet,
    /// No commit up to this timestamp wrote to the reads.
    pub(super) checked: Timestamp,
    /// The keys whose readers see a change.
    pub(super) written: Vec<Key>,
    pub(super) puts: Vec<(Key, Option<Key>)>,
    /// The change of each table's number of documents.
    pub(super) counts: Vec<(u32, i64)>,
    pub(super) created: Vec<Arc<Table>>,
    /// Documents that contain the commit time. They are encoded once it is known.
    pub(super) timed: Vec<(Key, Write)>,
}

impl Request {
    /// A request that reads nothing and changes nothing that a transaction can read.
    pub(super) fn of_puts(puts: Vec<(Key, Option<Key>)>) -> Request {
        Request {
            reads: ReadSet::default(),
            checked: Timestamp::MAX,
            written: Vec::new(),
            puts,
            counts: Vec::new(),
            created: Vec::new(),
            timed: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.puts
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len()))
            .sum()
    }
}

pub(super) struct Committer {
    last: Timestamp,
    /// The number of documents of each table, as of the last commit.
    counts: HashMap<u32, u64>,
    /// Whether a write or sync failed. The state on disk is then unknown, so nothing more is
    /// written.
    has_failed: bool,
}

impl Committer {
    pub(super) fn new(last: Timestamp, counts: HashMap<u32, u64>) -> Self {
        Self { last, counts, has_failed: false }
    }

    #[cfg(test)]
    pub(super) fn fail(&mut self) {
        self.has_failed = true;
    }

    /// Marks the store as failed until the group is done, so that it stays failed if the leader
    /// panics.
    ///
    /// # Errors
    ///
    /// An earlier write failed.
    fn begin(&mut self, gate: &Gate) -> Result<(), StoreError> {
        if self.has_failed {
            let error = StoreError::from(fjall::Error::Poisoned);
            gate.stop(&error);
            return Err(error);
        }
        self.has_failed = true;
        Ok(())
    }
}

impl Store {
    /// Commits the requests of a group that have no conflict, in order.
    pub(super) fn commit_group(&self, group: Vec<Request>) -> Vec<Result<Timestamp, CommitError>> {
        let mut committer = self.0.committer.lock();
        let begun = self.0.gate.check_room().and_then(|()| committer.begin(&self.0.gate));
        if let Err(error) = begun {
            return group.iter().map(|_| Err(CommitError::Refused(error.clone()))).collect();
        }
        let before = self.latest();
        let mut catalog = Arc::clone(&before.0.catalog);
        let mut commits: Vec<Arc<Written>> = Vec::new();
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        let mut batch: BTreeMap<Key, Option<Key>> = BTreeMap::new();
        let mut new_tables = Vec::new();
        let outcomes = group.into_iter().map(|request| {
            self.check(&request.reads, request.checked, &catalog)?;
            // Looks the read ranges up in the keys, since a group may write many keys.
            let ranges = request.reads.ranges();
            if let Some(key) =
                ranges.filter_map(|(start, end)| keys.range::<Key, _>(start..end).next()).next()
            {
                return Err(conflict(&catalog, key));
            }
            let Request { reads: _, checked: _, written, puts, counts, created, timed } = request;
            let (mut own, mut changed) = (written, puts);
            let ts = self.commit_time(committer.last);
            for (key, mut write) in timed {
                write.set_commit_ts(ts);
                write.encode(key, &mut own, &mut changed).map_err(CommitError::Failed)?;
            }
            committer.last = ts;
            keys.extend(own.iter().cloned());
            commits.push(Arc::new(Written { ts: committer.last, keys: own }));
            batch.extend(changed);
            for (number, change) in counts {
                let count = committer.counts.entry(number).or_default();
                *count = count.saturating_add_signed(change);
                batch.insert(key::count(number), Some(Key::from(count.to_be_bytes())));
            }
            for table in created {
                Arc::make_mut(&mut catalog).insert(Arc::clone(&table));
                new_tables.push(table);
            }
            Ok(committer.last)
        });
        let outcomes: Vec<_> = outcomes.collect();
        if !commits.is_empty() {
            // A crash before the sync returns leaves either the whole batch or nothing of it. No
            // caller has been told of success yet.
            batch.insert(
                Key::from(key::last_commit()),
                Some(Key::from(committer.last.to_be_bytes())),
            );
            if let Err(error) = self.write(batch, Some(PersistMode::SyncAll)) {
                self.0.gate.stop(&error);
                let failed =
                    |outcome: Result<_, _>| outcome.and(Err(CommitError::Failed(error.clone())));
                return outcomes.into_iter().map(failed).collect();
            }
            self.publish(commits, catalog);
            // Before the committer is unlocked: a schema may then replace the tables, which keep
            // their numbers, and `proposed` must not give those to other tables.
            let mut proposed = self.0.proposed.lock();
            new_tables.iter().for_each(|table| proposed.committed(table));
        }
        committer.has_failed = false;
        outcomes
    }

    /// Writes one atomic batch of many. It is not durable until a later commit is. A crash before
    /// leaves entries of an index that no table lists, which the next start removes.
    ///
    /// # Errors
    ///
    /// The disk is short of space, and nothing is written; or the store failed.
    pub(super) fn write_part(&self, puts: BTreeMap<Key, Option<Key>>) -> Result<(), StoreError> {
        self.0.gate.check_room()?;
        self.write(puts, None)
    }

    /// Writes one atomic batch.
    pub(super) fn write(
        &self,
        puts: BTreeMap<Key, Option<Key>>,
        durability: Option<PersistMode>,
    ) -> Result<(), StoreError> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.0.database.clone(), puts.len());
        for (key, value) in puts {
            match value {
                Some(value) => batch.insert(&self.0.data, key, value),
                None => batch.remove(&self.0.data, key),
            }
        }
        Ok(batch.durability(durability).commit()?)
    }

    /// Invalidates watches, then makes the batch visible.
    fn publish(&self, written: Vec<Arc<Written>>, catalog: Arc<Catalog>) {
        let Some(last) = written.last() else { return };
        // Only the leader writes, so the last of these commits is the latest in this view.
        let view = self.0.database.snapshot();
        let snapshot = Snapshot(Arc::new(SnapshotInner { ts: last.ts, view, catalog }));
        let mut recent = self.0.recent.lock();
        let invalid: Vec<_> =
            written.into_iter().flat_map(|written| recent.push(written)).collect();
        let before = mem::replace(&mut *self.0.latest.write(), snapshot);
        drop(recent);
        // Notifies only now, so that a watcher finds the snapshot with the write.
        for watched in invalid {
            watched.notify();
        }
        drop(before);
    }

    /// Checks that no commit after `checked` wrote to the reads. Returns the last commit checked.
    pub(super) fn check(
        &self,
        reads: &ReadSet,
        checked: Timestamp,
        catalog: &Catalog,
    ) -> Result<Timestamp, CommitError> {
        let since = self.0.recent.lock().since(checked).ok_or(CommitError::Expired)?;
        match since.iter().find_map(|written| reads.find(&written.keys)) {
            Some(key) => Err(conflict(catalog, key)),
            None => Ok(since.last().map_or(checked, |written| written.ts)),
        }
    }

    /// Runs `change` while nothing else commits, then commits what it returns like a transaction.
    /// Before it returns, `change` may [write parts](Self::write_part) of its own. If it returns
    /// `None`, the disk needs no space.
    pub(super) fn exclusively<E: From<StoreError>>(
        &self,
        change: impl FnOnce(&Snapshot) -> Result<Option<Exclusive>, E>,
    ) -> Result<Timestamp, E> {
        let mut committer = self.0.committer.lock();
        committer.begin(&self.0.gate)?;
        let before = self.latest();
        let change = change(&before).and_then(|change| {
            if change.is_some() {
                self.0.gate.check_room()?;
            }
            Ok(change)
        });
        let (result, has_failed) = match change {
            Ok(None) => (Ok(before.ts()), false),
            Ok(Some(Exclusive { mut puts, written, catalog })) => {
                committer.last = self.commit_time(committer.last);
                puts.insert(
                    Key::from(key::last_commit()),
                    Some(Key::from(committer.last.to_be_bytes())),
                );
                match self.write(puts, Some(PersistMode::SyncAll)) {
                    Ok(()) => {
                        self.publish(
                            vec![Arc::new(Written { ts: committer.last, keys: written })],
                            Arc::new(catalog),
                        );
                        (Ok(committer.last), false)
                    }
                    Err(error) => {
                        self.0.gate.stop(&error);
                        (Err(E::from(error)), true)
                    }
                }
            }
            Err(error) => (Err(error), false),
        };
        committer.has_failed = has_failed;
        result
    }
}

/// A change to be committed by [`Store::exclusively`]: the last batch, the keys whose readers see a
/// change, and the new catalog.
pub(super) struct Exclusive {
    pub(super) puts: BTreeMap<Key, Option<Key>>,
    pub(super) written: Vec<Key>,
    pub(super) catalog: Catalog,
}

fn conflict(catalog: &Catalog, key: &Key) -> CommitError {
    let (table, document) = catalog.describe(key);
    CommitError::Conflict { table, document }
}
