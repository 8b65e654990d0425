//! An embedded document store with indexes, transactions and dependency tracking.
//!
//! A [`Store`] keeps the documents of all components in one embedded key-value store. A [`Tx`]
//! reads a [`Snapshot`] and buffers its writes. [`Tx::commit`] succeeds if no commit since the
//! snapshot wrote to its reads, so committed transactions are serializable in timestamp order. A
//! [`ReadSet`] is a set of key ranges, no wider than the rows that were consumed. A read set can
//! also be [watched](Watch): a later commit that writes to it invalidates the watch. Comparing a
//! read set with a commit's keys thus detects conflicts, invalidates cached results, and wakes
//! subscriptions.
//!
//! A commit stores its writes together with the place of its mutation's audit logs, a [`Receipt`].
//!
//! # Durability
//!
//! When [`Tx::commit`] returns, the commit is on stable storage. After a crash the store contains a
//! prefix of the commits in timestamp order, each complete. Commits that arrive during a sync share
//! the next one.

mod catalog;
mod commit;
mod create;
mod cursor;
mod error;
mod filter;
mod gate;
mod id;
mod intervals;
mod key;
mod proposed;
mod reads;
mod receipts;
mod schema;
#[cfg(test)]
mod tests;
mod tx;
mod watch;
mod write;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use audit_core::durable::create_directory;
use audit_core::{Clock, Commits, SystemClock, is_not_regular, open_regular};
use fjall::{Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _};
use functions_value::{ChanceSeed, ComponentPath};
use parking_lot::{Mutex, RwLock};

use catalog::{Catalog, Table};
use commit::{Committer, Queue};
use cursor::CursorKey;
use gate::Gate;
use key::Key;
use proposed::Proposed;
use watch::Recent;

pub use commit::CommitError;
pub use error::StoreError;
pub use gate::DEFAULT_RESERVE_BYTES;
pub use reads::ReadSet;
pub use receipts::Receipt;
pub use schema::{SchemaError, Schemas, check_schemas};
pub use tx::{
    MAX_BYTES_READ, MAX_BYTES_WRITTEN, MAX_DATABASE_QUERIES, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENTS_READ, MAX_DOCUMENTS_WRITTEN, Page, PageRequest, PageStatus, Tx, TxMetrics,
};
pub use watch::Watch;

/// A commit time, in nanoseconds since the Unix epoch by the store's clock. Strictly increasing.
pub type Timestamp = u64;

/// The format of the stored keys and values. Stores of other formats are not opened.
const FORMAT: &[u8] = b"functions-host store 1";

/// An open store. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    data: Keyspace,
    database: fjall::Database,
    clock: Arc<dyn Clock>,
    cursors: CursorKey,
    gate: Gate,
    /// The latest snapshot. Each group of commits replaces it under the lock of `recent`.
    latest: RwLock<Snapshot>,
    /// Requests waiting for the current leader.
    queue: Mutex<Queue>,
    /// Held by the leader, across the sync.
    committer: Mutex<Committer>,
    /// Recent commits and the watches. Held briefly.
    recent: Mutex<Recent>,
    proposed: Mutex<Proposed>,
    next_number: AtomicU32,
    /// The last creation time, in milliseconds since the Unix epoch, as the bits of a float.
    creation_time: AtomicU64,
}

/// A consistent view as of one commit. Its data is not reclaimed while it is held.
#[derive(Clone)]
pub struct Snapshot(Arc<SnapshotInner>);

struct SnapshotInner {
    ts: Timestamp,
    view: fjall::Snapshot,
    catalog: Arc<Catalog>,
}

impl Snapshot {
    /// The last visible commit.
    pub fn ts(&self) -> Timestamp {
        self.0.ts
    }

    fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    fn view(&self) -> &fjall::Snapshot {
        &self.0.view
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("ts", &self.0.ts).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("latest", &self.latest()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a directory, which is created if missing. Only one process can have it
    /// open.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, another process has the store open, or it has another format.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(directory, Arc::new(SystemClock))
    }

    /// As [`open`](Self::open), with commit and creation times from another clock.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with_clock(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        // This makes the directory's name durable too, if a killed process created it.
        let prepared = make_private(directory).and_then(|()| create::is_new(directory));
        let is_new = prepared.map_err(|error| StoreError::unusable(directory, &error))?;
        if is_new {
            create::create(directory)?;
        }
        check_lock(directory).map_err(|error| StoreError::unusable(directory, &error))?;
        let gate = Gate::new(directory.to_owned());
        let gate = gate.map_err(|error| StoreError::unusable(directory, &error))?;
        let database = fjall::Database::builder(directory).open()?;
        let data = database.keyspace("data", KeyspaceCreateOptions::default)?;
        let last = last_commit(&database, &data, &*clock)?.ok_or_else(|| {
            StoreError::damaged(format!(
                "the store in {} has a format that this version does not know",
                directory.display()
            ))
        })?;
        let cursors = cursor_key(&database, &data)?;
        let view = database.snapshot();
        let catalog = Catalog::read(&view, &data)?;
        let mut counts = HashMap::new();
        for guard in view.prefix(&data, key::counts()) {
            let (key, count) = guard.into_inner()?;
            counts.insert(key::count_table(&key)?, key::decode_u64(&count)?);
        }
        let next_number = AtomicU32::new(catalog.highest_number() + 1);
        let latest =
            Snapshot(Arc::new(SnapshotInner { ts: last, view, catalog: Arc::new(catalog) }));
        let store = Self(Arc::new(Inner {
            data,
            database,
            clock,
            cursors,
            gate,
            latest: RwLock::new(latest),
            queue: Mutex::default(),
            committer: Mutex::new(Committer::new(last, counts)),
            recent: Mutex::new(Recent::new(last)),
            proposed: Mutex::default(),
            next_number,
            creation_time: AtomicU64::new(ms(last).to_bits()),
        }));
        store.drop_unknown_indexes()?;
        Ok(store)
    }

    /// Sets how many bytes of the disk stay free. With less, commits are refused before anything is
    /// written, until there is space again. Initially [`DEFAULT_RESERVE_BYTES`]. With 0, commits
    /// fail only when the disk is full, which stops the store until it is reopened.
    pub fn set_reserve(&self, bytes: u64) {
        self.0.gate.set_reserve(bytes);
    }

    /// Whether the store accepts commits now.
    pub fn commits(&self) -> Commits {
        self.0.gate.state()
    }

    /// Completes with the reason once the store accepts no commits until it is reopened. Never
    /// completes if the store is dropped before.
    pub fn stopped(&self) -> impl Future<Output = String> + Send + 'static {
        self.0.gate.stopped()
    }

    /// The view as of the last commit.
    pub fn latest(&self) -> Snapshot {
        self.0.latest.read().clone()
    }

    /// Begins a transaction on a snapshot. The seed determines the ids of inserted documents.
    pub fn begin(&self, snapshot: &Snapshot, seed: impl Into<ChanceSeed>) -> Tx {
        Tx::new(self.clone(), snapshot.clone(), seed.into())
    }

    /// Watches the reads of a transaction. Commits after `at` invalidate the watch.
    pub fn watch(&self, reads: Arc<ReadSet>, at: Timestamp) -> Watch {
        Watch::new(self, reads, at)
    }

    /// Applies schemas atomically: every table of the given components gets the indexes and
    /// validators of its component's schema, or none if the component has no schema. Other
    /// components are unchanged. A schema is the JSON that `defineSchema(…).export()` returns.
    ///
    /// Commits wait while indexes are built. Open transactions that used a changed table conflict.
    ///
    /// # Errors
    ///
    /// A schema is invalid, or an existing document violates a validator. Nothing is changed then.
    pub fn set_schema(&self, schemas: &Schemas) -> Result<(), SchemaError> {
        self.set_schema_with(schemas, 0, |_| Ok(()), || {})
    }

    /// As [`set_schema`](Self::set_schema), in one commit with the writes of a transaction, which
    /// may write to system tables. `once_durable` runs between the sync and the moment at which
    /// others see the commit; not if nothing is written. Both run while commits wait.
    ///
    /// # Errors
    ///
    /// As [`set_schema`](Self::set_schema), or that of `writes`; nothing is changed then. If the
    /// store fails, it accepts no commits until it is opened again, and may then have changed.
    pub fn set_schema_with(
        &self,
        schemas: &Schemas,
        seed: impl Into<ChanceSeed>,
        writes: impl FnOnce(&mut Tx) -> Result<(), StoreError>,
        once_durable: impl FnOnce(),
    ) -> Result<(), SchemaError> {
        schema::set(self, schemas, seed.into(), writes, once_durable)
    }

    /// The timestamp of a commit after `last`. It exceeds all creation times, which therefore keep
    /// increasing after the store is reopened.
    fn commit_time(&self, last: Timestamp) -> Timestamp {
        let created =
            f64::from_bits(self.0.creation_time.load(Ordering::Relaxed)).next_up().next_up();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds since 1970"
        )]
        now_ns(&*self.0.clock).max(last + 1).max((created * 1e6) as u64)
    }

    /// The creation time of a new document, in milliseconds since the Unix epoch. Strictly
    /// increasing, so documents sort in the order of insertion whatever the clock's resolution.
    fn new_creation_time(&self) -> f64 {
        let now = ms(now_ns(&*self.0.clock)).to_bits();
        // The bits of positive floats are in the order of the floats.
        let next = |last: u64| last.saturating_add(1).max(now);
        let last =
            self.0
                .creation_time
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        f64::from_bits(next(last.unwrap_or_else(|last| last)))
    }

    /// A number that no table or index has ever had.
    fn new_number(&self) -> u32 {
        self.0.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// A table that does not exist in the caller's snapshot.
    fn proposed(&self, component: &ComponentPath, table: &str) -> Result<Arc<Table>, StoreError> {
        self.0.proposed.lock().table(component, table, || self.new_number())
    }

    fn cursor_key(&self) -> &CursorKey {
        &self.0.cursors
    }

    fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Key>, StoreError> {
        Ok(snapshot.view().get(&self.0.data, key)?)
    }

    fn range_at(&self, snapshot: &Snapshot, range: std::ops::Range<Key>) -> fjall::Iter {
        snapshot.view().range(&self.0.data, range)
    }
}

/// The time of the last commit, or `None` if the format is unknown. Initializes a new store.
fn last_commit(
    database: &fjall::Database,
    data: &Keyspace,
    clock: &dyn Clock,
) -> Result<Option<Timestamp>, StoreError> {
    match (data.get(key::format())?, data.get(key::last_commit())?) {
        (Some(format), Some(last)) if &*format == FORMAT => key::decode_u64(&last).map(Some),
        (None, None) => {
            let first = now_ns(clock).max(1);
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(data, key::format(), FORMAT);
            batch.insert(data, key::last_commit(), first.to_be_bytes());
            batch.commit()?;
            Ok(Some(first))
        }
        (_, _) => Ok(None),
    }
}

/// The key that seals cursors. Stores of earlier versions have none and get one. A crash before it
/// is stored is harmless: no cursor has been sealed with it.
fn cursor_key(database: &fjall::Database, data: &Keyspace) -> Result<CursorKey, StoreError> {
    if let Some(secret) = data.get(key::cursor_secret())? {
        return CursorKey::new(&secret);
    }
    let secret = cursor::new_secret()?;
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(data, key::cursor_secret(), secret);
    batch.commit()?;
    CursorKey::new(&secret)
}

/// Creates the directory, accessible only to its owner: it contains documents and the cursor key.
fn make_private(directory: &Path) -> std::io::Result<()> {
    create_directory(directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Checks that the database's file `lock` is missing or a regular file. The database opens whatever
/// has that name, and a link may lead to another store's lock.
fn check_lock(directory: &Path) -> std::io::Result<()> {
    match open_regular(&directory.join("lock")) {
        Err(error) if is_not_regular(&error) => {
            Err(std::io::Error::new(error.kind(), format!("its file `lock`: {error}")))
        }
        // The database itself opens the file, or creates it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The latest time that the store takes from a clock: 2200-01-01, in milliseconds since the Unix
/// epoch. A later clock is wrong, and timestamps, which must keep increasing after it is corrected,
/// would reach the end of an int64 in 2262.
const LATEST_MS: u64 = 7_258_118_400_000;

fn now_ns(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now_ms()).unwrap_or(0).min(LATEST_MS) * 1_000_000
}

/// Nanoseconds as milliseconds, with the fraction that a float can represent.
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
