//! Quickly recognizes JSON in the form that sinks write: every line of a bucket is checked, and
//! most need no parser.

/// Whether a line is a JSON object in the form that sinks write: without white space, and at most
/// 63 levels deep. `false` means that a parser must decide. The line must be UTF-8.
pub(crate) fn is_plain(line: &[u8]) -> bool {
    line.first() == Some(&b'{') && plain_end(line) == Some(line.len())
}

/// The maximum depth, with one bit for each level.
const MAX_DEPTH: u32 = 63;

/// The end of the value at the beginning of the line.
fn plain_end(line: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0);
    // For each level, the innermost first, whether it is an object.
    let mut levels: u64 = 0;
    loop {
        // A value begins here.
        match *line.get(at)? {
            open @ (b'{' | b'[') => {
                if depth == MAX_DEPTH {
                    return None;
                }
                let is_object = open == b'{';
                let close = if is_object { b'}' } else { b']' };
                at += 1;
                if *line.get(at)? != close {
                    depth += 1;
                    levels = levels << 1 | u64::from(is_object);
                    if is_object {
                        at = name_end(line, at)?;
                    }
                    continue;
                }
                at += 1;
            }
            b'"' => at = string_end(line, at + 1)?,
            b't' => at = word_end(line, at, b"true")?,
            b'f' => at = word_end(line, at, b"false")?,
            b'n' => at = word_end(line, at, b"null")?,
            _ => at = number_end(line, at)?,
        }
        // The value has ended, and possibly the values that contain it.
        loop {
            if depth == 0 {
                return Some(at);
            }
            let is_object = levels & 1 == 1;
            match (*line.get(at)?, is_object) {
                (b',', true) => {
                    at = name_end(line, at + 1)?;
                    break;
                }
                (b',', false) => {
                    at += 1;
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    depth -= 1;
                    levels >>= 1;
                }
                _ => return None,
            }
        }
    }
}

/// The end of a member's name and its colon.
fn name_end(line: &[u8], at: usize) -> Option<usize> {
    if *line.get(at)? != b'"' {
        return None;
    }
    let at = string_end(line, at + 1)?;
    (*line.get(at)? == b':').then_some(at + 1)
}

fn word_end(line: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    line[at..].starts_with(word).then_some(at + word.len())
}

/// The position after the closing quote of the string whose first character is at `at`.
fn string_end(line: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    // The lowest set bit marks the first zero byte. Higher bits may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    loop {
        let stop = loop {
            let Some(bytes) = line.get(at..at + 8) else {
                let rest = line.get(at..)?;
                break at + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
            };
            let word = u64::from_le_bytes(bytes.try_into().ok()?);
            let quotes = zeros(word ^ (ONES * u64::from(b'"')));
            let escapes = zeros(word ^ (ONES * u64::from(b'\\')));
            let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
            let found = quotes | escapes | controls;
            if found != 0 {
                break at + (found.trailing_zeros() / 8) as usize;
            }
            at += 8;
        };
        match line[stop] {
            b'"' => return Some(stop + 1),
            b'\\'
                if matches!(
                    line.get(stop + 1)?,
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'
                ) =>
            {
                at = stop + 2;
            }
            _ => return None,
        }
    }
}

fn number_end(line: &[u8], at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let count = line.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(at + count)
    };
    let begin = at + usize::from(line.get(at) == Some(&b'-'));
    let mut end = digits(begin)?;
    if line[begin] == b'0' && end > begin + 1 {
        return None;
    }
    if line.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(line.get(end), Some(b'e' | b'E')) {
        end += 1;
        end = digits(end + usize::from(matches!(line.get(end), Some(b'+' | b'-'))))?;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_object(line: &str) -> bool {
        line.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok()
    }

    #[test]
    fn records_of_sinks_are_plain() {
        for line in [
            "{}",
            r#"{"a":{"b":[],"c":{}},"d":[1,-0,0.5,1e9,-1.25E-3,"x\"\\",true,false,null,[{}]]}"#,
            "{\"long enough for several words\":\"\u{e9}\u{2028}\u{7f} and more\"}",
        ] {
            assert!(is_object(line) && is_plain(line.as_bytes()), "{line}");
        }
        let nested = |depth| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(is_plain(nested(63).as_bytes()) && !is_plain(nested(64).as_bytes()));
    }

    proptest! {
        #[test]
        fn nothing_is_plain_that_a_parser_refuses(
            line in "\\{(\"[a\u{1}\\\\u0]{0,9}\"|[:,{}\\[\\]\"0-9.eE+-]|true|null){0,12}\\}?",
        ) {
            prop_assert!(!is_plain(line.as_bytes()) || is_object(&line), "{}", line);
        }

        #[test]
        fn a_changed_line_is_plain_only_if_it_is_an_object(
            at in 0..200usize,
            with in prop_oneof![any::<char>(), "[\\{}\\[\\]:,\"\\\\0-9eE.-]".prop_map(|text| text.chars().next().unwrap())],
            removes in any::<bool>(),
        ) {
            let line = r#"{"action":"documents.view","n":-10.5e3,"list":[true,{"k":"v\"\u00e9"},null],"client":{"ip":"::1","agent":"Mozilla/5.0 (X11; Linux)"}}"#;
            let mut chars: Vec<char> = line.chars().collect();
            let at = at % chars.len();
            if removes {
                chars.remove(at);
            } else {
                chars[at] = with;
            }
            let changed: String = chars.into_iter().collect();
            prop_assert!(!is_plain(changed.as_bytes()) || is_object(&changed), "{}", changed);
        }
    }
}
