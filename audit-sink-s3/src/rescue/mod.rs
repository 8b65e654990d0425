//! Journals whose host is gone: what is in one is delivered, or delivered again.

mod orphan;
mod redelivery;

pub use orphan::{JournalDelivered, JournalDelivering, OrphanedJournal};
pub use redelivery::{ForeignObject, GoneRecords, JournalRedelivered};
