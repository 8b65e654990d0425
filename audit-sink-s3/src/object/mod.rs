//! What stands in a bucket: the keys of objects, their bytes and their metadata. Nothing here talks
//! to one.

pub(crate) mod compression;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod key;

pub(crate) use audit_journal::shared::pieces;
