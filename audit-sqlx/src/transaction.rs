//! Transactions.

use std::fmt;
use std::ops::{Deref, DerefMut};

use audit_runtime::{LogReceipt, Transaction};
use sqlx::{Error, Pool, SqlSafeStr};

use crate::conflict::is_rolled_back;
use crate::{AuditedDatabase, is_conflict};

/// A transaction that the audit runtime commits, on a connection of a pool.
///
/// It dereferences to the connection: pass `&mut *tx`, or `&mut **tx` behind a reference, to sqlx.
/// Calling `begin` on that connection creates a savepoint, for a part that may be rolled back.
///
/// If dropped, it is rolled back before the connection is used again.
pub struct Tx<DB: AuditedDatabase> {
    transaction: sqlx::Transaction<'static, DB>,
    keeps_receipts: bool,
}

/// Begins a serializable transaction: if data that the mutation read has changed by the time of its
/// commit, the commit is a conflict.
///
/// # Errors
///
/// Those of sqlx, including a timeout if no connection was free within the pool's
/// `acquire_timeout`.
///
/// # Cancellation
///
/// Dropping the future rolls the transaction back, if it began.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn begin<DB: AuditedDatabase>(pool: &Pool<DB>) -> Result<Tx<DB>, Error> {
    begin_with(pool, DB::serializable(pool)).await
}

/// Begins a transaction with a custom statement, such as `BEGIN IMMEDIATE` on SQLite. Use an
/// isolation level below serializable only if the mutations tolerate it: the runtime retries what
/// the database reports as a conflict, and nothing else.
///
/// Errors, cancellation and panics are those of [`begin`].
pub async fn begin_with<DB: AuditedDatabase>(
    pool: &Pool<DB>,
    statement: &'static str,
) -> Result<Tx<DB>, Error> {
    // Waiting for a connection may be cancelled.
    let connection = pool.acquire().await?;
    // If the future that begins a PostgreSQL transaction is dropped, sqlx 0.9 does not roll the
    // transaction back. This task always completes, and drops the transaction if the caller is
    // gone. The function is hidden in sqlx's documentation; no other takes a connection by value.
    let statement = Some(statement.into_sql_str());
    let begun = tokio::spawn(sqlx::Transaction::begin(connection, statement)).await;
    // The task panicked, or was aborted at shutdown.
    let transaction = begun.map_err(|error| Error::Protocol(error.to_string()))??;
    Ok(Tx { transaction, keeps_receipts: false })
}

impl<DB: AuditedDatabase> Tx<DB> {
    /// Stores a receipt of the mutation's logs in the table that
    /// [`create_receipts`](crate::create_receipts) creates: one `INSERT` in this transaction, after
    /// the logs are durable and before the commit. Without receipts, the table is not needed.
    #[must_use]
    pub fn with_receipts(mut self) -> Tx<DB> {
        self.keeps_receipts = true;
        self
    }
}

impl<DB: AuditedDatabase> Transaction for Tx<DB> {
    type Error = Error;

    async fn keep_receipt(&mut self, receipt: &LogReceipt) -> Result<(), Error> {
        if self.keeps_receipts {
            DB::insert_receipt(&mut self.transaction, receipt).await
        } else {
            Ok(())
        }
    }

    async fn commit(mut self) -> Result<(), Error> {
        // A crash before the commit returns may leave the change committed or not; a crash during
        // the check leaves it uncommitted. A transaction that passed the check may still conflict
        // at the commit.
        DB::check(&mut self.transaction).await?;
        self.transaction.commit().await
    }

    async fn rollback(self) -> Result<(), Error> {
        self.transaction.rollback().await
    }

    fn is_conflict(error: &Error) -> bool {
        is_conflict(error)
    }

    fn is_rolled_back(error: &Error) -> bool {
        is_rolled_back(error)
    }
}

impl<DB: AuditedDatabase> Deref for Tx<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.transaction
    }
}

impl<DB: AuditedDatabase> DerefMut for Tx<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.transaction
    }
}

impl<DB: AuditedDatabase> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("database", &DB::NAME).finish_non_exhaustive()
    }
}
