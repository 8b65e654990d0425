//! Transactions of the host's database, and the loop that retries a mutation on write conflicts.

use std::error::Error;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use audit_core::UniqueId;
use futures::FutureExt;

use crate::execution::{AttemptLogs, Execution, Mutation};
use crate::provenance::FunctionName;
use crate::sealed_logs::SealedLogs;
use crate::{AuditRuntime, Audited, MutationError, RequestContext, ordering};

/// A transaction of the host's database.
///
/// # Contract
///
/// - Nothing that was done in it is visible to others before `commit` returned `Ok`.
/// - Dropping it without `commit` rolls it back.
/// - `commit` that fails with a [conflict](Self::is_conflict) has committed nothing.
pub trait Transaction: Send {
    /// The database's error. That of the functions which run in the transaction is their own: see
    /// [`FunctionError`].
    type Error: Error + Send + 'static;

    /// Makes it visible and durable.
    fn commit(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Undoes it.
    fn rollback(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Whether this error, of `commit` or of a statement, is a write conflict: another transaction
    /// changed the same data, and running the function again from the start may succeed. In
    /// PostgreSQL: SQLSTATE 40001 and 40P01.
    fn is_conflict(error: &Self::Error) -> bool;
}

/// The error of a function that runs in a transaction whose database fails with `D`.
///
/// `From<D>` lets the function use `?` on the database's errors;
/// [`database_error`](Self::database_error) lets the runtime see whether one of them is a write
/// conflict, after which the function runs again. The database's error itself is such an error, for
/// functions that fail with nothing else.
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
    /// The error of the database with which the function failed; `None` if it failed by itself.
    fn database_error(&self) -> Option<&D>;
}

impl<D: Error + Send + 'static> FunctionError<D> for D {
    fn database_error(&self) -> Option<&D> {
        Some(self)
    }
}

/// Whether the function is to run again.
pub(crate) fn is_conflict<Tx: Transaction, E: FunctionError<Tx::Error>>(error: &E) -> bool {
    error.database_error().is_some_and(Tx::is_conflict)
}

/// How often a mutation that runs into write conflicts is tried, and how long it waits in between.
///
/// Before attempt n + 1 it waits a random time between 0 and
/// `min(max_backoff_ms, base_backoff_ms * 2^(n-1))`: full jitter, as in the AWS Architecture Blog,
/// "Exponential Backoff And Jitter".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least one. The default is 10.
    pub max_attempts: u32,
    /// In milliseconds. The default is 2.
    pub base_backoff_ms: u64,
    /// In milliseconds. The default is 200.
    pub max_backoff_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { max_attempts: 10, base_backoff_ms: 2, max_backoff_ms: 200 }
    }
}

impl RetryPolicy {
    fn backoff(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 1u64.checked_shl(attempt - 1).unwrap_or(u64::MAX);
        let ceiling = self.base_backoff_ms.saturating_mul(doubled).min(self.max_backoff_ms);
        Duration::from_micros(random % ceiling.saturating_mul(1_000).saturating_add(1))
    }
}

/// One attempt at a mutation that ran: its transaction, its result and its logs.
/// [`settle`](Self::settle) is the only way on.
///
/// Most hosts let [`AuditRuntime::run_mutation`] do this; a host with a loop of its own uses it
/// directly.
#[must_use = "it is rolled back, and its logs reach nobody, unless it is settled"]
#[derive(Debug)]
pub struct AuditedTransaction<Tx: Transaction, T, E = <Tx as Transaction>::Error> {
    transaction: Tx,
    outcome: Audited<Result<T, E>>,
    request: RequestContext,
    /// The attempt of [`AuditRuntime::run_mutation`] whose execution sealed it.
    attempt: Option<AttemptLogs>,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Attempt<T, E> {
    /// The logs are durable, the transaction is committed, and this is the function's value.
    Committed(T),
    /// A write conflict: rolled back, the logs of the attempt are durable. Run the function again.
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

impl<Tx: Transaction, T, E: FunctionError<Tx::Error>> AuditedTransaction<Tx, T, E> {
    /// Makes the logs durable, then commits; or rolls back and makes the logs durable, if the
    /// function failed or one of its logs was refused.
    ///
    /// # Errors
    ///
    /// [`MutationError::Function`], [`Release`](MutationError::Release) and
    /// [`Commit`](MutationError::Commit).
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it commits rolls back; the logs may be durable or become so.
    /// Dropping it while it commits leaves the commit to the database; the logs are durable then.
    pub async fn settle(self) -> Result<Attempt<T, E>, MutationError<E>> {
        let AuditedTransaction { transaction, outcome, request, attempt: _ } = self;
        ordering::settle(transaction, outcome, &request).await
    }

    /// Whether the execution of this attempt sealed it.
    pub(crate) fn is_of(&self, attempt: &AttemptLogs) -> bool {
        self.attempt.as_ref() == Some(attempt)
    }

    /// Gives it up: the transaction, which may not commit, and the logs that nobody else releases,
    /// with their request. What another attempt logged, the one who runs that attempt releases.
    pub(crate) fn give_up(self) -> (Tx, Option<Arc<SealedLogs>>, RequestContext) {
        let AuditedTransaction { transaction, outcome, request, attempt } = self;
        let logs = attempt.is_none().then(|| outcome.into_parts().1).flatten();
        (transaction, logs, request)
    }
}

impl AuditRuntime {
    /// Runs a mutation until it commits, fails, or has met too many write conflicts.
    ///
    /// `attempt` is called once for each attempt, with an execution whose log is empty. It begins a
    /// transaction, runs the function, and seals both:
    ///
    /// ```
    /// # use audit_runtime::{AuditLog, AuditRuntime, Execution, Mutation, MutationError, RequestContext, Transaction, Var, body};
    /// # struct Database;
    /// # struct Tx;
    /// # type Error = std::io::Error;
    /// # impl Database { async fn begin(&self) -> Result<Tx, Error> { Ok(Tx) } }
    /// # impl Transaction for Tx {
    /// #     type Error = Error;
    /// #     async fn commit(self) -> Result<(), Error> { Ok(()) }
    /// #     async fn rollback(self) -> Result<(), Error> { Ok(()) }
    /// #     fn is_conflict(_: &Error) -> bool { false }
    /// # }
    /// async fn rename(log: &AuditLog<'_, Mutation>, tx: &mut Tx, name: &str) -> Result<usize, Error> {
    ///     log.audit(&body!({ "action": "rename", "to": name, "ip": Var::IP })).map_err(Error::other)?;
    ///     // … writes through `tx` …
    ///     Ok(name.len())
    /// }
    ///
    /// # async fn host(runtime: AuditRuntime, database: Database, request: RequestContext, name: String)
    /// # -> Result<usize, MutationError<Error>> {
    /// runtime
    ///     .run_mutation("documents:rename", &request, async |execution| {
    ///         let mut tx = database.begin().await?;
    ///         let result = rename(&execution.log(), &mut tx, &name).await;
    ///         Ok(execution.seal_transaction(tx, result))
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// The logs of an attempt are made durable before its commit; those of an attempt that failed
    /// or met a conflict are made durable too, also when `attempt` returns early with an error or
    /// panics. The answer comes after that.
    ///
    /// What `attempt` returns must have been sealed by the very execution that it was given. What
    /// another execution sealed is rolled back, since the function may have logged to this one; so
    /// is what the execution of an earlier attempt sealed. An execution that outlives its attempt
    /// takes no more logs.
    ///
    /// # Errors
    ///
    /// [`MutationError`]; nothing is committed, except where [`MutationError::Commit`] leaves that
    /// open.
    ///
    /// `attempt` is called again while nothing of the call before is left, so an `async` closure
    /// may not change what it captures: count in a `Cell` or an atomic.
    ///
    /// # Panics
    ///
    /// If `attempt` panics: the transaction is dropped, the logs are made durable, and the panic
    /// goes on.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the attempt as a dropped [`AuditedTransaction::settle`] does, and
    /// there is no further one.
    pub async fn run_mutation<Tx, T, E, F, Fut>(
        &self,
        function: impl Into<FunctionName>,
        request: &RequestContext,
        mut attempt: F,
    ) -> Result<T, MutationError<E>>
    where
        Tx: Transaction,
        E: FunctionError<Tx::Error>,
        F: FnMut(Execution<Mutation>) -> Fut,
        Fut: Future<Output = Result<AuditedTransaction<Tx, T, E>, E>>,
    {
        let function = function.into();
        let policy = self.retry_policy();
        let mut number = 1;
        // Nobody sees the id if there is no provenance.
        let call = if self.has_provenance() { self.new_id() } else { UniqueId::from_bits(0) };
        loop {
            let execution =
                self.mutation(function.clone(), request.clone()).with_attempt(call, number);
            let (execution, logs) = execution.attended();
            // What `attempt` does before it gives its future is part of the attempt.
            let attempt = async { attempt(execution).await };
            let ran = AssertUnwindSafe(attempt).catch_unwind().await;
            let settled = match ran {
                Ok(returned) => ordering::end_attempt(returned, &logs, request).await?,
                Err(panic) => {
                    ordering::end_panicked(&function, &logs, request).await;
                    resume_unwind(panic)
                }
            };
            let conflict = match settled {
                Attempt::Committed(value) => return Ok(value),
                Attempt::Conflict(error) => error,
            };
            if number >= policy.max_attempts {
                return Err(MutationError::Conflict { attempts: number, source: conflict });
            }
            tokio::time::sleep(policy.backoff(number, self.random().next_u64())).await;
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_ceiling_and_never_overflows() {
        let policy = RetryPolicy { max_attempts: 100, base_backoff_ms: 2, max_backoff_ms: 50 };
        for attempt in 1..200 {
            let ceiling = policy.base_backoff_ms.saturating_mul(1 << (attempt - 1).min(20)).min(50);
            for random in [0, 1, 12_345_678, u64::MAX] {
                assert!(policy.backoff(attempt, random) <= Duration::from_millis(ceiling));
            }
        }
        assert_eq!(policy.backoff(1, 2_000), Duration::from_millis(2));
        let endless =
            RetryPolicy { max_attempts: 1, base_backoff_ms: u64::MAX, max_backoff_ms: u64::MAX };
        assert!(endless.backoff(64, u64::MAX - 1) > Duration::ZERO);
    }
}
