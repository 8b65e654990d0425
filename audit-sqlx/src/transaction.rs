//! Transactions.

use std::fmt;
use std::ops::{Deref, DerefMut};

use audit_runtime::{LogReceipt, Transaction};
use sqlx::pool::PoolConnection;
use sqlx::{Error, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use crate::conflict::is_rolled_back;
use crate::guard::Guard;
use crate::{AuditedDatabase, is_conflict};

/// A transaction that the audit runtime commits, on a connection of a pool.
///
/// It dereferences to the connection: pass `&mut *tx`, or `&mut **tx` behind a reference, to sqlx.
/// Calling `begin` on that connection creates a savepoint, for a part that may be rolled back.
///
/// If dropped, it is rolled back before the connection is used again. A connection that cannot be
/// rolled back is closed.
pub struct Tx<DB: AuditedDatabase> {
    /// None once the transaction has ended.
    connection: Option<PoolConnection<DB>>,
    guard: Guard,
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
    // Waiting for a connection may be cancelled, unlike what follows.
    let connection = loop {
        let connection = pool.acquire().await?;
        if depth::<DB>(&connection) == 0 {
            break connection;
        }
        // A transaction of sqlx that the database itself has rolled back stays open in the view of
        // sqlx, so this connection can begin no other one.
        drop(connection.close().await);
    };
    // If the future that begins a PostgreSQL transaction is dropped, sqlx 0.9 does not roll the
    // transaction back. This task always completes, and drops the transaction if the caller is
    // gone.
    let begin = async move {
        let guard = Guard::default();
        let mut tx = Tx { connection: Some(connection), guard, keeps_receipts: false };
        DB::TransactionManager::begin(&mut tx, Some(statement.into_sql_str())).await?;
        let guard = tx.guard.clone();
        DB::guard(&mut tx, guard).await?;
        Ok(tx)
    };
    // The task panicked, or was aborted at shutdown.
    tokio::spawn(begin).await.map_err(|error| Error::Protocol(error.to_string()))?
}

/// How many transactions and savepoints are open, as far as sqlx knows.
fn depth<DB: AuditedDatabase>(connection: &DB::Connection) -> usize {
    DB::TransactionManager::get_transaction_depth(connection)
}

/// Rolls back whatever is open and returns the connection to its pool. Closes a connection that
/// cannot be rolled back, since later statements would belong to this transaction.
async fn end<DB: AuditedDatabase>(
    mut connection: PoolConnection<DB>,
    guard: Guard,
) -> Result<(), Error> {
    let mut ended = Ok(());
    while ended.is_ok() && depth::<DB>(&connection) > 0 {
        ended = DB::TransactionManager::rollback(&mut connection).await;
    }
    if ended.is_err() {
        connection.close_on_drop();
    }
    guard.release();
    ended
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
        if self.keeps_receipts { DB::insert_receipt(self, receipt).await } else { Ok(()) }
    }

    async fn commit(mut self) -> Result<(), Error> {
        // A crash before the commit returns may leave the change committed or not; a crash during
        // the check leaves it uncommitted. A transaction that passed the check may still conflict
        // at the commit.
        DB::check(&mut self).await?;
        self.guard.let_commit()?;
        let mut committed = Ok(());
        // A savepoint that the function left open is a part of the transaction.
        while committed.is_ok() && depth::<DB>(&self) > 0 {
            committed = DB::TransactionManager::commit(&mut self).await;
        }
        committed
    }

    async fn rollback(mut self) -> Result<(), Error> {
        match self.connection.take() {
            Some(connection) => end::<DB>(connection, self.guard.clone()).await,
            None => Ok(()),
        }
    }

    fn is_conflict(error: &Error) -> bool {
        is_conflict(error)
    }

    fn is_rolled_back(error: &Error) -> bool {
        is_rolled_back(error)
    }
}

/// Only `rollback` and `drop` take the connection, together with the transaction.
const ENDED: &str = "the transaction has a connection until it ends";

impl<DB: AuditedDatabase> Deref for Tx<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect(ENDED)
    }
}

impl<DB: AuditedDatabase> DerefMut for Tx<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect(ENDED)
    }
}

impl<DB: AuditedDatabase> Drop for Tx<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if depth::<DB>(&connection) > 0 {
            // Queues the rollback, so that the next use of the connection executes it first if the
            // task below does not run.
            DB::TransactionManager::start_rollback(&mut connection);
            if let Ok(tasks) = Handle::try_current() {
                tasks.spawn(end::<DB>(connection, self.guard.clone()));
                return;
            }
        }
        self.guard.release();
    }
}

impl<DB: AuditedDatabase> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("database", &DB::NAME).finish_non_exhaustive()
    }
}
