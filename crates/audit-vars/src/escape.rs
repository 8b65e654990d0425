//! JSON strings: escaping, as `serde_json` and `JSON.stringify` do it.

/// Bytes looked at together. The compiler turns the check of a whole chunk into a few vector instructions.
const CHUNK: usize = 32;

/// Whether this byte cannot stand in a JSON string as it is (RFC 8259, section 7).
pub(crate) fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Index of the first byte from `from` on that [`is_special`], or the length.
pub(crate) fn find_special(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(chunk) = bytes.get(at..at + CHUNK) {
        // No early exit inside the chunk: that is what lets it be vectorized.
        if chunk.iter().fold(false, |any, byte| any | is_special(*byte)) {
            break;
        }
        at += CHUNK;
    }
    while at < bytes.len() && !is_special(bytes[at]) {
        at += 1;
    }
    at
}

/// Appends `text` escaped, without quotes.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    loop {
        let special = find_special(bytes, from);
        out.extend_from_slice(&bytes[from..special]);
        let Some(byte) = bytes.get(special) else { return };
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digits = [HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
                from = special + 1;
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
        from = special + 1;
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
