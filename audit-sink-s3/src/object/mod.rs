//! The objects of a bucket: their keys, bytes and metadata. Nothing here does I/O.

pub(crate) mod compression;
pub(crate) mod decode;
pub(crate) mod decompress;
pub(crate) mod encode;
pub(crate) mod encoded;
pub(crate) mod key;
pub(crate) mod partition;

pub(crate) use audit_journal::shared::pieces;
