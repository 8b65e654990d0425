//! Limits the nesting of source text before it is parsed.
//!
//! Parsers and tree walks recurse for each level, and a stack overflow aborts the process. The
//! depth of a text is at most the number of its tokens that can begin a level. This module counts
//! those tokens without parsing the language. The count may be too high, but not for code that
//! people write.

use std::path::Path;

use super::LoadError;

/// The deepest nesting of brackets, which is more than the engine itself accepts.
const MAX_BRACKETS: usize = 5_000;

/// The most tokens between one bracket, comma or semicolon and the next, including those of the
/// enclosing brackets. It limits the nesting of operators, arrow functions and conditions.
const MAX_TOKENS: usize = 100_000;

/// Fails for a text that could be nested too deeply to be parsed safely.
pub(crate) fn check(path: &Path, text: &str) -> Result<(), LoadError> {
    let mut around: Vec<usize> = Vec::new();
    // The counts of the enclosing levels, and the count of this level.
    let (mut above, mut here, mut is_in_word, mut line) = (0_usize, 0_usize, false, 1_usize);
    for byte in text.bytes() {
        let was_in_word = std::mem::take(&mut is_in_word);
        match byte {
            b'(' | b'[' | b'{' => {
                around.push(here + 1);
                above += here + 1;
                here = 0;
            }
            b')' | b']' | b'}' => {
                // A closed level counts as one token of the enclosing level.
                here = around.pop().unwrap_or(here);
                above = above.saturating_sub(here);
            }
            b',' | b';' => here = 0,
            b' ' | b'\t' | b'\r' => {}
            b'\n' => line += 1,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80.. => {
                is_in_word = true;
                here += usize::from(!was_in_word);
            }
            _ => here += 1,
        }
        if around.len() > MAX_BRACKETS || above + here > MAX_TOKENS {
            let place = format!("{}:{line}", path.display());
            let message = format!(
                "it is nested deeper than limit of {MAX_BRACKETS} brackets, or of {MAX_TOKENS} tokens in one expression"
            );
            return Err(LoadError::new(place, message));
        }
    }
    Ok(())
}
