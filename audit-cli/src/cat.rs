//! `audit cat`: the records in a bucket. `audit search`: those that match a query.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::arguments::{Cat, Common, Search};
use crate::bucket::{Listed, Reader, Wanted};
use crate::condition::Condition;
use crate::failure::{Failure, Outcome};
use crate::object::Chunk;
use crate::outcomes::{Outcomes, frame, is_outcome};
use crate::output::Output;
use crate::printer::Printer;
use crate::scan::{self, Step};
use crate::units::{Count, HOUR_MS, counted};

pub(crate) async fn run(
    arguments: &Cat,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    Ok(print(arguments, &[], common, output).await?.outcome)
}

pub(crate) async fn search(
    arguments: &Search,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let Search { searched, cat } = arguments;
    let condition = searched.condition();
    let Printed { outcome, searched, matched, days, stopped } =
        print(cat, &[condition], common, output).await?;
    let (records, days) = (counted(searched, "record"), counted(days, "day"));
    let matches = if matched == 1 { "matches" } else { "match" };
    let stopped = if stopped { "; stopped at the limit" } else { "" };
    output.flush()?;
    output.note(&format!("searched {records} of {days}, {} {matches}{stopped}", Count(matched)));
    Ok(outcome)
}

struct Printed {
    outcome: Outcome,
    searched: u64,
    matched: u64,
    days: u64,
    stopped: bool,
}

async fn print(
    arguments: &Cat,
    more: &[Condition],
    common: &Common,
    output: &Output,
) -> Result<Printed, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::selected(&arguments.selection, arguments.filter.time.is_some());
    let mut filter = arguments.filter.clone();
    filter.conditions.extend_from_slice(more);
    let printer = Printer::new(&filter, wanted.times_ms.clone(), arguments.printing.pretty, output);
    let (printer, limit) = (Arc::new(printer), arguments.limit.unwrap_or(u64::MAX));
    let none = Printed { outcome: Outcome::Well, searched: 0, matched: 0, days: 0, stopped: true };
    if limit == 0 {
        return Ok(none);
    }
    let until_ms = wanted.read_ms().end;
    let (mut read_on, joins) = (wanted.clone(), arguments.printing.outcomes);
    if joins {
        // Outcomes of the last attempts in the range may be filed after its end.
        read_on.times_ms.end = read_on.times_ms.end.saturating_add(HOUR_MS);
    }
    let of_objects = Arc::clone(&printer);
    let begin = move |object: &Listed| {
        let (stream, printer) = (object.key.stream(), Arc::clone(&of_objects));
        let is_after = object.key.partition().begin_ms() >= until_ms;
        move |sequence, line: &[u8], chunk: &mut Chunk| match joins {
            false => printer.print(stream, sequence, line, chunk),
            true if is_after && !is_outcome(line) => {}
            true => frame(stream, sequence, line, chunk),
        }
    };
    let joined = joins.then(Outcomes::new);
    let mut writer = Writer::new(&printer, output, limit, until_ms, joined);
    let mut scanned =
        scan::run(&reader, &read_on, common, output, begin, |step| writer.take(step)).await?;
    scanned.stopped = writer.end(scanned.stopped)?;
    let (searched, matched) = printer.sieve().counts();
    let matched = matched.min(writer.written);
    let (days, stopped) = (scanned.days, scanned.stopped);
    let done = |outcome| Printed { outcome, searched, matched, days, stopped };
    if stopped {
        return Ok(done(Outcome::wrong_if(scanned.wrong)));
    }
    if writer.objects == 0 {
        output.note(&reader.why_nothing(&wanted).await);
    }
    let mut notes = printer.sieve().notes();
    scanned.wrong |= arguments.strict && !notes.is_empty();
    notes.extend(writer.joined.iter().flat_map(Outcomes::notes));
    notes.iter().for_each(|note| output.note(note));
    Ok(done(scanned.end()?))
}

/// Writes records up to a limit, joined with the outcomes of their attempts if wanted.
struct Writer<'a> {
    printer: &'a Printer,
    output: &'a Output,
    limit: u64,
    /// Objects from here on are only read for outcomes.
    until_ms: i64,
    joined: Option<Outcomes>,
    /// The number of records written.
    written: u64,
    /// The number of objects read, apart from those read for outcomes.
    objects: u64,
    /// Whether the outcomes of all records are known, so that reading can end.
    is_decided: bool,
}

impl<'a> Writer<'a> {
    fn new(
        printer: &'a Printer,
        output: &'a Output,
        limit: u64,
        until_ms: i64,
        joined: Option<Outcomes>,
    ) -> Writer<'a> {
        let (written, objects, is_decided) = (0, 0, false);
        Writer { printer, output, limit, until_ms, joined, written, objects, is_decided }
    }

    /// Breaks when no more records are needed.
    fn take(&mut self, step: Step<Chunk>) -> Result<ControlFlow<()>, Failure> {
        let mut chunk = Chunk::default();
        match (step, &mut self.joined) {
            (Step::Part(printed), None) => chunk = printed,
            (Step::Part(framed), Some(joined)) => joined.take(&framed, self.printer, &mut chunk),
            (Step::Ended(object), joined) => {
                let is_after = object.key.partition().begin_ms() >= self.until_ms;
                self.objects += u64::from(!is_after);
                if let Some(joined) = joined {
                    joined.end_group(self.printer, &mut chunk);
                    self.is_decided = is_after && joined.holds_nothing();
                }
            }
        }
        let written = self.write(&chunk)?;
        self.is_decided &= written.is_continue();
        Ok(if self.is_decided { ControlFlow::Break(()) } else { written })
    }

    /// Breaks once the limit is reached.
    fn write(&mut self, chunk: &Chunk) -> Result<ControlFlow<()>, Failure> {
        if let Some(last) = chunk.first(self.limit - self.written) {
            self.written = self.limit;
            return self.output.write(&[last]).map(|()| ControlFlow::Break(()));
        }
        self.written += chunk.ends.len() as u64;
        self.output.write(&[&chunk.bytes]).map(|()| ControlFlow::Continue(()))
    }

    /// Writes the records whose outcome is unknown, unless reading was `stopped` at the limit.
    /// Returns whether the limit was reached.
    fn end(&mut self, stopped: bool) -> Result<bool, Failure> {
        let Some(joined) = self.joined.as_mut().filter(|_| self.is_decided || !stopped) else {
            return Ok(stopped);
        };
        let mut chunk = Chunk::default();
        joined.end(self.printer, &mut chunk);
        Ok(self.write(&chunk)?.is_break())
    }
}
