//! A durable local stage for audit logs: a batch is acknowledged after one sync of the host's disk
//! and delivered from there to a [`Destination`], each record once.
//!
//! # Nouns
//!
//! - [`Journal`]: the handle of an open journal. [`Opening`] opens one.
//! - [`Destination`]: where records are delivered. It encodes them into objects and sends each
//!   object until the outcome is certain.
//! - [`Follower`]: an additional destination. It receives every record at least once, under the
//!   same stream and number, and nothing waits for it.
//! - [`Route`]: another destination of the same journal, with records of its own. One sync makes
//!   the batches of all routes durable, and trouble with a destination is its route's own.
//! - [`Plan`]: the records that an object holds. It is durable, with the object's bytes, before the
//!   first request, so that every retry sends the same bytes to the same place.
//! - [`SystemRecords`], [`Link`], [`Seal`]: used by a destination that vouches for streams: the
//!   records it adds to them, and the binding of each object to its predecessors. The journal
//!   stores all of it durably with the objects and does not interpret it.
//! - [`JournalReader`], [`OrphanedJournal`]: a read-only view of a journal, and a journal whose
//!   host is gone and which another process delivers.
//! - [`ReplayLog`]: the records that were sent to a follower again.
//! - [`health::HealthBoard`]: the health that the journal and its destination report.
//!
//! # The files
//!
//! One directory, locked by one process at a time:
//!
//! - `<ordinal>.journal`: segments of a fixed size, prepared in advance so that a commit changes no
//!   metadata.
//! - `<stream>-<first sequence>.object`: a complete object with its plan; `.conflict` once another
//!   object was found in its place.
//! - `<stream>.delivered`: the delivery progress of a stream.
//! - `<number>.follower`: the progress of a follower, and the records it is missing.
//! - `paused`: newer records of routes' followers that were paused.
//! - `<number>.replayed`: the missing records of a follower that were sent again.
//! - `<stream>.secret`: the secret that vouches for a stream, until the stream is delivered.
//! - `routes`: the names, numbers and destinations of routes.
//! - `begin`: the first segment that is still needed.
//!
//! The project's `docs/FORMAT.md` describes them byte by byte; `docs/JOURNAL.md` says what a crash
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
mod followers;
mod format;
pub mod health;
mod kept;
mod object_file;
mod orphan;
mod plan;
mod progress;
mod reader;
mod recovery;
mod recovery_error;
mod route;
mod routes;
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
mod watermark;

pub use audit_core::{OpenError, OpenErrorKind};
pub use commit::{Bounds, Journal};
pub use destination::{
    Delivery, Destination, Encoded, Encoding, LastRecord, Link, NewStream, Plan, RecordTime,
    Records, Seal, Sealing, StreamEnd, StreamSecret, SystemRecords, Unsealed,
};
pub use followers::{Follower, FollowerState, ReplayLog};
pub use orphan::{JournalDelivered, JournalDelivering, OrphanedJournal};
pub use reader::{
    JournalBatch, JournalFollower, JournalReader, JournalRecords, JournalRoute, JournalState,
    JournalStream, PlannedObject,
};
pub use route::Route;
pub use routes::{RouteOpening, check_route_name};
pub use settings::JournalSettings;
pub use shared::bounds::InvalidSettings;
pub use startup::Opening;
