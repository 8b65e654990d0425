//! [`Tx`]: one transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Snapshot, Store, Timestamp,
    catalog::{Table, check_identifier, is_system},
    commit::{CommitError, Request},
    error::StoreError,
    id,
    key::{self, Key},
    query::Stream,
    reads::ReadSet,
};
use crate::chance::{Chance, ChanceSeed};
use crate::value::{ComponentPath, Object, Patch, Validator, Value, encoding};

/// Most documents that a transaction may read.
pub const MAX_DOCUMENTS_READ: u64 = 32_000;
/// Most bytes of documents that a transaction may read.
pub const MAX_BYTES_READ: u64 = 16 << 20;
/// Most documents that a transaction may write.
pub const MAX_DOCUMENTS_WRITTEN: u64 = 16_000;
/// Most bytes of documents that a transaction may write.
pub const MAX_BYTES_WRITTEN: u64 = 16 << 20;
/// Most reads by id and queries of a transaction.
pub const MAX_DATABASE_QUERIES: u64 = 4_096;
/// Most bytes of one document.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// What a transaction has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxMetrics {
    /// Bytes of documents read, also of those that a filter then left out.
    pub bytes_read: u64,
    /// Documents read, also those that a filter then left out.
    pub documents_read: u64,
    /// Bytes of documents written.
    pub bytes_written: u64,
    /// Documents written.
    pub documents_written: u64,
    /// Reads by id and queries begun.
    pub database_queries: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A function: reads and writes tables of its component other than the system's.
    User,
    /// The host, also on behalf of functions that may see system tables.
    System,
}

/// A transaction: reads a snapshot and its own writes, which nobody else sees before
/// [`commit`](Self::commit).
///
/// Dropping it gives it up. An operation that failed with [`StoreError::User`] has changed nothing,
/// and the transaction may go on.
pub struct Tx {
    pub(super) store: Store,
    pub(super) snapshot: Snapshot,
    /// Where ids come from. No other random bits of the execution do.
    chance: Chance,
    /// Documents written, by their keys.
    pub(super) documents: BTreeMap<Key, Write>,
    /// Index entries written: whether they are there now.
    pub(super) entries: BTreeMap<Key, bool>,
    created: BTreeMap<(ComponentPath, String), Arc<Table>>,
    /// How to take back what was written, the last at the end.
    undo: Vec<Undo>,
    /// Where each open sub-transaction begins in `undo`.
    nested: Vec<usize>,
    pub(super) reads: ReadSet,
    pub(super) streams: HashMap<u32, Stream>,
    pub(super) next_stream: u32,
    metrics: TxMetrics,
    /// Whether the host keeps its own books in it now.
    is_unmetered: bool,
}

/// A document as the snapshot has it and as it is now.
#[derive(Debug, Clone)]
pub(super) struct Write {
    table: Arc<Table>,
    base: Option<Arc<Object>>,
    pub(super) current: Option<Arc<Object>>,
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

impl Tx {
    pub(super) fn new(store: Store, snapshot: Snapshot, seed: ChanceSeed) -> Self {
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
            is_unmetered: false,
        }
    }

    /// The snapshot that it reads.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The document with an id, as a function may read it: a document of another component does not
    /// exist, and one of a system table is refused. `table` is the table that the caller expects it
    /// in, if it says.
    ///
    /// # Errors
    ///
    /// The text is no id, or that of a document in another table than expected.
    pub fn get(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Option<Value>, StoreError> {
        self.get_as(Access::User, component, table, id)
    }

    /// As [`get`](Self::get), also from system tables.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn system_get(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Option<Value>, StoreError> {
        self.get_as(Access::System, component, table, id)
    }

    fn get_as(
        &mut self,
        access: Access,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Option<Value>, StoreError> {
        self.count_query()?;
        let Some((_, key)) = self.find(access, "get", component, table, id)? else {
            return Ok(None);
        };
        let document = self.read(&key)?;
        Ok(document.map(|document| Value::Object(Arc::unwrap_or_clone(document))))
    }

    /// Inserts a document; returns its id. The table comes into being with its first document.
    ///
    /// # Errors
    ///
    /// The table's name is not allowed or a system table's, or the value is no document that the
    /// table accepts.
    pub fn insert(
        &mut self,
        component: &ComponentPath,
        table: &str,
        value: Value,
    ) -> Result<String, StoreError> {
        self.insert_as(Access::User, component, table, value)
    }

    /// As [`insert`](Self::insert), also into system tables.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn system_insert(
        &mut self,
        component: &ComponentPath,
        table: &str,
        value: Value,
    ) -> Result<String, StoreError> {
        self.insert_as(Access::System, component, table, value)
    }

    fn insert_as(
        &mut self,
        access: Access,
        component: &ComponentPath,
        table: &str,
        value: Value,
    ) -> Result<String, StoreError> {
        check_identifier("Table", table).map_err(StoreError::User)?;
        if access == Access::User && is_system(table) {
            return Err(read_only());
        }
        let fields = document_fields(value)?;
        if let Some(name) = fields.keys().find(|name| name.starts_with('_')) {
            return Err(reserved(name));
        }
        let existing = self.table(component, table);
        let is_new = existing.is_none();
        let number = match &existing {
            Some(table) => table.number,
            None => self.store.check_number(self.store.propose_number(component, table))?,
        };
        let fields = match &existing {
            Some(table) => self.checked(table, fields)?,
            None => fields,
        };
        // The seed makes the id, so a seed that is used twice would make the same one.
        let (id, key) = loop {
            let id = id::encode(number, self.chance.next_u128());
            let key = key::document(number, &id);
            if self.current(&key)?.is_none() {
                break (id, key);
            }
        };
        let document =
            with_system_fields(fields, &id, Value::Float64(self.store.new_creation_time()));
        self.count_write(&document)?;
        let table = match existing {
            Some(table) => table,
            None => {
                Arc::new(Table::new(component.clone(), table, number, || self.store.new_number()))
            }
        };
        self.put(&table, key, None, Some(document))?;
        if is_new {
            let name = (component.clone(), table.name.clone());
            self.created.insert(name.clone(), table);
            self.undo.push(Undo::Created(name));
        }
        Ok(id)
    }

    /// Sets and removes fields of a document.
    ///
    /// # Errors
    ///
    /// There is no such document, or it would be none that the table accepts.
    pub fn patch(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        patch: Patch,
    ) -> Result<(), StoreError> {
        self.patch_as(Access::User, component, table, id, patch)
    }

    /// As [`patch`](Self::patch), also in system tables.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub fn system_patch(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        patch: Patch,
    ) -> Result<(), StoreError> {
        self.patch_as(Access::System, component, table, id, patch)
    }

    fn patch_as(
        &mut self,
        access: Access,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        patch: Patch,
    ) -> Result<(), StoreError> {
        let (table, key, before) =
            self.existing(access, "patch", "Update", component, table, id)?;
        let mut fields = Object::clone(&before);
        for (name, value) in patch {
            if name.starts_with('_') {
                check_system_field(&name, value.as_ref(), &before)?;
                continue;
            }
            match value {
                Some(value) => fields.insert(name, value),
                None => fields.remove(&name),
            };
        }
        self.update(&table, key, id, before, fields)
    }

    /// Puts another document in the place of one.
    ///
    /// # Errors
    ///
    /// There is no such document, or the value is none that the table accepts.
    pub fn replace(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        value: Value,
    ) -> Result<(), StoreError> {
        self.replace_as(Access::User, component, table, id, value)
    }

    /// As [`replace`](Self::replace), also in system tables.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn system_replace(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        value: Value,
    ) -> Result<(), StoreError> {
        self.replace_as(Access::System, component, table, id, value)
    }

    fn replace_as(
        &mut self,
        access: Access,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        value: Value,
    ) -> Result<(), StoreError> {
        let (table, key, before) =
            self.existing(access, "replace", "Replace", component, table, id)?;
        let fields = document_fields(value)?;
        for (name, value) in fields.iter().filter(|(name, _)| name.starts_with('_')) {
            check_system_field(name, Some(value), &before)?;
        }
        self.update(&table, key, id, before, fields)
    }

    /// Removes a document; returns it.
    ///
    /// # Errors
    ///
    /// There is no such document.
    pub fn remove(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Value, StoreError> {
        self.remove_as(Access::User, component, table, id)
    }

    /// As [`remove`](Self::remove), also from system tables.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn system_remove(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Value, StoreError> {
        self.remove_as(Access::System, component, table, id)
    }

    fn remove_as(
        &mut self,
        access: Access,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Value, StoreError> {
        let (table, key, before) =
            self.existing(access, "delete", "Delete", component, table, id)?;
        self.count_write(&before)?;
        self.put(&table, key, Some(Arc::clone(&before)), None)?;
        Ok(Value::Object(Arc::unwrap_or_clone(before)))
    }

    /// How many documents a table has.
    ///
    /// # Errors
    ///
    /// The transaction has read too much, or the store failed.
    pub fn count(&mut self, component: &ComponentPath, table: &str) -> Result<u64, StoreError> {
        self.count_query()?;
        let Some(table) = self.table(component, table) else { return Ok(0) };
        let key = key::count(table.number);
        let stored = match self.store.get_at(&self.snapshot, &key)? {
            Some(bytes) => key::decode_u64(&bytes)?,
            None => 0,
        };
        self.reads.add_key(&key);
        let prefix = key::documents(table.number);
        let range = Key::from(&prefix[..])..key::after_prefix(&prefix);
        let change = self.documents.range(range).map(|(_, write)| write.count_change()).sum();
        Ok(stored.saturating_add_signed(change))
    }

    /// The id, if the text is one of a document in this table, whether or not the document exists.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn normalize_id(
        &mut self,
        component: &ComponentPath,
        table: &str,
        text: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(self.is_id(component, table, text).then(|| text.to_owned()))
    }

    /// Whether the text is an id of a document in this table, whether or not the document exists:
    /// what `v.id(table)` accepts.
    pub fn is_id(&mut self, component: &ComponentPath, table: &str, text: &str) -> bool {
        match (id::table_number(text), self.table(component, table)) {
            (Ok(number), Some(table)) => table.number == number,
            (_, _) => false,
        }
    }

    /// Whether a validator of this component accepts the value, with `v.id(table)` meaning its
    /// tables.
    ///
    /// # Errors
    ///
    /// As [`Validator::check`].
    pub fn check(
        &mut self,
        component: &ComponentPath,
        validator: &Validator,
        value: &Value,
    ) -> Result<(), String> {
        let tx = std::cell::RefCell::new(self);
        validator.check(value, &|table, text| tx.borrow_mut().is_id(component, table, text))
    }

    /// Begins a sub-transaction.
    pub fn begin_nested(&mut self) {
        self.nested.push(self.undo.len());
    }

    /// Ends the innermost sub-transaction; its writes become those of the transaction around it.
    pub fn commit_nested(&mut self) {
        self.nested.pop();
    }

    /// Ends the innermost sub-transaction and takes back its writes. What it read stays read: that
    /// it failed may depend on it.
    pub fn rollback_nested(&mut self) {
        let begin = self.nested.pop().unwrap_or(0);
        for undo in self.undo.drain(begin..).rev() {
            match undo {
                Undo::Document(key, Some(write)) => _ = self.documents.insert(key, write),
                Undo::Document(key, None) => _ = self.documents.remove(&key),
                Undo::Entry(key, Some(is_there)) => _ = self.entries.insert(key, is_there),
                Undo::Entry(key, None) => _ = self.entries.remove(&key),
                Undo::Created(name) => _ = self.created.remove(&name),
            }
        }
    }

    /// What was read so far.
    pub fn reads(&self) -> &ReadSet {
        &self.reads
    }

    /// What was read, taken out. For a transaction that is not going to be committed.
    pub fn take_reads(&mut self) -> ReadSet {
        std::mem::take(&mut self.reads)
    }

    /// Does the host's own bookkeeping. What is read and written in it is outside of all limits,
    /// the size of a document included: whether a function succeeds does not depend on what the
    /// host notes about it.
    pub(crate) fn unmetered<T>(&mut self, bookkeeping: impl FnOnce(&mut Tx) -> T) -> T {
        let before = std::mem::replace(&mut self.is_unmetered, true);
        let done = bookkeeping(self);
        self.is_unmetered = before;
        done
    }

    /// What was used so far.
    pub fn metrics(&self) -> TxMetrics {
        self.metrics
    }

    /// Whether something would be committed.
    pub fn has_writes(&self) -> bool {
        !self.created.is_empty() || self.documents.values().any(Write::is_change)
    }

    /// Commits: all writes or none, as if the transaction had run alone at the time that is
    /// returned. With no writes it is the snapshot's. Blocks until the commit is durable.
    ///
    /// # Errors
    ///
    /// Somebody else committed something that this transaction depends on, or the store failed.
    pub fn commit(self) -> Result<Timestamp, CommitError> {
        if !self.has_writes() {
            return Ok(self.snapshot.ts());
        }
        let store = self.store.clone();
        let checked = self.store.check(&self.reads, self.snapshot.ts(), self.snapshot.catalog())?;
        let request = self.into_request(checked).map_err(CommitError::Failed)?;
        store.commit(request)
    }

    /// All that the commit needs, worked out before it is anybody's turn.
    pub(super) fn into_request(self, checked: Timestamp) -> Result<Request, StoreError> {
        let mut written = Vec::new();
        let mut puts = Vec::new();
        let mut counts: BTreeMap<u32, i64> = BTreeMap::new();
        for table in self.created.values() {
            written.extend([table.key().clone(), key::number(table.number)]);
            puts.push((table.key().clone(), Some(table.encode().into())));
        }
        for (key, write) in self.documents.into_iter().filter(|(_, write)| write.is_change()) {
            let value = write.current.as_ref().map(|document| {
                let mut bytes = Vec::new();
                encoding::encode_object(document, &mut bytes);
                Key::from(bytes)
            });
            written.push(key.clone());
            puts.push((key, value));
            // A document that changed in place is another one to those who read it through an
            // index.
            for index in &write.table.indexes {
                let before =
                    write.base.as_ref().map(|document| index.entry(document)).transpose()?;
                let after =
                    write.current.as_ref().map(|document| index.entry(document)).transpose()?;
                if before == after {
                    written.extend(before);
                    continue;
                }
                if let Some(entry) = before {
                    written.push(entry.clone());
                    puts.push((entry, None));
                }
                if let Some(entry) = after {
                    written.push(entry.clone());
                    puts.push((entry, Some(Key::from([]))));
                }
            }
            *counts.entry(write.table.number).or_default() += write.count_change();
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
        })
    }

    /// The table of a name, having read whether there is one and what its schema is.
    pub(super) fn table(&mut self, component: &ComponentPath, name: &str) -> Option<Arc<Table>> {
        let created =
            || self.created.iter().find(|((path, table), _)| path == component && table == name);
        let existing = self.snapshot.catalog().table(component, name);
        let table = existing.or_else(|| created().map(|(_, table)| table)).map(Arc::clone);
        match &table {
            Some(table) => self.reads.add_key(table.key()),
            None => self.reads.add_key(&key::table(component, name)),
        }
        table
    }

    /// The document now, having read it.
    fn current(&mut self, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
        self.reads.add_key(key);
        match self.documents.get(key) {
            Some(write) => Ok(write.current.clone()),
            None => Ok(self.stored(key)?.map(|(document, _)| document)),
        }
    }

    /// The document in the snapshot, and its bytes there. Not noted as read.
    pub(super) fn stored(&self, key: &Key) -> Result<Option<(Arc<Object>, usize)>, StoreError> {
        match self.store.get_at(&self.snapshot, key)? {
            Some(bytes) => Ok(Some((decode_document(&bytes)?, bytes.len()))),
            None => Ok(None),
        }
    }

    /// What the snapshot has in a range. Not noted as read.
    pub(super) fn stored_range(&self, range: std::ops::Range<Key>) -> fjall::Iter {
        self.store.range_at(&self.snapshot, range)
    }

    /// The document now, read and counted.
    fn read(&mut self, key: &Key) -> Result<Option<Arc<Object>>, StoreError> {
        self.reads.add_key(key);
        self.read_through_index(key)
    }

    /// The document now, counted; the index entry that led to it is what was read.
    pub(super) fn read_through_index(
        &mut self,
        key: &Key,
    ) -> Result<Option<Arc<Object>>, StoreError> {
        let (document, bytes) = match self.documents.get(key) {
            Some(write) => (write.current.clone(), write.current.as_ref().map_or(0, size)),
            None => match self.stored(key)? {
                Some((document, bytes)) => (Some(document), bytes),
                None => (None, 0),
            },
        };
        if document.is_some() {
            self.count_read(bytes)?;
        }
        Ok(document)
    }

    /// Finds the table of an id and the document's key in it. `None`: there can be no such
    /// document.
    fn find(
        &mut self,
        access: Access,
        method: &str,
        component: &ComponentPath,
        expected: Option<&str>,
        id: &str,
    ) -> Result<Option<(Arc<Table>, Key)>, StoreError> {
        let invalid = |what: String| {
            StoreError::User(format!("Invalid argument `id` for `db.{method}`: {what}"))
        };
        let number = id::table_number(id)
            .map_err(|error| invalid(format!("Unable to decode ID: {error}")))?;
        let created = || self.created.values().find(|table| table.number == number);
        let Some(table) = self.snapshot.catalog().numbered(number).or_else(created).map(Arc::clone)
        else {
            self.reads.add_key(&key::number(number));
            return Ok(None);
        };
        if table.component != *component {
            return Ok(None);
        }
        self.reads.add_key(table.key());
        if let Some(expected) = expected
            && expected != table.name
        {
            return Err(invalid(format!(
                "Expected an Id<\"{expected}\">, got an Id<\"{}\">: {id}",
                table.name
            )));
        }
        if access == Access::User && table.is_system() {
            return Err(match method {
                "get" => invalid(format!(
                    "Documents of table `{}` are read with `db.system.get`",
                    table.name
                )),
                _ => read_only(),
            });
        }
        let key = key::document(number, id);
        Ok(Some((table, key)))
    }

    /// The document that is about to be changed.
    fn existing(
        &mut self,
        access: Access,
        method: &str,
        verb: &str,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<(Arc<Table>, Key, Arc<Object>), StoreError> {
        let missing = || StoreError::User(format!("{verb} on nonexistent document ID {id}"));
        self.count_query()?;
        let (table, key) = self.find(access, method, component, table, id)?.ok_or_else(missing)?;
        let document = self.read(&key)?.ok_or_else(missing)?;
        Ok((table, key, document))
    }

    /// Writes the fields of an existing document.
    fn update(
        &mut self,
        table: &Arc<Table>,
        key: Key,
        id: &str,
        before: Arc<Object>,
        mut fields: Object,
    ) -> Result<(), StoreError> {
        fields.remove("_id");
        fields.remove("_creationTime");
        let fields = self.checked(table, fields)?;
        let created = before.get("_creationTime").cloned().unwrap_or(Value::Null);
        let document = with_system_fields(fields, id, created);
        self.count_write(&document)?;
        self.put(table, key, Some(before), Some(document))
    }

    /// The fields, if the table accepts a document of them.
    fn checked(&mut self, table: &Arc<Table>, fields: Object) -> Result<Object, StoreError> {
        let Some((validator, _)) = &table.validator else { return Ok(fields) };
        let value = Value::Object(fields);
        self.check(&table.component, validator, &value).map_err(|error| {
            StoreError::User(format!(
                "Failed to insert or update a document in table \"{}\" because it does not match the schema: {error}",
                table.name
            ))
        })?;
        Ok(value.into_object().unwrap_or_default())
    }

    /// Notes a write, with the index entries that go with it.
    fn put(
        &mut self,
        table: &Arc<Table>,
        key: Key,
        before: Option<Arc<Object>>,
        after: Option<Arc<Object>>,
    ) -> Result<(), StoreError> {
        let mut entries = Vec::with_capacity(table.indexes.len());
        for index in &table.indexes {
            let old = before.as_ref().map(|document| index.entry(document)).transpose()?;
            let new = after.as_ref().map(|document| index.entry(document)).transpose()?;
            if old != new {
                entries.extend(old.map(|entry| (entry, false)));
                entries.extend(new.map(|entry| (entry, true)));
            }
        }
        for (entry, is_there) in entries {
            let previous = self.entries.insert(entry.clone(), is_there);
            self.undo.push(Undo::Entry(entry, previous));
        }
        let previous = self.documents.get(&key).cloned();
        let base = previous.as_ref().map_or(before, |write| write.base.clone());
        self.documents
            .insert(key.clone(), Write { table: Arc::clone(table), base, current: after });
        self.undo.push(Undo::Document(key, previous));
        Ok(())
    }

    pub(super) fn count_query(&mut self) -> Result<(), StoreError> {
        if self.is_unmetered {
            return Ok(());
        }
        self.metrics.database_queries += 1;
        within(self.metrics.database_queries, MAX_DATABASE_QUERIES, || {
            format!(
                "Too many reads in a single function execution (limit: {MAX_DATABASE_QUERIES})."
            )
        })
    }

    pub(super) fn count_read(&mut self, bytes: usize) -> Result<(), StoreError> {
        const ADVICE: &str = "Consider using smaller limits in your queries, paginating your queries, or using \
                              indexed queries with a selective index range expressions.";
        if self.is_unmetered {
            return Ok(());
        }
        self.metrics.documents_read += 1;
        self.metrics.bytes_read += bytes as u64;
        within(self.metrics.documents_read, MAX_DOCUMENTS_READ, || {
            format!(
                "Too many documents read in a single function execution (limit: {MAX_DOCUMENTS_READ}). {ADVICE}"
            )
        })?;
        within(self.metrics.bytes_read, MAX_BYTES_READ, || {
            format!(
                "Too many bytes read in a single function execution (limit: {MAX_BYTES_READ} bytes). {ADVICE}"
            )
        })
    }

    fn count_write(&mut self, document: &Arc<Object>) -> Result<(), StoreError> {
        if self.is_unmetered {
            return Ok(());
        }
        let bytes = size(document);
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(StoreError::User(format!(
                "Value is too large ({bytes} bytes > maximum size {MAX_DOCUMENT_BYTES} bytes)"
            )));
        }
        let TxMetrics { documents_written, bytes_written, .. } = self.metrics;
        within(documents_written + 1, MAX_DOCUMENTS_WRITTEN, || {
            format!(
                "Too many writes in a single function execution (limit: {MAX_DOCUMENTS_WRITTEN})"
            )
        })?;
        within(bytes_written + bytes as u64, MAX_BYTES_WRITTEN, || {
            format!(
                "Too many bytes written in a single function execution (limit: {MAX_BYTES_WRITTEN} bytes)"
            )
        })?;
        self.metrics.documents_written += 1;
        self.metrics.bytes_written += bytes as u64;
        Ok(())
    }
}

impl Write {
    fn is_change(&self) -> bool {
        self.base != self.current
    }

    fn count_change(&self) -> i64 {
        i64::from(self.current.is_some()) - i64::from(self.base.is_some())
    }
}

/// The fields of what is stored as a document.
pub(super) fn decode_document(bytes: &[u8]) -> Result<Arc<Object>, StoreError> {
    let fields = encoding::decode(bytes)?.into_object();
    fields
        .map(Arc::new)
        .ok_or_else(|| StoreError::damaged("the store holds a document that is none"))
}

fn within(used: u64, limit: u64, message: impl FnOnce() -> String) -> Result<(), StoreError> {
    if used > limit { Err(StoreError::User(message())) } else { Ok(()) }
}

fn size(document: &Arc<Object>) -> usize {
    document.iter().map(|(name, value)| name.len() + 1 + value.size()).sum::<usize>() + 2
}

fn document_fields(value: Value) -> Result<Object, StoreError> {
    if let Value::Object(fields) = value {
        return Ok(fields);
    }
    Err(StoreError::User(format!(
        "Documents must be objects, but got {}",
        crate::value::shown_value(&value)
    )))
}

fn with_system_fields(mut fields: Object, id: &str, creation_time: Value) -> Arc<Object> {
    fields.insert("_id".to_owned(), Value::from(id));
    fields.insert("_creationTime".to_owned(), creation_time);
    Arc::new(fields)
}

/// Whether a write may mention this field of the system: only with the value that it has.
fn check_system_field(
    name: &str,
    value: Option<&Value>,
    document: &Object,
) -> Result<(), StoreError> {
    match document.get(name) {
        None => Err(reserved(name)),
        Some(current) if value == Some(current) => Ok(()),
        Some(current) => Err(StoreError::User(format!(
            "Provided document `{name}` field {} does not match the document's own {}",
            value.map_or_else(|| "undefined".to_owned(), crate::value::shown_value),
            crate::value::shown_value(current)
        ))),
    }
}

fn reserved(name: &str) -> StoreError {
    StoreError::User(format!(
        "Field name {name} starts with '_', which is only allowed for system fields like '_id' and '_creationTime'"
    ))
}

fn read_only() -> StoreError {
    StoreError::user("System tables (prefixed with `_`) are read-only.")
}
