//! `audit cat`: the records in a bucket.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::arguments::{Cat, Common};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::{Chunk, Read, Refused, ended_well, read};
use crate::outcomes::{Outcomes, frame, is_outcome};
use crate::output::Output;
use crate::printer::Printer;
use crate::progress::PartitionProgress;
use crate::units::HOUR_MS;

/// The most chunks that an object may be ahead of the printer.
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
    let mut joined = arguments.outcomes.then(Outcomes::new);
    let (from_ms, until_ms) = (wanted.times_ms.start, wanted.times_ms.end);
    // Attempts at the end of the range have their outcomes after it.
    let end_ms = if arguments.outcomes { until_ms.saturating_add(HOUR_MS) } else { until_ms };
    let read_on = Wanted { times_ms: from_ms..end_ms, stream: wanted.stream };
    let partitions = reader.partitions(&read_on).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let (from, of_objects, joins) = (reader.clone(), Arc::clone(&printer), joined.is_some());
    let work = move |object: Result<Listed, Failure>,
                     sender: mpsc::Sender<Result<Read, Failure>>| {
        let (reader, printer) = (from.clone(), Arc::clone(&of_objects));
        async move {
            let read = match object {
                Ok(object) => {
                    let stream = object.key.stream();
                    let is_after = object.key.partition().begin_ms() >= until_ms;
                    let print = |sequence, line: &[u8], chunk: &mut Chunk| match joins {
                        false => printer.print(stream, sequence, line, chunk),
                        true if is_after && !is_outcome(line) => {}
                        true => frame(stream, sequence, line, chunk),
                    };
                    let content = read(&reader, &object, Some(&sender), print).await;
                    Ok(Read::Ended(Box::new(object), content))
                }
                Err(failure) => Err(failure),
            };
            // The reader may be gone.
            let _ = sender.send(read).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, CHUNKS_AHEAD, work));
    let (mut printed, mut wrong, mut objects) = (0, false, 0);
    let mut refused = Refused::default();
    // Whether the limit is reached.
    let mut write = |chunk: &Chunk| {
        if let Some(last) = chunk.first(limit - printed) {
            return output.write(&[last]).map(|()| true);
        }
        printed += chunk.ends.len() as u64;
        output.write(&[&chunk.bytes]).map(|()| false)
    };
    while let Some(result) = results.next().await.transpose()? {
        let mut chunk = Chunk::default();
        let mut is_decided = false;
        match (result, &mut joined) {
            (Read::Chunk(printed), None) => chunk = printed,
            (Read::Chunk(framed), Some(joined)) => joined.take(&framed, &printer, &mut chunk),
            (Read::Ended(object, content), joined) => {
                progress.object(&object.key);
                wrong |= !ended_well(&object, &content, &mut refused, output)?;
                let is_after = object.key.partition().begin_ms() >= until_ms;
                objects += u64::from(!is_after);
                if let Some(joined) = joined {
                    joined.end_group(&printer, &mut chunk);
                    is_decided = is_after && joined.holds_nothing();
                }
            }
        }
        if write(&chunk)? {
            return Ok(Outcome::wrong_if(wrong));
        }
        if is_decided {
            break;
        }
    }
    if let Some(joined) = &mut joined {
        let mut chunk = Chunk::default();
        joined.end(&printer, &mut chunk);
        if write(&chunk)? {
            return Ok(Outcome::wrong_if(wrong));
        }
    }
    drop(progress);
    if objects == 0 {
        output.note(&reader.why_nothing(&wanted).await);
    }
    let mut notes = printer.notes();
    let is_strict = arguments.strict && !notes.is_empty();
    notes.extend(joined.iter().flat_map(Outcomes::notes));
    notes.iter().for_each(|note| output.note(note));
    refused.end()?;
    Ok(Outcome::wrong_if(wrong || is_strict))
}
