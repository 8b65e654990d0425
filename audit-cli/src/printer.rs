//! Which records are printed, and in what form.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use audit_core::UniqueId;

use crate::arguments::Filter;
use crate::escape;
use crate::object::Chunk;
use crate::output::{Output, Style};
use crate::query::{Condition, Pointer, Time};
use crate::units::Count;

/// Which records are printed, and how. Shared by the tasks that read objects.
#[derive(Debug)]
pub(crate) struct Printer {
    conditions: Vec<Condition>,
    /// For each condition, whether any record has its member.
    named: Vec<AtomicBool>,
    time: Option<Pointer>,
    times_ms: Range<i64>,
    form: Form,
    /// Whether records are escaped for a terminal, or indented for people.
    escape: bool,
    seen: AtomicU64,
    matched: AtomicU64,
    untimed: Untimed,
}

/// Records that a range of times leaves out because they have no valid time.
#[derive(Debug, Default)]
struct Untimed {
    missing: AtomicU64,
    unreadable: AtomicU64,
    in_other_units: [AtomicU64; UNITS.len()],
}

/// Units that may be mistaken for milliseconds, and their number in a second.
const UNITS: [(&str, i64); 3] =
    [("seconds", 1), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// The years 2000 to 2100, in seconds since 1970. Read as milliseconds, their values in other units
/// are times that no log has.
const LIKELY_S: Range<i64> = 946_684_800..4_102_444_800;

impl Untimed {
    /// Counts the record if it has no time, or one that is likely in another unit.
    fn add(&self, time: Time) {
        let counter = match time {
            Time::Missing => Some(&self.missing),
            Time::Unreadable => Some(&self.unreadable),
            Time::Ms(value) => {
                let unit = UNITS.iter().position(|(_, in_a_second)| {
                    LIKELY_S.contains(&value.div_euclid(*in_a_second))
                });
                unit.map(|unit| &self.in_other_units[unit])
            }
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn note(&self, pointer: &Pointer) -> Option<String> {
        let of = |counter: &AtomicU64, what: String| match counter.load(Relaxed) {
            0 => None,
            count => Some((count, format!("{} {what}", Count(count)))),
        };
        let Untimed { missing, unreadable, in_other_units } = self;
        let units = in_other_units.iter().zip(UNITS).map(|(counter, (unit, _))| {
            of(counter, format!("have a number that looks like {unit}, not milliseconds"))
        });
        let reasons: Vec<(u64, String)> = [
            of(missing, format!("have nothing at {pointer}")),
            of(unreadable, "have something there that is no time".to_owned()),
        ]
        .into_iter()
        .chain(units)
        .flatten()
        .collect();
        let all = Count(reasons.iter().map(|(count, _)| count).sum());
        let reasons = reasons.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join(", ");
        (all.0 > 0).then(|| {
            format!("--time {pointer}: {all} records were left out for their time: {reasons}")
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Unchanged.
    Lines,
    /// With their stream and number, in one line.
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
        let Filter { conditions, time } = filter;
        let form = match (output.is_json(), pretty) {
            (true, _) => Form::Placed,
            (false, true) => Form::Pretty(output.style()),
            (false, false) => Form::Lines,
        };
        Printer {
            named: conditions.iter().map(|_| AtomicBool::new(false)).collect(),
            conditions: conditions.clone(),
            time: time.clone(),
            times_ms,
            form,
            escape: output.is_terminal() || matches!(form, Form::Pretty(_)),
            seen: AtomicU64::new(0),
            matched: AtomicU64::new(0),
            untimed: Untimed::default(),
        }
    }

    fn is_wanted(&self, line: &[u8]) -> bool {
        if let Some(pointer) = &self.time
            && self.times_ms != (i64::MIN..i64::MAX)
        {
            let time = pointer.find_time(line);
            if !time.ms().is_some_and(|time| self.times_ms.contains(&time)) {
                self.untimed.add(time);
                return false;
            }
        }
        self.seen.fetch_add(1, Relaxed);
        let mut all = true;
        for (condition, named) in self.conditions.iter().zip(&self.named) {
            // Until a record has the member. After that, most records can be skipped without
            // parsing.
            if !named.load(Relaxed) && condition.pointer().find(line).is_some() {
                named.store(true, Relaxed);
            }
            all = all && condition.holds(line);
        }
        self.matched.fetch_add(u64::from(all), Relaxed);
        all
    }

    /// The note on skipped records, for readers that expected more.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> =
            self.time.iter().filter_map(|pointer| self.untimed.note(pointer)).collect();
        let (seen, matched) = (self.seen.load(Relaxed), self.matched.load(Relaxed));
        let unnamed = self.conditions.iter().zip(&self.named);
        for (condition, _) in unnamed.filter(|(_, named)| seen > 0 && !named.load(Relaxed)) {
            notes.push(format!(
                "--where {condition}: {} of {} records; none has {}",
                Count(matched),
                Count(seen),
                condition.pointer()
            ));
        }
        notes
    }

    /// Writes a record to the chunk if it is selected.
    pub(crate) fn print(&self, stream: UniqueId, sequence: u64, line: &[u8], chunk: &mut Chunk) {
        if !self.is_wanted(line) {
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

/// Lays out a line of JSON over several lines, with every token unchanged.
fn pretty(line: &[u8], style: Style, out: &mut Vec<u8>) {
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
    fn pretty_keeps_the_order_and_the_spelling_of_what_it_lays_out() {
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
