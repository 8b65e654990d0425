//! The sink against a receiver in this process, or in one that is killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod indexers_acknowledge;
#[path = "../../examples/restarts/killed.rs"]
mod killed;
mod killed_receivers;
mod outages_lose_nothing;
mod panics_lose_nothing;
mod receiver;
mod records_are_set_aside;
mod refusals_say_why;
mod requests_are_signed;
mod restarts_miss_nothing;
mod sink_conforms;
mod tee_keeps_ids;
