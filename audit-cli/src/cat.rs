//! `audit cat`: the records in a bucket.

use std::ops::Range;
use std::sync::Arc;

use audit_core::UniqueId;
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::arguments::{Cat, Common, Filter};
use crate::bucket::{Listed, Reader, Wanted};
use crate::condition::{Condition, Pointer};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::lines::{Chunk, Read, ended_well, read};
use crate::output::{Output, Style};
use crate::progress::PartitionProgress;

/// Which records are printed, and how. Shared by those who read objects.
#[derive(Debug)]
pub(crate) struct Printer {
    conditions: Vec<Condition>,
    time: Option<Pointer>,
    times_ms: Range<i64>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As they are.
    Lines,
    /// With their place, in one line.
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
        Printer { conditions: conditions.clone(), time: time.clone(), times_ms, form }
    }

    /// Writes a record to the chunk if it is one of those that are wanted.
    pub(crate) fn print(&self, stream: UniqueId, sequence: u64, line: &[u8], chunk: &mut Chunk) {
        if let Some(pointer) = &self.time
            && self.times_ms != (i64::MIN..i64::MAX)
            && !pointer.find_time(line).is_some_and(|time| self.times_ms.contains(&time))
        {
            return;
        }
        if !self.conditions.iter().all(|condition| condition.holds(line)) {
            return;
        }
        let out = &mut chunk.bytes;
        match self.form {
            Form::Lines => out.extend_from_slice(line),
            Form::Placed => {
                let place =
                    format!("{{\"stream\":\"{stream}\",\"sequence\":{sequence},\"record\":");
                out.extend_from_slice(place.as_bytes());
                out.extend_from_slice(line);
                out.push(b'}');
            }
            Form::Pretty(style) => {
                let place = format!("{stream} #{sequence}");
                out.extend_from_slice(style.faint(&place).as_bytes());
                out.push(b'\n');
                pretty(line, style, out);
            }
        }
        out.push(b'\n');
        chunk.ends.push(out.len());
    }
}

/// Writes a line of JSON over several, with every token as it is.
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

/// Bytes of the string, number or word that stands here.
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

/// How many chunks each object may be ahead of whoever prints.
const CHUNKS_AHEAD: usize = 4;

pub(crate) async fn run(
    arguments: &Cat,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::new(&arguments.selection);
    let printer =
        Printer::new(&arguments.filter, wanted.times_ms.clone(), arguments.pretty, output);
    let (printer, limit) = (Arc::new(printer), arguments.limit.unwrap_or(u64::MAX));
    if limit == 0 {
        return Ok(Outcome::Well);
    }
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let from = reader.clone();
    let work = move |object: Result<Listed, Failure>,
                     sender: mpsc::Sender<Result<Read, Failure>>| {
        let (reader, printer) = (from.clone(), Arc::clone(&printer));
        async move {
            let read = match object {
                Ok(object) => {
                    let print = |sequence, line: &[u8], chunk: &mut Chunk| {
                        printer.print(object.key.stream(), sequence, line, chunk);
                    };
                    let content = read(&reader, &object, Some(&sender), print).await;
                    Ok(Read::Ended(Box::new(object), content))
                }
                Err(failure) => Err(failure),
            };
            // Nobody may want it any more.
            let _ = sender.send(read).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, CHUNKS_AHEAD, work));
    let (mut printed, mut wrong) = (0, false);
    while let Some(result) = results.next().await.transpose()? {
        match result {
            Read::Chunk(chunk) => {
                if let Some(last) = chunk.first(limit - printed) {
                    output.write(&[last])?;
                    return Ok(Outcome::wrong_if(wrong));
                }
                printed += chunk.ends.len() as u64;
                output.write(&[&chunk.bytes])?;
            }
            Read::Ended(object, content) => {
                progress.object(&object.key);
                wrong |= !ended_well(&object, &content, output)?;
            }
        }
    }
    drop(progress);
    Ok(Outcome::wrong_if(wrong))
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
