//! Standard output and standard error.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use parking_lot::Mutex;

use audit_core::{descriptors_advice, sources};
use audit_host::{may_color, shortened};
use serde::Serialize;

use crate::arguments::Color;
use crate::escape;
use crate::failure::Failure;

/// Lines are buffered up to this many bytes before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, in the selected form.
#[derive(Debug)]
pub(crate) struct Output {
    buffer: Mutex<Vec<u8>>,
    json: bool,
    style: Style,
    is_terminal: bool,
    is_silent: bool,
    /// Whether the command goes on although nobody reads the output.
    outlives_reader: bool,
    /// Whether the output stays in `buffer` for the caller to take.
    is_captured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    colored: bool,
}

const GOOD: &str = "\x1b[32m";
const BAD: &str = "\x1b[1;31m";
const DOUBTFUL: &str = "\x1b[33m";
const STRONG: &str = "\x1b[1m";
const FAINT: &str = "\x1b[2m";
const END: &str = "\x1b[0m";

impl Style {
    fn paint(self, begin: &str, text: &str) -> String {
        let text = escape::text(text);
        if self.colored { format!("{begin}{text}{END}") } else { text.into_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint(GOOD, text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(BAD, text)
    }

    pub(crate) fn doubtful(self, text: &str) -> String {
        self.paint(DOUBTFUL, text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint(STRONG, text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(FAINT, text)
    }

    /// A line without control sequences other than these colours.
    fn escape(self, line: &str) -> String {
        let mut escaped = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find('\x1b').filter(|_| self.colored) {
            let (before, from) = rest.split_at(at);
            escaped.push_str(&escape::text(before));
            let codes = [GOOD, BAD, DOUBTFUL, STRONG, FAINT, END];
            let code = codes.into_iter().find(|code| from.starts_with(code));
            let (code, after) = from.split_at(code.map_or(1, str::len));
            match code {
                "\x1b" => escaped.push_str(&escape::text(code)),
                code => escaped.push_str(code),
            }
            rest = after;
        }
        escaped + &escape::text(rest)
    }
}

impl Output {
    pub(crate) fn new(color: Color, json: bool) -> Output {
        let is_terminal = io::stdout().is_terminal();
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && may_color(),
        };
        let style = Style { colored: colored && !json };
        Output {
            buffer: Mutex::default(),
            json,
            style,
            is_terminal,
            is_silent: false,
            outlives_reader: false,
            is_captured: false,
        }
    }

    /// An output whose reader may go away while the command goes on.
    pub(crate) fn outliving_reader(self, outlives_reader: bool) -> Output {
        Output { outlives_reader, ..self }
    }

    /// A JSON output that is kept instead of written. Notes are still written.
    pub(crate) fn captured() -> Output {
        let output = Output::new(Color::Never, true);
        Output { is_terminal: false, is_captured: true, ..output }
    }

    pub(crate) fn captured_lines(&self) -> Vec<serde_json::Value> {
        let kept = self.buffer.lock();
        let lines = kept.split(|byte| *byte == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// An output that nobody reads: notes are dropped.
    pub(crate) fn silent() -> Output {
        Output { is_silent: true, ..Output::new(Color::Never, false) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Whether it is a terminal, so that records must be escaped.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.write(&[self.style.escape(line).as_bytes(), b"\n"])
    }

    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| self.line(line))
    }

    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_vec(value).map_err(|error| Failure::of_output(error.into()))?;
        self.write(&[&escape::json(&line), b"\n"])
    }

    /// Writes pieces that together are whole lines.
    pub(crate) fn write(&self, pieces: &[&[u8]]) -> Result<(), Failure> {
        let mut buffer = self.buffer.lock();
        pieces.iter().for_each(|piece| buffer.extend_from_slice(piece));
        if self.is_captured || buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.write_out(&mut buffer)
    }

    pub(crate) fn flush(&self) -> Result<(), Failure> {
        if self.is_captured {
            return Ok(());
        }
        self.write_out(&mut self.buffer.lock())
    }

    fn write_out(&self, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = out.write_all(buffer).and_then(|()| out.flush());
        buffer.clear();
        let written = written.map_err(Failure::of_output);
        written.or_else(|failure| match self.outlives_reader && failure.is_closed_pipe() {
            true => Ok(()),
            false => Err(failure),
        })
    }

    /// Prints a note for the user that is not part of the output.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_silent {
            note(text);
        }
    }

    /// Reports the failure of the command.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        if failure.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        let _ = self.flush();
        let shown = |text: String| shortened(&text).into_owned();
        let causes: Vec<_> = sources(failure).map(|cause| shown(cause.to_string())).collect();
        let advice = descriptors_advice(failure);
        let failure = shown(failure.to_string());
        let mut stderr = io::stderr().lock();
        if self.json {
            let mut line = serde_json::json!({ "error": failure });
            if !causes.is_empty() {
                line["because"] = causes.into();
            }
            if let Some(advice) = advice {
                line["advice"] = advice.into();
            }
            let line = line.to_string();
            let _ = writeln!(stderr, "{}", String::from_utf8_lossy(&escape::json(line.as_bytes())));
        } else {
            let _ = writeln!(stderr, "audit: {}", escape::text(&failure));
            for cause in causes {
                let _ = writeln!(stderr, "  because {}", escape::text(&cause));
            }
            if let Some(advice) = advice {
                let _ = writeln!(stderr, "  {advice}");
            }
        }
        ExitCode::from(3)
    }
}

/// A line on standard error.
pub(crate) fn note(text: &str) {
    let mut error = io::stderr().lock();
    let _ = writeln!(error, "audit: {}", escape::text(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_colours_reach_a_terminal() {
        let style = Style { colored: true };
        let foreign = "a\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}b";
        let shown = style.escape(&format!("{} {foreign}", style.bad(foreign)));
        let plain = shown.replace(BAD, "").replace(END, "");
        let escaped = escape::text(foreign);
        assert_eq!(plain, format!("{escaped} {escaped}"));
        assert!(shown.starts_with(BAD) && !escaped.contains('\x1b'), "{shown:?}");
        let style = Style { colored: false };
        assert_eq!(style.escape("\x1b[1mx"), "\\u{1b}[1mx");
    }
}
