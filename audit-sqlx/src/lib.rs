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
//! The crate needs a feature for each database: `sqlite`, `postgres`; and `any` for hosts that
//! choose one of them by URL.
//!
//! # What it takes care of
//!
//! - **A beginning that is cancelled.** sqlx leaves a PostgreSQL transaction open whose beginning
//!   is dropped: the connection goes back into the pool with it, later statements on that
//!   connection are part of it, and reads are as old as it is. [`begin`] goes on in a task of its
//!   own, which rolls back if nobody waits for it any more.
//! - **A commit that is none.** PostgreSQL answers the `COMMIT` of a transaction in which a
//!   statement failed with a rollback, and sqlx calls that a success. A function that catches a
//!   statement's error and returns a value would be reported as committed. [`Tx`] asks first, and
//!   such a commit fails.
//! - **Conflicts**: [`is_conflict`] says which errors are worth another attempt.
//!
//! # Advice
//!
//! - A `UNIQUE` violation is no conflict: it may be there for good. A mutation that found no row
//!   and then inserts one writes `INSERT … ON CONFLICT DO NOTHING`: if another transaction inserted
//!   the row meanwhile, PostgreSQL then reports a serialization failure, which is retried.
//! - On SQLite use WAL mode and a `busy_timeout`. A transaction that read what another one changed
//!   meanwhile cannot write (`SQLITE_BUSY_SNAPSHOT`), and is retried at once. A mutation that is
//!   sure to write avoids that with [`begin_with`]`(pool, "BEGIN IMMEDIATE")`, and waits for others
//!   there.
//! - The transaction stays open while the logs become durable. On SQLite, with its one writer, the
//!   sink's latency is the pace of commits.
//! - Commit nowhere else: a `COMMIT` that a function executes itself waits for no log.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod conflict;
mod database;
mod transaction;

pub use conflict::is_conflict;
pub use database::AuditedDatabase;
pub use transaction::{Tx, begin, begin_with};
