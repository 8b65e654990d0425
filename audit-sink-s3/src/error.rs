//! Errors of opening a bucket or a sink.

use std::error::Error;
use std::fmt;

use audit_journal::{JournalError, JournalErrorKind};

/// A bucket or a sink could not be opened.
///
/// [`kind`](Self::kind) says what the caller can do. The message contains no credentials.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What to do about an [`OpenError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenErrorKind {
    /// The URL, an option, a setting, or a file named by one is invalid, or there are no
    /// credentials. Correct the configuration.
    Configuration,
    /// The bucket refuses access until an operator acts: permissions, credentials, a missing
    /// bucket.
    Blocked,
    /// The settings require a store that protects objects from being overwritten, which this one
    /// does not.
    NotCreateOnly,
    /// Acknowledged records in the journal are damaged or missing. An operator must inspect it;
    /// nothing was changed.
    Damaged,
    /// The bucket is unreachable, and the settings require a check of it. Retry.
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
