//! Characters that end a line for some readers.

use crate::search::{CHUNK, HIGHEST, ONES};

/// A character that ends a line for some readers, beside the line feed: U+0085, U+2028 or U+2029.
/// Python's `splitlines` and JavaScript before ES2019 are such readers.
pub(crate) struct Separator {
    pub(crate) at: usize,
    pub(crate) bytes: usize,
    /// The same character in JSON.
    pub(crate) escape: &'static [u8; 6],
}

/// The separators in UTF-8 text, in their order.
#[inline]
pub(crate) fn separators(bytes: &[u8]) -> impl Iterator<Item = Separator> {
    let mut from = if may_end_separator(bytes) { 0 } else { bytes.len() };
    std::iter::from_fn(move || {
        let separator = next_separator(bytes, from)?;
        from = separator.at + separator.bytes;
        Some(separator)
    })
}

/// Whether a byte may be the last of a separator. Their first bytes would serve as well, but more
/// characters begin with those.
#[inline]
pub(crate) fn may_end_separator(bytes: &[u8]) -> bool {
    const WIDE: usize = 2 * CHUNK;
    // Without an early exit inside of a chunk, so that it can be vectorized.
    let ends = |any, byte: &u8| any | u8::from((*byte | 1) == 0xa9) | u8::from(*byte == 0x85);
    let holds = |bytes: &[u8]| bytes.iter().fold(0, ends) != 0;
    if let Some(last) = bytes.last_chunk::<WIDE>() {
        return bytes.as_chunks::<WIDE>().0.iter().any(|chunk| holds(chunk)) || holds(last);
    }
    // Not zero if a byte of the word is.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHEST;
    let may_end = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        zeros((word | ONES) ^ (ONES * 0xa9)) | zeros(word ^ (ONES * 0x85))
    };
    match bytes.last_chunk() {
        Some(last) => {
            bytes.as_chunks().0.iter().fold(may_end(last), |any, word| any | may_end(word)) != 0
        }
        None => holds(bytes),
    }
}

fn next_separator(bytes: &[u8], from: usize) -> Option<Separator> {
    (from..bytes.len()).find_map(|at| match &bytes[at..] {
        [0xc2, 0x85, ..] => Some(Separator { at, bytes: 2, escape: b"\\u0085" }),
        [0xe2, 0x80, 0xa8, ..] => Some(Separator { at, bytes: 3, escape: b"\\u2028" }),
        [0xe2, 0x80, 0xa9, ..] => Some(Separator { at, bytes: 3, escape: b"\\u2029" }),
        _ => None,
    })
}
