//! The database and its tables.

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Executor};

/// SQLite or PostgreSQL, by URL.
#[derive(Debug, Clone)]
pub(crate) struct Database(AnyPool);

/// Documents, and the mutation call that made each revision. Receipts have a separate table.
const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS documents \
     (id TEXT PRIMARY KEY, revision BIGINT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS document_changes \
     (document TEXT NOT NULL, revision BIGINT NOT NULL, execution TEXT NOT NULL UNIQUE, \
     PRIMARY KEY (document, revision))",
];

impl Database {
    /// Connects, and creates missing tables.
    pub(crate) async fn open(url: &str) -> Result<Database, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_sqlite {
                        // FULL: an acknowledged commit survives a power failure. In WAL mode a
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
        for table in TABLES {
            // If several services start together on a new PostgreSQL database, all but one may fail
            // because a table's type already exists. By the second attempt the table exists.
            if let Err(first) = pool.execute(table).await {
                pool.execute(table).await.map_err(|_second| first)?;
            }
        }
        audit_sqlx::create_receipts(&pool).await?;
        Ok(Database(pool))
    }

    /// The pool for reads outside transactions, and for the transactions of mutations.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.0
    }
}
