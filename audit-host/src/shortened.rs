//! Errors of a bounded length.

use std::borrow::Cow;

/// The longest error that is shown, in characters. Ours are shorter, except for the values in them:
/// an argument or a variable may be of any length.
const MAX_CHARS: usize = 4_000;

/// The text of an error, without its middle if it is very long. Its beginning says what happened,
/// and its end says why.
pub fn shortened(text: &str) -> Cow<'_, str> {
    let count = if text.len() <= MAX_CHARS { 0 } else { text.chars().count() };
    let Some(left_out) = count.checked_sub(MAX_CHARS).filter(|left_out| *left_out > 0) else {
        return Cow::Borrowed(text);
    };
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (begin, end) = (at(MAX_CHARS / 2), at(count - MAX_CHARS / 2));
    format!("{}… ({left_out} characters left out) …{}", &text[..begin], &text[end..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_middle_of_a_long_error_is_left_out() {
        for letter in ["x", "é", "🦀"] {
            for count in [0, 1, MAX_CHARS - 1, MAX_CHARS] {
                let text = letter.repeat(count);
                assert_eq!(shortened(&text), text);
            }
            for count in [MAX_CHARS + 1, 100_000] {
                let long = format!("what {} why", letter.repeat(count - 9));
                let shown = shortened(&long);
                let half = MAX_CHARS / 2 - 5;
                let (begin, end) = (letter.repeat(half), letter.repeat(half + 1));
                let left_out = count - MAX_CHARS;
                let expected = format!("what {begin}… ({left_out} characters left out) …{end} why");
                assert_eq!(shown, expected);
            }
        }
    }
}
