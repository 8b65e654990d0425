//! The encodings of text, following the Encoding standard.

use encoding_rs::{CoderResult, Encoding};
use rquickjs::{Ctx, Function, Object};

use super::bytes::of_characters;

/// The longest incomplete character, in bytes. A complete one has up to four, in gb18030.
const MAX_INCOMPLETE_BYTES: usize = 3;

/// Adds the functions that the built-in modules use.
pub(super) fn add<'js>(ctx: &Ctx<'js>, natives: &Object<'js>) -> rquickjs::Result<()> {
    natives.set("encoding", Function::new(ctx.clone(), named)?)?;
    natives.set("decode", Function::new(ctx.clone(), decode)?)?;
    natives.set("undecoded", Function::new(ctx.clone(), undecoded)?)
}

/// The name of the encoding with this label, or `None` if the label is unknown.
fn named(label: String) -> Option<String> {
    Encoding::for_label_no_replacement(label.as_bytes())
        .map(|encoding| encoding.name().to_ascii_lowercase())
}

/// The text that the bytes encode, or `None` if `is_fatal` and they are invalid.
fn decode(label: String, bytes: String, is_fatal: bool) -> Option<String> {
    let encoding = Encoding::for_label(label.as_bytes())?;
    let bytes = of_characters(&bytes);
    if is_fatal {
        let text = encoding.decode_without_bom_handling_and_without_replacement(&bytes)?;
        return Some(text.into_owned());
    }
    Some(encoding.decode_without_bom_handling(&bytes).0.into_owned())
}

/// The number of bytes at the end that are the beginning of a character. Only for encodings in
/// which a character does not depend on the ones before it.
fn undecoded(label: String, bytes: String) -> usize {
    let Some(encoding) = Encoding::for_label(label.as_bytes()) else { return 0 };
    let bytes = of_characters(&bytes);
    let begun = decoded(encoding, &bytes, false);
    let is_rest = |rest: &usize| {
        bytes.len().checked_sub(*rest).and_then(|end| bytes.get(..end)).is_some_and(|whole| {
            // At the end of a text, an incomplete character would become a replacement character.
            decoded(encoding, whole, true) == begun
        })
    };
    (0..=MAX_INCOMPLETE_BYTES).find(is_rest).unwrap_or(0)
}

fn decoded(encoding: &'static Encoding, bytes: &[u8], is_last: bool) -> String {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::new();
    let mut from = 0;
    loop {
        let rest = bytes.get(from..).unwrap_or_default();
        text.reserve(decoder.max_utf8_buffer_length(rest.len()).unwrap_or(rest.len()));
        let (result, read, _) = decoder.decode_to_string(rest, &mut text, is_last);
        from += read;
        if matches!(result, CoderResult::InputEmpty) {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn characters(bytes: &[u8]) -> String {
        bytes.iter().copied().map(char::from).collect()
    }

    /// Decoding in pieces gives the same text as decoding at once, in every multi-byte encoding.
    #[test]
    fn streams_are_decoded_like_whole_texts() {
        let sample = "a日本語b中文한글€é\u{1f600}z";
        for label in ["gbk", "gb18030", "big5", "euc-jp", "shift_jis", "euc-kr"] {
            let encoding = Encoding::for_label(label.as_bytes()).unwrap();
            let (bytes, ..) = encoding.encode(sample);
            let whole = decode(label.to_owned(), characters(&bytes), false).unwrap();
            for size in 1..=bytes.len() {
                let (mut text, mut rest) = (String::new(), Vec::new());
                for piece in bytes.chunks(size) {
                    rest.extend_from_slice(piece);
                    let kept = undecoded(label.to_owned(), characters(&rest));
                    let next = rest.split_off(rest.len() - kept);
                    text += &decode(label.to_owned(), characters(&rest), true).unwrap();
                    rest = next;
                }
                assert_eq!(
                    (text, rest),
                    (whole.clone(), Vec::new()),
                    "{label} in pieces of {size}"
                );
            }
        }
    }

    #[test]
    fn labels_have_the_names_of_the_standard() {
        let name = |label: &str| named(label.to_owned());
        assert_eq!(name(" Latin1\n").as_deref(), Some("windows-1252"));
        assert_eq!(name("unicode11utf8").as_deref(), Some("utf-8"));
        assert_eq!(name("hz-gb-2312"), None);
        assert_eq!(name("\u{a0}utf-8"), None);
    }
}
