//! What is written to standard output and standard error.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::arguments::Color;
use crate::failure::Failure;

/// Whole lines are gathered up to this many bytes before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, as it was asked for.
#[derive(Debug)]
pub(crate) struct Output {
    buffer: Mutex<Vec<u8>>,
    json: bool,
    style: Style,
}

/// How text is made to stand out, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    colored: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn doubtful(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

impl Output {
    pub(crate) fn new(color: Color, json: bool) -> Output {
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            // https://no-color.org
            Color::Auto => {
                let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                io::stdout().is_terminal() && !unwanted
            }
        };
        Output { buffer: Mutex::default(), json, style: Style { colored: colored && !json } }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// One line of text.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.write(&[line.as_bytes(), b"\n"])
    }

    /// One line of JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line =
            serde_json::to_vec(value).map_err(|error| Failure::of_output(error.into()))?;
        line.push(b'\n');
        self.write(&[&line])
    }

    /// Whole lines.
    pub(crate) fn write(&self, pieces: &[&[u8]]) -> Result<(), Failure> {
        let mut buffer = self.lock();
        pieces.iter().for_each(|piece| buffer.extend_from_slice(piece));
        if buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        write_out(&mut buffer)
    }

    pub(crate) fn flush(&self) -> Result<(), Failure> {
        write_out(&mut self.lock())
    }

    /// Something that is not what was asked for, and should be known all the same.
    pub(crate) fn note(&self, text: &str) {
        let mut error = io::stderr().lock();
        let _ = writeln!(error, "audit: {text}");
    }

    /// Says why the command could not be carried out.
    pub(crate) fn failed(&self, failure: &Failure) -> ExitCode {
        if failure.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        let _ = self.flush();
        let mut causes = Vec::new();
        let mut source = failure.source();
        while let Some(error) = source {
            causes.push(error.to_string());
            source = error.source();
        }
        let mut stderr = io::stderr().lock();
        if self.json {
            let line = serde_json::json!({ "error": failure.to_string(), "because": causes });
            let _ = writeln!(stderr, "{line}");
        } else {
            let _ = writeln!(stderr, "audit: {failure}");
            for cause in causes {
                let _ = writeln!(stderr, "  because {cause}");
            }
        }
        ExitCode::from(3)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_out(buffer: &mut Vec<u8>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(buffer).and_then(|()| out.flush());
    buffer.clear();
    written.map_err(Failure::of_output)
}
