//! The error of opening or reading a journal.

use std::error::Error;
use std::fmt;

/// A journal cannot be opened or read.
#[derive(Debug)]
pub struct JournalError {
    kind: JournalErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The remedy for a [`JournalError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JournalErrorKind {
    /// The directory or a setting is wrong, or another process has the journal open. Correct that.
    Configuration,
    /// The disk fails, and will fail until an operator acts.
    Blocked,
    /// The journal holds acknowledged records that are damaged or missing. Nothing was changed; an
    /// operator must look at it.
    Damaged,
    /// A process changes the journal faster than it can be read. Retry.
    Unavailable,
}

impl JournalError {
    pub(crate) fn new(kind: JournalErrorKind, message: impl Into<String>) -> JournalError {
        JournalError { kind, message: message.into(), source: None }
    }

    pub(crate) fn with_source(
        self,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> JournalError {
        JournalError { source: Some(source.into()), ..self }
    }

    /// The kind of the error, which tells what to do.
    pub fn kind(&self) -> JournalErrorKind {
        self.kind
    }

    /// Splits the error into its message and its source, to build another error from them.
    pub fn into_parts(self) -> (String, Option<Box<dyn Error + Send + Sync>>) {
        (self.message, self.source)
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for JournalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
