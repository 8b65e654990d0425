//! Simulates the journal and its delivery with faults of the disk and the destination that follow
//! from a seed. It runs the shipped code: only the disk, the destination, the executor and the size
//! from which batches are written uncopied differ.
//!
//! - `disk`: a disk in memory that loses what a real one may lose, and one whose calls fail.
//! - `bucket`: a bucket whose requests fail. `destination`: a destination that sends to it.
//! - `journal`: commits and recovery alone.
//! - `delivery`: commits, recovery and delivery together.
//! - `routes`: one journal with many destinations.
//! - `checkers`: readers of what is left, which share no code with the writers.
//! - `corruption`: each kind of damage to a journal.
//! - `faults`: each failing call of a real disk.
//! - `receiver`: a follower's receiver, whose requests fail, and a destination that sends to it.
//! - `vouching`: the evidence of the simulation's own destination, and an auditor.
//! - `scale`: a journal in simulated time, for many hosts.
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
pub(crate) mod vouching;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{iter, thread};

pub use self::vouching::OWN;

/// Runs the seeds of a simulation on all cores: `seeds` of them, or those that the environment
/// selects. Returns what each reports. `test` are the arguments of `cargo test` that replay one.
pub fn each_seed<F: Send>(
    test: &str,
    seeds: u64,
    run: impl Fn(u64) -> Result<F, String> + Sync,
) -> Vec<F> {
    let number = |variable: &str, otherwise: u64| {
        std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
    };
    let next = AtomicU64::new(number("AUDIT_SIMULATION_FIRST_SEED", 0));
    let end = next.load(Ordering::Relaxed) + number("AUDIT_SIMULATION_SEEDS", seeds);
    let run_next = || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (seed < end).then(|| {
            run(seed).unwrap_or_else(|what| {
                next.store(end, Ordering::Relaxed);
                panic!(
                    "seed {seed}: {what}\nto replay: AUDIT_SIMULATION_FIRST_SEED={seed} \
                     AUDIT_SIMULATION_SEEDS=1 cargo test {test}"
                )
            })
        })
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let run_some = || iter::from_fn(run_next).collect::<Vec<F>>();
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(run_some)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e)))
            .collect()
    })
}
