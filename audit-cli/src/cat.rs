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
    let mut joined = arguments.printing.outcomes.then(Outcomes::new);
    let until_ms = wanted.read_ms().end;
    let mut read_on = wanted.clone();
    if arguments.printing.outcomes {
        // The outcomes of attempts at the end of the range come after it.
        read_on.times_ms.end = read_on.times_ms.end.saturating_add(HOUR_MS);
    }
    let (of_objects, joins) = (Arc::clone(&printer), joined.is_some());
    let begin = move |object: &Listed| {
        let (stream, printer) = (object.key.stream(), Arc::clone(&of_objects));
        let is_after = object.key.partition().begin_ms() >= until_ms;
        move |sequence, line: &[u8], chunk: &mut Chunk| match joins {
            false => printer.print(stream, sequence, line, chunk),
            true if is_after && !is_outcome(line) => {}
            true => frame(stream, sequence, line, chunk),
        }
    };
    let (mut printed, mut objects) = (0, 0);
    // Breaks once the limit is reached.
    let mut write = |chunk: &Chunk| {
        if let Some(last) = chunk.first(limit - printed) {
            printed = limit;
            return output.write(&[last]).map(|()| ControlFlow::Break(()));
        }
        printed += chunk.ends.len() as u64;
        output.write(&[&chunk.bytes]).map(|()| ControlFlow::Continue(()))
    };
    let mut is_decided = false;
    let take = |step: Step<Chunk>| {
        let mut chunk = Chunk::default();
        match (step, &mut joined) {
            (Step::Part(printed), None) => chunk = printed,
            (Step::Part(framed), Some(joined)) => joined.take(&framed, &printer, &mut chunk),
            (Step::Ended(object), joined) => {
                let is_after = object.key.partition().begin_ms() >= until_ms;
                objects += u64::from(!is_after);
                if let Some(joined) = joined {
                    joined.end_group(&printer, &mut chunk);
                    is_decided = is_after && joined.holds_nothing();
                }
            }
        }
        let written = write(&chunk)?;
        is_decided &= written.is_continue();
        Ok(if is_decided { ControlFlow::Break(()) } else { written })
    };
    let mut scanned = scan::run(&reader, &read_on, common, output, begin, take).await?;
    if let Some(joined) = &mut joined
        && (is_decided || !scanned.stopped)
    {
        let mut chunk = Chunk::default();
        joined.end(&printer, &mut chunk);
        scanned.stopped = write(&chunk)?.is_break();
    }
    let (searched, matched) = printer.sieve().counts();
    let matched = matched.min(printed);
    let (days, stopped) = (scanned.days, scanned.stopped);
    let done = |outcome| Printed { outcome, searched, matched, days, stopped };
    if stopped {
        return Ok(done(Outcome::wrong_if(scanned.wrong)));
    }
    if objects == 0 {
        output.note(&reader.why_nothing(&wanted).await);
    }
    let mut notes = printer.sieve().notes();
    scanned.wrong |= arguments.strict && !notes.is_empty();
    notes.extend(joined.iter().flat_map(Outcomes::notes));
    notes.iter().for_each(|note| output.note(note));
    Ok(done(scanned.end()?))
}
