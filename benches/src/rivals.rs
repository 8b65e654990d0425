//! Other ways of doing the same, written to be as good as that way can be.
//!
//! - [`tree_walk`]: the body is kept as a JSON tree. For each release it is cloned, the sentinels
//!   in it are replaced, it is serialized to learn its size, and serialized again into the line.
//! - [`RawLog`]: the bytes are written one after the other into a file that was filled with zeros
//!   and synced, with one `fdatasync` each time. No format, no checksum, no recovery: what any
//!   durable log pays at least.
//! - [`SqliteLog`]: SQLite in the mode in which a commit is durable (WAL, `synchronous = FULL`),
//!   one insert a commit, with a prepared statement, on one connection from one thread: it has one
//!   writer at a time, so callers that contend for it are only slower.
//! - [`PostgresLog`]: PostgreSQL at `DATABASE_URL` as it is set up there, one insert a commit on
//!   each of as many connections as there are callers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

/// Renders a body without templates, for one release: `lookup` returns the value of a variable.
/// Also says how large the line is, as it was measured before.
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

/// The simplest durable log there is.
#[derive(Debug)]
pub struct RawLog {
    file: File,
    at: u64,
    bytes: u64,
}

impl RawLog {
    /// A file of so many zeros.
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

    /// Appends a line. From the beginning again at the end of the file.
    pub fn append(&mut self, line: &[u8]) {
        self.write(line);
        self.file.sync_data().expect("a disk that works");
    }

    /// The same, not durably.
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
    /// A new database.
    ///
    /// # Errors
    ///
    /// SQLite's.
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
    /// A table of its own, gone with the connections.
    ///
    /// # Errors
    ///
    /// PostgreSQL's.
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

    /// Each caller inserts and commits a line so many times.
    ///
    /// # Errors
    ///
    /// PostgreSQL's.
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
