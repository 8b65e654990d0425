//! `audit tail`: the last records of a bucket, and new ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use audit_core::SystemClock;
use futures::StreamExt;
use tokio::time::Instant;

use crate::arguments::{Common, Tail};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::follow::Follow;
use crate::object::{Chunk, Part as _, read};
use crate::outcomes::Outcomes;
use crate::output::Output;
use crate::printer::Printer;
use crate::refused::{Refused, ended_well};

pub(crate) async fn run(
    arguments: &Tail,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let printer =
        Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.printing.pretty, output);
    let mut joined = arguments.printing.outcomes.then(Outcomes::new);
    let (mut wrong, mut refused) = (false, Refused::default());
    // Objects that exist before the search for the last records must not be printed as new.
    let mut follow = match arguments.follow {
        true => Some(Follow::begin(&reader, arguments, Arc::new(SystemClock)).await?),
        false => None,
    };
    let mut last = VecDeque::new();
    // Outcomes may be in separate objects, one for each object with records.
    let count = if arguments.printing.outcomes {
        arguments.lines.saturating_mul(2)
    } else {
        arguments.lines
    };
    let objects = last_objects(&reader, count).await?;
    let empty = objects.is_empty();
    let keep_last = |last: &mut VecDeque<Vec<u8>>, chunk: &Chunk| {
        let passed = chunk.ends.len().saturating_sub(arguments.lines);
        last.extend(chunk.records().skip(passed).map(<[u8]>::to_vec));
        last.drain(..last.len().saturating_sub(arguments.lines));
    };
    for object in objects {
        let mut take = |chunk: &Chunk| {
            keep_last(&mut last, chunk);
            Ok(())
        };
        let reading = Reading { printer: &printer, joined: &mut joined, take: &mut take };
        wrong |= !reading.object(&reader, &object, &mut refused, output).await?;
        // The object may have arrived since.
        if let Some(follow) = &mut follow {
            follow.add(&object);
        }
    }
    if let (Some(joined), None) = (&mut joined, &follow) {
        let mut chunk = Chunk::default();
        joined.end(&printer, &mut chunk);
        keep_last(&mut last, &chunk);
    }
    for record in &last {
        output.write(&[record])?;
    }
    if let Some(follow) = follow {
        return print_new(follow, &reader, &printer, joined, refused, output).await;
    }
    if empty && arguments.lines > 0 {
        output.note(&reader.why_nothing(&Wanted::all()).await);
    }
    printer.sieve().notes().iter().for_each(|note| output.note(note));
    joined.iter().flat_map(Outcomes::notes).for_each(|note| output.note(&note));
    refused.end()?;
    reader.end()?;
    Ok(Outcome::wrong_if(wrong))
}

/// Prints the records of new objects until the command is stopped.
async fn print_new(
    mut follow: Follow,
    reader: &Reader,
    printer: &Printer,
    mut joined: Option<Outcomes>,
    mut refused: Refused,
    output: &Output,
) -> Result<Outcome, Failure> {
    // Marks of `joined`, each with the time at which it was taken.
    let mut marks: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        output.flush()?;
        for object in follow.next(reader).await? {
            // Damage is reported, but the exit code is that of Ctrl-C.
            let mut take = |chunk: &Chunk| output.write(&[&chunk.bytes]);
            let reading = Reading { printer, joined: &mut joined, take: &mut take };
            reading.object(reader, &object, &mut refused, output).await?;
            output.flush()?;
        }
        if let Some(joined) = &mut joined {
            marks.push_back((Instant::now(), joined.mark()));
            while let Some((_, mark)) = marks.pop_front_if(|(at, _)| at.elapsed() >= OUTCOME_WAIT) {
                let mut chunk = Chunk::default();
                joined.give_up_before(mark, printer, &mut chunk);
                output.write(&[&chunk.bytes])?;
            }
        }
    }
}

/// How long `tail -f` waits for the outcome of an attempt. A host writes it within a second, and by
/// default a journal delivers it five seconds later.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);

/// The newest objects, in order: enough for `n` records even if each object has one.
///
/// Hours are listed from the last one backwards, so that little of a large bucket is listed.
async fn last_objects(reader: &Reader, records: usize) -> Result<Vec<Listed>, Failure> {
    let mut last: Vec<Listed> = Vec::new();
    if records == 0 {
        return Ok(last);
    }
    for day in reader.days(&Wanted::all()).await?.into_iter().rev() {
        for hour in reader.hours(&day).await?.into_iter().rev() {
            let mut objects = std::pin::pin!(reader.objects_of(&hour).await);
            let mut of_hour: Vec<Listed> = Vec::new();
            while let Some(object) = objects.next().await.transpose()? {
                of_hour.push(object);
                // Only the last objects of an hour are needed.
                if of_hour.len() / 2 >= records.max(1_000) {
                    keep_last(&mut of_hour, records);
                }
            }
            keep_last(&mut of_hour, records);
            of_hour.append(&mut last);
            last = of_hour;
            if last.len() >= records {
                last.drain(..last.len() - records);
                return Ok(last);
            }
        }
    }
    Ok(last)
}

/// Keeps the newest objects, in the order in which the store received them.
fn keep_last(objects: &mut Vec<Listed>, count: usize) {
    objects.sort_by_key(|object| (object.modified_ms, object.key));
    objects.drain(..objects.len().saturating_sub(count));
}

/// Prints the records of an object in chunks of bounded size.
struct Reading<'a> {
    printer: &'a Printer,
    joined: &'a mut Option<Outcomes>,
    take: &'a mut (dyn FnMut(&Chunk) -> Result<(), Failure> + Send),
}

impl Reading<'_> {
    /// Prints the records of an object. Returns whether it is undamaged.
    async fn object(
        self,
        reader: &Reader,
        object: &Listed,
        refused: &mut Refused,
        output: &Output,
    ) -> Result<bool, Failure> {
        let Reading { printer, joined, take } = self;
        let (stream, mut chunk, mut taken) = (object.key.stream(), Chunk::default(), Ok(()));
        let content = read(reader, object, |sequence, line| {
            match joined {
                None => printer.print(stream, sequence, line, &mut chunk),
                Some(joined) => joined.take_record(stream, sequence, line, printer, &mut chunk),
            }
            if chunk.is_full() && taken.is_ok() {
                taken = take(&std::mem::take(&mut chunk));
            }
        })
        .await;
        taken?;
        if let Some(joined) = joined {
            joined.end_group(printer, &mut chunk);
        }
        take(&chunk)?;
        ended_well(object, &content, refused, output)
    }
}
