//! The value of the variable `userAgent`.

use std::fmt;
use std::sync::Arc;

use crate::escape::string_into;
use crate::padding::{Piece, padded};

/// A `User-Agent` header that is safe in a log: no control characters, at most 512 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct UserAgent {
    /// Padded with spaces.
    json: Arc<str>,
    json_bytes: u16,
    /// `None` if it equals the text between the quotes of `json`.
    unescaped: Option<Arc<str>>,
}

impl UserAgent {
    /// The longest text, in bytes of UTF-8. Longer text is cut at a character boundary.
    pub const MAX_BYTES: usize = 512;

    /// Every byte escaped with one backslash, and two quotes. Without control characters no byte
    /// takes more: U+2028 and U+2029 have three bytes, and six as `\u2028`.
    pub const MAX_JSON_BYTES: u32 = 2 * Self::MAX_BYTES as u32 + 2;

    /// From the bytes of a header. Invalid UTF-8, and each control character, becomes U+FFFD; then
    /// the text is cut to [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn from_bytes(bytes: &[u8]) -> UserAgent {
        // A replacement is at least as long as what it replaces, so four times the limit is more
        // than enough: a character cut here lies beyond the limit.
        let bytes = &bytes[..bytes.len().min(4 * Self::MAX_BYTES)];
        let mut text = String::with_capacity(bytes.len().min(Self::MAX_BYTES));
        for char in String::from_utf8_lossy(bytes).chars() {
            let char = if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
            if text.len() + char.len_utf8() > Self::MAX_BYTES {
                break;
            }
            text.push(char);
        }
        let mut json = Vec::with_capacity(text.len() + 2);
        string_into(&mut json, &text);
        let unescaped = (json.len() != text.len() + 2).then(|| text.into());
        let json_bytes = u16::try_from(json.len()).expect("at most MAX_JSON_BYTES");
        UserAgent { json: padded(json), json_bytes, unescaped }
    }

    #[inline]
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece { padded: self.json.as_bytes(), len: self.json_bytes.into() }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.unescaped {
            Some(text) => text,
            None => &self.json[1..usize::from(self.json_bytes) - 1],
        }
    }
}

impl From<&str> for UserAgent {
    fn from(text: &str) -> UserAgent {
        UserAgent::from_bytes(text.as_bytes())
    }
}

impl fmt::Debug for UserAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
