//! A transaction without a database.

use std::fmt;

use audit_runtime::Transaction;

/// Commits, or always meets a conflict.
pub(crate) enum NoDatabase {
    #[allow(dead_code, reason = "each test binary uses one of the two")]
    Commits,
    #[allow(dead_code, reason = "each test binary uses one of the two")]
    Conflicts,
}

impl Transaction for NoDatabase {
    type Error = fmt::Error;

    async fn commit(self) -> Result<(), fmt::Error> {
        match self {
            NoDatabase::Commits => Ok(()),
            NoDatabase::Conflicts => Err(fmt::Error),
        }
    }

    async fn rollback(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn is_conflict(_: &fmt::Error) -> bool {
        true
    }
}
