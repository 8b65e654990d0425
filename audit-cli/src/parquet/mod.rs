//! Parquet files: copies of records beside the bucket, for frequent queries.
//!
//! `audit compact` makes them, `audit verify --parquet` checks them, and `audit export` writes one.
//! Each row contains its record, byte for byte, and its place in the bucket.

mod bounds;
mod check;
mod columns;
mod compact;
mod export;
mod file;
mod footer;
mod group;
mod index;
mod missing;
mod source;
mod thrift;
mod verify;

pub(crate) use compact::run;
pub(crate) use export::{Exporter, Standard};
pub(crate) use group::Group;
pub(crate) use missing::Missing;
pub(crate) use verify::{Compacted, open, verify};
