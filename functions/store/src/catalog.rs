//! The tables, with their indexes and validators.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fjall::{Keyspace, Readable as _};
use functions_value::{ComponentPath, Object, Validator, Value, encoding};
use serde_json::{Value as Json, json};

use super::{
    error::StoreError,
    key::{self, Key},
};

/// The index of every table in the order of creation.
pub(super) const BY_CREATION_TIME: &str = "by_creation_time";
/// The documents themselves, in the order of their ids.
pub(super) const BY_ID: &str = "by_id";

/// All tables as of one commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalog {
    names: BTreeMap<ComponentPath, BTreeMap<String, Arc<Table>>>,
    numbers: HashMap<u32, Arc<Table>>,
}

/// A table. Immutable: a changed schema creates a new value with the same number.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) component: ComponentPath,
    pub(super) name: String,
    /// Unique among the tables and indexes of all components.
    pub(super) number: u32,
    pub(super) indexes: Vec<Index>,
    /// The validator of its documents, and the JSON it was parsed from.
    pub(super) validator: Option<(Validator, Json)>,
    /// The key of the table's entry. Every transaction that uses the table has it in its read set.
    key: Key,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    /// Unique among the tables and indexes of all components.
    pub(super) number: u32,
    /// Paths of the indexed fields, not including creation time and id, which follow in every
    /// index.
    pub(super) fields: Vec<Vec<String>>,
}

fn system_indexes(table: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match table {
        "_scheduled_functions" => &[("by_state_and_time", &["state.kind", "scheduledTime"])],
        "_cron_jobs" => &[("by_name", &["name"])],
        _ => &[],
    }
}

/// Whether a system table has this index, even if the table has no documents yet.
pub(super) fn is_system_index(table: &str, index: &str) -> bool {
    system_indexes(table).iter().any(|(name, _)| *name == index)
}

impl Table {
    /// A new table without a schema.
    pub(super) fn new(
        component: ComponentPath,
        name: &str,
        number: u32,
        mut new_number: impl FnMut() -> u32,
    ) -> Self {
        let mut indexes = vec![Index {
            name: BY_CREATION_TIME.to_owned(),
            number: new_number(),
            fields: Vec::new(),
        }];
        indexes.extend(system_indexes(name).iter().map(|(name, fields)| Index {
            name: (*name).to_owned(),
            number: new_number(),
            fields: fields.iter().map(|field| field_path(field)).collect(),
        }));
        let key = key::table(&component, name);
        Self { component, name: name.to_owned(), number, indexes, validator: None, key }
    }

    pub(super) fn is_system(&self) -> bool {
        is_system(&self.name)
    }

    pub(super) fn index(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name)
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// The table's entry in the store.
    pub(super) fn encode(&self) -> Vec<u8> {
        let indexes = self.indexes.iter().map(|index| {
            let fields = index.fields.iter().map(|path| Value::String(path.join("."))).collect();
            Value::Object(Object::from([
                ("name".to_owned(), Value::String(index.name.clone())),
                ("number".to_owned(), Value::Int64(i64::from(index.number))),
                ("fields".to_owned(), Value::Array(fields)),
            ]))
        });
        let mut out = Vec::new();
        encoding::encode_object(
            &Object::from([
                ("component".to_owned(), Value::String(self.component.to_string())),
                ("name".to_owned(), Value::String(self.name.clone())),
                ("number".to_owned(), Value::Int64(i64::from(self.number))),
                ("indexes".to_owned(), Value::Array(indexes.collect())),
                (
                    "validator".to_owned(),
                    self.validator
                        .as_ref()
                        .map_or(Value::Null, |(_, json)| Value::String(json.to_string())),
                ),
            ]),
            &mut out,
        );
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged("a table's entry in the store is damaged");
        let value = encoding::decode(bytes)?;
        let text = |value: &Value, name: &str| {
            value.at(&[name]).and_then(Value::as_str).map(str::to_owned).ok_or_else(damaged)
        };
        let number = |value: &Value| match value.at(&["number"]) {
            Some(Value::Int64(number)) => u32::try_from(*number).map_err(|_| damaged()),
            _ => Err(damaged()),
        };
        let array = |value: &Value, name: &str| match value.at(&[name]) {
            Some(Value::Array(elements)) => Ok(elements.clone()),
            _ => Err(damaged()),
        };
        let indexes = array(&value, "indexes")?.into_iter().map(|index| {
            let fields = array(&index, "fields")?.into_iter();
            Ok(Index {
                name: text(&index, "name")?,
                number: number(&index)?,
                fields: fields
                    .map(|field| field.as_str().map(field_path).ok_or_else(damaged))
                    .collect::<Result<_, StoreError>>()?,
            })
        });
        let validator = match value.at(&["validator"]) {
            Some(Value::String(text)) => {
                let json: Json = serde_json::from_str(text).map_err(|_| damaged())?;
                Some((Validator::from_stored_json(&json).map_err(|_| damaged())?, json))
            }
            _ => None,
        };
        let component = ComponentPath::parse(&text(&value, "component")?);
        let name = text(&value, "name")?;
        Ok(Self {
            key: key::table(&component, &name),
            component,
            name,
            number: number(&value)?,
            indexes: indexes.collect::<Result<_, StoreError>>()?,
            validator,
        })
    }
}

impl Catalog {
    pub(super) fn read(view: &fjall::Snapshot, data: &Keyspace) -> Result<Self, StoreError> {
        let mut catalog = Self::default();
        for guard in view.prefix(data, key::tables()) {
            catalog.insert(Arc::new(Table::decode(&guard.value()?)?));
        }
        Ok(catalog)
    }

    /// Adds a table, replacing one of the same name.
    pub(super) fn insert(&mut self, table: Arc<Table>) {
        self.numbers.insert(table.number, Arc::clone(&table));
        self.names.entry(table.component.clone()).or_default().insert(table.name.clone(), table);
    }

    pub(super) fn table(&self, component: &ComponentPath, name: &str) -> Option<&Arc<Table>> {
        self.names.get(component)?.get(name)
    }

    pub(super) fn numbered(&self, number: u32) -> Option<&Arc<Table>> {
        self.numbers.get(&number)
    }

    pub(super) fn tables_of(&self, component: &ComponentPath) -> impl Iterator<Item = &Arc<Table>> {
        self.names.get(component).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.numbers.values()
    }

    /// The name of a key's table, and the id of its document if it has one.
    pub(super) fn describe(&self, key: &[u8]) -> (String, Option<String>) {
        let about = key::about(key);
        let is_meant = |table: &&Arc<Table>| match about.number {
            Some(number) => {
                table.number == number || table.indexes.iter().any(|index| index.number == number)
            }
            None => **table.key() == *key,
        };
        let name = self.tables().find(is_meant).map(|table| table.name.clone());
        (name.or(about.name).unwrap_or_default(), about.id)
    }

    pub(super) fn highest_number(&self) -> u32 {
        self.tables()
            .flat_map(|table| table.indexes.iter().map(|index| index.number).chain([table.number]))
            .max()
            .unwrap_or(0)
    }
}

impl Index {
    /// The document's entry in this index.
    ///
    /// # Errors
    ///
    /// The indexed values are too long.
    pub(super) fn entry(&self, document: &Object) -> Result<Key, StoreError> {
        let mut key = key::entries(self.number);
        for path in &self.fields {
            let (first, rest) =
                path.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
            encoding::encode_optional(
                document.get(first).and_then(|value| value.at(rest)),
                &mut key,
            );
        }
        encoding::encode_optional(document.get("_creationTime"), &mut key);
        encoding::encode_optional(document.get("_id"), &mut key);
        if key.len() > key::MAX_KEY_BYTES {
            return Err(StoreError::User(format!(
                "The values that index \"{}\" orders a document by have {} bytes, which exceeds limit of {} bytes",
                self.name,
                key.len(),
                key::MAX_KEY_BYTES
            )));
        }
        Ok(key.into())
    }
}

/// The parts of a dotted path.
pub(super) fn field_path(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

/// Whether this is the name of a system table, which only the host writes.
pub(super) fn is_system(table: &str) -> bool {
    table.starts_with('_')
}

/// The validator that accepts every document, as JSON.
pub(super) fn any_document() -> Json {
    json!({ "type": "any" })
}

/// Checks the name of a table or an index.
pub(super) fn check_identifier(what: &str, text: &str) -> Result<(), String> {
    const MAX_LENGTH: usize = 64;
    if text.is_empty() {
        return Err(format!("{what} name cannot be empty."));
    }
    if text.len() > MAX_LENGTH {
        return Err(format!(
            "{what} name must be at most {MAX_LENGTH} characters long, but \"{text}\" has {}.",
            text.len()
        ));
    }
    let letters =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        || !letters(text)
    {
        return Err(format!(
            "{what} name must start with a letter or underscore and consist only of letters, digits, and underscores. \
             Got \"{text}\"."
        ));
    }
    Ok(())
}
