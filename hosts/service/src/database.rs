//! The database, and what the audit runtime needs to know of its transactions.

use audit_runtime::Transaction;
use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyPool, Executor};

use crate::documents::Failure;

/// SQLite or PostgreSQL, by URL.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    begin: &'static str,
}

/// One transaction, serializable.
pub(crate) struct Tx(pub(crate) sqlx::Transaction<'static, Any>);

impl Database {
    /// Connects, and makes the table if it does not exist.
    pub(crate) async fn open(url: &str) -> Result<Database, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_sqlite {
                        // FULL: a commit that was answered survives a power cut. In WAL mode a
                        // writer does not wait for readers.
                        connection.execute("PRAGMA journal_mode = WAL").await?;
                        connection.execute("PRAGMA synchronous = FULL").await?;
                        connection.execute("PRAGMA busy_timeout = 5000").await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        let table = "CREATE TABLE IF NOT EXISTS documents \
                     (id TEXT PRIMARY KEY, revision BIGINT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL)";
        // Of several services that start together on a new PostgreSQL database, one makes the
        // table; to the others it may look as if it existed already under another name, until the
        // one is done.
        if let Err(first) = pool.execute(table).await {
            pool.execute(table).await.map_err(|_again| first)?;
        }
        // SQLite transactions are serializable: one that read what another has changed since cannot
        // write.
        let begin = if is_sqlite { "BEGIN" } else { "BEGIN ISOLATION LEVEL SERIALIZABLE" };
        Ok(Database { pool, begin })
    }

    /// For reads: each statement on its own sees one state of the database.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Begins a transaction.
    ///
    /// In a task of its own, which ends even if the request is cancelled: sqlx does not roll back a
    /// PostgreSQL transaction whose beginning was cancelled. The connection would go back into the
    /// pool with an open transaction, and whatever is read on it would be as old as that.
    pub(crate) async fn begin(&self) -> Result<Tx, Failure> {
        let (pool, begin) = (self.pool.clone(), self.begin);
        let begun = tokio::spawn(async move { pool.begin_with(begin).await }).await;
        // A task that panicked, or was aborted at the end of the process.
        Ok(Tx(begun.map_err(|error| sqlx::Error::Protocol(error.to_string()))??))
    }
}

impl Transaction for Tx {
    type Error = Failure;

    async fn commit(self) -> Result<(), Failure> {
        Ok(self.0.commit().await?)
    }

    async fn rollback(self) -> Result<(), Failure> {
        Ok(self.0.rollback().await?)
    }

    fn is_conflict(error: &Failure) -> bool {
        let Failure::Database(error) = error else { return false };
        let code = error.as_database_error().and_then(|error| error.code());
        // PostgreSQL: serialization_failure, deadlock_detected, and unique_violation, as two
        // transactions that create one document may see it. SQLite: SQLITE_BUSY and its kinds, of
        // which SNAPSHOT is the usual one.
        let conflicts = ["40001", "40P01", "23505", "5", "261", "517", "773"];
        code.is_some_and(|code| conflicts.contains(&&*code))
    }
}
