//! From JSON text to a template: one pass checks the grammar and copies the text between variables.

use std::ops::Range;

use super::names::Names;
use super::{BodyError, BodyProblem, Compiler};
use crate::search::{find_special, find_special_or_wide};
use crate::separators::separators;
use crate::var::SENTINEL_KEY;

/// The meaning of `{"$var":…}` in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sentinels {
    /// A variable: the text is the wire form of a body.
    Variables,
    /// An object with a reserved key: the text is data.
    Data,
}

/// Appends one JSON value, without the white space between its parts.
pub(super) fn compile(
    compiler: &mut Compiler<'_>,
    text: &str,
    sentinels: Sentinels,
) -> Result<(), BodyError> {
    let bytes = text.as_bytes();
    let mut parser = Parser { text, bytes, at: 0, copied: 0, compiler, sentinels, escapes: 0 };
    parser.value()?;
    if parser.token().is_some() {
        return Err(parser.syntax("expected the end of the text"));
    }
    parser.copy_to(parser.at);
    Ok(())
}

struct Parser<'t, 'c, 'v> {
    text: &'t str,
    /// The bytes of `text`.
    bytes: &'t [u8],
    at: usize,
    /// Everything before this index is in the compiler's text, or was white space or a sentinel.
    copied: usize,
    compiler: &'c mut Compiler<'v>,
    sentinels: Sentinels,
    /// The number of escapes in strings so far.
    escapes: usize,
}

impl<'t> Parser<'t, '_, '_> {
    #[cold]
    fn syntax(&self, reason: &'static str) -> BodyError {
        BodyError::new(BodyProblem::Syntax { reason, offset: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Appends everything up to `end` to the compiler's text.
    fn copy_to(&mut self, end: usize) {
        self.compiler.text.extend_from_slice(&self.bytes[self.copied..end]);
        self.copied = end;
    }

    /// Index of the first byte from `from` on that is not white space, or the length.
    fn after_blanks(&self, from: usize) -> usize {
        let blanks = self.bytes[from..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        from + blanks.count()
    }

    /// The next byte that is not white space. White space is left out, so the text before it is
    /// copied first.
    #[inline(always)]
    fn token(&mut self) -> Option<u8> {
        // One comparison for the usual case: white space is at most 0x20, and other bytes up to
        // 0x20 are rejected later.
        match self.peek() {
            Some(byte) if byte > b' ' => Some(byte),
            None => None,
            Some(_) => self.token_after_blanks(),
        }
    }

    #[inline(never)]
    fn token_after_blanks(&mut self) -> Option<u8> {
        self.copy_to(self.at);
        self.at = self.after_blanks(self.at);
        self.copied = self.at;
        self.peek()
    }

    /// Fails if the text read so far is already too large.
    fn check_size(&self) -> Result<(), BodyError> {
        self.compiler.check_size(self.at - self.copied)
    }

    /// Recursion is bounded by the compiler's depth. This is inlined into the functions for objects
    /// and arrays, which are not, so that a string costs one call.
    #[inline(always)]
    fn value(&mut self) -> Result<(), BodyError> {
        match self.token() {
            Some(b'"') => return self.string(),
            Some(b'{') => return self.object(),
            Some(b'[') => return self.array(),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            Some(_) | None => return Err(self.syntax("expected a value")),
        }
        self.check_size()
    }

    fn literal(&mut self, word: &str) -> Result<(), BodyError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline(never)]
    fn array(&mut self) -> Result<(), BodyError> {
        self.compiler.descend()?;
        self.at += 1;
        if self.token() == Some(b']') {
            self.at += 1;
            self.compiler.ascend();
            return Ok(());
        }
        for index in 0.. {
            self.value().map_err(|error| error.below_index(index))?;
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                Some(_) | None => return Err(self.syntax("expected ',' or ']'")),
            }
        }
        self.at += 1;
        self.compiler.ascend();
        Ok(())
    }

    #[inline(never)]
    fn object(&mut self) -> Result<(), BodyError> {
        if self.is_at_sentinel() {
            return self.sentinel();
        }
        self.compiler.descend()?;
        let mut names = Names::at(self.at);
        self.at += 1;
        if self.token() == Some(b'}') {
            self.at += 1;
            self.compiler.ascend();
            return Ok(());
        }
        loop {
            if self.token() != Some(b'"') {
                return Err(self.syntax("expected a key in quotes"));
            }
            let escapes = self.escapes;
            let key = self.string_range()?;
            if self.token() != Some(b':') {
                return Err(self.syntax("expected ':'"));
            }
            if self.escapes == escapes {
                if self.bytes[key.start] == b'$' {
                    return Err(self.reserved(key));
                }
                names.add(self.bytes, key.clone());
            } else {
                let name = &self.text[key.clone()];
                if name.starts_with('$') || name.starts_with("\\u0024") {
                    return Err(self.reserved(key));
                }
                names.add_escaped();
            }
            self.at += 1;
            self.value().map_err(|error| error.below_key(&self.text[key]))?;
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                Some(_) | None => return Err(self.syntax("expected ',' or '}'")),
            }
        }
        if let Some(twice) = names.duplicate(self.bytes, self.at) {
            return Err(BodyError::duplicate_key(twice));
        }
        self.at += 1;
        self.compiler.ascend();
        Ok(())
    }

    /// Whether the object that begins here starts like a sentinel.
    fn is_at_sentinel(&self) -> bool {
        let key = &self.bytes[self.after_blanks(self.at + 1)..];
        self.sentinels == Sentinels::Variables
            && key
                .strip_prefix(b"\"")
                .and_then(|key| key.strip_prefix(SENTINEL_KEY.as_bytes()))
                .is_some_and(|key| key.starts_with(b"\""))
    }

    /// `{"$var":"<name>"}`: a variable. With other members it is an object with a reserved key. A
    /// sentinel does not count as a level of nesting, since no rendering contains it.
    fn sentinel(&mut self) -> Result<(), BodyError> {
        self.copy_to(self.at);
        self.at = self.after_blanks(self.at + 1);
        let key = self.string_range()?;
        self.at = self.after_blanks(self.at);
        if self.peek() != Some(b':') {
            return Err(self.syntax("expected ':'"));
        }
        self.at = self.after_blanks(self.at + 1);
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(self.reserved(key)),
            None => return Err(self.syntax("expected a value")),
        }
        let name = self.string_range()?;
        self.at = self.after_blanks(self.at);
        match self.peek() {
            Some(b'}') => {}
            Some(b',') => return Err(self.reserved(key)),
            Some(_) | None => return Err(self.syntax("expected ',' or '}'")),
        }
        self.at += 1;
        self.copied = self.at;
        self.compiler.variable(&self.text[name])
    }

    #[cold]
    fn reserved(&self, key: Range<usize>) -> BodyError {
        BodyError::reserved_key(&self.text[key])
    }

    /// A string in quotes (RFC 8259, section 7).
    fn string(&mut self) -> Result<(), BodyError> {
        let at = find_special_or_wide(self.bytes, self.at + 1);
        self.at = at;
        if self.bytes.get(at) != Some(&b'"') {
            self.rest_of_string()?;
        }
        self.at += 1;
        // The size is checked before any part of the string is copied.
        self.check_size()
    }

    /// The rest of a string that is not plain ASCII, up to the quote.
    #[inline(never)]
    fn rest_of_string(&mut self) -> Result<(), BodyError> {
        loop {
            match self.peek() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape()?,
                Some(0x80..) => self.wide()?,
                Some(_) => return Err(self.syntax("control characters must be escaped")),
                None => return Err(self.syntax("expected '\"'")),
            }
            self.at = find_special_or_wide(self.bytes, self.at);
        }
    }

    /// As [`string`](Self::string). Returns its range, without the quotes.
    fn string_range(&mut self) -> Result<Range<usize>, BodyError> {
        let start = self.at + 1;
        self.string()?;
        Ok(start..self.at - 1)
    }

    /// Text that is not all ASCII. Escapes its separators.
    fn wide(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        self.at = find_special(self.bytes, start);
        for separator in separators(&self.bytes[start..self.at]) {
            let at = start + separator.at;
            self.compiler.check_size(at - self.copied)?;
            self.copy_to(at);
            self.compiler.text.extend_from_slice(separator.escape);
            self.copied = at + separator.bytes;
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), BodyError> {
        self.escapes += 1;
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unpaired = "unpaired surrogate";
                match self.code_unit(self.at)? {
                    0xd800..0xdc00 => match self.code_unit(self.at + 6) {
                        Ok(0xdc00..0xe000) => self.at += 12,
                        Ok(_) | Err(_) => return Err(self.syntax(unpaired)),
                    },
                    0xdc00..0xe000 => return Err(self.syntax(unpaired)),
                    _ => self.at += 6,
                }
                Ok(())
            }
            Some(_) | None => Err(self.syntax("unknown escape")),
        }
    }

    /// The number in an escape `\uXXXX` at this place.
    fn code_unit(&self, at: usize) -> Result<u32, BodyError> {
        let digits = self.bytes.get(at..at + 6).and_then(|escape| escape.strip_prefix(b"\\u"));
        let unit = digits.and_then(|digits| {
            digits
                .iter()
                .try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
        });
        unit.ok_or_else(|| self.syntax("expected four hexadecimal digits"))
    }

    /// A number (RFC 8259, section 6).
    fn number(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        let mut may_overflow = false;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            Some(_) | None => return Err(self.syntax("expected a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            may_overflow = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        // Without an exponent it takes more than 308 digits to leave the range of a 64-bit float.
        may_overflow |= self.at - start > 308;
        if may_overflow && !self.text[start..self.at].parse::<f64>().is_ok_and(f64::is_finite) {
            self.at = start;
            return Err(self.syntax("the number is out of the range of a 64-bit float"));
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax("expected a digit")) } else { Ok(()) }
    }
}
