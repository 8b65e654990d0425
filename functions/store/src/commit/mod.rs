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

    /// Checks that no earlier write failed.
    fn check(&self, gate: &Gate) -> Result<(), StoreError> {
        if self.has_failed {
            let error = StoreError::from(fjall::Error::Poisoned);
            gate.stop(&error);
            return Err(error);
        }
        Ok(())
    }

    /// Marks the store as failed until [`Store::write_commits`] succeeds, so that it stays failed
    /// if the leader panics.
    ///
    /// # Errors
    ///
    /// An earlier write failed.
    fn begin(&mut self, gate: &Gate) -> Result<(), StoreError> {
        self.check(gate)?;
        self.has_failed = true;
        Ok(())
    }

    /// Adds a request to a batch, as the commit at this time. If that fails, nothing is added.
    fn add(
        &mut self,
        ts: Timestamp,
        request: Request,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let Request { reads: _, checked: _, written, puts, counts, created, timed } = request;
        let (mut keys, mut puts) = (written, puts);
        for (key, mut write) in timed {
            write.set_commit_ts(ts);
            write.encode(key, &mut keys, &mut puts)?;
        }
        self.last = ts;
        batch.commits.push(Arc::new(Written { ts, keys }));
        batch.puts.extend(puts);
        for (number, change) in counts {
            let count = self.counts.entry(number).or_default();
            *count = count.saturating_add_signed(change);
            batch.puts.insert(key::count(number), Some(Key::from(count.to_be_bytes())));
        }
        for table in created {
            Arc::make_mut(&mut batch.catalog).insert(Arc::clone(&table));
            batch.created.push(table);
        }
        Ok(())
    }
}

/// Commits that are written atomically.
struct Batch {
    puts: BTreeMap<Key, Option<Key>>,
    commits: Vec<Arc<Written>>,
    /// The tables as of the last commit, and those among them that the commits create.
    catalog: Arc<Catalog>,
    created: Vec<Arc<Table>>,
}

impl Batch {
    fn new(catalog: Arc<Catalog>) -> Batch {
        let (puts, commits, created) = (BTreeMap::new(), Vec::new(), Vec::new());
        Batch { puts, commits, catalog, created }
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
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        let mut batch = Batch::new(Arc::clone(&self.latest().0.catalog));
        let outcomes = group.into_iter().map(|request| {
            self.check(&request.reads, request.checked, &batch.catalog)?;
            // Looks the read ranges up in the keys, since a group may write many keys.
            let ranges = request.reads.ranges();
            if let Some(key) =
                ranges.filter_map(|(start, end)| keys.range::<Key, _>(start..end).next()).next()
            {
                return Err(conflict(&batch.catalog, key));
            }
            let ts = self.commit_time(committer.last);
            committer.add(ts, request, &mut batch).map_err(CommitError::Failed)?;
            keys.extend(batch.commits.last().into_iter().flat_map(|commit| commit.keys.clone()));
            Ok(ts)
        });
        let outcomes: Vec<_> = outcomes.collect();
        match self.write_commits(&mut committer, batch, || {}) {
            Ok(()) => outcomes,
            Err(error) => {
                let failed =
                    |outcome: Result<_, _>| outcome.and(Err(CommitError::Failed(error.clone())));
                outcomes.into_iter().map(failed).collect()
            }
        }
    }

    /// Writes commits as one durable batch, and publishes them. `once_durable` runs before anyone
    /// can see them.
    ///
    /// A crash before the sync returns leaves either the whole batch or nothing of it, and no
    /// caller has been told of success yet. After an error, nobody knows which.
    fn write_commits(
        &self,
        committer: &mut Committer,
        mut batch: Batch,
        once_durable: impl FnOnce(),
    ) -> Result<(), StoreError> {
        if batch.commits.is_empty() {
            committer.has_failed = false;
            return Ok(());
        }
        let last = Key::from(committer.last.to_be_bytes());
        batch.puts.insert(Key::from(key::last_commit()), Some(last));
        self.write(batch.puts, Some(PersistMode::SyncAll))
            .inspect_err(|error| self.0.gate.stop(error))?;
        once_durable();
        self.publish(batch.commits, batch.catalog);
        // Before the committer is unlocked: a schema may then replace the tables, which keep their
        // numbers, and `proposed` must not give those to other tables.
        let mut proposed = self.0.proposed.lock();
        batch.created.iter().for_each(|table| proposed.committed(table));
        committer.has_failed = false;
        Ok(())
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
    /// Before it returns, `change` may [write parts](Self::write_part) of its own, which nothing
    /// reads if it fails or panics. If it returns `None`, the disk needs no space.
    pub(super) fn exclusively<'d, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&Snapshot) -> Result<Option<Exclusive<'d>>, E>,
    ) -> Result<Timestamp, E> {
        let mut committer = self.0.committer.lock();
        committer.check(&self.0.gate)?;
        let before = self.latest();
        let Some(change) = change(&before)? else { return Ok(before.ts()) };
        self.0.gate.check_room()?;
        let Exclusive { request, catalog, once_durable } = change;
        let mut batch = Batch::new(Arc::new(catalog));
        committer.begin(&self.0.gate)?;
        let ts = self.commit_time(committer.last);
        let added = committer.add(ts, request, &mut batch);
        self.write_commits(&mut committer, batch, once_durable)?;
        added?;
        Ok(ts)
    }
}

/// A change to be committed by [`Store::exclusively`]: its last batch, the tables that it replaces,
/// and what runs before anyone can see it.
pub(super) struct Exclusive<'d> {
    pub(super) request: Request,
    pub(super) catalog: Catalog,
    pub(super) once_durable: Box<dyn FnOnce() + 'd>,
}

fn conflict(catalog: &Catalog, key: &Key) -> CommitError {
    let (table, document) = catalog.describe(key);
    CommitError::Conflict { table, document }
}
