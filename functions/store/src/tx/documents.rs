//! Reading and writing documents by id.

use std::sync::Arc;

use functions_value::{ComponentPath, Object, Patch, Validator, Value, shown_value};

use super::{Access, Tx, Undo, Write};
use crate::{
    catalog::{Table, check_identifier, is_system},
    error::StoreError,
    id,
    key::{self, Key},
};

impl Tx {
    /// The document with this id, or `None` if there is none in the component. `table` is the
    /// expected table, if any.
    ///
    /// # Errors
    ///
    /// The text is not an id, the document is in another table than expected or in a system table
    /// that functions may not read, or the transaction has read too much.
    pub fn get(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Option<Value>, StoreError> {
        self.count_query()?;
        let Some((_, key)) = self.find("get", component, table, id)? else {
            return Ok(None);
        };
        let document = self.read(&key)?;
        Ok(document.map(|document| Value::Object(Arc::unwrap_or_clone(document))))
    }

    /// Inserts a document and returns its id. The first document creates the table.
    ///
    /// # Errors
    ///
    /// The table's name is invalid or that of a system table, the table rejects the value, or the
    /// transaction has written too much.
    pub fn insert(
        &mut self,
        component: &ComponentPath,
        table: &str,
        value: Value,
    ) -> Result<String, StoreError> {
        check_identifier("Table", table).map_err(StoreError::User)?;
        if self.access == Access::Function && is_system(table) {
            return Err(read_only());
        }
        let fields = document_fields(value)?;
        if let Some(name) = fields.keys().find(|name| name.starts_with('_')) {
            return Err(reserved(name));
        }
        let existing = self.table(component, table);
        let is_new = existing.is_none();
        let table = match existing {
            Some(table) => table,
            None => self.store.proposed(component, table)?,
        };
        let fields = self.checked(&table, fields)?;
        // Ids are derived from the seed, so reusing a seed repeats them.
        let (id, key) = loop {
            let id = id::encode(table.number, self.chance.next_u128());
            let key = key::document(table.number, &id);
            if self.current(&key)?.is_none() {
                break (id, key);
            }
        };
        let document =
            with_system_fields(fields, &id, Value::Float64(self.store.new_creation_time()));
        self.count_write(&document)?;
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
    /// The document does not exist, or the table rejects the result.
    pub fn patch(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        patch: Patch,
    ) -> Result<(), StoreError> {
        let (table, key, before) = self.existing("patch", "Update", component, table, id)?;
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

    /// Replaces a document.
    ///
    /// # Errors
    ///
    /// The document does not exist, or the table rejects the value.
    pub fn replace(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
        value: Value,
    ) -> Result<(), StoreError> {
        let (table, key, before) = self.existing("replace", "Replace", component, table, id)?;
        let fields = document_fields(value)?;
        for (name, value) in fields.iter().filter(|(name, _)| name.starts_with('_')) {
            check_system_field(name, Some(value), &before)?;
        }
        self.update(&table, key, id, before, fields)
    }

    /// Removes a document and returns it.
    ///
    /// # Errors
    ///
    /// The document does not exist.
    pub fn remove(
        &mut self,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<Value, StoreError> {
        let (table, key, before) = self.existing("delete", "Delete", component, table, id)?;
        self.count_write(&before)?;
        self.put(&table, key, Some(Arc::clone(&before)), None)?;
        Ok(Value::Object(Arc::unwrap_or_clone(before)))
    }

    /// The number of documents of a table.
    ///
    /// # Errors
    ///
    /// The table's name is invalid, the transaction has read too much, or the store failed.
    pub fn count(&mut self, component: &ComponentPath, table: &str) -> Result<u64, StoreError> {
        self.count_query()?;
        let Some(table) = self.table(component, table) else {
            return check_identifier("Table", table).map(|()| 0).map_err(StoreError::User);
        };
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

    /// Whether the text has the form of an id in this table, as checked by `v.id(table)`. The
    /// document need not exist.
    pub fn is_id(&mut self, component: &ComponentPath, table: &str, text: &str) -> bool {
        match (id::table_number(text), self.table(component, table)) {
            (Ok(number), Some(table)) => table.number == number,
            (_, _) => false,
        }
    }

    /// Checks a value with a validator in which `v.id(table)` refers to this component's tables.
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

    /// The table and key of an id, or `None` if no such document can exist.
    fn find(
        &mut self,
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
        if self.access == Access::Function && table.is_system() {
            return Err(match method {
                "get" => invalid(format!(
                    "Documents of table `{}` are read with `db.system.get`",
                    table.name
                )),
                _ => read_only(),
            });
        }
        // Not an error: convex-helpers looks with `db.system` for what `db` did not find.
        if self.access == Access::System && !table.is_system() {
            return Ok(None);
        }
        let key = key::document(number, id);
        Ok(Some((table, key)))
    }

    /// Reads a document that is to be changed.
    fn existing(
        &mut self,
        method: &str,
        verb: &str,
        component: &ComponentPath,
        table: Option<&str>,
        id: &str,
    ) -> Result<(Arc<Table>, Key, Arc<Object>), StoreError> {
        let missing = || StoreError::User(format!("{verb} on nonexistent document ID {id}"));
        self.count_query()?;
        let (table, key) = self.find(method, component, table, id)?.ok_or_else(missing)?;
        let document = self.read(&key)?.ok_or_else(missing)?;
        Ok((table, key, document))
    }

    /// Replaces the fields of an existing document.
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

    /// Records a write and its index entries.
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
}

fn document_fields(value: Value) -> Result<Object, StoreError> {
    if let Value::Object(fields) = value {
        return Ok(fields);
    }
    Err(StoreError::User(format!("Documents must be objects, but got {}", shown_value(&value))))
}

fn with_system_fields(mut fields: Object, id: &str, creation_time: Value) -> Arc<Object> {
    fields.insert("_id".to_owned(), Value::from(id));
    fields.insert("_creationTime".to_owned(), creation_time);
    Arc::new(fields)
}

/// Checks a system field in a write. It may only repeat the current value.
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
            value.map_or_else(|| "undefined".to_owned(), shown_value),
            shown_value(current)
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
