//! Copying short pieces of text as chunks of a fixed size.
//!
//! Calling memcpy for 20 bytes costs more than the copy itself. So templates and values are padded:
//! a short piece is copied together with the bytes behind it, as a chunk of a fixed size, and the
//! output is truncated to the end of the piece.

use std::sync::Arc;

/// The value of a variable, to be copied.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// Begins with the value; what follows is padding.
    pub(crate) padded: &'a [u8],
    pub(crate) len: usize,
}

impl<'a> Piece<'a> {
    pub(crate) fn as_json(&self) -> &'a [u8] {
        &self.padded[..self.len]
    }
}

pub(crate) const NULL: Piece<'static> = Piece {
    padded: &{
        let mut padded = [0; SHORT_CHUNK];
        (padded[0], padded[1], padded[2], padded[3]) = (b'n', b'u', b'l', b'l');
        padded
    },
    len: 4,
};

/// JSON padded with spaces, so that it can be copied as a chunk.
pub(crate) fn padded(mut json: Vec<u8>) -> Arc<str> {
    json.resize(json.len().max(SHORT_CHUNK), b' ');
    String::from_utf8(json).expect("made of text").into()
}

/// Most pieces between variables, and most values, are at most this long.
pub(crate) const SHORT_CHUNK: usize = 64;

/// Beyond this size, copying a chunk is slower than a call of memcpy.
pub(crate) const LONGEST_CHUNK: usize = 128;

/// Appends the first `len` of these bytes. If enough bytes follow them, they are copied as a chunk
/// whose size the compiler knows, and the excess is truncated: a few instructions instead of a
/// call. Uses the smallest chunk that suffices, because the stores dominate the cost.
#[inline(always)]
pub(crate) fn append(out: &mut Vec<u8>, padded: &[u8], len: usize) {
    let is_copied = match len {
        0..=16 => append_chunk::<16>(out, padded, len),
        17..=32 => append_chunk::<32>(out, padded, len),
        33..=SHORT_CHUNK => append_chunk::<SHORT_CHUNK>(out, padded, len),
        65..=LONGEST_CHUNK => append_chunk::<LONGEST_CHUNK>(out, padded, len),
        _ => false,
    };
    if !is_copied {
        out.extend_from_slice(&padded[..len]);
    }
}

/// False if there are fewer than `N` bytes.
#[inline(always)]
fn append_chunk<const N: usize>(out: &mut Vec<u8>, padded: &[u8], len: usize) -> bool {
    let Some(chunk) = padded.first_chunk::<N>() else { return false };
    let end = out.len() + len;
    out.extend_from_slice(chunk);
    out.truncate(end);
    true
}
