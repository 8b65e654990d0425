//! The error of opening a log stream.

use std::error::Error;
use std::fmt;

use audit_journal::{JournalError, JournalErrorKind};

/// A log stream cannot be opened. The message contains no secrets.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The remedy for an [`OpenError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenErrorKind {
    /// The URL, a setting, a secret, or a file that one of them names is wrong. Correct it.
    Configuration,
    /// This host's disk fails, and will fail until an operator acts.
    Blocked,
    /// The journal holds acknowledged records that are damaged or missing. Nothing was changed; an
    /// operator must look at it.
    Damaged,
    /// A process changes the journal faster than it can be read. Retry.
    Unavailable,
}

impl OpenError {
    pub(crate) fn configuration(message: impl Into<String>) -> OpenError {
        OpenError { kind: OpenErrorKind::Configuration, message: message.into(), source: None }
    }

    pub(crate) fn blocked(message: impl Into<String>) -> OpenError {
        OpenError { kind: OpenErrorKind::Blocked, message: message.into(), source: None }
    }

    pub(crate) fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> OpenError {
        OpenError { source: Some(source.into()), ..self }
    }

    /// The kind of the error, which tells what to do.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> OpenError {
        let kind = match error.kind() {
            JournalErrorKind::Configuration => OpenErrorKind::Configuration,
            JournalErrorKind::Blocked => OpenErrorKind::Blocked,
            JournalErrorKind::Damaged => OpenErrorKind::Damaged,
            JournalErrorKind::Unavailable => OpenErrorKind::Unavailable,
        };
        let (message, source) = error.into_parts();
        OpenError { kind, message, source }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
