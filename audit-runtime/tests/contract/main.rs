//! The contract between the runtime and its host: one file for each area, named for its property.
//!
//! The sink is in memory and fails on demand, time is paused, and the database is a double that
//! records what is durable when it commits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod database;
mod functions_fail_with_their_own_error;
mod host;
mod program;

mod actions_are_audited_call_by_call;
mod attempts_end_with_their_own_execution;
mod bodies_arrive_unchanged;
mod dropped_requests_commit_nothing_unlogged;
mod every_attempt_is_logged;
mod every_hand_out_is_logged;
mod hostile_serializers_do_no_harm;
mod http_layer;
mod limits_cannot_be_escaped;
mod nothing_leaves_before_its_logs;
mod outcomes_match_the_database;
mod provenance_cannot_be_forged;
mod random_programs_match_a_model;
mod receipts_stand_beside_the_change;
mod refusals_leave_a_record;
mod refused_bodies_fail_the_function;
mod results_cross_threads;
mod tee_persists_in_several_sinks;
mod usage_counts_what_is_durable;
