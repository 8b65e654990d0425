//! Pages, and requests for them.

use functions_value::Value;
use serde_json::Value as Json;

/// A request for one page of a query.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// The calling function.
    pub function: &'a str,
    /// The query, in the npm package's JSON.
    pub query: &'a Json,
    /// Where the page begins: an earlier page's `continue_cursor`. If `None`, at the first row.
    pub cursor: Option<&'a str>,
    /// Where the page ends, whatever its number of documents. If `None`, the page ends after
    /// `page_size` documents.
    pub end_cursor: Option<&'a str>,
    /// An earlier [`Page::journal`] of the same page, which makes it end at the same position. The
    /// journal of another page is ignored, so a journal never widens a page.
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
    /// Whether this is the last page.
    pub is_done: bool,
    /// Where the next page begins.
    pub continue_cursor: String,
    /// The same position, for rereading this page.
    pub journal: String,
    /// A position in the middle, at which the page can be split.
    pub split_cursor: Option<String>,
    /// Whether the page should be split.
    pub page_status: Option<PageStatus>,
}

/// Whether a page should be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// The page is large.
    SplitRecommended,
    /// The page could not be read to its end cursor.
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
