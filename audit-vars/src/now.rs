//! The value of the variable `now`.

use std::fmt;

use crate::padding::{Piece, SHORT_CHUNK};

/// A point in time, as the value of the variable `now`.
#[derive(Clone, Copy)]
pub struct Now {
    ms: i64,
    json: [u8; SHORT_CHUNK],
    len: u8,
}

impl Now {
    /// A sign and nineteen digits.
    pub const MAX_JSON_BYTES: u32 = 20;

    /// The moment `ms` milliseconds after the Unix epoch.
    pub fn at_ms(ms: i64) -> Now {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(ms).as_bytes();
        let mut json = [0; SHORT_CHUNK];
        json[..digits.len()].copy_from_slice(digits);
        Now { ms, json, len: u8::try_from(digits.len()).expect("at most 20") }
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(&self) -> i64 {
        self.ms
    }

    #[inline]
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece { padded: &self.json, len: self.len.into() }
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.ms)
    }
}
