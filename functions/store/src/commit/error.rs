//! [`CommitError`].

use std::fmt;

use crate::error::StoreError;

/// Why a transaction was not committed.
#[derive(Debug, Clone)]
pub enum CommitError {
    /// A commit since the snapshot wrote to the transaction's reads. Nothing is stored; retry the
    /// transaction on a newer snapshot.
    Conflict {
        /// The table that was written to.
        table: String,
        /// The document that was written, if the conflict is about one.
        document: Option<String>,
    },
    /// The snapshot is too old: some commits since then are no longer in the log. Nothing is
    /// stored; retry the transaction on a newer snapshot.
    Expired,
    /// The store accepts no commits: its disk is short of space, or it failed earlier. Nothing is
    /// stored.
    Refused(StoreError),
    /// The store failed. After a restart the commit may or may not be there; until then the store
    /// accepts no commits.
    Failed(StoreError),
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

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { table, document } => {
                write!(
                    f,
                    "Documents read from or written to the \"{table}\" table changed while this mutation was being run"
                )?;
                match document {
                    Some(id) => write!(f, " (a document that changed has ID \"{id}\")"),
                    None => Ok(()),
                }
            }
            Self::Expired => f.write_str("This mutation read data too long ago to be committed"),
            Self::Refused(_) => f.write_str("the store takes no changes"),
            Self::Failed(_) => f.write_str("the commit may or may not have been stored"),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Conflict { .. } | Self::Expired => None,
            Self::Refused(error) | Self::Failed(error) => Some(error),
        }
    }
}
