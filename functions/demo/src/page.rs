//! Prints each promise with its proof.

use std::io::{IsTerminal, Write};
use std::path::Path;

/// Writes to standard output. A closed pipe does not stop it.
#[derive(Debug)]
pub(super) struct Page {
    colours: bool,
    /// The first failure other than a closed pipe.
    failure: Option<std::io::Error>,
}

/// The longest line of proof, about the width of a terminal.
const MAX_CHARS: usize = 150;

impl Page {
    pub(super) fn new() -> Page {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Page { colours, failure: None }
    }

    pub(super) fn begin(&mut self, directory: &Path) {
        self.line(
            "A host serves JavaScript functions, and clients call them over HTTP and WebSocket.",
        );
        self.line(
            "The proof of each promise is read back from the bucket, where the audit logs are.",
        );
        self.line(&self.faint(&format!("everything is in {}", directory.display())));
        self.line("");
    }

    /// Announces a scene.
    pub(super) fn playing(&mut self, what: &str) {
        self.line(&self.faint(&format!("… {what}")));
    }

    /// A promise, whether it holds, and its proof.
    pub(super) fn row(&mut self, name: &str, promise: &str, proof: &Result<Vec<String>, String>) {
        let (mark, colour) = if proof.is_ok() { ("holds", "32") } else { ("DOES NOT HOLD", "31") };
        self.line(&format!("{:>3}  {}  {promise}", self.bold(name), self.coloured(mark, colour)));
        match proof {
            Ok(found) => found
                .iter()
                .for_each(|found| self.line(&format!("     {}", self.faint(&shortened(found))))),
            Err(problem) => self.line(&format!("     {problem}")),
        }
    }

    pub(super) fn end(&mut self, directory: &Path, holds: bool) {
        self.line("");
        let bucket = directory.join("data/bucket");
        if holds {
            self.line(&self.bold("Every promise holds."));
        } else {
            self.line(&self.coloured("Not every promise holds.", "31"));
        }
        self.line("Look at the logs yourself, in a browser and on a terminal:");
        let (audit, bucket) = ("cargo run -p audit-cli --", bucket.display());
        let key = directory.join("data/evidence.key");
        self.line(&format!("  {audit} serve {bucket} --key {}", key.display()));
        self.line(&format!("  {audit} who document {bucket}"));
        self.line("Serve the same functions, change them, call them:");
        let functions = directory.join("convex");
        self.line(&format!("  cargo run -p functions-host -- serve {}", functions.display()));
    }

    /// The failure to write a line, if there was one.
    pub(super) fn failure(self) -> Option<std::io::Error> {
        self.failure
    }

    fn line(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            self.failure.get_or_insert(error);
        }
    }

    fn coloured(&self, text: &str, code: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.coloured(text, "1")
    }

    fn faint(&self, text: &str) -> String {
        self.coloured(text, "2")
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    let begin: String = text.chars().take(MAX_CHARS).collect();
    format!("{begin} …")
}
