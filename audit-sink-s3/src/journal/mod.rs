//! The journal: records made durable on this host's disk with one sync, on their way to the bucket.
//!
//! - `disk`: the operations of a directory, real or simulated.
//! - `format`: what stands in the segments, and in the headers of all files.
//! - `segment`: files of one size, prepared ahead, read group by group.
//! - `writer`: adds groups at the end.
//! - `recovery`, `recovery_error`: what a crash left.
//! - `begin`: with which segment it begins.
//! - `commit`: the thread that commits what is queued.
//! - `segments`: the segments that exist now.
//! - `plan`: what is decided about delivery, durable before it is acted on.
//! - `destination`: where it is delivered to. A bucket is one.
//! - `delivery`: the task that brings it there.
//! - `executor`: where that does what waits for the disk.
//! - `startup`: puts all of it together.
//! - `reader`: looks at a journal and changes nothing.
//! - `kept`: reads records by their numbers.

mod begin;
mod commit;
#[cfg(test)]
mod corruption;
pub(crate) mod delivery;
#[cfg(test)]
mod delivery_checker;
#[cfg(test)]
mod delivery_simulation;
pub(crate) mod destination;
pub(crate) mod disk;
pub(crate) mod executor;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod faulty_disk;
pub(crate) mod format;
pub(crate) mod kept;
pub(crate) mod plan;
pub(crate) mod reader;
pub(crate) mod recovery;
mod recovery_error;
#[cfg(test)]
pub(crate) mod scale;
mod segment;
pub(crate) mod segments;
pub(crate) mod settings;
#[cfg(test)]
mod simulated_bucket;
#[cfg(test)]
mod simulated_disk;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_checker;
pub(crate) mod startup;
mod writer;

pub(crate) use commit::{Bounds, JournaledWriter};
pub use reader::{
    JournalBatch, JournalReader, JournalRecords, JournalState, JournalStream, PlannedObject,
};
pub(crate) use startup::Opening;
#[cfg(feature = "bench_internals")]
pub(crate) use {
    segment::Segment,
    writer::{JournalWriter, OWN_WRITE_FROM},
};
