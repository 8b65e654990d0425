//! Transactions.

mod documents;
mod limits;
mod query;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use functions_value::{Chance, ChanceSeed, ComponentPath, Object, encoding};

use super::{
    Snapshot, Store, Timestamp,
    catalog::Table,
    commit::{CommitError, Request},
    error::StoreError,
    filter::Steps,
    key::{self, Key},
    reads::ReadSet,
    receipts::Receipt,
    write::Write,
};

use query::Stream;

pub use limits::{
    MAX_BYTES_READ, MAX_BYTES_WRITTEN, MAX_DATABASE_QUERIES, MAX_DOCUMENT_BYTES,
    MAX_DOCUMENTS_READ, MAX_DOCUMENTS_WRITTEN, TxMetrics,
};
pub use query::{Page, PageRequest, PageStatus};

/// The rights with which operations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A function: no access to system tables; limits apply.
    Function,
    /// A function with access to system tables; limits apply.
    System,
    /// The host: all tables, no limits.
    Host,
}

/// A transaction. It reads a snapshot and its own writes, which are invisible to others until
/// [`commit`](Self::commit).
///
/// Dropping it rolls it back. An operation that fails with [`StoreError::User`] changes nothing,
/// and the transaction may continue.
pub struct Tx {
    pub(crate) store: Store,
    pub(crate) snapshot: Snapshot,
    /// The source of ids. Nothing else uses it.
    chance: Chance,
    documents: BTreeMap<Key, Write>,
    /// Index entries written, and whether each now exists.
    entries: BTreeMap<Key, bool>,
    created: BTreeMap<(ComponentPath, String), Arc<Table>>,
    /// The undo log, oldest write first.
    undo: Vec<Undo>,
    nested: Vec<Nested>,
    reads: ReadSet,
    streams: HashMap<u32, Stream>,
    next_stream: u32,
    metrics: TxMetrics,
    limits: TxMetrics,
    filter_steps: Steps,
    access: Access,
    receipt: Option<Receipt>,
}

enum Undo {
    Document(Key, Option<Write>),
    Entry(Key, Option<bool>),
    Created((ComponentPath, String)),
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx")
            .field("snapshot", &self.snapshot)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

/// The state in which a nested transaction began.
struct Nested {
    /// The position in the undo log.
    undo: usize,
    metrics: TxMetrics,
    limits: TxMetrics,
}

impl Default for Nested {
    fn default() -> Nested {
        Nested { undo: 0, metrics: TxMetrics::default(), limits: TxMetrics::MAX }
    }
}

impl Tx {
    pub(crate) fn new(store: Store, snapshot: Snapshot, seed: ChanceSeed) -> Self {
        Self {
            store,
            snapshot,
            chance: Chance::new(seed),
            documents: BTreeMap::new(),
            entries: BTreeMap::new(),
            created: BTreeMap::new(),
            undo: Vec::new(),
            nested: Vec::new(),
            reads: ReadSet::default(),
            streams: HashMap::new(),
            next_stream: 0,
            metrics: TxMetrics::default(),
            limits: TxMetrics::MAX,
            filter_steps: Steps::default(),
            access: Access::Function,
            receipt: None,
        }
    }

    /// The snapshot that the transaction reads.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Begins a nested transaction.
    pub fn begin_nested(&mut self) {
        let Tx { metrics, limits, .. } = *self;
        self.nested.push(Nested { undo: self.undo.len(), metrics, limits });
    }

    /// Ends the innermost nested transaction. Its writes become those of the enclosing one.
    pub fn commit_nested(&mut self) {
        self.end_nested();
    }

    fn end_nested(&mut self) -> Nested {
        let begun = self.nested.pop().unwrap_or_default();
        self.limits = begun.limits;
        begun
    }

    /// Rolls back the innermost nested transaction. Its reads stay in the read set, since its
    /// failure may depend on them, and count towards the limits. Its writes do not count.
    pub fn rollback_nested(&mut self) {
        let begun = self.end_nested();
        self.metrics.bytes_written = begun.metrics.bytes_written;
        self.metrics.documents_written = begun.metrics.documents_written;
        for undo in self.undo.drain(begun.undo..).rev() {
            match undo {
                Undo::Document(key, Some(write)) => _ = self.documents.insert(key, write),
                Undo::Document(key, None) => _ = self.documents.remove(&key),
                Undo::Entry(key, Some(is_there)) => _ = self.entries.insert(key, is_there),
                Undo::Entry(key, None) => _ = self.entries.remove(&key),
                Undo::Created(name) => _ = self.created.remove(&name),
            }
        }
    }

    /// Runs operations on the snapshot, without this transaction's writes. Their reads count
    /// towards its limits, but conflict with no commit. What they write is dropped.
    pub fn aside<T>(&mut self, seed: ChanceSeed, operations: impl FnOnce(&mut Self) -> T) -> T {
        let mut tx = Tx::new(self.store.clone(), self.snapshot.clone(), seed);
        (tx.metrics, tx.limits) = (self.metrics, self.limits);
        let done = operations(&mut tx);
        self.metrics = tx.metrics;
        done
    }

    /// The reads so far.
    pub fn reads(&self) -> &ReadSet {
        &self.reads
    }

    /// Takes the read set out of a transaction that will not be committed.
    pub fn take_reads(&mut self) -> ReadSet {
        std::mem::take(&mut self.reads)
    }

    /// Runs a function's operations with access to system tables. They count towards its limits.
    pub fn as_system<T>(&mut self, operations: impl FnOnce(&mut Self) -> T) -> T {
        self.with_access(Access::System, operations)
    }

    /// Runs the host's bookkeeping, with access to system tables. It counts towards no limits, not
    /// even that of a document's size, so that it cannot make a function fail.
    pub fn as_host<T>(&mut self, bookkeeping: impl FnOnce(&mut Self) -> T) -> T {
        self.with_access(Access::Host, bookkeeping)
    }

    fn with_access<T>(&mut self, access: Access, operations: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.access, access);
        let done = operations(self);
        self.access = before;
        done
    }

    /// The usage so far.
    pub fn metrics(&self) -> TxMetrics {
        self.metrics
    }

    /// Whether a commit would change anything.
    pub fn has_writes(&self) -> bool {
        !self.created.is_empty() || self.documents.values().any(Write::is_change)
    }

    /// Sets the receipt that the commit stores with the writes.
    pub fn keep_receipt(&mut self, receipt: Receipt) {
        self.receipt = Some(receipt);
    }

    /// Commits atomically and serializably, and blocks until the commit is durable. Returns the
    /// commit's timestamp, or the snapshot's if nothing was written.
    ///
    /// # Errors
    ///
    /// Another commit conflicts with this transaction, or the store refused the commit or failed.
    pub fn commit(self) -> Result<Timestamp, CommitError> {
        let store = self.store.clone();
        if !self.has_writes() {
            // A read-only transaction is serializable at its snapshot, so the receipt cannot
            // conflict.
            if let Some(receipt) = self.receipt {
                store.commit(Request::of_puts(receipt.puts(std::iter::empty())))?;
            }
            return Ok(self.snapshot.ts());
        }
        let checked = self.store.check(&self.reads, self.snapshot.ts(), self.snapshot.catalog())?;
        let request = self.into_request(checked).map_err(CommitError::Failed)?;
        store.commit(request)
    }

    /// The commit request. It is encoded here, so that the leader has less to do.
    pub(crate) fn into_request(self, checked: Timestamp) -> Result<Request, StoreError> {
        let mut written = Vec::new();
        let mut puts = Vec::new();
        let mut counts: BTreeMap<u32, i64> = BTreeMap::new();
        if let Some(receipt) = &self.receipt {
            let changed = self.documents.iter().filter(|(_, write)| write.is_change());
            puts.extend(receipt.puts(changed.map(|(key, _)| key)));
        }
        for table in self.created.values() {
            written.extend([table.key().clone(), key::number(table.number)]);
            puts.push((table.key().clone(), Some(table.encode().into())));
        }
        let mut timed = Vec::new();
        for (key, write) in self.documents.into_iter().filter(|(_, write)| write.is_change()) {
            *counts.entry(write.table.number).or_default() += write.count_change();
            if write.has_commit_ts() {
                timed.push((key, write));
            } else {
                write.encode(key, &mut written, &mut puts)?;
            }
        }
        counts.retain(|_, change| *change != 0);
        written.extend(counts.keys().map(|number| key::count(*number)));
        Ok(Request {
            reads: self.reads,
            checked,
            written,
            puts,
            counts: counts.into_iter().collect(),
            created: self.created.into_values().collect(),
            timed,
        })
    }

    /// The table of this name. Adds its existence and schema to the read set.
    pub(crate) fn table(&mut self, component: &ComponentPath, name: &str) -> Option<Arc<Table>> {
        let created = || {
            let may_be = !self.created.is_empty();
            may_be.then(|| self.created.get(&(component.clone(), name.to_owned()))).flatten()
        };
        let table = self.snapshot.catalog().table(component, name).or_else(created).map(Arc::clone);
        match &table {
            Some(table) => self.reads.add_key(table.key()),
            None => self.reads.add_key(&key::table(component, name)),
        }
        table
    }

    /// The current document. Adds it to the read set.
    pub(super) fn current(&mut self, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
        self.reads.add_key(key);
        match self.documents.get(key) {
            Some(write) => Ok(write.current.clone()),
            None => self.stored(key),
        }
    }

    /// The document in the snapshot. Does not add it to the read set.
    pub(crate) fn stored(&self, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
        self.store.get_at(&self.snapshot, key)?.map(|bytes| decode_document(&bytes)).transpose()
    }

    /// The rows of the snapshot in a range. Does not add them to the read set.
    pub(crate) fn stored_range(&self, range: std::ops::Range<Key>) -> fjall::Iter {
        self.store.range_at(&self.snapshot, range)
    }

    /// The current document. Adds it to the read set, and counts it towards the limits.
    pub(super) fn read(&mut self, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
        self.reads.add_key(key);
        self.read_through_index(key)
    }

    /// The current document, counted towards the limits. The read set has its index entry instead.
    pub(crate) fn read_through_index(
        &mut self,
        key: &Key,
    ) -> Result<Option<Arc<Object>>, StoreError> {
        let document = match self.documents.get(key) {
            Some(write) => write.current.clone(),
            None => self.stored(key)?,
        };
        if let Some(document) = &document {
            self.count_read(document)?;
        }
        Ok(document)
    }
}

pub(crate) fn decode_document(bytes: &[u8]) -> Result<Arc<Object>, StoreError> {
    let fields = encoding::decode(bytes)?.into_object();
    fields
        .map(Arc::new)
        .ok_or_else(|| StoreError::damaged("the store holds a document that is not an object"))
}
