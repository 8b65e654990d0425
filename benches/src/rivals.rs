//! Alternatives, each implemented as well as possible.
//!
//! - [`tree_walk`]: the body is kept as a JSON tree. For each release it is cloned, its sentinels
//!   are replaced, it is serialized to determine its size, and serialized again into the line.
//! - [`RawLog`]: the bytes are appended to a file that was filled with zeros and synced, with one
//!   `fdatasync` each time. It has no format, checksum or recovery: the minimum cost of any durable
//!   log.
//! - [`SqliteLog`]: SQLite in a mode in which commits are durable (WAL, `synchronous = FULL`), with
//!   one insert per commit, a prepared statement, one connection and one thread: it has one writer
//!   at a time, so contending callers would only be slower.
//! - [`PostgresLog`]: PostgreSQL at `DATABASE_URL` with its own configuration, one insert per
//!   commit, and one connection per caller.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

/// Renders a body without templates, for one release: `lookup` returns the value of a variable.
/// Also returns the size of the line, as determined beforehand.
pub fn tree_walk(body: &Value, lookup: &dyn Fn(&str) -> Value) -> (usize, Vec<u8>) {
    let mut body = body.clone();
    substitute(&mut body, lookup);
    let size = serde_json::to_vec(&body).expect("a tree serializes").len();
    (size, serde_json::to_vec(&body).expect("a tree serializes"))
}

fn substitute(value: &mut Value, lookup: &dyn Fn(&str) -> Value) {
    match value {
        Value::Object(members) => match members.get("$var").and_then(Value::as_str) {
            Some(name) => *value = lookup(name),
            None => members.values_mut().for_each(|member| substitute(member, lookup)),
        },
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| substitute(element, lookup))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The simplest durable log.
#[derive(Debug)]
pub struct RawLog {
    file: File,
    at: u64,
    bytes: u64,
}

impl RawLog {
    /// Creates a file of this many zeros.
    pub fn create(path: &Path, bytes: u64) -> RawLog {
        let file =
            File::options().read(true).write(true).create_new(true).open(path).expect("a new file");
        let zeros = vec![0; 1 << 20];
        for at in (0..bytes).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).expect("room for a file");
        }
        file.sync_all().expect("a disk that works");
        RawLog { file, at: 0, bytes }
    }

    /// Appends a line. Starts over at the end of the file.
    pub fn append(&mut self, line: &[u8]) {
        self.write(line);
        self.file.sync_data().expect("a disk that works");
    }

    /// Appends a line without a sync.
    pub fn write(&mut self, line: &[u8]) {
        if self.at + line.len() as u64 > self.bytes {
            self.at = 0;
        }
        self.file.write_all_at(line, self.at).expect("a disk that works");
        self.at += line.len() as u64;
    }
}

/// A table of lines.
#[derive(Debug)]
pub struct SqliteLog {
    connection: rusqlite::Connection,
}

impl SqliteLog {
    /// Creates a new database.
    ///
    /// # Errors
    ///
    /// If SQLite fails.
    pub fn create(path: &Path) -> rusqlite::Result<SqliteLog> {
        let connection = rusqlite::Connection::open(path)?;
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        assert_eq!(mode, "wal");
        connection.execute_batch(
            "PRAGMA synchronous = FULL; CREATE TABLE log (sequence INTEGER PRIMARY KEY, line TEXT NOT NULL)",
        )?;
        Ok(SqliteLog { connection })
    }

    /// Inserts a line and commits.
    pub fn append(&self, line: &str) {
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO log (line) VALUES (?1)")
            .expect("a statement");
        insert.execute([line]).expect("a disk that works");
    }
}

/// A table of lines, and a connection for each caller.
pub struct PostgresLog {
    clients: Vec<(tokio_postgres::Client, tokio_postgres::Statement)>,
}

impl PostgresLog {
    /// Creates a temporary table.
    ///
    /// # Errors
    ///
    /// If PostgreSQL fails.
    pub async fn connect(url: &str, callers: usize) -> Result<PostgresLog, tokio_postgres::Error> {
        let mut clients = Vec::new();
        for _ in 0..callers {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            if clients.is_empty() {
                client
                    .batch_execute(
                        "DROP TABLE IF EXISTS audit_benches_log; \
                         CREATE TABLE audit_benches_log (sequence BIGSERIAL PRIMARY KEY, line TEXT NOT NULL)",
                    )
                    .await?;
            }
            let insert = client.prepare("INSERT INTO audit_benches_log (line) VALUES ($1)").await?;
            clients.push((client, insert));
        }
        Ok(PostgresLog { clients })
    }

    /// Each caller inserts and commits a line `each` times.
    ///
    /// # Errors
    ///
    /// If PostgreSQL fails.
    pub async fn append(&self, line: &str, each: usize) -> Result<(), tokio_postgres::Error> {
        let callers = self.clients.iter().map(|(client, insert)| async move {
            for _ in 0..each {
                client.execute(insert, &[&line]).await?;
            }
            Ok(())
        });
        futures::future::try_join_all(callers).await.map(drop)
    }
}

impl std::fmt::Debug for PostgresLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLog").field("clients", &self.clients.len()).finish()
    }
}
