//! Transactions on SQLite in a temporary directory, or on the PostgreSQL database in `DATABASE_URL`
//! (`hosts/service/with-postgres` starts one).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cancelled_beginnings_leave_nothing;
mod cancelled_mutations_are_whole_or_nothing;
mod commits_are_what_they_say;
mod conflicts_are_retried;
mod database;
mod receipts_lead_both_ways;
mod rollbacks_by_sqlite_itself;
