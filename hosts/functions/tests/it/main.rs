//! The host's parts together.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls_are_audited;
mod support;
