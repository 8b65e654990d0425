//! Requests for pages, and pages.

use functions_value::Value;
use serde_json::Value as Json;

/// One page of a query.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// The calling function.
    pub function: &'a str,
    /// The query, as JSON of the npm package.
    pub query: &'a Json,
    /// Where the page begins: an earlier page's `continue_cursor`, or the start.
    pub cursor: Option<&'a str>,
    /// Where the page ends, whatever its number of documents. Without it the page ends after
    /// `page_size` documents.
    pub end_cursor: Option<&'a str>,
    /// An earlier [`Page::journal`] of the same page, so that it ends there again. Any other is
    /// ignored, so that a journal never widens a page.
    pub journal: Option<&'a str>,
    /// Most documents of the page.
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
    /// Whether there is nothing after it.
    pub is_done: bool,
    /// Where the next page begins.
    pub continue_cursor: String,
    /// The same place, for a client that reads the same page again.
    pub journal: String,
    /// A place in the middle, at which this page can be split.
    pub split_cursor: Option<String>,
    /// Whether it should be split.
    pub page_status: Option<PageStatus>,
}

/// Whether a page should be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// It has grown large.
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
