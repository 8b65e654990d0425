//! JSON strings: escaping, as `serde_json` and `JSON.stringify` do it.

use crate::search::{
    Special, SpecialOrWide, WORDS, find_special, find_special_or_wide, is_passed, stop_bits,
};
use crate::separators::{may_end_separator, separators};

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

/// Where escapes are fewer than this many bytes apart, the bytes between them are copied one by
/// one.
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

    proptest! {
        #[test]
        fn strings_are_escaped_like_serde_json_and_separators_too(
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
