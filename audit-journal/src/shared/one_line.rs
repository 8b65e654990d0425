//! Makes foreign text fit for errors, the log and `Health`.

/// Returns the text as one line of limited length, with the queries of URLs removed, since they
/// carry signatures and tokens.
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
