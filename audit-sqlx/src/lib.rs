//! Transactions of [sqlx] for the audit runtime: nothing commits before the audit logs of the
//! mutation are durable.
//!
//! [`begin`] takes a connection of a pool and begins a serializable [`Tx`]. It is a
//! [`Transaction`](audit_runtime::Transaction), so that
//! [`run_mutation`](audit_runtime::AuditRuntime::run_mutation) makes the logs durable, then
//! commits, and retries after conflicts:
//!
//! ```
//! # use std::sync::Arc;
//! # use audit_core::testing::MemorySink;
//! use audit_runtime::{AuditLog, AuditRuntime, Mutation, Var, body};
//! use audit_sqlx::Tx;
//! use sqlx::{Executor, Sqlite, SqlitePool};
//!
//! async fn add(log: &AuditLog<'_, Mutation>, tx: &mut Tx<Sqlite>, name: &str) -> Result<(), sqlx::Error> {
//!     let logged = log.audit(&body!({ "action": "users.add", "name": name, "ip": Var::IP }));
//!     logged.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
//!     // `&mut **tx` is what sqlx takes for a connection.
//!     sqlx::query("INSERT INTO users VALUES ($1)").bind(name).execute(&mut **tx).await?;
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let sink = Arc::new(MemorySink::new());
//! # let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("sqlite://{}/db?mode=rwc", directory.path().display());
//! let pool = SqlitePool::connect(&url).await?;
//! pool.execute("CREATE TABLE users (name TEXT PRIMARY KEY)").await?;
//! let request = runtime.new_request().with_ip([192, 0, 2, 1].into());
//! runtime
//!     .run_mutation("users:add", &request, async |execution| {
//!         let mut tx = audit_sqlx::begin(&pool).await?;
//!         let result = add(&execution.log(), &mut tx, "ada").await;
//!         Ok(execution.seal_transaction(tx, result))
//!     })
//!     .await?;
//! assert!(sink.lines()[0].contains("users.add"));
//! # Ok(())
//! # }
//! ```
//!
//! Features select the databases: `sqlite`, `postgres`, and `any` for hosts that choose by URL.
//!
//! # What it takes care of
//!
//! - **A cancelled `begin`.** If its future is dropped, sqlx leaves a PostgreSQL transaction open:
//!   the connection returns to the pool with it, and later statements on that connection run in
//!   that transaction and read its old snapshot. [`begin`] runs in a separate task, which rolls
//!   back if its caller is gone.
//! - **A commit that rolls back.** If a statement of a transaction failed, PostgreSQL turns its
//!   `COMMIT` into a rollback, which sqlx reports as a success. A function that catches a
//!   statement's error and returns a value would be reported as committed, and so would one that
//!   has executed `ROLLBACK`. [`Tx`] checks first, and such a commit fails.
//! - **A transaction that SQLite rolls back by itself**, as after a full disk, an I/O error, `OR
//!   ROLLBACK` or `RAISE(ROLLBACK)`. What the function writes after it has caught that error would
//!   commit at once, without a log. On a `SqlitePool`, hooks of the connection refuse each commit
//!   until the logs are durable (a `COMMIT` that a function executes too), and the transaction
//!   fails. They replace hooks that the host has set. On an `AnyPool` functions must return such an
//!   error.
//! - **A connection that cannot be rolled back**, which sqlx gives back to its pool: its next
//!   transaction would never commit. It is closed.
//! - **Conflicts**: [`is_conflict`] says which errors to retry, [`is_unavailable`] which may pass.
//!
//! # Receipts
//!
//! [`Tx::with_receipts`] writes the place of the mutation's records into a table, in the same
//! transaction, so that the receipt exists exactly if the change does. [`receipt_of_execution`]
//! finds the records for a row that stores the call's id, [`receipt_of_record`] the committed call
//! for a record. After a crash, receipts decide what a lost outcome cannot:
//!
//! | a record of a mutation | means |
//! |---|---|
//! | has a receipt | its attempt committed |
//! | has none, and no transaction from before the crash is open | its attempt committed nothing |
//!
//! The table is also the input of `audit verify --receipts`: `SELECT stream, sequence, count FROM
//! audit_receipts`, as CSV.
//!
//! Only the host removes receipts. The id of an execution begins with its time, so old receipts are
//! those whose `execution` is less than the id of a time.
//!
//! ```
//! # use std::sync::Arc;
//! # use audit_core::testing::MemorySink;
//! # use audit_runtime::{AuditRuntime, body};
//! # use sqlx::{Executor, SqlitePool};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = AuditRuntime::new(Arc::new(MemorySink::new()));
//! # let request = runtime.new_request();
//! # let directory = tempfile::tempdir()?;
//! # let pool = SqlitePool::connect(&format!("sqlite://{}/db?mode=rwc", directory.path().display())).await?;
//! pool.execute("CREATE TABLE users (name TEXT PRIMARY KEY, changed_by TEXT)").await?;
//! audit_sqlx::create_receipts(&pool).await?;
//! let id = runtime
//!     .run_mutation("users:add", &request, async |execution| {
//!         let mut tx = audit_sqlx::begin(&pool).await?.with_receipts();
//!         let (log, id) = (execution.log(), execution.execution_id());
//!         log.audit(&body!({ "action": "users.add", "name": "ada" })).map_err(sqlx::Error::decode)?;
//!         let insert = sqlx::query("INSERT INTO users VALUES ('ada', $1)").bind(id.to_string());
//!         let result = insert.execute(&mut *tx).await.map(|_| id);
//!         Ok(execution.seal_transaction(tx, result))
//!     })
//!     .await?;
//! let receipt = audit_sqlx::receipt_of_execution(&pool, id).await?.expect("it committed");
//! let (stream, first) = (receipt.place.stream, receipt.place.first_sequence);
//! assert_eq!(audit_sqlx::receipt_of_record(&pool, stream, first).await?, Some(receipt));
//!
//! // Receipts from before 2026 are removed; this one stays.
//! let time_ms: u128 = 1_767_225_600_000;
//! let before = audit_core::UniqueId::from_bits(time_ms << 80).to_string();
//! let remove = sqlx::query("DELETE FROM audit_receipts WHERE execution < $1").bind(before);
//! remove.execute(&pool).await?;
//! assert!(audit_sqlx::receipt_of_execution(&pool, id).await?.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # Advice
//!
//! - A `UNIQUE` violation is not a conflict: it may be permanent. To insert a row that a mutation
//!   did not find, use `INSERT … ON CONFLICT DO NOTHING`: if a concurrent transaction inserted it,
//!   PostgreSQL reports a serialization failure, which is retried.
//! - On SQLite use WAL mode and a `busy_timeout`. A transaction that read data changed by another
//!   one since cannot write (`SQLITE_BUSY_SNAPSHOT`) and is retried at once. A mutation that always
//!   writes avoids this with [`begin_with`]`(pool, "BEGIN IMMEDIATE")`, which waits for other
//!   writers.
//! - The transaction stays open while the logs become durable. On SQLite, with its single writer,
//!   the sink's latency limits the rate of commits.
//! - Do not commit in functions: a `COMMIT` that a function executes does not wait for the logs,
//!   where it is not refused.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod conflict;
mod database;
mod guard;
mod receipt_statements;
mod receipts;
mod transaction;

pub use conflict::{is_conflict, is_unavailable};
pub use database::AuditedDatabase;
pub use receipts::{RECEIPTS_SCHEMA, create_receipts, receipt_of_execution, receipt_of_record};
pub use transaction::{Tx, begin, begin_with};
