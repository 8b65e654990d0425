//! [`StoreError`].

use std::{fmt, io, path::Path, sync::Arc};

use audit_core::descriptors_advice;
use functions_value::{ValueError, encoding::Undecodable};

/// An operation on the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The caller's error. The message is for the author of the function.
    #[error("{0}")]
    User(String),
    /// The store cannot be read or written, or is damaged.
    #[error(transparent)]
    Failed(Arc<Failure>),
}

/// A failure of the store itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    source: Option<fjall::Error>,
    lacks_room: bool,
}

impl StoreError {
    pub(super) fn user(message: impl Into<String>) -> Self {
        Self::User(message.into())
    }

    /// A failure outside the store's files.
    pub fn failed(what: impl fmt::Display) -> Self {
        Self::damaged(format!("the store failed: {what}"))
    }

    /// The disk has less free space than the reserve.
    pub(super) fn no_room(directory: &Path, free: u64, reserve: u64) -> Self {
        let directory = directory.display();
        let message = format!(
            "the disk of {directory} has {free} bytes free, fewer than the {reserve} that are kept \
             for the store's own work: make room"
        );
        Self::Failed(Arc::new(Failure { message, source: None, lacks_room: true }))
    }

    /// Whether the disk had less free space than the reserve. Nothing was written, and the same
    /// operation may succeed once there is room.
    pub fn lacks_room(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.lacks_room)
    }

    /// The store's directory cannot be used.
    pub(super) fn unusable(directory: &Path, error: &io::Error) -> Self {
        let directory = directory.display();
        let advice = descriptors_advice(error).map(|advice| format!(": {advice}"));
        let advice = advice.unwrap_or_default();
        Self::damaged(format!("the directory {directory} cannot be used: {error}{advice}"))
    }

    pub(super) fn damaged(message: impl Into<String>) -> Self {
        Self::Failed(Arc::new(Failure { message: message.into(), source: None, lacks_room: false }))
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        let message = if matches!(error, fjall::Error::Locked) {
            "another process has the store open"
        } else if matches!(error, fjall::Error::Poisoned) {
            "the store failed before and takes no more writes; restart to recover"
        } else {
            "the store's files cannot be read or written"
        };
        let (message, source) = (message.to_owned(), Some(error));
        Self::Failed(Arc::new(Failure { message, source, lacks_room: false }))
    }
}

impl From<Undecodable> for StoreError {
    fn from(_: Undecodable) -> Self {
        Self::damaged("the store holds invalid bytes: its files are damaged")
    }
}

impl From<ValueError> for StoreError {
    fn from(error: ValueError) -> Self {
        Self::User(error.to_string())
    }
}
