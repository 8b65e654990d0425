//! Parquet: files made of records, beside them, for those who query much.
//!
//! `audit compact` makes them, `audit verify --parquet` checks them, and `audit export` writes one.
//! Each row has its record, byte for byte, and where it is from.

mod check;
mod columns;
mod compact;
mod export;
mod file;
mod group;
mod index;
mod missing;
mod source;
mod verify;

pub(crate) use compact::run;
pub(crate) use export::{Exporter, Standard};
pub(crate) use group::Group;
pub(crate) use missing::Missing;
pub(crate) use verify::{Compacted, open, verify};
