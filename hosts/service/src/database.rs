//! The database and its tables.

use std::sync::Arc;
use std::time::Duration;

use audit_core::Commits;
use audit_host::lasting::lasting;
use audit_host::{FairLimits, FairSemaphore};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection, Executor};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the database has to answer before it counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// SQLite or PostgreSQL, by URL.
///
/// Requests take turns, by client, before they take a connection: the pool would serve them in the
/// order of arrival, however many of them are one client's.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    views: FairSemaphore,
    /// SQLite has one writer at a time. Other writers would conflict with it instead of taking
    /// turns.
    changes: FairSemaphore,
    /// A separate connection for observation, which does not wait for a request's: a busy database
    /// must not count as lost.
    observed: AnyPool,
}

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
    pub(crate) async fn open(url: &str, limits: FairLimits) -> Result<Database, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let views = FairSemaphore::new("views", limits);
        let changes = if is_sqlite {
            let one = FairLimits { permits: 1, has_prompt_permit: false, ..limits };
            FairSemaphore::new("changes", one)
        } else {
            views.clone()
        };
        // Three connections besides the permits': for a prompt request, a change on SQLite, and an
        // operator.
        let connections = u32::try_from(limits.permits + 3).unwrap_or(u32::MAX);
        let observed = AnyPoolOptions::new().max_connections(1).connect_lazy(url)?;
        if is_sqlite {
            // Connects once without a pool, which would retry for half a minute and then report
            // only a timeout.
            let mut first = AnyConnection::connect(url).await?;
            prepare(&mut first, is_sqlite).await?;
            first.close().await?;
        }
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            // SQLite is in this process, and cannot be lost. Its thread would be woken for each
            // test.
            .test_before_acquire(!is_sqlite)
            .after_connect(move |connection, _| Box::pin(prepare(connection, is_sqlite)))
            .connect(url)
            .await;
        let pool = match pool {
            // The pool has retried until its timeout, and its error does not say why. So one more
            // attempt finds the reason, unless the server does not answer.
            Err(timed_out @ sqlx::Error::PoolTimedOut) => {
                let again = timeout(ANSWER_TIMEOUT, AnyConnection::connect(url)).await;
                return Err(again.ok().and_then(Result::err).unwrap_or(timed_out));
            }
            pool => pool?,
        };
        for table in TABLES {
            // If several services start together on a new PostgreSQL database, all but one may fail
            // because a table's type already exists. By the second attempt the table exists.
            if let Err(first) = pool.execute(table).await {
                pool.execute(table).await.map_err(|_second| first)?;
            }
        }
        audit_sqlx::create_receipts(&pool).await?;
        Ok(Database { pool, views, changes, observed })
    }

    /// Asks the database regularly whether it answers, for the readiness probe.
    pub(crate) fn observe(&self, period: Duration) -> watch::Receiver<Commits> {
        let (answering, observed) = watch::channel(Commits::Accepted);
        let (answering, pool) = (Arc::new(answering), self.observed.clone());
        let observe = move || {
            let (answering, pool) = (Arc::clone(&answering), pool.clone());
            async move {
                let mut turns = tokio::time::interval(period);
                while !answering.is_closed() {
                    turns.tick().await;
                    let asked = pool.execute("SELECT 1 FROM documents LIMIT 1");
                    let reason = match timeout(ANSWER_TIMEOUT, asked).await {
                        Ok(Ok(_)) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_elapsed) => Some(format!("no answer within {ANSWER_TIMEOUT:?}")),
                    };
                    let now =
                        reason.map_or(Commits::Accepted, |reason| Commits::Refused { reason });
                    answering.send_if_modified(|before| {
                        let has_changed = std::mem::replace(before, now.clone()) != now;
                        if has_changed && let Commits::Refused { reason } = &now {
                            tracing::error!(reason, "the database does not answer");
                        } else if has_changed {
                            tracing::warn!("the database answers again");
                        }
                        has_changed
                    });
                }
            }
        };
        tokio::spawn(lasting("the question whether the database answers", observe));
        observed
    }

    /// The pool for reads outside transactions, and for the transactions of mutations. Requests
    /// take a turn first.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// The turns of requests that read.
    pub(crate) fn views(&self) -> &FairSemaphore {
        &self.views
    }

    /// The turns of requests that write.
    pub(crate) fn changes(&self) -> &FairSemaphore {
        &self.changes
    }
}

async fn prepare(connection: &mut AnyConnection, is_sqlite: bool) -> Result<(), sqlx::Error> {
    if is_sqlite {
        // FULL: an acknowledged commit survives a power failure. In WAL mode a writer does not wait
        // for readers.
        connection.execute("PRAGMA journal_mode = WAL").await?;
        connection.execute("PRAGMA synchronous = FULL").await?;
        connection.execute("PRAGMA busy_timeout = 5000").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const LIMITS: FairLimits = FairLimits {
        permits: 2,
        has_prompt_permit: true,
        max_waiting_of_client: 1,
        max_waiting: 1,
    };

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("text"), "no database, but some text".repeat(100)).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for (name, says) in
            [("text", "file is not a database"), ("directory", "unable to open"), ("a/b", "unable")]
        {
            let url = format!("sqlite://{}?mode=rwc", at(name).display());
            let error = Database::open(&url, LIMITS).await.unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_blamed_and_not_the_pool() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://{}/app", listener.local_addr().unwrap());
        // The server accepts the connection, and does not answer.
        let error = Database::open(&url, LIMITS).await.unwrap_err();
        assert!(matches!(&error, sqlx::Error::PoolTimedOut), "{error:?}");
        drop(listener);
        let error = Database::open(&url, LIMITS).await.unwrap_err();
        assert!(matches!(&error, sqlx::Error::Io(_)), "{error:?}");
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn a_lost_database_is_noticed_and_so_is_its_return() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/db?mode=rwc", directory.path().display());
        let database = Database::open(&url, LIMITS).await.unwrap();
        // The database is not lost while requests hold all connections.
        let mut busy = Vec::new();
        for _ in 0..LIMITS.permits + 3 {
            busy.push(database.pool().acquire().await.unwrap());
        }
        let mut answering = database.observe(Duration::from_millis(5));
        let other = AnyPool::connect(&url).await.unwrap();
        for _ in 0..3 {
            other.execute("ALTER TABLE documents RENAME TO away").await.unwrap();
            let lost = answering.wait_for(|commits| *commits != Commits::Accepted).await;
            let Commits::Refused { reason } = lost.unwrap().clone() else { panic!() };
            assert!(reason.contains("no such table"), "{reason}");
            other.execute("ALTER TABLE away RENAME TO documents").await.unwrap();
            answering.wait_for(|commits| *commits == Commits::Accepted).await.unwrap();
        }
    }
}
