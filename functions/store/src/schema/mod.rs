//! Schemas: the indexes and validators of tables. A schema takes effect as one commit.

mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use audit_core::with_sources;
use fjall::Readable as _;
use functions_value::{ChanceSeed, ComponentPath, Object, Value};
use serde_json::Value as Json;

use self::read::{Wanted, read};
use super::{
    Snapshot, Store,
    catalog::{Catalog, Index, Table},
    commit::{Exclusive, Request},
    error::StoreError,
    id,
    key::{self, Key},
    proposed,
    tx::{Tx, decode_document},
};

/// The number of index entries written or removed per batch.
const BATCH_ENTRIES: usize = 4_096;

/// A schema was not applied.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema is invalid, or a document violates it. The message explains which.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error("the schema could not be stored")]
    Store(#[source] StoreError),
}

impl From<StoreError> for SchemaError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::User(message) => Self::Refused(message),
            StoreError::Failed(_) => Self::Store(error),
        }
    }
}

/// The schema of each component, as its `defineSchema(…).export()` returns it.
pub type Schemas = BTreeMap<ComponentPath, Option<Json>>;

/// The tables that each component wants.
type AllWanted<'a> = Vec<(&'a ComponentPath, Vec<Wanted>)>;

/// A table that a schema changes, and how it was before.
type Changed = (Arc<Table>, Option<Arc<Table>>);

/// Applies schemas, and commits the writes of a transaction with them.
pub(super) fn set(
    store: &Store,
    schemas: &Schemas,
    seed: ChanceSeed,
    writes: impl FnOnce(&mut Tx) -> Result<(), StoreError>,
    once_durable: impl FnOnce(),
) -> Result<(), SchemaError> {
    let wanted = wanted(schemas)?;
    let once_durable = Box::new(once_durable);
    store.exclusively(|before| {
        let (catalog, schema) = change(store, before, &wanted)?;
        let mut tx = store.begin(before, seed);
        writes(&mut tx)?;
        if schema.puts.is_empty() && !tx.has_writes() {
            return Ok::<_, SchemaError>(None);
        }
        let mut request = tx.into_request(before.ts())?;
        request.puts.extend(schema.puts);
        request.written.extend(schema.written);
        Ok(Some(Exclusive { request, catalog, once_durable }))
    })?;
    // Replaced indexes are removed once the change is durable. The schemas are in effect, so that
    // this is no failure of theirs. After it, or after a crash, opening the store removes the rest.
    if let Err(error) = store.drop_unknown_indexes() {
        tracing::warn!(error = with_sources(&error), "dropped indexes keep their space for now");
    }
    Ok(())
}

/// Checks whether [`Store::set_schema`] would refuse the schemas: with a store, for its documents
/// too.
///
/// # Errors
///
/// A schema is invalid, a document violates it, or the store fails.
pub fn check_schemas(schemas: &Schemas, store: Option<&Store>) -> Result<(), SchemaError> {
    let wanted = wanted(schemas)?;
    store.map_or(Ok(()), |store| changes(store, &store.latest(), &wanted).map(drop))
}

fn wanted(schemas: &Schemas) -> Result<AllWanted<'_>, SchemaError> {
    let wanted = schemas.iter().map(|(component, schema)| {
        let tables = schema.as_ref().map_or_else(|| Ok(Vec::new()), read)?;
        Ok((component, tables))
    });
    wanted.collect()
}

/// Builds new indexes. Returns the request that activates them, and the tables with them.
fn change(
    store: &Store,
    before: &Snapshot,
    wanted: &AllWanted<'_>,
) -> Result<(Catalog, Request), SchemaError> {
    let (catalog, changed) = changes(store, before, wanted)?;
    let mut request = Request::of_puts(Vec::new());
    for (table, before_it) in &changed {
        fill(store, before, table, before_it.as_deref())?;
        request.puts.push((table.key().clone(), Some(Key::from(table.encode()))));
        request.written.push(table.key().clone());
        if before_it.is_none() {
            request.written.push(key::number(table.number));
        }
    }
    Ok((catalog, request))
}

/// Returns the catalog with the schemas applied, and the tables that they change. Checks the
/// documents of these.
fn changes(
    store: &Store,
    before: &Snapshot,
    wanted: &AllWanted<'_>,
) -> Result<(Catalog, Vec<Changed>), SchemaError> {
    let mut catalog = Catalog::clone(before.catalog());
    let mut changed = Vec::new();
    for (component, tables) in wanted {
        let existing = before.catalog().tables_of(component).map(|table| table.name.clone());
        let named = tables.iter().map(|table| table.name.clone());
        for name in existing.chain(named).collect::<BTreeSet<_>>() {
            let current = before.catalog().table(component, &name);
            let wanted = tables.iter().find(|table| table.name == name);
            if let Some(table) =
                altered(store, component, &name, current.map(|table| &**table), wanted)?
            {
                let table = Arc::new(table);
                catalog.insert(Arc::clone(&table));
                changed.push((table, current.cloned()));
            }
        }
    }
    for (table, before_it) in &changed {
        check_documents(store, before, &catalog, table, before_it.as_deref())?;
    }
    Ok((catalog, changed))
}

/// The table as the schema defines it, if that differs from the current one.
fn altered(
    store: &Store,
    component: &ComponentPath,
    name: &str,
    current: Option<&Table>,
    wanted: Option<&Wanted>,
) -> Result<Option<Table>, StoreError> {
    let number = match current {
        Some(table) => table.number,
        None => proposed::checked(store.new_number())?,
    };
    // Built-in indexes come first. A table without a schema has only those.
    let mut table = Table::new((*component).clone(), name, number, || 0);
    for (name, fields) in wanted.iter().flat_map(|wanted| &wanted.indexes) {
        table.indexes.push(Index { name: name.clone(), number: 0, fields: fields.clone() });
    }
    table.validator = wanted.and_then(|wanted| wanted.validator.clone());
    for index in &mut table.indexes {
        let same = current
            .into_iter()
            .flat_map(|table| &table.indexes)
            .find(|other| other.name == index.name && other.fields == index.fields);
        index.number = match same {
            Some(same) => same.number,
            None => store.new_number(),
        };
    }
    let is_same = current.is_some_and(|current| {
        current.indexes == table.indexes && current.validator == table.validator
    });
    Ok((!is_same).then_some(table))
}

/// Checks all documents of a table against its new validator.
fn check_documents(
    store: &Store,
    snapshot: &Snapshot,
    catalog: &Catalog,
    table: &Table,
    before: Option<&Table>,
) -> Result<(), SchemaError> {
    let (Some((validator, _)), Some(before)) = (&table.validator, before) else { return Ok(()) };
    if before.validator == table.validator {
        return Ok(());
    }
    let is_id = |name: &str, text: &str| {
        let table = catalog.table(&table.component, name);
        table.is_some_and(|table| id::table_number(text) == Ok(table.number))
    };
    for document in documents(store, snapshot, table.number) {
        let mut fields = Object::clone(&*document?);
        let id = fields.remove("_id");
        fields.remove("_creationTime");
        validator.check(&Value::Object(fields), &is_id).map_err(|error| {
            SchemaError::Refused(format!(
                "Schema validation failed.\nDocument with ID \"{}\" in table \"{}\" does not match the schema: {error}",
                id.as_ref().and_then(Value::as_str).unwrap_or_default(),
                table.name
            ))
        })?;
    }
    Ok(())
}

/// Writes the entries of new indexes. Nothing reads them until the table lists the indexes.
fn fill(
    store: &Store,
    snapshot: &Snapshot,
    table: &Table,
    before: Option<&Table>,
) -> Result<(), StoreError> {
    let Some(before) = before else { return Ok(()) };
    let new: Vec<_> =
        table.indexes.iter().filter(|index| !before.indexes.contains(index)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let mut puts = BTreeMap::new();
    for document in documents(store, snapshot, table.number) {
        let document = document?;
        for index in &new {
            puts.insert(index.entry(&document)?, Some(Key::from([])));
        }
        if puts.len() >= BATCH_ENTRIES {
            store.write_part(std::mem::take(&mut puts))?;
        }
    }
    store.write_part(puts)
}

fn documents<'a>(
    store: &'a Store,
    snapshot: &'a Snapshot,
    table: u32,
) -> impl Iterator<Item = Result<Arc<Object>, StoreError>> + 'a {
    let all = snapshot.view().prefix(&store.0.data, key::documents(table));
    all.map(|guard| decode_document(&guard.value()?))
}

impl Store {
    /// Removes the entries of indexes that no table lists: a schema dropped the index, or a crash
    /// or a full disk interrupted building it. Without space on the disk, they stay until the store
    /// is opened again or gets another schema.
    pub(super) fn drop_unknown_indexes(&self) -> Result<(), StoreError> {
        let dropped = self.exclusively(|latest| {
            let known: BTreeSet<_> = latest
                .catalog()
                .tables()
                .flat_map(|table| table.indexes.iter().map(|index| index.number))
                .collect();
            let mut from = Key::from(key::all_entries());
            let end = key::after_prefix(&from);
            while let Some(first) = self.range_at(latest, from.clone()..end.clone()).next() {
                let index = key::entry_index(&first.key()?)?;
                let prefix = key::entries(index);
                if !known.contains(&index) {
                    let mut removed = BTreeMap::new();
                    for guard in latest.view().prefix(&self.0.data, &prefix) {
                        removed.insert(guard.key()?, None);
                        if removed.len() >= BATCH_ENTRIES {
                            self.write_part(std::mem::take(&mut removed))?;
                        }
                    }
                    self.write_part(removed)?;
                }
                from = key::after_prefix(&prefix);
            }
            Ok::<_, StoreError>(None)
        });
        match dropped {
            Err(error) if !error.lacks_room() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
