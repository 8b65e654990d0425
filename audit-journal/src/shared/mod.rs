//! Code that the sinks of this workspace share with the journal. Other crates must not use it.
#![allow(missing_docs, reason = "hidden")]

pub mod bounds;
pub mod executor;
pub(crate) mod job;
pub(crate) mod latest;
pub mod kept {
    pub use crate::kept::{KeptJournal, KeptRecords, KeptStream};
}
pub mod one_line;
pub mod panic;
pub mod pieces;
pub mod ranges;
pub mod take_once;
