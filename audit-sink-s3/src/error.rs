//! Why a sink could not be opened.

use std::error::Error;
use std::fmt;

use audit_journal::{JournalError, JournalErrorKind};

/// A bucket or a sink could not be opened.
///
/// [`kind`](Self::kind) says what its reader can do. The message holds no credential.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What the reader of an [`OpenError`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenErrorKind {
    /// The URL, an option, a setting, or a file that one of them names is wrong, or there are no
    /// credentials: correct it.
    Configuration,
    /// The bucket refuses, and will until an operator acts: permissions, credentials, no such
    /// bucket.
    Blocked,
    /// The settings ask for a store that does not let objects be overwritten, and this one does.
    NotCreateOnly,
    /// The journal holds acknowledged records that are damaged or missing. An operator must look at
    /// it; nothing was changed.
    Damaged,
    /// The bucket is out of reach, and the settings do not allow to go on without knowing it. Try
    /// again.
    Unavailable,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, message: impl Into<String>) -> OpenError {
        OpenError { kind, message: message.into(), source: None }
    }

    pub(crate) fn configuration(message: impl Into<String>) -> OpenError {
        OpenError::new(OpenErrorKind::Configuration, message)
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> OpenError {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn of_journal(error: JournalError) -> OpenError {
        let kind = match error.kind() {
            JournalErrorKind::Configuration => OpenErrorKind::Configuration,
            JournalErrorKind::Blocked => OpenErrorKind::Blocked,
            JournalErrorKind::Damaged => OpenErrorKind::Damaged,
            JournalErrorKind::Unavailable => OpenErrorKind::Unavailable,
        };
        let (message, source) = error.into_parts();
        OpenError { kind, message, source }
    }

    /// What to do.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
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
