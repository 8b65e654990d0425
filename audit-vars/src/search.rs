//! Searches for the bytes that must be escaped, many bytes at a time.

/// The size of a chunk in which long text is searched, in bytes. The compiler turns the check of a
/// whole chunk into a few vector instructions.
pub(crate) const CHUNK: usize = 32;

/// How many words of eight bytes are searched one by one before whole chunks are searched.
pub(crate) const WORDS: u32 = 4;

pub(crate) const ONES: u64 = u64::MAX / 255;
/// The highest bit of each of eight bytes.
pub(crate) const HIGHEST: u64 = ONES << 7;

/// Which bytes a search stops at. Both kinds stop at bytes that must be escaped in a JSON string
/// (RFC 8259, section 7): control characters, quotes and backslashes.
pub(crate) trait Stops {
    /// Whether bytes of 128 and above, parts of longer characters, are passed over.
    const PASSES_WIDE: bool;
}

pub(crate) enum Special {}
pub(crate) enum SpecialOrWide {}

impl Stops for Special {
    const PASSES_WIDE: bool = true;
}

impl Stops for SpecialOrWide {
    const PASSES_WIDE: bool = false;
}

/// For eight bytes, the first the lowest: sets the highest bit of the first byte that the search
/// stops at, and no bit before it. Bits after it are meaningless.
#[inline(always)]
pub(crate) fn stop_bits<S: Stops>(word: u64) -> u64 {
    // Subtracting a number of at most 128 sets the highest bit of each byte that is less, and
    // perhaps of some after the first such byte, because of borrows. With 0x20 and 0x22 swapped, a
    // quote is just below the end of the control characters.
    let control_or_quote = (word ^ (ONES * (0x20 ^ u64::from(b'"')))).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    // Neither comparison is valid for bytes of 128 and above.
    let special = control_or_quote | backslash;
    (if S::PASSES_WIDE { special & !word } else { special | word }) & HIGHEST
}

/// Index of the first byte from `from` on that is special (a control character, a quote or a
/// backslash), or the length.
#[inline(always)]
pub(crate) fn find_special(bytes: &[u8], from: usize) -> usize {
    find::<Special>(bytes, from)
}

/// As [`find_special`], and stops at wide bytes too: those of 128 and above.
#[inline(always)]
pub(crate) fn find_special_or_wide(bytes: &[u8], from: usize) -> usize {
    find::<SpecialOrWide>(bytes, from)
}

// Inlined, since most strings are one or two words of eight bytes long: a call would take a tenth
// of the time of compiling.
#[inline(always)]
fn find<S: Stops>(bytes: &[u8], from: usize) -> usize {
    let mut rest = &bytes[from..];
    let mut words = 0u32;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let bits = stop_bits::<S>(u64::from_le_bytes(*word));
        if bits != 0 {
            return bytes.len() - rest.len() + bits.trailing_zeros() as usize / 8;
        }
        rest = behind;
        words += 1;
        // Text without special bytes so far often has none for longer.
        if words == WORDS {
            words = 0;
            let (chunks, _) = rest.as_chunks::<CHUNK>();
            let passed = chunks.iter().take_while(|chunk| is_passed::<S, CHUNK>(chunk)).count();
            rest = &rest[CHUNK * passed..];
        }
    }
    let left = rest.len();
    if left == 0 {
        return bytes.len();
    }
    let last = match bytes.last_chunk() {
        // The last eight bytes, less those already searched.
        Some(word) => u64::from_le_bytes(*word) >> (8 * (size_of::<u64>() - left)),
        None => match (rest.first_chunk(), rest.last_chunk()) {
            // The two halves may overlap, and hold the same bytes where they do.
            (Some(first), Some(last)) => {
                let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
                u64::from(first) | u64::from(last) << (8 * (left - size_of::<u32>()))
            }
            _ => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        },
    };
    // Zero bytes follow the remaining ones. They are special, so the search stops there at the
    // latest.
    let bits = stop_bits::<S>(last);
    bytes.len() - left + left.min(bits.trailing_zeros() as usize / 8)
}

/// Whether a search stops nowhere in this chunk. Without an early exit, so that it can be
/// vectorized.
#[inline(always)]
pub(crate) fn is_passed<S: Stops, const N: usize>(chunk: &[u8; N]) -> bool {
    !chunk.iter().fold(false, |any, byte| {
        let is_special = ((*byte ^ 2) < 0x21) | (*byte == b'\\');
        any | is_special | (!S::PASSES_WIDE & !byte.is_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_are_found_at_every_position() {
        for len in 0..80usize {
            for at in 0..=len {
                for from in [0, at.saturating_sub(3), at] {
                    for byte in 0..=255u8 {
                        // Everything before `from` is special, and so is everything that follows.
                        let mut bytes = vec![b'"'; len];
                        bytes[from..at].fill(b'~');
                        bytes[at..].fill(byte);
                        let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
                        let expected = |stops: bool| if stops { at } else { len };
                        let case = format!("{byte:#x} at {at} of {len} from {from}");
                        let found = find_special_or_wide(&bytes, from);
                        assert_eq!(found, expected(is_special || byte >= 0x80), "{case}");
                        // Wide bytes are passed over wherever they are.
                        for passed in [b'~', 0x80, 0xff] {
                            bytes[from..at].fill(passed);
                            assert_eq!(find_special(&bytes, from), expected(is_special), "{case}");
                        }
                    }
                }
            }
        }
    }
}
