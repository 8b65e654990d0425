//! Reading documents: by id, from a query, and page by page.

use audit_runtime::FunctionKind;
use functions_engine::SyscallError;
use functions_store::{Page, PageRequest, PageStatus};
use functions_value::Value;
use serde_json::{Value as Json, json};

use super::InTransaction;
use super::arguments::{failed, table, text};

/// The maximum size of all queries of a function, in bytes of JSON. They are kept until they are
/// read to their ends.
const MAX_QUERY_BYTES: usize = 8 << 20;

impl InTransaction<'_> {
    pub(super) fn stream(&self, args: &Json) -> Option<u32> {
        let stream =
            args.get("queryId").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())?;
        // A function can use its own streams, but not those of its caller.
        self.streams.contains(&stream).then_some(stream)
    }

    /// Counts a query of this many bytes of JSON.
    pub(super) fn count_query(&mut self, bytes: usize) -> Result<(), SyscallError> {
        self.gathered.query_bytes += bytes;
        let bytes = self.gathered.query_bytes;
        if bytes > MAX_QUERY_BYTES {
            return Err(failed(format!(
                "the queries of a function have {bytes} bytes of JSON, which exceeds limit of \
                 {MAX_QUERY_BYTES}"
            )));
        }
        Ok(())
    }

    pub(super) fn get(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let (component, table, id) = (&self.target.component, table(args), text(args, "id")?);
        let found = match args.get("isSystem").and_then(Json::as_bool) {
            Some(true) => self.tx.as_system(|tx| tx.get(component, table, id)),
            Some(false) | None => self.tx.get(component, table, id),
        };
        Ok(self.stored(found)?.map_or(Json::Null, |document| document.to_json()))
    }

    pub(super) fn next(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let stream = self.stream(args).ok_or_else(|| failed("the query is closed"))?;
        let next = self.tx.query_next(stream);
        let next = self.stored(next)?;
        let done = next.is_none();
        Ok(json!({ "value": next.map_or(Json::Null, |document| document.to_json()), "done": done }))
    }

    pub(super) fn page(&mut self, args: &Json) -> Result<Json, SyscallError> {
        // Mutations are exempt: their pages are not followed, and components iterate over tables in
        // them.
        if !self.target.component.is_root() && self.log.kind() == FunctionKind::Query {
            return Err(failed(
                "paginate() is not supported in a component's queries: pages could not end where \
                 they ended before; read an index range with take(), or paginate with convex-helpers",
            ));
        }
        // A query has one journal, which records where one page ended.
        if std::mem::replace(&mut self.has_paginated, true) {
            return Err(failed(
                "a function can call paginate() once: its pages are followed by one cursor",
            ));
        }
        let number = |name: &str| match args.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(number) => match number.as_f64() {
                Some(number) if number >= 1.0 && number.fract() == 0.0 => Ok(Some(number as u64)),
                _ => {
                    // The name of the option in `paginate()`.
                    let option = if name == "pageSize" { "numItems" } else { name };
                    let what = format!("{option} must be a whole number from 1, but got {number}");
                    Err(failed(what))
                }
            },
        };
        let cursor = |name: &str| match args.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(cursor)) => Ok(Some(cursor.as_str())),
            Some(other) => Err(failed(format!("{name} must be a string or null, but got {other}"))),
        };
        // The pages of a reactive query end where they ended before. Otherwise they could overlap
        // or leave gaps.
        let journal = if self.frame.depth == 0 { self.gathered.journal.take() } else { None };
        let request = PageRequest {
            function: &self.target.function.name,
            query: args.get("query").unwrap_or(&Json::Null),
            cursor: cursor("cursor")?,
            end_cursor: cursor("endCursor")?,
            journal: journal.as_deref(),
            page_size: number("pageSize")?.ok_or_else(|| failed("numItems must be a number"))?,
            maximum_rows_read: number("maximumRowsRead")?,
            maximum_bytes_read: number("maximumBytesRead")?,
        };
        let page = self.tx.page(&self.target.component, &request);
        let Page { page, is_done, continue_cursor, journal, split_cursor, page_status } =
            self.stored(page)?;
        if self.frame.depth == 0 && self.gathered.ended.is_none() {
            self.gathered.ended = Some(journal);
        }
        Ok(json!({
            "page": page.iter().map(Value::to_json).collect::<Vec<_>>(),
            "isDone": is_done,
            "continueCursor": continue_cursor,
            "splitCursor": split_cursor,
            "pageStatus": page_status.map(PageStatus::as_str),
        }))
    }
}
