//! The journal: records made durable on this host's disk with one sync, on their way to the bucket.
//!
//! - `disk`: the operations of a directory, real or simulated.
//! - `format`: what stands in the segments, and in the headers of all files.
//! - `segment`: files of one size, prepared ahead, read group by group.
//! - `writer`: adds groups at the end.
//! - `recovery`: what a crash left.
//! - `commit`: the thread that commits what is queued.
//! - `live`: the segments that exist now.
//! - `plan`: what is decided about delivery, durable before it is acted on.
//! - `delivery`: the task that brings it to the bucket.
//! - `executor`: where that does what waits for the disk.
//! - `open`: puts all of it together.
//! - `inspect`: looks at a journal and changes nothing.
//! - `orphan`: delivers a journal that no process has open.
//! - `kept`: reads records by their numbers.
//! - `again`: brings back to the bucket what was deleted there and is still here.

mod again;
mod commit;
#[cfg(test)]
mod corruption;
mod delivery;
#[cfg(test)]
mod delivery_checker;
#[cfg(test)]
mod delivery_simulation;
pub(crate) mod disk;
pub(crate) mod executor;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod faulty_disk;
pub(crate) mod format;
mod inspect;
mod kept;
mod live;
mod open;
mod orphan;
mod plan;
mod recovery;
#[cfg(test)]
pub(crate) mod scale;
mod segment;
#[cfg(test)]
mod simulated_bucket;
#[cfg(test)]
mod simulated_disk;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_checker;
mod writer;

pub use again::{ForeignObject, GoneRecords, JournalRedelivered};
pub(crate) use commit::JournaledWriter;
pub use inspect::{
    JournalBatch, JournalReader, JournalRecords, JournalState, JournalStream, PlannedObject,
};
pub(crate) use open::Opening;
pub use orphan::{JournalDelivered, JournalDelivering, OrphanedJournal};
#[cfg(feature = "bench_internals")]
pub(crate) use {
    segment::Segment,
    writer::{JournalWriter, OWN_WRITE_FROM},
};
