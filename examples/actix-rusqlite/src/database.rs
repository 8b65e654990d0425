//! A blocking database in a host: connections of rusqlite, and functions that run on threads that
//! may block.
//!
//! The recipe:
//!
//! 1. The transaction owns its connection. Its `commit` and `rollback` run on a thread that may
//!    block, and so does the rollback of a transaction that is dropped halfway.
//! 2. The function is plain blocking code. The execution moves to the thread with the transaction,
//!    and both come back with the result, to be sealed.
//! 3. If the caller is dropped, the thread still runs to its end. The transaction that it returns
//!    is dropped, and so rolled back.
//! 4. After some errors, SQLite itself rolls the transaction back (a full disk, `OR ROLLBACK`). If
//!    the function continued, each statement would commit immediately, without its log: a hook
//!    refuses all commits before `commit` is called.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use audit_runtime::{AuditedTransaction, Execution, Mutation, Transaction};
use rusqlite::{Connection, ErrorCode};
use tokio::task::spawn_blocking;

/// Connections to one file, as many as there are transactions at once.
#[derive(Debug, Clone)]
pub(crate) struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// A transaction, which is rolled back when dropped.
#[derive(Debug)]
pub(crate) struct Tx {
    database: Database,
    /// `None` once it has ended.
    connection: Option<Connection>,
    may_commit: Arc<AtomicBool>,
}

impl Database {
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Database> {
        let inner = Inner { path: path.to_owned(), idle: Mutex::default() };
        let database = Database(Arc::new(inner));
        let connection = database.connection()?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS notes \
             (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, text TEXT NOT NULL)",
        )?;
        database.release(connection);
        Ok(database)
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let connection = Connection::open(&self.0.path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledged commit survives a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    }

    fn release(&self, connection: Connection) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// Runs blocking code that only reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> rusqlite::Result<T> {
        let database = self.clone();
        blocking(move || {
            let connection = database.connection()?;
            let value = read(&connection);
            database.release(connection);
            Ok(value)
        })
        .await
    }

    /// Runs one attempt at a mutation, a function of blocking code, in a transaction of its own.
    pub(crate) async fn attempt<T: Send + 'static, E>(
        &self,
        execution: Execution<Mutation>,
        function: impl FnOnce(&Execution<Mutation>, &Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<AuditedTransaction<Tx, T, E>, E>
    where
        E: From<rusqlite::Error> + Send + 'static,
    {
        let database = self.clone();
        let (execution, tx, result) = blocking(move || {
            let connection = database.connection()?;
            let may_commit = Arc::new(AtomicBool::new(false));
            let asked = Arc::clone(&may_commit);
            connection.commit_hook(Some(move || !asked.load(Ordering::Acquire)))?;
            let tx = Tx { database, connection: Some(connection), may_commit };
            tx.execute("BEGIN")?;
            let result = match &tx.connection {
                Some(connection) => function(&execution, connection),
                None => Err(ended().into()),
            };
            Ok((execution, tx, result))
        })
        .await?;
        Ok(execution.seal_transaction(tx, result))
    }
}

impl Tx {
    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.as_ref().ok_or_else(ended)?.execute_batch(statement)
    }

    /// Ends the transaction with this statement. If the statement fails, the connection is closed,
    /// which rolls back.
    fn end(&mut self, statement: &str) -> rusqlite::Result<()> {
        self.execute(statement)?;
        if let Some(connection) = self.connection.take() {
            connection.commit_hook(None::<fn() -> bool>)?;
            self.database.release(connection);
        }
        Ok(())
    }
}

impl Transaction for Tx {
    type Error = rusqlite::Error;

    async fn commit(mut self) -> rusqlite::Result<()> {
        // Without an open transaction this fails.
        self.may_commit.store(true, Ordering::Release);
        blocking(move || self.end("COMMIT")).await
    }

    async fn rollback(mut self) -> rusqlite::Result<()> {
        blocking(move || self.end("ROLLBACK")).await
    }

    fn is_conflict(error: &rusqlite::Error) -> bool {
        let code = error.sqlite_error_code();
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.connection.is_some() {
            // Fast: nothing was written to the database's file. If it fails, the connection is
            // closed with the transaction.
            let _ = self.end("ROLLBACK");
        }
    }
}

fn ended() -> rusqlite::Error {
    rusqlite::Error::UnwindingPanic
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> rusqlite::Result<T> {
    // The work panicked, or the process is ending.
    spawn_blocking(work).await.unwrap_or_else(|_| Err(ended()))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    use audit_core::testing::MemorySink;
    use audit_runtime::{AuditRuntime, body};

    use super::*;

    fn value(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT COALESCE(SUM(revision), 0) FROM notes", [], |row| row.get(0))
    }

    fn insert(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("INSERT INTO notes VALUES ('a', 1, '')")
    }

    fn add_one(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("UPDATE notes SET revision = revision + 1")
    }

    async fn committed(database: &Database) -> i64 {
        database.read(value).await.expect("a connection").expect("a value")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn conflicting_attempts_are_retried_and_logged() -> rusqlite::Result<()> {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open(&directory.path().join("db"))?;
        database.read(insert).await??;
        let sink = Arc::new(MemorySink::new());
        let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
        let both_have_read = Arc::new(Barrier::new(2));
        let add = async || {
            let first = AtomicU32::new(0);
            let request = runtime.new_request();
            let run = runtime.run_mutation("add", &request, async |execution| {
                let barrier = Arc::clone(&both_have_read);
                let is_first = first.fetch_add(1, Ordering::Relaxed) == 0;
                let attempt = database.attempt(execution, move |execution, connection| {
                    execution.log().audit(&body!({ "action": "add" })).expect("a log");
                    value(connection)?;
                    if is_first {
                        barrier.wait();
                    }
                    add_one(connection)
                });
                attempt.await
            });
            run.await.expect("committed");
            first.into_inner()
        };
        let (one, other) = tokio::join!(add(), add());
        assert_eq!(committed(&database).await, 3, "no update is lost");
        assert!(one + other > 2 && one.min(other) == 1, "{one} and {other} attempts");
        assert_eq!(sink.lines().len() as u32, one + other);
        Ok(())
    }

    #[tokio::test]
    async fn nothing_commits_after_sqlite_has_rolled_back() -> rusqlite::Result<()> {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open(&directory.path().join("db"))?;
        database.read(insert).await??;
        let sink = Arc::new(MemorySink::new());
        let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
        for end in ["INSERT OR ROLLBACK INTO notes VALUES ('a', 2, '')", "ROLLBACK", "COMMIT"] {
            let request = runtime.new_request();
            let run = runtime.run_mutation("add", &request, async |execution| {
                let attempt = database.attempt(execution, move |execution, connection| {
                    execution.log().audit(&body!({ "action": "add" })).expect("a log");
                    add_one(connection)?;
                    // The function ignores the error, if there is one.
                    drop(connection.execute_batch(end));
                    drop(add_one(connection));
                    Ok::<_, rusqlite::Error>(())
                });
                let attempt = attempt.await;
                assert_eq!(committed(&database).await, 1, "{end}: committed before its log");
                attempt
            });
            assert!(run.await.is_err(), "{end}");
            assert_eq!(committed(&database).await, 1, "{end}");
        }
        assert_eq!(sink.lines().len(), 3);
        database.read(add_one).await??;
        assert_eq!(committed(&database).await, 2, "the connections are as before");
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_attempt_is_rolled_back() -> rusqlite::Result<()> {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::open(&directory.path().join("db"))?;
        let runtime = AuditRuntime::new(Arc::new(MemorySink::new()));
        let execution = runtime.mutation("insert", runtime.new_request());
        let (begun, wait) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (in_function, until) = (Arc::clone(&begun), Arc::clone(&wait));
        let own = database.clone();
        let attempt = tokio::spawn(async move {
            let attempt = own.attempt(execution, move |_, connection| {
                insert(connection)?;
                in_function.wait();
                until.wait();
                Ok::<_, rusqlite::Error>(())
            });
            attempt.await
        });
        spawn_blocking(move || begun.wait()).await.expect("no panic");
        attempt.abort();
        assert!(attempt.await.is_err(), "the caller is gone");
        spawn_blocking(move || wait.wait()).await.expect("no panic");
        // Waits for the dropped attempt's lock, if that is still held. Fails if its row was
        // committed.
        database.read(insert).await??;
        assert_eq!(committed(&database).await, 1);
        Ok(())
    }
}
