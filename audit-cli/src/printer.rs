//! The forms in which records are printed.

use std::borrow::Cow;
use std::ops::Range;

use audit_core::UniqueId;

use crate::arguments::Filter;
use crate::escape;
use crate::object::Chunk;
use crate::output::{Output, Style};
use crate::sieve::Sieve;

/// Which records are printed, and how. Shared by the tasks that read objects.
#[derive(Debug)]
pub(crate) struct Printer {
    sieve: Sieve,
    form: Form,
    /// Whether records are escaped for a terminal, or indented for people.
    escape: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Unchanged.
    Lines,
    /// On one line, with their stream and number.
    Placed,
    Pretty(Style),
}

impl Printer {
    pub(crate) fn new(
        filter: &Filter,
        times_ms: Range<i64>,
        pretty: bool,
        output: &Output,
    ) -> Printer {
        let form = match (output.is_json(), pretty) {
            (true, _) => Form::Placed,
            (false, true) => Form::Pretty(output.style()),
            (false, false) => Form::Lines,
        };
        Printer {
            sieve: filter.sieve(times_ms),
            form,
            escape: output.is_terminal() || matches!(form, Form::Pretty(_)),
        }
    }

    pub(crate) fn sieve(&self) -> &Sieve {
        &self.sieve
    }

    /// Writes a record to the chunk if it is selected.
    pub(crate) fn print(&self, stream: UniqueId, sequence: u64, line: &[u8], chunk: &mut Chunk) {
        if !self.sieve.selects(line) {
            return;
        }
        let line = if self.escape { escape::json(line) } else { Cow::Borrowed(line) };
        let out = &mut chunk.bytes;
        match self.form {
            Form::Lines => out.extend_from_slice(&line),
            Form::Placed => {
                let place =
                    format!("{{\"stream\":\"{stream}\",\"sequence\":{sequence},\"record\":");
                out.extend_from_slice(place.as_bytes());
                out.extend_from_slice(&line);
                out.push(b'}');
            }
            Form::Pretty(style) => {
                let place = format!("{stream} #{sequence}");
                out.extend_from_slice(style.faint(&place).as_bytes());
                out.push(b'\n');
                pretty(&line, style, out);
            }
        }
        out.push(b'\n');
        chunk.ends.push(out.len());
    }
}

/// Formats a line of JSON over several lines without changing any token.
pub(crate) fn pretty(line: &[u8], style: Style, out: &mut Vec<u8>) {
    let mut depth = 0;
    let mut rest = line;
    let new_line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'{' | b'[' => {
                out.push(*first);
                let empty = matches!(tail.trim_ascii_start().first(), Some(b'}' | b']'));
                depth += 1;
                if !empty {
                    new_line(out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    new_line(out, depth);
                }
                out.push(*first);
            }
            b',' => {
                out.push(b',');
                new_line(out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\t' | b'\r' => {}
            _ => {
                let len = token_len(rest);
                let (token, tail) = rest.split_at(len);
                let text = String::from_utf8_lossy(token);
                let painted = match (first, tail.trim_ascii_start().first()) {
                    (b'"', Some(b':')) => style.strong(&text),
                    (b'"', _) => style.good(&text),
                    _ => style.doubtful(&text),
                };
                out.extend_from_slice(painted.as_bytes());
                rest = tail;
                continue;
            }
        }
        rest = tail;
    }
}

/// The length in bytes of the string, number or word that begins here.
fn token_len(text: &[u8]) -> usize {
    if text.first() != Some(&b'"') {
        let ends = |byte: &u8| {
            matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"' | b' ' | b'\t' | b'\r')
        };
        return text.iter().position(ends).unwrap_or(text.len()).max(1);
    }
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Color;

    #[test]
    fn pretty_printing_keeps_order_and_spelling() {
        let style = Output::new(Color::Never, false).style();
        let mut out = Vec::new();
        let line = br#"{"z":1.50,"a":["x\"\\",{}],"e":[],"n":null,"long":{"b":true}}"#;
        pretty(line, style, &mut out);
        let expected = r#"{
  "z": 1.50,
  "a": [
    "x\"\\",
    {}
  ],
  "e": [],
  "n": null,
  "long": {
    "b": true
  }
}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn pretty_ends_on_anything() {
        let style = Output::new(Color::Always, false).style();
        for line in [&b"}}"[..], b"\"", b"{\"a", b"\\\\", b"\xff\xfe", b"{{{{", b",:,"] {
            let mut out = Vec::new();
            pretty(line, style, &mut out);
            assert!(!out.is_empty());
        }
    }
}
