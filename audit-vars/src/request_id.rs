//! The value of the variable `requestId`.

use std::fmt;
use std::sync::Arc;

use audit_core::{Clock, Random, UniqueId};

use crate::padding::{Piece, padded};

/// The identifier of a request: 1 to 128 ASCII letters, digits or `-_.:/+=@~`, so that it never
/// needs escapes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// In quotes, and padded with spaces.
    json: Arc<str>,
    json_bytes: u8,
}

impl RequestId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The text and two quotes.
    pub const MAX_JSON_BYTES: u32 = Self::MAX_BYTES as u32 + 2;

    /// An id assigned by another system.
    ///
    /// # Errors
    ///
    /// If it is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), or contains other characters.
    pub fn new(text: &str) -> Result<RequestId, InvalidRequestId> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte);
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.bytes().all(plain) {
            return Err(InvalidRequestId);
        }
        Ok(RequestId::quoted(format!("\"{text}\"")))
    }

    /// A new, unique id.
    pub fn generate(clock: &dyn Clock, random: &dyn Random) -> RequestId {
        RequestId::quoted(format!("\"{}\"", UniqueId::generate(clock, random)))
    }

    fn quoted(json: String) -> RequestId {
        let json_bytes = u8::try_from(json.len()).expect("at most MAX_JSON_BYTES");
        RequestId { json: padded(json.into_bytes()), json_bytes }
    }

    #[inline]
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece { padded: self.json.as_bytes(), len: self.json_bytes.into() }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.json[1..usize::from(self.json_bytes) - 1]
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a [`RequestId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 1 to {} ASCII letters, digits or -_.:/+=@~", RequestId::MAX_BYTES)]
pub struct InvalidRequestId;
