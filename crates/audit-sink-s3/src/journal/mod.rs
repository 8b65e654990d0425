#![allow(dead_code, reason = "wired in by the next commits")]
//! The journal: records made durable on this host's disk with one sync, on their way to the bucket.
//!
//! - `disk`: the operations of a directory, real or simulated.
//! - `format`: what stands in the files.
//! - `segment`: files of one size, prepared ahead, read group by group.
//! - `writer`: commits groups.
//! - `recovery`: what a crash left.

pub(crate) mod disk;
pub(crate) mod format;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod writer;
