//! Queries: ranges of an index, read in order, filtered, limited, and read page by page.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    catalog::{BY_CREATION_TIME, BY_ID, Table, is_system_index},
    cursor::{Position, Purpose},
    error::StoreError,
    filter::Expression,
    key::{self, Key},
    tx::{Tx, decode_document},
};
use crate::value::{ComponentPath, Object, Value, encoding, is_undefined_json};

/// Most filters and limits of one query.
const MAX_OPERATORS: usize = 256;
/// A page that read more documents than this is better split.
const SPLIT_DOCUMENTS: usize = 1_000;

/// A query as a client's JSON says it, with the range of keys that it reads.
#[derive(Debug, Clone)]
struct Plan {
    /// None if the table does not exist: then there is nothing to read.
    table: Option<Arc<Table>>,
    is_by_id: bool,
    start: Key,
    end: Key,
    is_descending: bool,
    operators: Vec<Operator>,
}

#[derive(Debug, Clone)]
enum Operator {
    Filter(Expression),
    /// How many documents may still pass.
    Limit(u64),
}

/// A query under way.
pub(super) struct Stream {
    plan: Plan,
    /// What the snapshot has in the range, and its next row once it was looked at.
    stored: Option<fjall::Iter>,
    next_stored: Option<(Key, Key)>,
    is_at_end: bool,
}

/// One page of a query.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// The function that asks for the page.
    pub function: &'a str,
    /// The npm package's JSON of a query.
    pub query: &'a Json,
    /// Where the page begins: an earlier page's `continue_cursor`, or the beginning.
    pub cursor: Option<&'a str>,
    /// Where the page ends, however many documents that is; else it ends with `page_size`
    /// documents.
    pub end_cursor: Option<&'a str>,
    /// Where this very page ended before, so that it ends there again: an earlier
    /// [`Page::journal`]. Anything else is as good as none, so that it never makes a page larger.
    pub journal: Option<&'a str>,
    /// Most documents of the page.
    pub page_size: u64,
    /// The page ends early once it has read as many documents.
    pub maximum_rows_read: Option<u64>,
    /// The page ends early once it has read as many bytes.
    pub maximum_bytes_read: Option<u64>,
}

/// What a page has.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The documents.
    pub page: Vec<Value>,
    /// Whether there is nothing after it.
    pub is_done: bool,
    /// Where the next page begins.
    pub continue_cursor: String,
    /// The same place, for whoever asks for the same page again.
    pub journal: String,
    /// A place in the middle, to make two pages of this one.
    pub split_cursor: Option<String>,
    /// Whether it should be made two.
    pub page_status: Option<PageStatus>,
}

/// Whether a page should be made two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// It has grown large.
    SplitRecommended,
    /// It could not be read to its end cursor.
    SplitRequired,
}

impl PageStatus {
    /// The word that clients know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SplitRecommended => "SplitRecommended",
            Self::SplitRequired => "SplitRequired",
        }
    }
}

impl Tx {
    /// Begins a query, given as the npm package's JSON; returns its number.
    ///
    /// # Errors
    ///
    /// The query names an index that does not exist, uses one in another way than its fields' order
    /// allows, or is one that this host does not support.
    pub fn query(&mut self, component: &ComponentPath, query: &Json) -> Result<u32, StoreError> {
        self.count_query()?;
        let plan = self.plan(component, query)?;
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(number, Stream::new(plan));
        Ok(number)
    }

    /// The next document of a query, or `None` when there are no more.
    ///
    /// # Errors
    ///
    /// There is no such query, a filter cannot be evaluated, or the transaction has read too much.
    pub fn query_next(&mut self, number: u32) -> Result<Option<Value>, StoreError> {
        // Taken out while it runs, since it reads through the transaction.
        let mut stream = self
            .streams
            .remove(&number)
            .ok_or_else(|| StoreError::user(format!("No query {number} is open")))?;
        let document = stream.next(self);
        self.streams.insert(number, stream);
        Ok(document?.map(|document| Value::Object(Arc::unwrap_or_clone(document))))
    }

    /// Ends a query.
    pub fn query_close(&mut self, number: u32) {
        self.streams.remove(&number);
    }

    /// One page of a query.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query) and [`query_next`](Self::query_next), or a cursor is invalid: it
    /// was not made by this store for this query, or the query's index is another one by now. The
    /// message begins with `InvalidCursor`, upon which clients begin with the first page.
    pub fn page(
        &mut self,
        component: &ComponentPath,
        request: &PageRequest<'_>,
    ) -> Result<Page, StoreError> {
        self.count_query()?;
        let mut plan = self.plan(component, request.query)?;
        if plan.operators.iter().any(|operator| matches!(operator, Operator::Limit(_))) {
            return Err(StoreError::user(
                "A query with a limit cannot be paginated: the number of documents of a page \
                                         is `numItems`",
            ));
        }
        let (cursors, journals) =
            (Purpose::cursor(component, request), Purpose::journal(component, request));
        let keys = self.store.clone();
        let keys = keys.cursor_key();
        let decode = |cursor: &str| {
            let position = keys.open(&cursors, cursor);
            position.filter(|position| plan.holds(position)).ok_or_else(|| {
                StoreError::user(
                    "InvalidCursor: this cursor does not belong to this query, or the query or its \
                     index has changed since; begin with the first page",
                )
            })
        };
        let begin = request.cursor.map_or(Ok(Position::Start), decode)?;
        let end = match request.end_cursor {
            Some(cursor) => Some(decode(cursor)?),
            None => {
                let end = request.journal.and_then(|journal| keys.open(&journals, journal));
                end.filter(|end| plan.holds(end))
            }
        };
        plan.begin_after(&begin);
        if let Some(end) = &end {
            plan.end_with(end);
        }
        let before = self.metrics();
        let mut stream = Stream::new(plan);
        let mut page = Vec::new();
        let mut positions = Vec::new();
        let mut status = None;
        let last = loop {
            let used = self.metrics();
            let rows = used.documents_read - before.documents_read;
            let bytes = used.bytes_read - before.bytes_read;
            let is_over = request.maximum_rows_read.is_some_and(|most| rows >= most)
                || request.maximum_bytes_read.is_some_and(|most| bytes >= most);
            // At least one row, or the next page would begin where this one does.
            let is_over = is_over && !positions.is_empty();
            match &end {
                // The next page begins at this end whatever happens, so what is missing of this one
                // must be said.
                Some(end) if is_over => {
                    status = Some(PageStatus::SplitRequired);
                    break Some(end.clone());
                }
                None if is_over || page.len() as u64 >= request.page_size => break None,
                Some(_) | None => {}
            }
            let Some((position, document)) = stream.next_row(self)? else {
                break Some(end.unwrap_or(Position::End));
            };
            positions.push(position);
            if stream.passes(&document)? {
                page.push(Value::Object(Arc::unwrap_or_clone(document)));
            }
        };
        if status.is_none() && positions.len() > SPLIT_DOCUMENTS {
            status = Some(PageStatus::SplitRecommended);
        }
        let split = (positions.len() > 1 || status.is_some())
            .then(|| positions.get(positions.len().saturating_sub(1) / 2).cloned())
            .flatten();
        let last = last.unwrap_or_else(|| positions.pop().map_or(begin, Position::After));
        Ok(Page {
            page,
            is_done: last == Position::End,
            continue_cursor: keys.seal(&cursors, &last),
            journal: keys.seal(&journals, &last),
            split_cursor: split.map(|key| keys.seal(&cursors, &Position::After(key))),
            page_status: status,
        })
    }

    /// Reads what a query needs to know of its table, and finds its range.
    fn plan(&mut self, component: &ComponentPath, query: &Json) -> Result<Plan, StoreError> {
        let malformed = || StoreError::user(format!("Not a query: {query}"));
        let source = query.get("source").ok_or_else(malformed)?;
        let text = |name: &str| source.get(name).and_then(Json::as_str).ok_or_else(malformed);
        let (table_name, index_name, range) = match text("type")? {
            "FullTableScan" => (text("tableName")?, BY_CREATION_TIME, &[][..]),
            "IndexRange" => {
                let (table, index) = text("indexName")?.split_once('.').ok_or_else(malformed)?;
                (
                    table,
                    index,
                    source.get("range").and_then(Json::as_array).ok_or_else(malformed)?.as_slice(),
                )
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
        let operators = match query
            .get("operators")
            .map(|operators| operators.as_array().ok_or_else(malformed))
        {
            None => &[][..],
            Some(operators) => operators?.as_slice(),
        };
        if operators.len() > MAX_OPERATORS {
            return Err(StoreError::user(format!(
                "Can't construct query with more than {MAX_OPERATORS} operators"
            )));
        }
        let operators = operators.iter().map(Operator::from_json).collect::<Result<_, _>>()?;
        let unknown = || StoreError::User(format!("Index {table_name}.{index_name} not found."));
        let Some(table) = self.table(component, table_name) else {
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

/// The keys that an index range means: equal values for the first fields, then bounds for the next
/// one.
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
    /// Whether it is a place in this range. A key of an index that was replaced is none.
    fn holds(&self, position: &Position) -> bool {
        match position {
            Position::Start | Position::End => true,
            Position::After(key) => self.start <= *key && *key < self.end,
        }
    }

    /// Leaves out what comes up to a position.
    fn begin_after(&mut self, position: &Position) {
        match position {
            Position::Start => {}
            Position::After(key) if self.is_descending => {
                self.end = key.clone().min(self.end.clone())
            }
            Position::After(key) => self.start = key::after(key).max(self.start.clone()),
            Position::End => self.end = self.start.clone(),
        }
    }

    /// Leaves out what comes after a position.
    fn end_with(&mut self, position: &Position) {
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

impl Stream {
    fn new(plan: Plan) -> Self {
        let is_at_end = plan.table.is_none() || plan.start >= plan.end;
        Self { plan, stored: None, next_stored: None, is_at_end }
    }

    /// The next document that passes all filters and limits.
    fn next(&mut self, tx: &mut Tx) -> Result<Option<Arc<Object>>, StoreError> {
        loop {
            // With a limit used up nothing more is read, so that what comes later is not depended
            // on.
            if self.plan.operators.iter().any(|operator| matches!(operator, Operator::Limit(0))) {
                return Ok(None);
            }
            let Some((_, document)) = self.next_row(tx)? else { return Ok(None) };
            if self.passes(&document)? {
                return Ok(Some(document));
            }
        }
    }

    fn passes(&mut self, document: &Object) -> Result<bool, StoreError> {
        for operator in &mut self.plan.operators {
            match operator {
                Operator::Filter(filter) if filter.accepts(document)? => {}
                Operator::Filter(_) | Operator::Limit(0) => return Ok(false),
                Operator::Limit(left) => *left -= 1,
            }
        }
        Ok(true)
    }

    /// The next row of the range and its document, whether or not it passes. What is left of the
    /// range begins after it.
    fn next_row(&mut self, tx: &mut Tx) -> Result<Option<(Key, Arc<Object>)>, StoreError> {
        let Some(table) = self.plan.table.clone() else { return Ok(None) };
        if self.is_at_end {
            return Ok(None);
        }
        let Some((key, stored)) = self.next_key(tx)? else {
            tx.reads.add(self.plan.start.clone(), self.plan.end.clone());
            self.is_at_end = true;
            return Ok(None);
        };
        if self.plan.is_descending {
            tx.reads.add(key.clone(), self.plan.end.clone());
            self.plan.end = key.clone();
        } else {
            let next = key::after(&key);
            tx.reads.add(self.plan.start.clone(), next.clone());
            self.plan.start = next;
        }
        self.is_at_end = self.plan.start >= self.plan.end;
        let document = match (self.plan.is_by_id, stored) {
            (true, Some(bytes)) => {
                tx.count_read(bytes.len())?;
                Some(decode_document(&bytes)?)
            }
            (true, None) => tx.read_through_index(&key)?,
            (false, _) => tx.read_through_index(&key::entry_document(table.number, &key))?,
        };
        match document {
            Some(document) => Ok(Some((key, document))),
            None => Err(StoreError::damaged(format!(
                "an index of table {} has an entry without a document",
                table.name
            ))),
        }
    }

    /// The next key of the range that the transaction sees, with what the snapshot stores under it
    /// if it is not one that the transaction wrote.
    fn next_key(&mut self, tx: &Tx) -> Result<Option<(Key, Option<Key>)>, StoreError> {
        let is_descending = self.plan.is_descending;
        let mut range = self.plan.start.clone()..self.plan.end.clone();
        loop {
            self.look_at_stored(tx)?;
            let stored = self.next_stored.as_ref().map(|(key, _)| key);
            // A write of the transaction that comes before what is stored, or stands in its place.
            let own = if self.plan.is_by_id {
                nearest(tx.documents.range(range.clone()), is_descending)
                    .map(|(key, write)| (key, write.current.is_some()))
            } else {
                nearest(tx.entries.range(range.clone()), is_descending)
                    .map(|(key, is_there)| (key, *is_there))
            };
            let comes_first = |key: &Key| {
                stored
                    .is_none_or(|stored| if is_descending { key >= stored } else { key <= stored })
            };
            let Some((key, is_there)) = own.filter(|(key, _)| comes_first(key)) else {
                return Ok(self.next_stored.take().map(|(key, value)| (key, Some(value))));
            };
            if stored == Some(key) {
                self.next_stored = None;
            }
            if is_there {
                return Ok(Some((key.clone(), None)));
            }
            if is_descending {
                range.end = key.clone();
            } else {
                range.start = key::after(key);
            }
        }
    }

    /// Fetches the next row of the snapshot unless it is there.
    fn look_at_stored(&mut self, tx: &Tx) -> Result<(), StoreError> {
        if self.next_stored.is_some() {
            return Ok(());
        }
        let Plan { start, end, is_descending, .. } = &self.plan;
        let stored = self.stored.get_or_insert_with(|| tx.stored_range(start.clone()..end.clone()));
        let next = if *is_descending { stored.next_back() } else { stored.next() };
        self.next_stored = next.map(fjall::Guard::into_inner).transpose()?;
        Ok(())
    }
}

fn nearest<T>(mut range: impl DoubleEndedIterator<Item = T>, is_descending: bool) -> Option<T> {
    if is_descending { range.next_back() } else { range.next() }
}
