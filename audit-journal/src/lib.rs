//! A durable local stage for audit logs: a batch is acknowledged after one sync of this host's
//! disk, and brought from there to a [`Destination`], each record once.
//!
//! # Nouns
//!
//! - [`Journal`]: the handle of an open journal. [`Opening`] opens one.
//! - [`Destination`]: where records are delivered to. It encodes what was cut into an object, and
//!   sends that until the outcome is certain.
//! - [`Follower`]: a further destination, which gets every record at least once, under the same
//!   stream and number, and which nobody waits for.
//! - [`Plan`]: which records an object holds. It is durable, with the object's bytes, before the
//!   first request, so that every later request sends the same bytes to the same place.
//! - [`SystemRecords`], [`Link`], [`Seal`]: for a destination that vouches for streams: what it
//!   writes into them, and what binds an object to those before it. The journal keeps all of it
//!   durable with the objects, and knows nothing of what it means.
//! - [`JournalReader`], [`OrphanedJournal`]: what is in a journal, read from outside; and a journal
//!   whose host is gone, to be delivered by a rescuer.
//! - [`health::HealthBoard`]: where the journal and its destination report how they are doing.
//!
//! # The files
//!
//! One directory, locked by one process at a time:
//!
//! - `<ordinal>.journal`: segments of one size, prepared ahead, so that a commit changes no
//!   metadata.
//! - `<stream>-<first sequence>.object`: an object, whole, with its plan; `.conflict` once another
//!   one was found in its place.
//! - `<stream>.delivered`: how far a stream is delivered.
//! - `<number>.follower`: how far a follower is, and what it misses.
//! - `<stream>.secret`: what is needed to vouch for a stream, until it is delivered.
//! - `begin`: the first segment that is needed.
//!
//! The project's `docs/FORMAT.md` describes them byte by byte, and `docs/JOURNAL.md` what a crash
//! means at each step.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod begin;
#[cfg(feature = "bench_internals")]
#[doc(hidden)]
pub mod bench_internals;
mod commit;
mod cutter;
mod deliveries;
mod delivery;
mod destination;
mod disk;
mod error;
mod followers;
mod format;
pub mod health;
mod kept;
mod orphan;
mod plan;
mod progress;
mod reader;
mod recovery;
mod recovery_error;
mod secret;
mod segment;
mod segment_writer;
mod segments;
mod settings;
#[doc(hidden)]
pub mod shared;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod startup;
mod streams;
mod vouching;

pub use commit::{Bounds, Journal};
pub use destination::{
    Delivery, Destination, Encoded, Encoding, LastRecord, Link, NewStream, Plan, RecordTime,
    Records, Seal, StreamEnd, StreamSecret, SystemRecords,
};
pub use error::{JournalError, JournalErrorKind};
pub use followers::{Follower, FollowerState};
pub use orphan::{JournalDelivered, JournalDelivering, OrphanedJournal};
pub use reader::{
    JournalBatch, JournalFollower, JournalReader, JournalRecords, JournalState, JournalStream,
    PlannedObject,
};
pub use settings::JournalSettings;
pub use shared::bounds::InvalidSettings;
pub use startup::Opening;
