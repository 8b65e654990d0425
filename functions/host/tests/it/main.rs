//! The host's parts together.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever a test does not expect makes it fail")]

mod auth_config;
mod calls_are_audited;
mod clients;
mod clients_hear_nothing_internal;
mod effects_wait_for_logs;
mod fetches;
mod functions_run_later;
mod hostile_network;
mod http_actions;
mod http_api;
mod log_stream_alone;
mod process;
mod results_are_cached_per_identity;
mod served;
mod stops;
mod support;
mod sync_protocol;
