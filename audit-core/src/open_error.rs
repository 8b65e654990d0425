//! The error of opening a sink, a bucket or a journal.

use std::error::Error;

/// A sink, a bucket or a journal cannot be opened or read.
///
/// [`kind`](Self::kind) says what to do. The message contains no credentials.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What to do about an [`OpenError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenErrorKind {
    /// A URL, a setting, a secret, or a file or directory that one of them names is wrong, or
    /// another process has the journal open. Correct it.
    Configuration,
    /// The bucket or the disk fails until an operator acts: permissions, credentials, a missing
    /// bucket, a full disk.
    Blocked,
    /// The settings require a store that protects objects from being overwritten, which this one
    /// does not.
    NotCreateOnly,
    /// Acknowledged records in the journal are damaged or missing. Nothing was changed; an operator
    /// must inspect it.
    Damaged,
    /// The bucket is unreachable and the settings require a check of it, or a process changes the
    /// journal faster than it can be read. Retry.
    Unavailable,
}

impl OpenError {
    /// An error of this kind. The message must contain no credentials.
    pub fn new(kind: OpenErrorKind, message: impl Into<String>) -> OpenError {
        OpenError { kind, message: message.into(), source: None }
    }

    /// An error of the kind [`Configuration`](OpenErrorKind::Configuration).
    pub fn configuration(message: impl Into<String>) -> OpenError {
        OpenError::new(OpenErrorKind::Configuration, message)
    }

    /// Adds what caused the error.
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> OpenError {
        OpenError { source: Some(source.into()), ..self }
    }

    /// What to do about the error.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}
