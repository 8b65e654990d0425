//! SQLite ends a transaction by itself after some errors. Nothing of it commits then, including
//! what the function writes afterwards, and the connection can be used for the next transaction.

use audit_runtime::MutationError;
use audit_sqlx::{AuditedDatabase, Tx};
use sqlx::any::AnyPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Connection, Executor, Pool, SqlitePool};
use tempfile::TempDir;

use crate::database::{logged, runtime};

/// Statements that make SQLite end the transaction, as a full disk does.
const ENDS: [&str; 5] = [
    "INSERT OR ROLLBACK INTO t VALUES ('old', 2)",
    "INSERT INTO t VALUES ('bad', 666)",
    "ROLLBACK",
    "COMMIT",
    "END",
];

const SCHEMA: [&str; 4] = [
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE t (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
    "INSERT INTO t VALUES ('old', 1)",
    "CREATE TRIGGER refuses BEFORE INSERT ON t WHEN new.value = 666 \
     BEGIN SELECT RAISE(ROLLBACK, 'refused'); END",
];

/// A database file, and a connection that sees what is committed in it.
struct File {
    url: String,
    observer: SqlitePool,
    _directory: TempDir,
}

impl File {
    async fn new() -> File {
        sqlx::any::install_default_drivers();
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite://{}/db?mode=rwc", directory.path().display());
        let observer = SqlitePoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        for statement in SCHEMA {
            observer.execute(statement).await.unwrap();
        }
        File { url, observer, _directory: directory }
    }

    async fn has(&self, name: &str) -> bool {
        let found = sqlx::query_scalar::<_, i64>("SELECT value FROM t WHERE name = $1");
        found.bind(name).fetch_optional(&self.observer).await.unwrap().is_some()
    }
}

/// A mutation whose function caught the error, continued to write, and noticed nothing; then an
/// ordinary one.
async fn mutate<DB: AuditedDatabase>(pool: &Pool<DB>, end: &'static str, file: &File)
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin_with(pool, "BEGIN IMMEDIATE").await?;
        tx.execute("INSERT INTO t VALUES ('before', 1)").await?;
        drop(tx.execute(end).await);
        drop(tx.execute("INSERT INTO t VALUES ('after', 1)").await);
        assert!(sink.lines().is_empty() && !file.has("before").await, "{end:?}");
        if DB::NAME == "SQLite" {
            assert!(!file.has("after").await, "{end:?}: it is committed, and not logged");
        }
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    let result = run.await;
    assert_eq!(sink.lines().len(), 1, "{end:?}");
    // A connection of `Any` has no hooks: see the documentation of the crate.
    if DB::NAME == "SQLite" {
        assert!(matches!(result, Err(MutationError::Commit(_))), "{end:?}: {result:?}");
        assert!(!file.has("before").await && !file.has("after").await, "{end:?}");
    }
    let run = runtime.run_mutation("g", &request, async |execution| {
        logged(&execution.log(), "g");
        let mut tx = audit_sqlx::begin_with(pool, "BEGIN IMMEDIATE").await?;
        tx.execute("INSERT INTO t VALUES ('next', 1)").await?;
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    run.await.unwrap_or_else(|error| panic!("{end:?}: {error:?}"));
    assert!(file.has("next").await, "{end:?}");
    // Outside mutations the connection is like any other.
    pool.acquire().await.unwrap().execute("INSERT INTO t VALUES ('host', 1)").await.unwrap();
    assert!(file.has("host").await, "{end:?}");
}

#[tokio::test]
async fn nothing_commits_after_sqlite_has_rolled_back() {
    for end in ENDS {
        let file = File::new().await;
        let pool = SqlitePoolOptions::new().max_connections(1).connect(&file.url).await.unwrap();
        mutate(&pool, end, &file).await;
        let file = File::new().await;
        let pool = AnyPoolOptions::new().max_connections(1).connect(&file.url).await.unwrap();
        if !matches!(end, "COMMIT" | "END") {
            mutate(&pool, end, &file).await;
        }
    }
}

/// Transactions that are dropped, or rolled back for a failure of their function.
#[tokio::test]
async fn connections_that_cannot_roll_back_are_closed() {
    for end in ENDS {
        let file = File::new().await;
        let pool = SqlitePoolOptions::new().max_connections(1).connect(&file.url).await.unwrap();
        // A transaction of sqlx leaves the connection in its pool.
        let mut tx = pool.begin().await.unwrap();
        drop(tx.execute(end).await);
        drop(tx);
        for is_dropped in [true, false] {
            let mut tx: Tx<sqlx::Sqlite> = audit_sqlx::begin(&pool).await.unwrap();
            drop(tx.execute(end).await);
            if is_dropped {
                drop(tx);
            } else {
                drop(audit_runtime::Transaction::rollback(tx).await);
            }
            let mut tx = audit_sqlx::begin(&pool).await.unwrap();
            let name = format!("{is_dropped}");
            let insert = sqlx::query("INSERT INTO t VALUES ($1, 1)").bind(&name);
            insert.execute(&mut *tx).await.unwrap();
            audit_runtime::Transaction::commit(tx).await.unwrap_or_else(|e| panic!("{end:?}: {e}"));
            assert!(file.has(&name).await, "{end:?}");
        }
    }
}

#[tokio::test]
async fn a_savepoint_left_open_is_committed_with_the_rest() {
    let file = File::new().await;
    let pool = SqlitePoolOptions::new().max_connections(1).connect(&file.url).await.unwrap();
    let (sink, runtime, request) = runtime();
    let run = runtime.run_mutation("f", &request, async |execution| {
        logged(&execution.log(), "f");
        let mut tx = audit_sqlx::begin(&pool).await?;
        std::mem::forget(tx.begin().await?);
        tx.execute("INSERT INTO t VALUES ('inner', 1)").await?;
        Ok(execution.seal_transaction(tx, Ok::<_, sqlx::Error>(())))
    });
    run.await.unwrap();
    assert!(file.has("inner").await && sink.lines().len() == 1);
    pool.execute("INSERT INTO t VALUES ('host', 1)").await.unwrap();
    assert!(file.has("host").await);
}
