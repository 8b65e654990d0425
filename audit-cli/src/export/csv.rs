//! Records as CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) that is safe to open.
//!
//! A spreadsheet interprets text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return
//! (or a full-width form of a sign) as a formula, which may send neighbouring cells to a stranger.
//! Such text is prefixed with an apostrophe, which marks it as text. Numbers are unchanged. The
//! last column has the exact record, which begins with a brace.

use audit_core::UniqueId;
use serde_json::value::RawValue;

use crate::escape;
use crate::query::{Members, Pointer};

#[derive(Debug)]
pub(crate) struct Csv {
    columns: Vec<Pointer>,
    members: Members,
    /// Whether the last column has the whole record.
    with_record: bool,
}

impl Csv {
    pub(crate) fn new(columns: Vec<Pointer>, with_record: bool) -> Csv {
        Csv { members: Members::new(&columns), columns, with_record }
    }

    /// The names of the columns, with a line feed.
    pub(crate) fn head(&self) -> String {
        let members = self.columns.iter().map(ToString::to_string);
        let names = ["stream", "sequence"].map(ToOwned::to_owned).into_iter().chain(members);
        let names = names.chain(self.with_record.then(|| "record".to_owned()));
        let cells: Vec<_> = names.map(|name| quoted(&defused(&escape::text(&name)))).collect();
        cells.join(",") + "\n"
    }

    /// Writes a record, without a line feed.
    pub(crate) fn row(
        &self,
        stream: UniqueId,
        sequence: u64,
        line: &[u8],
        is_terminal: bool,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(format!("{stream},{sequence}").as_bytes());
        for value in self.members.find(line) {
            out.push(b',');
            let Some(value) = value else { continue };
            let cell = cell(value);
            let cell = if is_terminal { escape::text(&cell).into_owned() } else { cell };
            out.extend_from_slice(quoted(&cell).as_bytes());
        }
        if self.with_record {
            out.push(b',');
            let line = String::from_utf8_lossy(line);
            let line = line.trim_ascii();
            let escaped = escape::json(line.as_bytes());
            let line = if is_terminal { String::from_utf8_lossy(&escaped) } else { line.into() };
            out.extend_from_slice(quoted(&line).as_bytes());
        }
    }
}

/// A value as a cell: a text without its quotes and made harmless, anything else as JSON.
fn cell(value: &RawValue) -> String {
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) => defused(&text),
        Err(_) => value.get().to_owned(),
    }
}

/// Prefixes text that a spreadsheet would interpret as a formula.
fn defused(text: &str) -> String {
    // Some spreadsheets skip leading spaces and invisible characters.
    let first = text.trim_start_matches([' ', '\u{a0}', '\u{feff}']);
    let is_formula = first.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '|', '%'])
        || first.starts_with(['\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{2212}']);
    if is_formula { format!("'{text}") } else { text.to_owned() }
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r', ';', '\t'])
        || cell.starts_with(' ')
        || cell.ends_with(' ')
    {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[&str], line: &str) -> String {
        let columns = columns.iter().map(|pointer| pointer.parse().unwrap()).collect();
        let mut out = Vec::new();
        Csv::new(columns, true).row(UniqueId::from_bits(1), 7, line.as_bytes(), false, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_are_quoted_and_formulas_are_defused() {
        let stream = UniqueId::from_bits(1);
        let line = r#"{"a":"x,\"y\"\n","n":-5,"big":123456789012345678901234567890,"o":{"k":1},"null":null}"#;
        let shown = row(&["/a", "/n", "/big", "/o", "/null", "/no"], line);
        let record = line.replace('"', "\"\"");
        let cells = "\"x,\"\"y\"\"\n\",-5,123456789012345678901234567890";
        assert_eq!(shown, format!("{stream},7,{cells},\"{{\"\"k\"\":1}}\",null,,\"{record}\""));
        for text in
            ["=1+1", "+1", "-1", "@SUM(A1)", "\\t=1", "\\r=1", " =1", "\\ufeff=1", "＝1", "|x"]
        {
            let shown = row(&["/a"], &format!("{{\"a\":\"{text}\"}}"));
            let cell = shown.split_once(",7,").unwrap().1;
            assert!(cell.trim_start_matches('"').starts_with('\''), "{shown}");
        }
        for text in ["a=1", "1-2", "ada@x"] {
            assert!(!row(&["/a"], &format!("{{\"a\":\"{text}\"}}")).contains('\''));
        }
        let head = Csv::new(vec!["/=cmd".parse().unwrap(), "/a,b".parse().unwrap()], true).head();
        assert_eq!(head, "stream,sequence,/=cmd,\"/a,b\",record\n");
    }
}
