//! Query plans: a range of an index, an order, filters and limits.

use std::sync::Arc;

use functions_value::{ComponentPath, Value, encoding, is_undefined_json};
use serde_json::Value as Json;

use crate::{
    catalog::{BY_CREATION_TIME, BY_ID, Table, check_identifier, is_system_index},
    cursor::Position,
    error::StoreError,
    filter::Expression,
    key::{self, Key},
    tx::Tx,
};

/// The maximum number of filters and limits of a query.
const MAX_OPERATORS: usize = 256;

/// A parsed query, with its range of keys.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// `None` if the table does not exist.
    pub(super) table: Option<Arc<Table>>,
    pub(super) is_by_id: bool,
    pub(super) start: Key,
    pub(super) end: Key,
    pub(super) is_descending: bool,
    pub(super) operators: Vec<Operator>,
}

#[derive(Debug, Clone)]
pub(super) enum Operator {
    Filter(Expression),
    /// The remaining number of documents.
    Limit(u64),
}

impl Tx {
    /// Parses a query and resolves its range.
    pub(super) fn plan(
        &mut self,
        component: &ComponentPath,
        query: &Json,
    ) -> Result<Plan, StoreError> {
        let Source { table: table_name, index: index_name, range, is_descending } =
            Source::of(query)?;
        let operators = operators_of(query)?;
        let unknown = || StoreError::User(format!("Index {table_name}.{index_name} not found."));
        let Some(table) = self.table(component, table_name) else {
            check_identifier("Table", table_name).map_err(StoreError::User)?;
            let is_known = [BY_CREATION_TIME, BY_ID].contains(&index_name)
                || is_system_index(table_name, index_name);
            if !is_known {
                return Err(unknown());
            }
            let nothing = Key::from([]);
            return Ok(Plan {
                table: None,
                is_by_id: false,
                start: nothing.clone(),
                end: nothing,
                is_descending,
                operators,
            });
        };
        let is_by_id = index_name == BY_ID;
        let (prefix, fields) = if is_by_id {
            (key::documents(table.number), vec!["_id".to_owned()])
        } else {
            let index = table.index(index_name).ok_or_else(unknown)?;
            let fields = index.fields.iter().map(|path| path.join("."));
            (
                key::entries(index.number),
                fields.chain(["_creationTime".to_owned(), "_id".to_owned()]).collect(),
            )
        };
        let (start, end) = range_of(table_name, index_name, prefix, &fields, range)?;
        Ok(Plan { table: Some(table), is_by_id, start, end, is_descending, operators })
    }
}

fn malformed(query: &Json) -> StoreError {
    StoreError::user(format!("Not a query: {query}"))
}

/// The part of a query that selects an index range.
struct Source<'q> {
    table: &'q str,
    index: &'q str,
    range: &'q [Json],
    is_descending: bool,
}

impl Source<'_> {
    fn of(query: &Json) -> Result<Source<'_>, StoreError> {
        let malformed = || malformed(query);
        let source = query.get("source").ok_or_else(malformed)?;
        let text = |name: &str| source.get(name).and_then(Json::as_str).ok_or_else(malformed);
        let (table, index, range) = match text("type")? {
            "FullTableScan" => (text("tableName")?, BY_CREATION_TIME, &[][..]),
            "IndexRange" => {
                let (table, index) = text("indexName")?.split_once('.').ok_or_else(malformed)?;
                let range = source.get("range").and_then(Json::as_array).ok_or_else(malformed)?;
                (table, index, range.as_slice())
            }
            "Search" => {
                return Err(StoreError::user(format!(
                    "Search indexes are not supported by this host (`withSearchIndex` on {})",
                    source.get("indexName").and_then(Json::as_str).unwrap_or("a table")
                )));
            }
            _ => return Err(malformed()),
        };
        let is_descending = match source.get("order").and_then(Json::as_str) {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(other) => return Err(StoreError::user(format!("Unknown order \"{other}\""))),
        };
        Ok(Source { table, index, range, is_descending })
    }
}

fn operators_of(query: &Json) -> Result<Vec<Operator>, StoreError> {
    let Some(operators) = query.get("operators") else { return Ok(Vec::new()) };
    let operators = operators.as_array().ok_or_else(|| malformed(query))?;
    if operators.len() > MAX_OPERATORS {
        return Err(StoreError::user(format!(
            "Can't construct query with more than {MAX_OPERATORS} operators"
        )));
    }
    operators.iter().map(Operator::from_json).collect()
}

/// The keys of an index range: equal values for the first fields, then bounds for the next one.
fn range_of(
    table: &str,
    index: &str,
    mut prefix: Vec<u8>,
    fields: &[String],
    range: &[Json],
) -> Result<(Key, Key), StoreError> {
    let invalid = |what: String| {
        StoreError::User(format!(
            "Tried to query index {table}.{index} but {what}. The index's fields are [{}]; a range compares the first \
             of them with `eq`, in this order, and then at most one with `gt` or `gte` and `lt` or `lte`.",
            fields.join(", ")
        ))
    };
    let mut fields_left = fields.iter();
    let mut bounded: Option<&str> = None;
    let (mut lower, mut upper): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    for expression in range {
        let malformed = || StoreError::user(format!("Not an index range expression: {expression}"));
        let kind = expression.get("type").and_then(Json::as_str).ok_or_else(malformed)?;
        let field = expression.get("fieldPath").and_then(Json::as_str).ok_or_else(malformed)?;
        let value = match expression.get("value").ok_or_else(malformed)? {
            value if is_undefined_json(value) => None,
            value => Some(Value::from_json(value.clone())?),
        };
        if kind == "Eq" {
            if bounded.is_some() {
                return Err(invalid(format!("`eq` on `{field}` comes after an inequality")));
            }
            if fields_left.next().is_none_or(|next| next != field) {
                return Err(invalid(format!("`{field}` is not the next field of the index")));
            }
            encoding::encode_optional(value.as_ref(), &mut prefix);
            continue;
        }
        match bounded {
            None if fields_left.clone().next().is_none_or(|next| next != field) => {
                return Err(invalid(format!("`{field}` is not the next field of the index")));
            }
            Some(other) if other != field => {
                return Err(invalid(format!(
                    "it has inequalities on both `{other}` and `{field}`"
                )));
            }
            None | Some(_) => bounded = Some(field),
        }
        let mut at = prefix.clone();
        encoding::encode_optional(value.as_ref(), &mut at);
        let (bound, at) = match kind {
            "Gt" => (&mut lower, key::after_prefix(&at).to_vec()),
            "Gte" => (&mut lower, at),
            "Lt" => (&mut upper, at),
            "Lte" => (&mut upper, key::after_prefix(&at).to_vec()),
            _ => return Err(malformed()),
        };
        if bound.replace(at).is_some() {
            return Err(invalid(format!("`{field}` has two bounds on the same side")));
        }
    }
    let end = upper.map_or_else(|| key::after_prefix(&prefix), Key::from);
    Ok((key::clamp(Key::from(lower.unwrap_or(prefix))), key::clamp(end)))
}

impl Operator {
    fn from_json(json: &Json) -> Result<Self, StoreError> {
        let malformed = || StoreError::user(format!("Not a query operator: {json}"));
        if let Some(filter) = json.get("filter") {
            return Ok(Self::Filter(Expression::from_json(filter)?));
        }
        let limit = json.get("limit").and_then(Json::as_f64).ok_or_else(malformed)?;
        if limit < 0.0 || limit.fract() != 0.0 {
            return Err(StoreError::user(format!(
                "A limit must be a non-negative integer, but got {limit}"
            )));
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be whole and not negative"
        )]
        Ok(Self::Limit(limit as u64))
    }
}

impl Plan {
    /// Whether the position is in this range. A key of a replaced index is outside.
    pub(super) fn holds(&self, position: &Position) -> bool {
        match position {
            Position::Start | Position::End => true,
            Position::After(key) => self.start <= *key && *key < self.end,
        }
    }

    /// Narrows the range to the part after a position.
    pub(super) fn begin_after(&mut self, position: &Position) {
        match position {
            Position::Start => {}
            Position::After(key) if self.is_descending => {
                self.end = key.clone().min(self.end.clone())
            }
            Position::After(key) => self.start = key::after(key).max(self.start.clone()),
            Position::End => self.end = self.start.clone(),
        }
    }

    /// Narrows the range to the part up to a position.
    pub(super) fn end_with(&mut self, position: &Position) {
        match position {
            Position::Start => self.end = self.start.clone(),
            Position::After(key) if self.is_descending => {
                self.start = key.clone().max(self.start.clone())
            }
            Position::After(key) => self.end = key::after(key).min(self.end.clone()),
            Position::End => {}
        }
    }
}
