//! How deep a text can be nested, before anything parses it.
//!
//! Parsers and what walks over their trees call themselves for each level, and a stack that
//! overflows ends the process. No text is deeper than it has tokens from which a level can come, so
//! this counts them, without knowing the language: what is too deep by this count, and would not
//! have been, is no program that anybody writes.

use std::path::Path;

use super::LoadError;

/// The most brackets in one another. The engine itself takes fewer.
const MAX_BRACKETS: usize = 5_000;

/// The most tokens between one bracket, comma or semicolon and the next, with those of the brackets
/// around: what operators, arrow functions, conditions and the like can nest.
const MAX_TOKENS: usize = 100_000;

/// Fails for a text that could be nested so deep that reading it would end the process.
pub(crate) fn check(path: &Path, text: &str) -> Result<(), LoadError> {
    let mut around: Vec<usize> = Vec::new();
    // What the levels around have; what this level has.
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
                // What was within is one thing of the level that it is in.
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
                "it is nested too deeply to be read: more than {MAX_BRACKETS} brackets in one another, or {MAX_TOKENS} tokens in one expression"
            );
            return Err(LoadError::new(place, message));
        }
    }
    Ok(())
}
