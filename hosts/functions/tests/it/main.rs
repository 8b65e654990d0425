//! The host's parts together.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls_are_audited;
mod effects_wait_for_logs;
mod functions_run_later;
mod results_are_cached_for_whom_they_are;
mod support;
