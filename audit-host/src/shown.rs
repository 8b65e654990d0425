//! Printing audit logs for a person.

use std::borrow::Cow;
use std::fmt::Write;

use audit_core::{Batch, Place};

use crate::Output;

/// Prints records once they are durable. For use with [`Observed`](audit_core::Observed).
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    output: Output,
}

impl Shown {
    /// Prints records to this output.
    pub(crate) fn on(output: Output) -> Shown {
        Shown { output }
    }

    /// Whether to print records: as configured, by default only on a terminal.
    pub(crate) fn is_wanted(set: Option<bool>, output: &Output) -> bool {
        set.unwrap_or(output.is_terminal())
    }

    /// Prints the records of a durable batch, each as a line `durable #<sequence> <record>`. Never
    /// blocks, even if nothing reads the output.
    pub(crate) fn show(&self, batch: &Batch, place: Place) {
        let (faint, plain) =
            if self.output.has_colours() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        for (sequence, record) in (place.first_sequence..).zip(batch.records()) {
            let record = String::from_utf8_lossy(&record);
            let record = if self.output.is_terminal() { for_a_terminal(&record) } else { record };
            self.output.line(&format!("{faint}durable #{sequence}{plain} {record}"));
        }
    }
}

/// Makes JSON, which may contain what a caller sent, safe for a terminal. Control characters, and
/// those that change the direction of text, can occur only in strings, where their escapes are
/// equivalent.
fn for_a_terminal(json: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !(c.is_control() || changes_direction(c));
    if json.chars().all(is_plain) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if is_plain(c) {
            escaped.push(c);
        } else {
            // All escaped characters are in the Basic Multilingual Plane.
            write!(escaped, "\\u{:04x}", u32::from(c)).expect("writing to a string never fails");
        }
    }
    Cow::Owned(escaped)
}

fn changes_direction(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::piped;

    fn shown(is_terminal: bool) -> String {
        let (output, go, received) = piped(is_terminal);
        let line = "{\"a\":\"\u{9b}31m\u{202e}é\"}\n{\"b\":1}\n";
        let batch = Batch::from_lines(0, line.into()).unwrap();
        let place = Place {
            stream: "01M86YQH3BN92MTRKE2RS1CKJ5".parse().unwrap(),
            first_sequence: 7,
            count: 2,
        };
        // Two lines may be written at once or one after the other.
        go.send(()).unwrap();
        go.send(()).unwrap();
        Shown::on(output.clone()).show(&batch, place);
        output.finish(std::time::Duration::from_secs(600));
        String::from_utf8(received.try_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn shown_records_are_numbered_and_escaped() {
        let piped = "durable #7 {\"a\":\"\u{9b}31m\u{202e}é\"}\ndurable #8 {\"b\":1}\n";
        assert_eq!(shown(false), piped);
        let on_terminal = shown(true);
        assert!(on_terminal.contains(r#"{"a":"\u009b31m\u202eé"}"#), "{on_terminal}");
    }

    #[test]
    fn bodies_are_shown_on_terminals_or_by_request() {
        let (terminal, pipe) = (piped(true).0, piped(false).0);
        assert!(Shown::is_wanted(None, &terminal) && !Shown::is_wanted(None, &pipe));
        assert!(Shown::is_wanted(Some(true), &pipe) && !Shown::is_wanted(Some(false), &terminal));
    }
}
