//! Schemas as `defineSchema(…).export()` returns them.

use std::collections::BTreeSet;

use functions_value::Validator;
use serde_json::Value as Json;

use super::SchemaError;
use crate::catalog::{BY_CREATION_TIME, BY_ID, any_document, check_identifier, field_path};

const MAX_INDEXES: usize = 32;
const MAX_INDEX_FIELDS: usize = 16;

/// A table of a schema.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) indexes: Vec<WantedIndex>,
    pub(super) validator: Option<(Validator, Json)>,
}

/// An index's name, and the paths of its fields.
type WantedIndex = (String, Vec<Vec<String>>);

pub(super) fn read(schema: &Json) -> Result<Vec<Wanted>, SchemaError> {
    let malformed = |json: &Json| SchemaError::Refused(format!("Not a schema: {json}"));
    let is_validated = schema.get("schemaValidation").and_then(Json::as_bool).unwrap_or(true);
    let tables = schema.get("tables").and_then(Json::as_array).ok_or_else(|| malformed(schema))?;
    let mut names = BTreeSet::new();
    let tables = tables.iter().map(|table| {
        let name = table.get("tableName").and_then(Json::as_str).ok_or_else(|| malformed(table))?;
        check_identifier("Table", name).map_err(SchemaError::Refused)?;
        if name.starts_with('_') {
            return Err(SchemaError::Refused(format!(
                "Table name \"{name}\" is not allowed: names that begin with `_` are those of system tables"
            )));
        }
        if !names.insert(name) {
            return Err(SchemaError::Refused(format!("Table \"{name}\" is defined twice in the schema")));
        }
        let document_type = table.get("documentType").filter(|json| !json.is_null());
        let mut document_type = document_type.cloned().unwrap_or_else(any_document);
        remove_system_fields(&mut document_type);
        let validator = Validator::from_json(&document_type)
            .map_err(|error| SchemaError::Refused(format!("Table \"{name}\": {error}")))?;
        check_document_validator(name, &validator)?;
        let indexes = match table.get("indexes") {
            None => Vec::new(),
            Some(indexes) => read_indexes(name, indexes.as_array().ok_or_else(|| malformed(table))?)?,
        };
        if is_validated {
            check_index_fields(name, &indexes, &validator)?;
        }
        Ok(Wanted {
            name: name.to_owned(),
            indexes,
            validator: is_validated.then_some((validator, document_type)),
        })
    });
    tables.collect()
}

/// Removes `_id` and `_creationTime` from a document type: a schema may declare them, but the store
/// sets them, so there is nothing to check.
fn remove_system_fields(document_type: &mut Json) {
    match document_type.get("type").and_then(Json::as_str) {
        Some("object") => {
            if let Some(fields) = document_type.get_mut("value").and_then(Json::as_object_mut) {
                fields.retain(|name, _| name != "_id" && name != "_creationTime");
            }
        }
        Some("union") => {
            let members = document_type.get_mut("value").and_then(Json::as_array_mut);
            members.into_iter().flatten().for_each(remove_system_fields);
        }
        _ => {}
    }
}

/// Checks that a validator accepts only documents.
fn check_document_validator(table: &str, validator: &Validator) -> Result<(), SchemaError> {
    match validator {
        Validator::Any => Ok(()),
        Validator::Object(fields) => match fields.keys().find(|name| name.starts_with('_')) {
            None => Ok(()),
            Some(name) => Err(SchemaError::Refused(format!(
                "Table \"{table}\" cannot have a field \"{name}\": names that begin with `_` are those of system fields"
            ))),
        },
        Validator::Union(members) => {
            members.iter().try_for_each(|member| check_document_validator(table, member))
        }
        Validator::Null
        | Validator::Float64
        | Validator::Int64
        | Validator::Boolean
        | Validator::String
        | Validator::Bytes
        | Validator::Id(_)
        | Validator::Function
        | Validator::Literal(_)
        | Validator::Array(_)
        | Validator::Record(..) => Err(SchemaError::Refused(format!(
            "Table \"{table}\" must have documents that are objects, or a union of objects, not {validator}"
        ))),
    }
}

fn read_indexes(table: &str, indexes: &[Json]) -> Result<Vec<WantedIndex>, SchemaError> {
    let refused = |what: String| SchemaError::Refused(format!("Table \"{table}\": {what}"));
    if indexes.len() > MAX_INDEXES {
        return Err(refused(format!(
            "a table of {} indexes exceeds limit of {MAX_INDEXES}",
            indexes.len()
        )));
    }
    let mut names = BTreeSet::new();
    let indexes = indexes.iter().map(|index| {
        let malformed = || refused(format!("not an index: {index}"));
        let name = index.get("indexDescriptor").and_then(Json::as_str).ok_or_else(malformed)?;
        check_identifier("Index", name).map_err(&refused)?;
        if [BY_ID, BY_CREATION_TIME].contains(&name) || name.starts_with('_') {
            return Err(refused(format!("index name \"{name}\" is reserved")));
        }
        if !names.insert(name) {
            return Err(refused(format!("index \"{name}\" is defined twice")));
        }
        let fields = index.get("fields").and_then(Json::as_array).ok_or_else(malformed)?;
        if fields.is_empty() || fields.len() > MAX_INDEX_FIELDS {
            return Err(refused(format!(
                "index \"{name}\" has {} fields; it must have 1 to {MAX_INDEX_FIELDS}",
                fields.len()
            )));
        }
        let mut seen = BTreeSet::new();
        let fields = fields.iter().map(|field| {
            let field = field.as_str().ok_or_else(malformed)?;
            if field.starts_with('_') {
                return Err(refused(format!(
                    "index \"{name}\" cannot have the field \"{field}\": every index ends with _creationTime and _id"
                )));
            }
            let path = field_path(field);
            if path.iter().any(String::is_empty) {
                return Err(refused(format!("index \"{name}\" has the invalid field \"{field}\"")));
            }
            if !seen.insert(field) {
                return Err(refused(format!("index \"{name}\" has the field \"{field}\" twice")));
            }
            Ok(path)
        });
        Ok((name.to_owned(), fields.collect::<Result<_, _>>()?))
    });
    indexes.collect()
}

/// Checks that documents can have the indexed fields, as Convex does: a misspelled field would be
/// missing in every document.
fn check_index_fields(
    table: &str,
    indexes: &[WantedIndex],
    validator: &Validator,
) -> Result<(), SchemaError> {
    let fields =
        indexes.iter().flat_map(|(index, fields)| fields.iter().map(move |path| (index, path)));
    for (index, path) in fields {
        if !validator.can_have(path) {
            return Err(SchemaError::Refused(format!(
                "In table \"{table}\" the index \"{index}\" is invalid because it references the field \"{}\" that does not exist.",
                path.join(".")
            )));
        }
    }
    Ok(())
}
