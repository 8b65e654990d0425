//! Escapes foreign text for terminals.
//!
//! Records, keys, file names and the responses of stores may come from anyone. A control character
//! can command a terminal; a change of direction or an invisible character disguises text. All such
//! text passes through this module before `audit` prints it: records on a terminal, notes and
//! errors everywhere.

use std::borrow::Cow;
use std::fmt::Write;

/// Text for people, with hazardous characters escaped as `\u{1b}`.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hazardous) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_hazardous(char) {
            escaped.extend(char.escape_unicode());
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

/// A line of valid JSON, with hazardous characters escaped.
pub(crate) fn json(line: &[u8]) -> Cow<'_, [u8]> {
    if line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Cow::Borrowed(line);
    }
    let line = String::from_utf8_lossy(line);
    let mut escaped = String::with_capacity(line.len() + 16);
    for char in line.chars() {
        if char < ' ' {
            // A control character is invalid within a string, so this one is white space between
            // tokens.
            escaped.push(' ');
        } else if is_hazardous(char) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("writing to memory does not fail");
            }
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

/// Controls, changes of direction, line separators, invisible characters (Unicode's
/// `Default_Ignorable_Code_Point`), and noncharacters.
fn is_hazardous(char: char) -> bool {
    matches!(char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(char) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAZARDS: [&str; 20] = [
        "\u{1b}[2J",
        "\u{7}",
        "\u{8}",
        "\r",
        "\n",
        "\u{7f}",
        "\u{9b}31m",
        "\u{ad}",
        "\u{61c}",
        "\u{200b}",
        "\u{200e}",
        "\u{2028}",
        "\u{202a}",
        "\u{202e}",
        "\u{2066}",
        "\u{2069}",
        "\u{feff}",
        "\u{ffff}",
        "\u{e0041}",
        "\u{10ffff}",
    ];

    #[test]
    fn only_hazardous_characters_are_escaped() {
        let c1 = (0x80..=0x9f).map(|code| char::from_u32(code).unwrap().to_string());
        for hazard in HAZARDS.into_iter().map(ToOwned::to_owned).chain(c1) {
            let shown = text(&hazard);
            assert!(shown.starts_with("\\u{") && !shown.contains(is_hazardous), "{shown}");
            let value = serde_json::json!({ &hazard: ["é", &hazard, "日本 🦀"] });
            let line = value.to_string();
            let shown = json(line.as_bytes());
            let shown = std::str::from_utf8(&shown).unwrap();
            assert!(!shown.contains(is_hazardous) && shown.contains("日本 🦀"), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(shown).unwrap(), value);
        }
        assert!(matches!(text("s3://b/ключ é"), Cow::Borrowed(_)));
        assert!(matches!(json(br#"{"a":1}"#), Cow::Borrowed(_)));
        assert_eq!(&*json(b"{\r\n\t\"a\": 1}"), b"{   \"a\": 1}");
    }
}
