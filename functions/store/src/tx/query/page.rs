//! Pages, and requests for them.

use functions_value::Value;
use serde_json::Value as Json;

/// One page of a query.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// The calling function.
    pub function: &'a str,
    /// The query, in the npm package's JSON.
    pub query: &'a Json,
    /// The begin of the page: an earlier page's `continue_cursor`, or the start.
    pub cursor: Option<&'a str>,
    /// The end of the page, regardless of its number of documents. If `None`, the page ends after
    /// `page_size` documents.
    pub end_cursor: Option<&'a str>,
    /// An earlier [`Page::journal`] of the same page, so that it ends at the same position. Any
    /// other is ignored, so that a journal never widens a page.
    pub journal: Option<&'a str>,
    /// The maximum number of documents.
    pub page_size: u64,
    /// The page ends early once it has read this many documents.
    pub maximum_rows_read: Option<u64>,
    /// The page ends early once it has read this many bytes.
    pub maximum_bytes_read: Option<u64>,
}

/// A page of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The documents.
    pub page: Vec<Value>,
    /// Whether it is the last page.
    pub is_done: bool,
    /// The begin of the next page.
    pub continue_cursor: String,
    /// The same position, for rereading this page.
    pub journal: String,
    /// A position in the middle, at which the page can be split.
    pub split_cursor: Option<String>,
    /// Whether it should be split.
    pub page_status: Option<PageStatus>,
}

/// Whether a page should be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// It is large.
    SplitRecommended,
    /// It could not be read to its end cursor.
    SplitRequired,
}

impl PageStatus {
    /// The name that clients know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SplitRecommended => "SplitRecommended",
            Self::SplitRequired => "SplitRequired",
        }
    }
}
