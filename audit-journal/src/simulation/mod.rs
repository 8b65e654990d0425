//! The journal and its delivery on a disk and a destination that fail in every way, from seed to
//! seed. It runs the code that ships: only the disk, the destination, the executor and the size
//! from which parts are written on their own are others.
//!
//! - `disk`: a disk in memory that loses what a real one may lose; one whose calls fail or panic.
//! - `bucket`: what becomes of requests, and a destination on it.
//! - `journal`: commits and recovery alone.
//! - `delivery`: commits, recovery and delivery together.
//! - `routes`: one journal with many destinations.
//! - `checkers`: read what is left, and share no code with what wrote it.
//! - `corruption`: damage of every kind, one at a time.
//! - `faults`: each call of a real disk, failing.
//! - `receiver`: what becomes of requests to a follower, and a destination on it.
//! - `vouching`: how the simulation's own destination vouches for streams, and an auditor.
//! - `scale`: a journal on simulated time, for many hosts.
#![allow(missing_docs, missing_debug_implementations, reason = "hidden")]
#![allow(clippy::unwrap_used, reason = "a simulation fails by panicking")]

pub mod bucket;
pub mod checkers;
#[cfg(test)]
mod corruption;
pub mod delivery;
pub mod destination;
pub mod disk;
#[cfg(test)]
mod faults;
pub mod fuzz;
#[cfg(test)]
mod journal;
pub mod receiver;
#[cfg(test)]
mod routes;
pub mod scale;
mod vouching;

pub use self::vouching::OWN;

/// A number from the environment.
pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}
