//! Restores the author's layout in printed code.

use std::collections::{HashMap, HashSet};

use oxc::codegen::CodegenReturn;

/// A line and a column, from zero. The column is in UTF-16 units, as in source maps.
type Place = (u32, u32);

pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Lines<'a> {
        let ends = text.char_indices().filter(|&(at, char)| match char {
            '\n' | '\u{2028}' | '\u{2029}' => true,
            '\r' => !text[at + 1..].starts_with('\n'),
            _ => false,
        });
        let starts = ends.map(|(at, char)| at + char.len_utf8());
        Lines { text, starts: std::iter::once(0).chain(starts).collect() }
    }

    /// The line of a byte, from zero, and the text of that line before the byte.
    pub(super) fn line_at(&self, byte: usize) -> (usize, &'a str) {
        let line = self.starts.partition_point(|start| *start <= byte) - 1;
        (line, self.text.get(self.starts[line]..byte).unwrap_or_default())
    }

    /// The position of a byte, counted back from a later position.
    fn place_before(&self, byte: usize, later: usize, (line, column): Place) -> Place {
        let between = &self.text[byte..later];
        if !between.contains(['\n', '\r', '\u{2028}', '\u{2029}']) {
            return (line, column - units(between));
        }
        let (line, before) = self.line_at(byte);
        (line as u32, units(before))
    }
}

/// Converts positions to byte offsets. Each search starts at the previous position, since positions
/// mostly ascend.
struct Bytes<'a> {
    lines: &'a Lines<'a>,
    place: Place,
    byte: usize,
}

impl Bytes<'_> {
    fn at(&mut self, place: Place) -> usize {
        if place.0 != self.place.0 || place.1 < self.place.1 {
            let start = self.lines.starts.get(place.0 as usize);
            (self.place, self.byte) = ((place.0, 0), *start.unwrap_or(&self.lines.text.len()));
        }
        for char in self.lines.text[self.byte..].chars() {
            if self.place.1 >= place.1 {
                break;
            }
            self.place.1 += char.len_utf16() as u32;
            self.byte += char.len_utf8();
        }
        self.byte
    }
}

fn units(text: &str) -> u32 {
    text.encode_utf16().count() as u32
}

/// Byte offsets in a source that its source map lacks.
#[derive(Default)]
pub(super) struct Marks {
    /// The starts of the literal parts of templates.
    pub(super) quasis: HashSet<u32>,
    /// The opening parentheses of calls, in ascending order.
    pub(super) calls: Vec<u32>,
    /// The opening parentheses of arrow functions that are printed without them, by the start of
    /// the parameter.
    pub(super) arrows: HashMap<u32, u32>,
    /// The starts of constructor parameters that are also properties. They are printed as fields,
    /// before fields that come earlier in the source.
    pub(super) properties: HashSet<u32>,
}

impl Marks {
    fn calls_between(&self, from: usize, to: usize) -> &[u32] {
        let place = |byte: usize| self.calls.partition_point(|call| (*call as usize) < byte);
        self.calls.get(place(from)..place(to)).unwrap_or_default()
    }
}

/// Adds line breaks and spaces to printed code, so that each token has the line and column that it
/// has in `source`. Code added by the compiler shifts the rest of its line to the right. The
/// engine's stack traces therefore refer to the source without being translated.
///
/// `printed` must contain no line breaks except within templates.
pub(super) fn laid_out(printed: &CodegenReturn<'_>, source: &Lines<'_>, marks: &Marks) -> String {
    let code = printed.code.as_str();
    let mut bytes = Bytes { lines: source, place: (0, 0), byte: 0 };
    let mut output = Output { text: String::with_capacity(source.text.len()), line: 0, column: 0 };
    let (mut from, mut to, mut place) = (0, 0, (0, 0));
    let (mut last, mut is_literal, mut is_parameter) = (0, false, false);
    for token in printed.map.iter().flat_map(|map| map.get_tokens()) {
        let printed_at = (token.get_dst_line(), token.get_dst_col());
        let origin = (token.get_src_line(), token.get_src_col());
        for char in code[to..].chars() {
            if place >= printed_at {
                break;
            }
            to += char.len_utf8();
            place = match char {
                '\n' | '\u{2028}' | '\u{2029}' => (place.0 + 1, 0),
                _ => (place.0, place.1 + char.len_utf16() as u32),
            };
        }
        let byte = bytes.at(origin);
        let is_quasi = marks.quasis.contains(&(byte as u32));
        // Some spaces are printed after the position that the map gives for the token.
        while !is_quasi && code[to..].starts_with(' ') {
            (to, place.1) = (to + 1, place.1 + 1);
        }
        let mut before = &code[from..to];
        from = to;
        if let Some(name) = before.find("=>").filter(|_| is_parameter) {
            output.push(&before[..name]);
            output.push(")");
            before = &before[name..];
        }
        // The engine reports a call at its parenthesis, which the map lacks.
        let calls = if is_literal { &[] } else { marks.calls_between(last, byte) };
        let (mut rest, mut calls) = (before, calls.iter());
        if rest.matches('(').count() != calls.len() && !rest.ends_with('(') {
            calls = [].iter();
        }
        while calls.len() > 0 {
            let at = if calls.len() == 1 { rest.rfind('(') } else { rest.find('(') };
            let (Some(at), Some(call)) = (at, calls.next()) else { break };
            output.push(&rest[..at]);
            output.go_to(source.place_before(*call as usize, byte, origin), "(");
            output.push("(");
            rest = &rest[at + 1..];
        }
        output.push(rest);
        is_literal = is_quasi || code[to..].starts_with(['"', '\'', '`', '/']);
        last = byte;
        // Nothing may be inserted in a template.
        if is_quasi {
            continue;
        }
        let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$');
        let after_name = code[to..].trim_start_matches(is_name);
        if after_name.starts_with(';') && marks.properties.contains(&(byte as u32)) {
            continue;
        }
        // The engine reports a function at its parenthesis.
        let arrow = marks.arrows.get(&(byte as u32)).filter(|_| after_name.starts_with("=>"));
        is_parameter = arrow.is_some();
        if let Some(arrow) = arrow {
            output.go_to(source.place_before(*arrow as usize, byte, origin), "(");
            output.push("(");
        }
        output.go_to(origin, &code[to..]);
    }
    output.push(&code[from..]);
    output.text
}

struct Output {
    text: String,
    line: u32,
    column: u32,
}

impl Output {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        match text.rsplit_once('\n') {
            Some((lines, last)) => {
                self.line += lines.matches('\n').count() as u32 + 1;
                self.column = units(last);
            }
            None => self.column += units(text),
        }
    }

    /// Advances to a position, if it is later than the current one.
    ///
    /// After some keywords, a line break ends the statement. In the source, the parenthesis of
    /// `return (` prevents that, but it is not printed.
    fn go_to(&mut self, (line, column): Place, next: &str) {
        if line > self.line {
            let mut at = self.text.len();
            let mut inserted = "\n".repeat((line - self.line) as usize);
            if !next.starts_with(['}', ')', ';']) {
                while let Some(before) = without(&self.text[..at], ["yield", "async"]) {
                    at = before.len();
                }
                if without(&self.text[..at], ["return", "throw"]).is_some() {
                    inserted.insert_str(0, " 0,");
                }
            }
            self.text.insert_str(at, &inserted);
            (self.line, self.column) = (line, units(&self.text[at + inserted.len()..]));
        }
        if line == self.line && column > self.column {
            self.text.extend(std::iter::repeat_n(' ', (column - self.column) as usize));
            self.column = column;
        }
    }
}

/// The text before a trailing keyword and spaces.
fn without<'a>(text: &'a str, words: [&str; 2]) -> Option<&'a str> {
    let text = text.trim_end();
    let before = words.iter().find_map(|word| text.strip_suffix(word))?;
    let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$' | '.' | '#');
    (!before.ends_with(is_name)).then_some(before)
}
