//! Joins the records of each attempt at a mutation with the attempt's outcome.
//!
//! A host that records outcomes writes one after the records of an attempt, usually within a
//! second, but later if its bucket was unreachable. Records of attempts are therefore held until
//! their outcome is read and then printed with it; all others are printed at once. Memory is
//! bounded: beyond [`MAX_HELD_BYTES`], the oldest attempt is printed as unknown. If its outcome
//! arrives later, it is printed as a separate record, so nothing is lost.

use std::collections::{BTreeMap, HashMap};

use audit_core::UniqueId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::object::Chunk;
use crate::printer::Printer;
use crate::units::{Count, counted};

/// The maximum size of held records, in bytes: 67,000 records of 1,000 bytes.
const MAX_HELD_BYTES: usize = 64 << 20;

/// The overhead of a held record besides its line, in bytes, rounded up.
const HELD_OVERHEAD_BYTES: usize = 128;

type Attempt = (UniqueId, u32);

/// A record whose outcome is not read yet.
#[derive(Debug)]
struct Held {
    stream: UniqueId,
    sequence: u64,
    line: Vec<u8>,
}

/// The member that the engine adds to a record.
#[derive(Deserialize)]
struct Added<'a> {
    #[serde(borrow, rename = "$audit")]
    audit: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Provenance<'a> {
    execution: &'a str,
    attempt: u32,
    kind: Option<&'a str>,
    outcome: Option<&'a str>,
}

#[derive(Debug)]
pub(crate) struct Outcomes {
    max_held_bytes: usize,
    /// The latest records, all of one attempt, and whether one of them is from a mutation: an
    /// attempt's queries cannot be recognized by themselves.
    group: Option<(Attempt, Vec<Held>, bool)>,
    /// The held records by attempt, each with its number in `order`.
    held: HashMap<Attempt, (u64, Vec<Held>)>,
    /// The held attempts, oldest first.
    order: BTreeMap<u64, Attempt>,
    next: u64,
    held_bytes: usize,
    unknown: u64,
    evicted: u64,
    apart: u64,
}

/// The frame of a record in a chunk: its stream, its number, its line.
const STREAM_BYTES: usize = 16;
const FRAME_BYTES: usize = STREAM_BYTES + 8;

/// Adds a record to a chunk, for [`Outcomes::take`].
pub(crate) fn frame(stream: UniqueId, sequence: u64, line: &[u8], chunk: &mut Chunk) {
    chunk.bytes.extend_from_slice(&stream.to_bits().to_be_bytes());
    chunk.bytes.extend_from_slice(&sequence.to_be_bytes());
    chunk.bytes.extend_from_slice(line);
    chunk.ends.push(chunk.bytes.len());
}

pub(crate) fn is_outcome(line: &[u8]) -> bool {
    provenance(line).is_some_and(|(_, _, provenance)| provenance.outcome.is_some())
}

/// The attempt of a record, the end of the engine's member in its line, and the member.
fn provenance(line: &[u8]) -> Option<(Attempt, usize, Provenance<'_>)> {
    let added: Added<'_> = serde_json::from_slice(line).ok()?;
    let raw = added.audit?.get();
    let provenance: Provenance<'_> = serde_json::from_str(raw).ok()?;
    let execution = provenance.execution.parse().ok()?;
    // `raw` borrows from `line`, so the difference of their addresses is an offset in the line.
    let end = raw.as_ptr() as usize - line.as_ptr() as usize + raw.len();
    Some(((execution, provenance.attempt), end, provenance))
}

impl Outcomes {
    pub(crate) fn new() -> Outcomes {
        Outcomes {
            max_held_bytes: MAX_HELD_BYTES,
            group: None,
            held: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            held_bytes: 0,
            unknown: 0,
            evicted: 0,
            apart: 0,
        }
    }

    /// Takes the records of a chunk, and prints those whose outcome is decided.
    pub(crate) fn take(&mut self, framed: &Chunk, printer: &Printer, out: &mut Chunk) {
        let mut start = 0;
        for end in &framed.ends {
            let (head, line) = framed.bytes[start..*end].split_at(FRAME_BYTES);
            let (stream, sequence) = head.split_at(STREAM_BYTES);
            let stream = u128::from_be_bytes(stream.try_into().expect("it has 16 bytes"));
            let sequence = u64::from_be_bytes(sequence.try_into().expect("it has 8 bytes"));
            self.take_record(UniqueId::from_bits(stream), sequence, line, printer, out);
            start = *end;
        }
    }

    /// Takes one record, and prints the records that it decides.
    pub(crate) fn take_record(
        &mut self,
        stream: UniqueId,
        sequence: u64,
        line: &[u8],
        printer: &Printer,
        out: &mut Chunk,
    ) {
        let Some((attempt, _, provenance)) = provenance(line) else {
            self.end_group(printer, out);
            return printer.print(stream, sequence, line, out);
        };
        if let Some(outcome) = provenance.outcome {
            self.end_group(printer, out);
            match self.held.remove(&attempt) {
                Some((number, records)) => {
                    self.order.remove(&number);
                    self.decide(records, outcome, printer, out);
                }
                None => {
                    self.apart += 1;
                    printer.print(stream, sequence, line, out);
                }
            }
            return;
        }
        let is_mutation = provenance.kind == Some("mutation");
        if self.group.as_ref().is_some_and(|(of, ..)| *of != attempt) {
            self.end_group(printer, out);
        }
        let (_, records, of_mutation) = self.group.get_or_insert((attempt, Vec::new(), false));
        records.push(Held { stream, sequence, line: line.to_vec() });
        *of_mutation |= is_mutation;
    }

    /// Called at the end of an object. An attempt's records are adjacent and within one object.
    pub(crate) fn end_group(&mut self, printer: &Printer, out: &mut Chunk) {
        let Some((attempt, records, of_mutation)) = self.group.take() else { return };
        if !of_mutation {
            for Held { stream, sequence, line } in records {
                printer.print(stream, sequence, &line, out);
            }
            return;
        }
        self.held_bytes += bytes(&records);
        // A retried release may have written an attempt's records twice.
        let (_, held) = self.held.entry(attempt).or_insert_with(|| {
            self.order.insert(self.next, attempt);
            self.next += 1;
            (self.next - 1, Vec::new())
        });
        held.extend(records);
        while self.held_bytes > self.max_held_bytes && self.give_up_oldest(printer, out) {
            self.evicted += 1;
        }
    }

    /// Prints the oldest attempt that is held as unknown, if there is one.
    fn give_up_oldest(&mut self, printer: &Printer, out: &mut Chunk) -> bool {
        let Some((_, oldest)) = self.order.pop_first() else { return false };
        if let Some((_, records)) = self.held.remove(&oldest) {
            self.decide(records, UNKNOWN, printer, out);
        }
        true
    }

    /// Prints an attempt's records with its outcome.
    fn decide(&mut self, records: Vec<Held>, outcome: &str, printer: &Printer, out: &mut Chunk) {
        self.held_bytes -= bytes(&records);
        self.unknown += u64::from(outcome == UNKNOWN);
        for Held { stream, sequence, mut line } in records {
            if let Some((_, end, _)) = provenance(&line) {
                // The word is one of ours unless the object was altered, so it is encoded as JSON
                // in any case.
                let outcome = serde_json::Value::from(outcome);
                line.splice(end - 1..end - 1, format!(",\"outcome\":{outcome}").into_bytes());
            }
            printer.print(stream, sequence, &line, out);
        }
    }

    /// Prints the held records, whose outcomes are unknown.
    pub(crate) fn end(&mut self, printer: &Printer, out: &mut Chunk) {
        self.end_group(printer, out);
        while self.give_up_oldest(printer, out) {}
    }

    /// Prints as unknown the records held since before [`mark`](Self::mark) returned this.
    pub(crate) fn give_up_before(&mut self, mark: u64, printer: &Printer, out: &mut Chunk) {
        while self.order.first_key_value().is_some_and(|(number, _)| *number < mark) {
            self.give_up_oldest(printer, out);
        }
    }

    /// A mark: everything held from now on comes after it.
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    pub(crate) fn holds_nothing(&self) -> bool {
        self.held.is_empty() && self.group.is_none()
    }

    /// Notes for the user about outcomes that could not be joined with their records.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Outcomes { unknown, evicted, apart, .. } = self;
        let mut notes = Vec::new();
        if *unknown > 0 {
            let attempts = counted(*unknown, "attempt");
            notes.push(format!("--outcomes: no outcome was found for {attempts}"));
        }
        if *evicted > 0 {
            notes.push(format!(
                "--outcomes: {} of these printed before all was read, since more than {} MiB \
                 would have been held",
                Count(*evicted),
                MAX_HELD_BYTES >> 20
            ));
        }
        if *apart > 0 {
            notes.push(format!(
                "--outcomes: {} of attempts whose records were not read or were printed before",
                counted(*apart, "outcome")
            ));
        }
        notes
    }
}

/// The outcome of an attempt without an outcome record.
const UNKNOWN: &str = "unknown";

fn bytes(records: &[Held]) -> usize {
    records.iter().map(|held| held.line.capacity() + HELD_OVERHEAD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use audit_core::testing::SeededRandom;
    use audit_core::{Random, UniqueId};
    use proptest::prelude::*;

    use super::*;
    use crate::arguments::{Color, Filter};
    use crate::output::Output;

    fn printer() -> Printer {
        let filter = Filter { conditions: Vec::new(), time: None };
        Printer::new(&filter, i64::MIN..i64::MAX, false, &Output::new(Color::Never, false))
    }

    fn id(n: u64) -> UniqueId {
        UniqueId::from_bits(n.into())
    }

    fn log(attempt: u64, kind: &str) -> String {
        let execution = id(attempt / 2);
        let number = attempt % 2 + 1;
        format!(
            r#"{{"a":{attempt},"$audit":{{"execution":"{execution}","attempt":{number},"function":"f","kind":"{kind}","replay":false}}}}"#
        )
    }

    fn outcome(attempt: u64, outcome: &str) -> String {
        let execution = id(attempt / 2);
        let number = attempt % 2 + 1;
        format!(
            r#"{{"$audit":{{"execution":"{execution}","attempt":{number},"outcome":"{outcome}"}}}}"#
        )
    }

    fn printed(outcomes: &mut Outcomes, lines: &[String]) -> Vec<String> {
        let (printer, mut framed, mut out) = (printer(), Chunk::default(), Chunk::default());
        for (sequence, line) in (0..).zip(lines) {
            frame(id(9), sequence, line.as_bytes(), &mut framed);
        }
        outcomes.take(&framed, &printer, &mut out);
        outcomes.end(&printer, &mut out);
        assert_eq!(outcomes.held_bytes, 0);
        String::from_utf8(out.bytes).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    fn with(attempt: u64, kind: &str, outcome: &str) -> String {
        let log = log(attempt, kind);
        format!("{},\"outcome\":\"{outcome}\"}}}}", log.strip_suffix("}}").unwrap())
    }

    #[test]
    fn records_are_unchanged_but_for_their_outcome() {
        let plain = r#"{"a":1.50}"#.to_owned();
        let lines = [
            log(1, "query"),
            log(1, "mutation"),
            plain.clone(),
            log(2, "query"),
            log(3, "mutation"),
            outcome(1, "conflict"),
            outcome(7, "failed"),
        ];
        let mut outcomes = Outcomes::new();
        let expected = [
            plain,
            log(2, "query"),
            with(1, "query", "conflict"),
            with(1, "mutation", "conflict"),
            outcome(7, "failed"),
            with(3, "mutation", "unknown"),
        ];
        assert_eq!(printed(&mut outcomes, &lines), expected);
        assert_eq!(outcomes.notes().len(), 2);
    }

    #[test]
    fn memory_is_bounded_and_late_outcomes_are_printed_apart() {
        let mut outcomes = Outcomes { max_held_bytes: 10_000, ..Outcomes::new() };
        let mut lines: Vec<_> = (0..100).map(|n| log(n, "mutation")).collect();
        lines.extend((0..100).map(|n| outcome(n, "committed")));
        let printed = printed(&mut outcomes, &lines);
        let of = |word: &str| {
            printed.iter().filter(|line| line.contains("\"a\":") && line.contains(word)).count()
        };
        let (unknown, committed) = (of("unknown"), of("committed"));
        assert!(
            unknown > 50 && committed > 20 && unknown + committed == 100,
            "{unknown} {committed}"
        );
        assert_eq!(printed.len(), 100 + unknown, "the outcomes of those are printed apart");
        assert_eq!(outcomes.notes().len(), 3);
    }

    proptest! {
        /// Each record is printed once whatever the order, with its outcome if one follows.
        #[test]
        fn each_record_is_printed_once(attempts in 1u64..40, seed: u64) {
            let random = SeededRandom::new(seed);
            let mut lines: Vec<(u64, String)> = (0..attempts)
                .flat_map(|n| {
                    let at = random.next_u64() % 1_000;
                    let after = at + random.next_u64() % 1_000;
                    let outcome = (n % 3 > 0).then(|| (after, outcome(n, "committed")));
                    [Some((at, log(n, "mutation"))), outcome]
                })
                .flatten()
                .collect();
            lines.sort_by_key(|(at, _)| *at);
            let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
            let mut printed = printed(&mut Outcomes::new(), &lines);
            printed.sort();
            let mut expected: Vec<String> = (0..attempts)
                .map(|n| with(n, "mutation", if n % 3 > 0 { "committed" } else { "unknown" }))
                .collect();
            expected.sort();
            prop_assert_eq!(printed, expected);
        }

        #[test]
        fn any_line_is_printed(lines in prop::collection::vec("\\{.{0,40}", 0..8)) {
            prop_assert_eq!(printed(&mut Outcomes::new(), &lines).len(), lines.len());
        }
    }
}
