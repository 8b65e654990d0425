//! JSON strings: escaping, as `serde_json` and `JSON.stringify` do it.

/// Bytes looked at together where text is long. The compiler turns the check of a whole chunk into
/// a few vector instructions.
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

/// Of eight bytes, the first the lowest: has the highest bit of the first one that [`IS_SPECIAL`],
/// and no bit before it. What it has after that bit means nothing.
#[inline(always)]
fn special_bits(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHEST: u64 = ONES << 7;
    // Subtracting sets the highest bit of each byte that is less than what is subtracted, which is
    // at most 128, and perhaps of some after the first of them, since it borrows from those. With
    // 0x20 and 0x22 changing places, a quote is just below the control characters' end.
    let control_or_quote = (word ^ (ONES * (0x20 ^ u64::from(b'"')))).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    // Bytes of 128 and more are parts of longer characters, and neither comparison means anything
    // for them.
    (control_or_quote | backslash) & !word & HIGHEST
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
            at +=
                CHUNK * bytes[at..].chunks_exact(CHUNK).take_while(|chunk| is_plain(chunk)).count();
        }
    }
    let left = bytes.len() - at;
    match bytes.last_chunk() {
        Some(word) if left > 0 => {
            // The last eight bytes, without those that were looked at. The zeros behind what is
            // left are special.
            let word = u64::from_le_bytes(*word) >> (8 * (size_of::<u64>() - left));
            at + left.min(special_bits(word).trailing_zeros() as usize / 8)
        }
        Some(_) => at,
        None => {
            while at < bytes.len() && !IS_SPECIAL[usize::from(bytes[at])] {
                at += 1;
            }
            at
        }
    }
}

/// Whether nothing in this chunk is special. Without an early exit, so that it can be vectorized.
fn is_plain(chunk: &[u8]) -> bool {
    !chunk.iter().fold(false, |any, byte| any | ((*byte ^ 2) < 0x21) | (*byte == b'\\'))
}

/// Appends a few bytes. Two chunks that overlap take less time than a call of the one who copies.
#[inline(always)]
fn append_short(out: &mut Vec<u8>, bytes: &[u8]) {
    /// Between `N` and `2 * N` bytes.
    #[inline(always)]
    fn twice<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
        let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
            return false;
        };
        let end = out.len() + bytes.len();
        out.extend_from_slice(first);
        out.truncate(end - N);
        out.extend_from_slice(last);
        true
    }
    match bytes.len() {
        8..=16 => twice::<8>(out, bytes),
        17..=32 => twice::<16>(out, bytes),
        33..=64 => twice::<32>(out, bytes),
        4..8 => twice::<4>(out, bytes),
        0..4 => {
            bytes.iter().for_each(|byte| out.push(*byte));
            true
        }
        _ => {
            out.extend_from_slice(bytes);
            true
        }
    };
}

/// Appends `text` escaped, without quotes.
#[inline]
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let special = find_special(bytes, 0);
    append_short(out, &bytes[..special]);
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
        append_short(out, &bytes[from..special]);
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn string_into(out: &mut Vec<u8>, text: &str) {
    string_between(out, b"\"", text, b"\"");
}

/// The same, with the quotes and what stands before and behind them.
#[inline(always)]
pub(crate) fn string_between<const A: usize, const B: usize>(
    out: &mut Vec<u8>,
    before: &[u8; A],
    text: &str,
    behind: &[u8; B],
) {
    out.reserve(A + text.len() + B);
    out.extend_from_slice(before);
    escape_into(out, text);
    out.extend_from_slice(behind);
}

/// What ends a line for some readers, beside the line feed: U+0085, U+2028 and U+2029. Python's
/// `splitlines` and JavaScript before ES2019 are such readers. As JSON, `\u2028` is the same
/// string.
fn separator(bytes: &[u8]) -> Option<(usize, &'static [u8; 6])> {
    match bytes {
        [0xc2, 0x85, ..] => Some((2, b"\\u0085")),
        [0xe2, 0x80, 0xa8, ..] => Some((3, b"\\u2028")),
        [0xe2, 0x80, 0xa9, ..] => Some((3, b"\\u2029")),
        _ => None,
    }
}

/// Escapes every separator in JSON text, where they can only stand in strings. `places` ascend, and
/// move with the text.
#[inline]
pub(crate) fn escape_separators<'p>(text: &mut Vec<u8>, places: impl Iterator<Item = &'p mut u32>) {
    // Most text is ASCII, and seen to be that in a third of the instructions.
    if !text.is_ascii() && may_end_separator(text) {
        escape_separators_of(text, places);
    }
}

/// Whether a byte in here is the last of a separator. Their first bytes would do as well, but more
/// characters begin with those.
#[inline]
fn may_end_separator(bytes: &[u8]) -> bool {
    const WIDE: usize = 2 * CHUNK;
    // Without an early exit inside of a chunk, so that it can be vectorized.
    let ends = |any, byte: &u8| any | u8::from((*byte | 1) == 0xa9) | u8::from(*byte == 0x85);
    let holds = |bytes: &[u8]| bytes.iter().fold(0, ends) != 0;
    match bytes.last_chunk::<WIDE>() {
        Some(last) => bytes.as_chunks::<WIDE>().0.iter().any(|chunk| holds(chunk)) || holds(last),
        None => holds(bytes),
    }
}

#[cold]
#[inline(never)]
fn escape_separators_of<'p>(text: &mut Vec<u8>, mut places: impl Iterator<Item = &'p mut u32>) {
    let is_separator = |start: usize, bytes: &[u8]| {
        may_end_separator(bytes)
            && (start.saturating_sub(2)..start + bytes.len())
                .any(|at| separator(&text[at..]).is_some())
    };
    let mut chunks = text.chunks(CHUNK).enumerate();
    if !chunks.any(|(n, bytes)| is_separator(n * CHUNK, bytes)) {
        return;
    }
    let mut escaped = Vec::with_capacity(text.len() + 64);
    let mut place = places.next();
    let mut at = 0;
    loop {
        while let Some(moved) = place.take_if(|place| **place as usize == at) {
            *moved = u32::try_from(escaped.len()).expect("at most twice a log");
            place = places.next();
        }
        match separator(&text[at..]) {
            Some((bytes, escape)) => {
                escaped.extend_from_slice(escape);
                at += bytes;
            }
            None => match text.get(at) {
                Some(byte) => {
                    escaped.push(*byte);
                    at += 1;
                }
                None => break,
            },
        }
    }
    *text = escaped;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_at_every_place_is_seen() {
        for len in 0..80usize {
            for at in 0..=len {
                for from in [0, at.saturating_sub(3), at] {
                    for byte in 0..=255u8 {
                        // Before `from` everything is special, and so is all that follows.
                        let mut bytes = vec![b'"'; len];
                        bytes[from..at].fill(b'~');
                        bytes[at..].fill(byte);
                        let expected = match (at < len, IS_SPECIAL[usize::from(byte)]) {
                            (true, true) => at,
                            (true, false) | (false, _) => len,
                        };
                        assert_eq!(
                            find_special(&bytes, from),
                            expected,
                            "{byte:#x} at {at} of {len} from {from}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn strings_are_escaped_as_serde_json_does(text in "(?s:[ -~]{0,80}|.{0,80}|[\\x00-\\x22\\\\a]{0,80})") {
            let mut out = Vec::new();
            string_into(&mut out, &text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
