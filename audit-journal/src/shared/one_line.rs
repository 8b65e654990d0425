//! Text from outside, as it may be shown: in errors, in the log, in `Health`.

/// One line, not too long, without the query of any URL: queries carry signatures and tokens.
pub fn scrub(text: &str) -> String {
    const MAX_BYTES: usize = 400;
    let words = text.split_whitespace().map(|word| match word.find("://").and(word.find('?')) {
        Some(query) => &word[..query],
        None => word,
    });
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > MAX_BYTES {
        line.truncate(line.floor_char_boundary(MAX_BYTES));
        line.push('…');
    }
    line
}
