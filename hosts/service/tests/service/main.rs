//! The service as it is started and used: a process, driven over HTTP, with its logs read back from
//! the bucket.
//!
//! The database is SQLite in a new directory, or the one that `DATABASE_URL` names.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crashes;
mod evidence;
mod process;
mod requests;
mod starts;
mod stops;
mod unreachable_bucket;
