//! A database with a table of the test's own, and a runtime.

use std::sync::Arc;

use audit_core::testing::MemorySink;
use audit_runtime::{AuditLog, AuditRuntime, Mutation, RequestContext, RetryPolicy, body};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, AssertSqlSafe, Executor};
use tempfile::TempDir;

pub(crate) struct Database {
    /// A pool of this many connections.
    pub(crate) pool: AnyPool,
    /// Reads committed data on a separate connection.
    observer: AnyPool,
    /// `(name TEXT PRIMARY KEY, value BIGINT)`
    pub(crate) table: String,
    pub(crate) is_sqlite: bool,
    directory: TempDir,
}

fn url(directory: &TempDir) -> String {
    std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| format!("sqlite://{}/db?mode=rwc", directory.path().display()))
}

async fn connect(url: &str, connections: u32) -> AnyPool {
    let is_sqlite = url.starts_with("sqlite:");
    let options = AnyPoolOptions::new().max_connections(connections);
    let options = options.after_connect(move |connection, _| {
        Box::pin(async move {
            if is_sqlite {
                connection.execute("PRAGMA journal_mode = WAL").await?;
                connection.execute("PRAGMA busy_timeout = 60000").await?;
            }
            Ok(())
        })
    });
    options.connect(url).await.unwrap()
}

impl Database {
    pub(crate) async fn new(connections: u32) -> Database {
        sqlx::any::install_default_drivers();
        let directory = TempDir::new().unwrap();
        let url = url(&directory);
        let name = directory.path().file_name().unwrap().to_string_lossy();
        let table = format!("t_{}", name.replace('.', "").to_lowercase());
        let observer = connect(&url, 1).await;
        let create = format!("CREATE TABLE {table} (name TEXT PRIMARY KEY, value BIGINT NOT NULL)");
        observer.execute(AssertSqlSafe(create)).await.unwrap();
        let pool = connect(&url, connections).await;
        let is_sqlite = url.starts_with("sqlite:");
        Database { pool, observer, table, is_sqlite, directory }
    }

    /// The statement with `$TABLE` replaced by the table's name.
    pub(crate) fn sql(&self, statement: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(statement.replace("$TABLE", &self.table))
    }

    pub(crate) fn url(&self) -> String {
        url(&self.directory)
    }

    /// The committed value.
    pub(crate) async fn value(&self, name: &str) -> Option<i64> {
        let query = sqlx::query_scalar(self.sql("SELECT value FROM $TABLE WHERE name = $1"));
        query.bind(name).fetch_optional(&self.observer).await.unwrap()
    }
}

pub(crate) fn runtime() -> (Arc<MemorySink>, AuditRuntime, RequestContext) {
    let sink = Arc::new(MemorySink::new());
    let policy = RetryPolicy { max_attempts: 50, base_backoff_ms: 1, max_backoff_ms: 20 };
    let runtime = AuditRuntime::builder(Arc::clone(&sink) as _).with_retry_policy(policy).build();
    let request = runtime.new_request();
    (sink, runtime, request)
}

pub(crate) fn logged(log: &AuditLog<'_, Mutation>, action: &str) {
    log.audit(&body!({ "action": action })).unwrap();
}
