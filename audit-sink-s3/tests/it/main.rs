//! The sink on stores in memory, in directories and behind HTTP, in processes that are killed, and
//! on Azurite.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod azurite_keeps_records_once;
mod buckets_share_connections;
mod checker_catches;
mod configuration_is_no_outage;
#[cfg(target_os = "linux")]
mod deleted_objects_come_back;
mod directories_may_move;
mod dropped_futures_lose_nothing;
mod embedders_may_err;
mod evidence_is_written;
mod faults_lose_and_repeat_nothing;
mod gcs_reads_back;
#[cfg(target_os = "linux")]
mod journal_limits;
mod kills_leave_no_partial_objects;
mod layout_is_as_documented;
mod log_hears_each_change_once;
mod objects_are_kept_as_told;
mod objects_group_batches;
mod opening_asks_the_bucket;
mod outages_say_why_and_end;
mod queue_is_bounded;
#[cfg(target_os = "linux")]
mod real_crashes;
mod roles_are_assumed;
mod routes_are_apart;
mod sink_conforms;
mod slow_requests_are_hedged;
mod support;
