//! How the lines in an object are compressed.

use serde::{Deserialize, Serialize};

/// How the lines in an object are compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// One zstd frame with its checksum and its content's size. Level 3: beyond it, audit records
    /// shrink little more.
    #[default]
    Zstd,
    /// One gzip member, without a time or a name in it.
    Gzip,
    /// The lines as they are.
    None,
}

impl Compression {
    /// What follows `.ndjson` in a key.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::Zstd => ".zst",
            Compression::Gzip => ".gz",
            Compression::None => "",
        }
    }

    pub(crate) fn of_suffix(suffix: &str) -> Option<Compression> {
        [Compression::Zstd, Compression::Gzip, Compression::None]
            .into_iter()
            .find(|c| c.suffix() == suffix)
    }

    /// The object's content type. The compression is part of the object and no transport encoding,
    /// so there is no `Content-Encoding`: a client that undid it would hand engines something else
    /// than the suffix says.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Compression::Zstd => "application/zstd",
            Compression::Gzip => "application/gzip",
            Compression::None => "application/x-ndjson",
        }
    }
}
