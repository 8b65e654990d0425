//! The contract, property by property, against a sink in memory that fails on demand.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod database;
mod mutations;
