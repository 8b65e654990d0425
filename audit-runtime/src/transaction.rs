//! Transactions of the host's database, and the result of an attempt at a mutation.

use std::error::Error;
use std::sync::Arc;

use audit_core::{Place, UniqueId};

use crate::audited::Audited;
use crate::execution::Execution;
use crate::function_logs::AttemptLogs;
use crate::kinds::Mutation;
use crate::request::RequestContext;
use crate::sealed_logs::SealedLogs;

/// A transaction of the host's database.
///
/// # Contract
///
/// - Its writes are invisible to others until it commits. That holds after the database has ended
///   it by itself, as SQLite does after some errors: what the function writes then fails, or is
///   not committed.
/// - Dropping it without `commit` rolls it back.
/// - `commit` that fails with a [conflict](Self::is_conflict) has committed nothing.
/// - Dropping a future of these methods drops the transaction, except that the outcome of a
///   `commit` is then unknown.
pub trait Transaction: Send + 'static {
    /// The database's error. Functions that run in the transaction have an error of their own: see
    /// [`FunctionError`].
    type Error: Error + Send + 'static;

    /// Writes the place of this attempt's logs in the transaction itself, so that the receipt is
    /// visible exactly if the changes are. Receipts match changes with their records, and after a
    /// crash they show which attempts committed.
    ///
    /// Called once the logs are durable, right before `commit`; not called if there are no logs or
    /// the sink discards them. After an error the transaction is rolled back. The default stores
    /// nothing.
    fn keep_receipt(
        &mut self,
        receipt: &LogReceipt,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let LogReceipt { .. } = receipt;
        std::future::ready(Ok(()))
    }

    /// Commits the transaction: makes its writes visible and durable.
    fn commit(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Rolls the transaction back.
    fn rollback(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Whether this error, of `commit` or of a statement, is a write conflict: another transaction
    /// changed the same data, and another attempt may succeed. In PostgreSQL: SQLSTATE 40001 and
    /// 40P01.
    fn is_conflict(error: &Self::Error) -> bool;

    /// Whether a `commit` that failed with this error has certainly committed nothing. Then
    /// [outcomes](crate::AuditRuntimeBuilder::with_outcomes) record the attempt as rolled back;
    /// otherwise the outcome is unknown and not recorded. By default only conflicts are certain.
    fn is_rolled_back(error: &Self::Error) -> bool {
        Self::is_conflict(error)
    }
}

/// The place of the logs of one attempt at a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogReceipt {
    /// The id of the call, the same as in [`AuditLog::execution_id`](crate::AuditLog::execution_id)
    /// and provenance.
    pub execution: UniqueId,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
    /// Its records: their stream, first sequence number and count.
    pub place: Place,
}

impl LogReceipt {
    /// Creates a receipt, for an adapter that reads stored ones.
    pub fn new(execution: UniqueId, attempt: u32, place: Place) -> LogReceipt {
        LogReceipt { execution, attempt, place }
    }
}

/// The error of a function that runs in a transaction; `D` is the database's error.
///
/// `From<D>` lets the function use `?` on the database's errors;
/// [`database_error`](Self::database_error) lets the runtime recognize a write conflict, after
/// which it retries the function. The database's own error implements it, for functions with no
/// errors of their own.
///
/// ```
/// # use std::{error::Error, fmt};
/// # use audit_runtime::{AuditError, FunctionError};
/// # type DatabaseError = std::io::Error; // sqlx::Error, rusqlite::Error …
/// #[derive(Debug)]
/// enum RenameError {
///     NotFound,
///     Audit(AuditError),
///     Database(DatabaseError),
/// }
///
/// impl FunctionError<DatabaseError> for RenameError {
///     fn database_error(&self) -> Option<&DatabaseError> {
///         match self {
///             RenameError::Database(error) => Some(error),
///             RenameError::NotFound | RenameError::Audit(_) => None,
///         }
///     }
/// }
///
/// impl From<DatabaseError> for RenameError {
///     fn from(error: DatabaseError) -> RenameError {
///         RenameError::Database(error)
///     }
/// }
/// # impl fmt::Display for RenameError {
/// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("rename failed") }
/// # }
/// # impl Error for RenameError {}
/// ```
pub trait FunctionError<D>: Error + From<D> + Send + 'static {
    /// The database's error that made the function fail; `None` if it failed for another reason.
    fn database_error(&self) -> Option<&D>;
}

impl<D: Error + Send + 'static> FunctionError<D> for D {
    fn database_error(&self) -> Option<&D> {
        Some(self)
    }
}

/// Whether the function failed with a write conflict.
pub(crate) fn is_conflict<Tx: Transaction, E: FunctionError<Tx::Error>>(error: &E) -> bool {
    error.database_error().is_some_and(Tx::is_conflict)
}

/// An attempt at a mutation after the function ran: its transaction, result and logs.
/// [`settle`](Self::settle) ends it.
///
/// Most hosts let [`AuditRuntime::run_mutation`](crate::AuditRuntime::run_mutation) do this; a host
/// with its own retry loop uses it directly.
#[must_use = "it is rolled back, and its logs are lost, unless it is settled"]
#[derive(Debug)]
pub struct AuditedTransaction<Tx: Transaction, T, E = <Tx as Transaction>::Error> {
    transaction: Tx,
    outcome: Audited<Result<T, E>>,
    request: RequestContext,
    /// The attempt of [`AuditRuntime::run_mutation`](crate::AuditRuntime::run_mutation) whose
    /// execution sealed it.
    attempt: Option<AttemptLogs>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Attempt<T, E> {
    /// The logs are durable, the transaction is committed, and this is the function's value.
    Committed(T),
    /// A write conflict: the transaction is rolled back and the logs of the attempt are durable.
    /// Retry the function.
    Conflict(E),
}

impl Execution<Mutation> {
    /// Ends an attempt with the function's result and the transaction that it ran in.
    pub fn seal_transaction<Tx: Transaction, T, E>(
        self,
        transaction: Tx,
        result: Result<T, E>,
    ) -> AuditedTransaction<Tx, T, E> {
        let request = self.request().clone();
        let attempt = self.attempt();
        AuditedTransaction { transaction, outcome: self.seal(result), request, attempt }
    }
}

impl<Tx: Transaction, T, E> AuditedTransaction<Tx, T, E> {
    /// Whether the execution of this attempt sealed it.
    pub(crate) fn is_of(&self, attempt: &AttemptLogs) -> bool {
        self.attempt.as_ref() == Some(attempt)
    }

    /// Its transaction and its result, to be settled.
    pub(crate) fn into_parts(self) -> (Tx, Audited<Result<T, E>>, RequestContext) {
        (self.transaction, self.outcome, self.request)
    }

    /// Abandons the attempt. Returns the transaction, which must not commit, the request, and the
    /// logs, unless a retry loop releases them.
    pub(crate) fn abandon(self) -> (Tx, Option<Arc<SealedLogs>>, RequestContext) {
        let AuditedTransaction { transaction, outcome, request, attempt } = self;
        let logs = attempt.is_none().then(|| outcome.into_parts().1).flatten();
        (transaction, logs, request)
    }
}
