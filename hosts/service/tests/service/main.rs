//! The service as a process, driven over HTTP, with its logs read back from the bucket.
//!
//! The database is SQLite in a temporary directory, or the one in `DATABASE_URL`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crashes;
mod evidence;
mod log_stream_alone;
mod memory;
mod process;
mod reloads;
mod requests;
mod starts;
mod stops;
mod tenants;
mod tenants_destinations;
mod unreachable_bucket;
