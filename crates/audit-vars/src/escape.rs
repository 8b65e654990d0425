//! JSON strings: escaping, as `serde_json` and `JSON.stringify` do it.

/// Bytes looked at together where text is long. The compiler turns the check of a whole chunk into a few vector
/// instructions.
const CHUNK: usize = 32;

/// Whether a byte cannot stand in a JSON string as it is (RFC 8259, section 7).
static IS_SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

/// Of eight bytes, the first the lowest: has the highest bit of the first one that [`IS_SPECIAL`], and no bit before it.
/// What it has after that bit means nothing.
fn special_bits(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHEST: u64 = ONES << 7;
    // The highest bit of each byte that is less than `n`, which is at most 128, and perhaps of some after the first of
    // them, since the subtraction borrows from those.
    let less = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHEST;
    let equal = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    less(word, 0x20) | equal(b'"') | equal(b'\\')
}

/// Index of the first byte from `from` on that [`IS_SPECIAL`], or the length.
// Most strings are a word or two long: a call would be a tenth of compiling.
#[inline(always)]
pub(crate) fn find_special(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes[at..].first_chunk() {
        let bits = special_bits(u64::from_le_bytes(*word));
        if bits != 0 {
            return at + bits.trailing_zeros() as usize / 8;
        }
        at += size_of::<u64>();
        // Text that went on for so long often goes on.
        if (at - from).is_multiple_of(CHUNK) {
            at += CHUNK * bytes[at..].chunks_exact(CHUNK).take_while(|chunk| is_plain(chunk)).count();
        }
    }
    while at < bytes.len() && !IS_SPECIAL[usize::from(bytes[at])] {
        at += 1;
    }
    at
}

/// Whether nothing in this chunk is special. Without an early exit, so that it can be vectorized.
fn is_plain(chunk: &[u8]) -> bool {
    !chunk.iter().fold(false, |any, byte| any | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'))
}

/// Appends `text` escaped, without quotes.
#[inline]
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let special = find_special(bytes, 0);
    out.extend_from_slice(&bytes[..special]);
    if special < bytes.len() {
        escape_from(out, bytes, special);
    }
}

/// Appends what begins with the special byte at `special`, escaped.
fn escape_from(out: &mut Vec<u8>, bytes: &[u8], mut special: usize) {
    while let Some(byte) = bytes.get(special) {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            _ => 0,
        };
        if short != 0 {
            out.extend_from_slice(&[b'\\', short]);
        } else {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let digit = |bits: u8| HEX[usize::from(bits & 15)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(*byte)]);
        }
        let from = special + 1;
        special = find_special(bytes, from);
        out.extend_from_slice(&bytes[from..special]);
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn string_into(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    escape_into(out, text);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_are_escaped_as_serde_json_does(text in "(?s:[ -~]{0,80}|.{0,80}|[\\x00-\\x22\\\\a]{0,80})") {
            let mut out = Vec::new();
            string_into(&mut out, &text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
