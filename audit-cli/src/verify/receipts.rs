//! Receipts: the places of acknowledged records.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use audit_core::{InputLines, UniqueId};
use serde::Deserialize;

use super::trust::unreadable;
use crate::failure::Failure;

/// The acknowledged records, by stream.
pub(super) type Receipts = BTreeMap<UniqueId, Vec<Range<u64>>>;

#[derive(Deserialize)]
struct Line {
    stream: String,
    #[serde(alias = "first", alias = "first_sequence")]
    sequence: u64,
    #[serde(default = "one")]
    count: u64,
}

fn one() -> u64 {
    1
}

/// Reads receipts. Each line is a JSON object with `stream`, `sequence` and `count`, or these three
/// values separated by commas, as a database exports them. A header line is skipped.
pub(super) fn read(file: &Path) -> Result<Receipts, Failure> {
    let unreadable = |error| unreadable(file, "the receipts", error);
    let mut lines = InputLines::open(file).map_err(unreadable)?;
    let (mut receipts, mut number) = (Receipts::new(), 0u64);
    while let Some(line) = lines.next_text().map_err(unreadable)?.map(str::trim) {
        number += 1;
        if line.is_empty() || number == 1 && line.starts_with("stream,") {
            continue;
        }
        let invalid = || {
            let form = "{\"stream\":…,\"sequence\":…,\"count\":…} or stream,sequence,count";
            Failure::new(format!("line {number} of the receipts is not {form}"))
        };
        let (stream, records) = parse_line(line).ok_or_else(invalid)?;
        receipts.entry(stream).or_default().push(records);
    }
    // Adjacent receipts are merged, so many of them are few ranges.
    for ranges in receipts.values_mut() {
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                Some(_) | None => merged.push(range),
            }
        }
        *ranges = merged;
    }
    Ok(receipts)
}

fn parse_line(line: &str) -> Option<(UniqueId, Range<u64>)> {
    let Line { stream, sequence, count } = if line.starts_with('{') {
        serde_json::from_str(line).ok()?
    } else {
        let mut cells = line.split(',').map(|cell| cell.trim().trim_matches('"'));
        let (stream, sequence, count) = (cells.next()?, cells.next()?, cells.next()?);
        let (stream, sequence) = (stream.to_owned(), sequence.parse().ok()?);
        Line { stream, sequence, count: count.parse().ok().filter(|_| cells.next().is_none())? }
    };
    let end = sequence.checked_add(count).filter(|_| count > 0)?;
    Some((stream.parse().ok()?, sequence..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_read_as_databases_export_them() {
        let stream = "0000000000000000000000002D";
        let text = format!(
            "stream,sequence,count\n{stream},5,2\n\"{stream}\",7,1\n\n\
             {{\"stream\":\"{stream}\",\"sequence\":20,\"count\":3,\"execution\":\"x\"}}\n\
             {{\"stream\":\"{stream}\",\"first\":21}}\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("receipts");
        let parse = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file)
        };
        let receipts = parse(&text).unwrap();
        assert_eq!(parse(&format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap(), receipts);
        assert_eq!(receipts[&stream.parse().unwrap()], [5..8, 20..23]);
        for invalid in ["x,1,1", &format!("{stream},1"), &format!("{stream},1,0"), "{}"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
