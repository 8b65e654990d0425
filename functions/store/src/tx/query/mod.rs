//! Queries: index ranges read in order, filtered, limited and paginated.

mod page;
mod plan;
mod stream;

use std::sync::Arc;

use functions_value::{ComponentPath, Value};
use serde_json::Value as Json;

use super::Tx;
use crate::cursor::{Position, Purpose};
use crate::error::StoreError;
use crate::key::Key;
use plan::Operator;

pub use page::{Page, PageRequest, PageStatus};
pub(super) use stream::Stream;

/// The number of documents read above which a page should be split.
const SPLIT_DOCUMENTS: usize = 1_000;

impl Tx {
    /// Begins a query, given in the npm package's JSON. Returns its number.
    ///
    /// # Errors
    ///
    /// The query names a missing index, compares its fields out of order, or uses an unsupported
    /// feature.
    pub fn query(&mut self, component: &ComponentPath, query: &Json) -> Result<u32, StoreError> {
        self.count_query()?;
        let plan = self.plan(component, query)?;
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(number, Stream::new(plan));
        Ok(number)
    }

    /// The next document of a query, or `None` at its end.
    ///
    /// # Errors
    ///
    /// The query does not exist, a filter cannot be evaluated, or the transaction has read too
    /// much.
    pub fn query_next(&mut self, number: u32) -> Result<Option<Value>, StoreError> {
        // Taken out while it runs, because it reads through the transaction.
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
    /// As [`query`](Self::query) and [`query_next`](Self::query_next). Also if a cursor is invalid:
    /// this store did not make it for this query, or the query's index was replaced. The message
    /// then begins with `InvalidCursor`, which makes clients restart at the first page.
    pub fn page(
        &mut self,
        component: &ComponentPath,
        request: &PageRequest<'_>,
    ) -> Result<Page, StoreError> {
        self.count_query()?;
        let mut plan = self.plan(component, request.query)?;
        if plan.operators.iter().any(|operator| matches!(operator, Operator::Limit(_))) {
            return Err(StoreError::user(
                "A query with a limit cannot be paginated: the number of documents of a page is \
                 `numItems`",
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
        let Filled { page, mut positions, last, mut status } =
            self.fill(Stream::new(plan), request, end)?;
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

    /// Reads rows until the page is full, or as far as `end` or the end of the range.
    fn fill(
        &mut self,
        mut stream: Stream,
        request: &PageRequest<'_>,
        end: Option<Position>,
    ) -> Result<Filled, StoreError> {
        let before = self.metrics();
        let (mut page, mut positions) = (Vec::new(), Vec::new());
        loop {
            let used = self.metrics();
            let rows = used.documents_read - before.documents_read;
            let bytes = used.bytes_read - before.bytes_read;
            let is_over = request.maximum_rows_read.is_some_and(|most| rows >= most)
                || request.maximum_bytes_read.is_some_and(|most| bytes >= most);
            // A page reads at least one row. Otherwise the next page would begin where this one
            // does.
            let is_over = positions.last().is_some_and(|last| {
                // A page that reaches its end cursor is complete, even if it has read as much as it
                // may.
                let is_whole = request.end_cursor.is_some()
                    && matches!(&end, Some(Position::After(end)) if end == last);
                is_over && !is_whole
            });
            let is_full = end.is_none() && page.len() as u64 >= request.page_size;
            if is_full || is_over {
                // The next page begins at the end cursor regardless, so the client must learn that
                // this page is incomplete.
                let status = (!is_full).then_some(PageStatus::SplitRequired);
                return Ok(Filled { page, positions, last: end, status });
            }
            let Some((position, document)) = stream.next_row(self)? else {
                let last = Some(end.unwrap_or(Position::End));
                return Ok(Filled { page, positions, last, status: None });
            };
            positions.push(position);
            if stream.passes(self, &document)? {
                page.push(Value::Object(Arc::unwrap_or_clone(document)));
            }
        }
    }
}

struct Filled {
    /// The documents that pass the filters.
    page: Vec<Value>,
    positions: Vec<Key>,
    /// Where the page ends. `None` means after the last row that was read.
    last: Option<Position>,
    status: Option<PageStatus>,
}
