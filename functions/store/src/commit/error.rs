//! [`CommitError`].

use crate::error::StoreError;

/// Why a transaction was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A commit since the snapshot wrote to the transaction's reads. Nothing is stored; retry the
    /// transaction on a newer snapshot.
    #[error(
        "Documents read from or written to the \"{table}\" table changed while this mutation was \
         being run{}",
        document.as_ref().map_or_else(String::new, |id| format!(" (a document that changed has ID \"{id}\")"))
    )]
    Conflict {
        /// The name of the table with the conflict.
        table: String,
        /// The document that was written, if the conflict is about one.
        document: Option<String>,
    },
    /// The snapshot is too old: some commits since then are no longer in the log. Nothing is
    /// stored; retry the transaction on a newer snapshot.
    #[error("This mutation read data too long ago to be committed")]
    Expired,
    /// The store accepts no commits: its disk is short of space, or it failed earlier. Nothing is
    /// stored.
    #[error("the store takes no changes")]
    Refused(#[source] StoreError),
    /// The store failed. After a restart the commit may or may not be there; until then the store
    /// accepts no commits.
    #[error("the commit may or may not have been stored")]
    Failed(#[source] StoreError),
}

impl CommitError {
    /// Whether a retry on a newer snapshot may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Expired => true,
            Self::Refused(_) | Self::Failed(_) => false,
        }
    }

    /// Whether it is certain that nothing of the transaction is stored.
    pub fn is_rolled_back(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}
