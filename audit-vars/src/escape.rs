//! JSON strings: escaping, as `serde_json` and `JSON.stringify` do it.

/// The size of a chunk in which long text is searched, in bytes. The compiler turns the check of a
/// whole chunk into a few vector instructions.
const CHUNK: usize = 32;

/// How many words are searched one by one before whole chunks are.
const WORDS: u32 = 4;

const ONES: u64 = u64::MAX / 255;
/// The highest bit of each of eight bytes.
const HIGHEST: u64 = ONES << 7;

/// Which bytes a search stops at. Both kinds stop at bytes that must be escaped in a JSON string
/// (RFC 8259, section 7): control characters, quotes and backslashes.
trait Stops {
    /// Whether bytes of 128 and above, parts of longer characters, are passed over.
    const PASSES_WIDE: bool;
}

enum Special {}
enum SpecialOrWide {}

impl Stops for Special {
    const PASSES_WIDE: bool = true;
}

impl Stops for SpecialOrWide {
    const PASSES_WIDE: bool = false;
}

/// For eight bytes, the first the lowest: sets the highest bit of the first byte that the search
/// stops at, and no bit before it. Bits after it are meaningless.
#[inline(always)]
fn stop_bits<S: Stops>(word: u64) -> u64 {
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

// Most strings are a word or two long: a call would be a tenth of compiling.
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
            // They overlap, and are equal where they do.
            (Some(first), Some(last)) => {
                let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
                u64::from(first) | u64::from(last) << (8 * (left - size_of::<u32>()))
            }
            _ => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        },
    };
    // The zeros behind the remaining bytes are special.
    let bits = stop_bits::<S>(last);
    bytes.len() - left + left.min(bits.trailing_zeros() as usize / 8)
}

/// Whether a search stops nowhere in this chunk. Without an early exit, so that it can be
/// vectorized.
#[inline(always)]
fn is_passed<S: Stops, const N: usize>(chunk: &[u8; N]) -> bool {
    !chunk.iter().fold(false, |any, byte| {
        let is_special = ((*byte ^ 2) < 0x21) | (*byte == b'\\');
        any | is_special | (!S::PASSES_WIDE & !byte.is_ascii())
    })
}

/// Appends a few bytes. Copying two overlapping chunks is faster than a call of memcpy.
#[inline(always)]
pub(crate) fn append_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let is_copied = match bytes.len() {
        8..=16 => append_twice::<8>(out, bytes),
        17..=32 => append_twice::<16>(out, bytes),
        33..=64 => append_twice::<32>(out, bytes),
        4..8 => append_twice::<4>(out, bytes),
        0..4 => {
            if let [first, .., last] | [first @ last] = bytes {
                append_part(out, &[*first, bytes[bytes.len() / 2], *last], bytes.len());
            }
            true
        }
        _ => false,
    };
    if !is_copied {
        out.extend_from_slice(bytes);
    }
}

/// Appends between `N` and `2 * N` bytes. False if there are fewer.
#[inline(always)]
fn append_twice<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
        return false;
    };
    let end = out.len() + bytes.len();
    out.extend_from_slice(first);
    out.truncate(end - N);
    out.extend_from_slice(last);
    true
}

/// Appends the first `len` of these bytes.
#[inline(always)]
fn append_part<const N: usize>(out: &mut Vec<u8>, bytes: &[u8; N], len: usize) {
    let end = out.len() + len;
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// Appends `text` escaped, without quotes.
#[inline]
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    // Most strings are short and plain: two overlapping chunks are checked, and the same two
    // copied.
    let is_copied = match bytes.len() {
        8..=16 => append_if_plain::<8>(out, bytes),
        17..=32 => append_if_plain::<16>(out, bytes),
        33..=64 => append_if_plain::<32>(out, bytes),
        _ => false,
    };
    if !is_copied {
        escape_any(out, bytes);
    }
}

/// Appends between `N` and `2 * N` bytes, if none of them is special or wide.
#[inline(always)]
fn append_if_plain<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
        return false;
    };
    let is_plain = match (first.as_chunks().0, last.as_chunks().0) {
        ([first], [last]) => {
            let stops = |word: &[u8; 8]| stop_bits::<SpecialOrWide>(u64::from_le_bytes(*word));
            stops(first) | stops(last) == 0
        }
        _ => is_passed::<SpecialOrWide, N>(first) & is_passed::<SpecialOrWide, N>(last),
    };
    is_plain && append_twice::<N>(out, bytes)
}

/// Appends text escaped.
fn escape_any(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = find_special_or_wide(bytes, 0);
    append_short(out, &bytes[..end]);
    if end < bytes.len() {
        escape_from(out, bytes, end);
    }
}

/// The class of each byte of a string: plain, wide, or escaped with a backslash and this letter,
/// which is `u` for control characters that are escaped by number.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut byte = 0;
    while byte < escapes.len() {
        escapes[byte] = match byte as u8 {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            0..0x20 => b'u',
            0x80.. => WIDE,
            _ => PLAIN,
        };
        byte += 1;
    }
    escapes
};
const PLAIN: u8 = 0;
const WIDE: u8 = 1;

/// Where escapes are closer together than this, the bytes between them are copied one by one.
const CLOSE: usize = 4;

/// Appends text that begins with a special or wide byte, escaped.
fn escape_from(out: &mut Vec<u8>, bytes: &[u8], from: usize) {
    let mut at = from;
    // Whether wide bytes are plain, since no separator is among them.
    let mut passes_wide = false;
    let mut is_close = false;
    while let Some(byte) = bytes.get(at) {
        match ESCAPES[usize::from(*byte)] {
            PLAIN => {}
            WIDE => {
                if !passes_wide && may_end_separator(&bytes[at..]) {
                    return escape_with_separators(out, bytes, at);
                }
                passes_wide = true;
            }
            escape => {
                append_escape(out, *byte, escape);
                at += 1;
            }
        }
        let start = at;
        let is_plain = |byte: u8| match ESCAPES[usize::from(byte)] {
            PLAIN => true,
            WIDE => passes_wide,
            _ => false,
        };
        if is_close {
            let few = append_plain(out, &bytes[at..], CLOSE, is_plain);
            at += few;
            if few < CLOSE {
                continue;
            }
        }
        let mut words = 0;
        while let Some(word) = bytes[at..].first_chunk()
            && words < WORDS
        {
            let word_bits = u64::from_le_bytes(*word);
            let bits = match passes_wide {
                true => stop_bits::<Special>(word_bits),
                false => stop_bits::<SpecialOrWide>(word_bits),
            };
            let len = bits.trailing_zeros() as usize / 8;
            append_part(out, word, len);
            at += len;
            if len < size_of::<u64>() {
                break;
            }
            words += 1;
        }
        if words == WORDS {
            let end = match passes_wide {
                true => find_special(bytes, at),
                false => find_special_or_wide(bytes, at),
            };
            append_short(out, &bytes[at..end]);
            at = end;
        } else if bytes.len() - at < size_of::<u64>() {
            at += append_plain(out, &bytes[at..], size_of::<u64>(), is_plain);
        }
        is_close = at - start < CLOSE;
    }
}

/// Appends the leading plain bytes one by one, up to this number. Returns how many.
#[inline(always)]
fn append_plain(
    out: &mut Vec<u8>,
    bytes: &[u8],
    most: usize,
    is_plain: impl Fn(u8) -> bool,
) -> usize {
    let plain = bytes.iter().take(most).take_while(|byte| is_plain(**byte));
    plain.map(|byte| out.push(*byte)).count()
}

/// Appends the escape of a byte.
#[inline(always)]
fn append_escape(out: &mut Vec<u8>, byte: u8, escape: u8) {
    if escape == b'u' {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digit = |bits: u8| HEX[usize::from(bits & 15)];
        out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
    } else {
        out.extend_from_slice(&[b'\\', escape]);
    }
}

/// Appends text that may have separators, escaped.
#[inline(never)]
fn escape_with_separators(out: &mut Vec<u8>, bytes: &[u8], mut at: usize) {
    loop {
        let end = find_special(bytes, at);
        append_without_separators(out, &bytes[at..end]);
        let Some(byte) = bytes.get(end) else { return };
        append_escape(out, *byte, ESCAPES[usize::from(*byte)]);
        at = end + 1;
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn string_into(out: &mut Vec<u8>, text: &str) {
    string_between(out, b"\"", text, b"\"");
}

/// Appends `text` as a JSON string, between two other pieces of text.
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
fn may_end_separator(bytes: &[u8]) -> bool {
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

/// Appends plain bytes, the separators among them escaped.
#[cold]
#[inline(never)]
fn append_without_separators(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut from = 0;
    for separator in separators(bytes) {
        out.extend_from_slice(&bytes[from..separator.at]);
        out.extend_from_slice(separator.escape);
        from = separator.at + separator.bytes;
    }
    out.extend_from_slice(&bytes[from..]);
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

    proptest! {
        #[test]
        fn strings_are_escaped_as_serde_json_does_and_separators_too(
            text in "(?s:[ -~]{0,80}|.{0,80}|[\\x00-\\x22\\\\a]{0,80}|[a\"\u{85}\u{e9}\u{2027}-\u{202a}]{0,80})",
        ) {
            let mut out = Vec::new();
            string_into(&mut out, &text);
            let mut expected = serde_json::to_string(&text).unwrap();
            for (separator, escape) in [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")] {
                expected = expected.replace(separator, escape);
            }
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
