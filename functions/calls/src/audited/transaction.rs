//! The store's transactions, as [`Transaction`]s of the audit runtime.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock};

use audit_core::with_sources;
use audit_runtime::{LogReceipt, MutationError, Transaction};
use functions_store::{CommitError, Receipt, StoreError, Timestamp, Tx};

use crate::call::{Answered, CallError, Internal, Mutated, not_stored, unreleased};

pub(super) struct Attempt {
    /// `None` if the function failed, so that there is nothing to commit.
    tx: Option<Tx>,
    committed: Arc<OnceLock<Timestamp>>,
}

impl Attempt {
    /// `committed` is set to the commit's timestamp when the attempt commits.
    pub(super) fn new(tx: Option<Tx>, committed: Arc<OnceLock<Timestamp>>) -> Attempt {
        Attempt { tx, committed }
    }
}

/// An attempt at a mutation did not commit.
#[derive(Debug)]
pub(super) enum AttemptError {
    Failed(Box<Answered>),
    /// The scheduled function is no longer due: it was cancelled, or has run.
    NotDue,
    /// The host failed while the function ran, or did not begin it.
    Broken(CallError),
    Store(StoreError),
    /// The transaction conflicts with another one, or the store failed.
    Commit(CommitError),
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptError::Failed(_) => f.write_str("the function failed"),
            AttemptError::NotDue => f.write_str("the scheduled function is no longer due"),
            AttemptError::Broken(error) => error.fmt(f),
            AttemptError::Store(error) => error.fmt(f),
            AttemptError::Commit(error) => error.fmt(f),
        }
    }
}

impl Error for AttemptError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            AttemptError::Failed(_) | AttemptError::NotDue | AttemptError::Broken(_) => None,
            AttemptError::Store(error) => error.source(),
            AttemptError::Commit(error) => error.source(),
        }
    }
}

/// The result of a mutation that did not commit.
pub(super) fn uncommitted(error: MutationError<AttemptError>) -> Result<Mutated, CallError> {
    let answered = match error {
        MutationError::Function(AttemptError::Failed(answered)) => *answered,
        MutationError::Function(AttemptError::Broken(error)) => return Err(error),
        MutationError::Function(AttemptError::Store(error)) => {
            return Err(CallError::of_store(&error));
        }
        MutationError::Release(error) => unreleased(&error)?,
        error @ MutationError::Conflict { .. } => {
            return Err(CallError::Conflict(with_sources(&error)));
        }
        MutationError::Commit(AttemptError::Commit(CommitError::Refused(error))) => {
            return Err(not_stored(with_sources(&error)));
        }
        error @ MutationError::Commit(_) => {
            return Err(CallError::Unknown(Internal::logged(with_sources(&error))));
        }
        error @ (MutationError::Function(_) | _) => {
            return Err(CallError::internal(with_sources(&error)));
        }
    };
    Ok(Mutated { answered, committed: None })
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> AttemptError {
        AttemptError::Store(error)
    }
}

impl Transaction for Attempt {
    type Error = AttemptError;

    async fn keep_receipt(&mut self, receipt: &LogReceipt) -> Result<(), AttemptError> {
        let LogReceipt { execution, attempt, place, .. } = *receipt;
        if let Some(tx) = &mut self.tx {
            tx.keep_receipt(Receipt { execution, attempt, place });
        }
        Ok(())
    }

    async fn commit(self) -> Result<(), AttemptError> {
        let Attempt { tx, committed } = self;
        let Some(tx) = tx else { return Ok(()) };
        let done = tokio::task::spawn_blocking(move || tx.commit()).await;
        // A commit that panicked may have reached the disk.
        let done = done.unwrap_or_else(|error| Err(CommitError::Failed(StoreError::failed(error))));
        let at = done.map_err(AttemptError::Commit)?;
        committed.get_or_init(|| at);
        Ok(())
    }

    async fn rollback(self) -> Result<(), AttemptError> {
        // The transaction's writes are only in memory.
        drop(self);
        Ok(())
    }

    fn is_conflict(error: &AttemptError) -> bool {
        match error {
            AttemptError::Commit(error) => error.is_retryable(),
            AttemptError::Failed(_)
            | AttemptError::NotDue
            | AttemptError::Broken(_)
            | AttemptError::Store(_) => false,
        }
    }

    fn is_rolled_back(error: &AttemptError) -> bool {
        matches!(error, AttemptError::Commit(error) if error.is_rolled_back())
    }
}
