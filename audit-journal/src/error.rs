//! Why a journal could not be opened.

use std::error::Error;
use std::fmt;

/// A journal could not be opened or read.
#[derive(Debug)]
pub struct JournalError {
    kind: JournalErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What the reader of a [`JournalError`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JournalErrorKind {
    /// The directory or a setting is wrong, or another process has the journal open: correct it.
    Configuration,
    /// The disk refuses, and will until an operator acts.
    Blocked,
    /// The journal holds acknowledged records that are damaged or missing. An operator must look at
    /// it; nothing was changed.
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

    /// What to do.
    pub fn kind(&self) -> JournalErrorKind {
        self.kind
    }

    /// Its message and its source, for an error that takes its place.
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
