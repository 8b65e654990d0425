//! The compression of objects.

use serde::{Deserialize, Serialize};

/// How the lines in an object are compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// One zstd frame with a checksum and the content's size. Level 3: higher levels shrink audit
    /// records little further.
    #[default]
    Zstd,
    /// One gzip member, without a time or a name.
    Gzip,
    /// Uncompressed.
    None,
}

impl Compression {
    /// The suffix after `.ndjson` in a key.
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

    /// The object's content type. The compression is part of the object and not a transport
    /// encoding, so there is no `Content-Encoding`: a client that decompressed it would contradict
    /// the suffix.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Compression::Zstd => "application/zstd",
            Compression::Gzip => "application/gzip",
            Compression::None => "application/x-ndjson",
        }
    }
}
