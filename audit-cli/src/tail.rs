//! `audit tail`: the last records of a bucket, and new ones.

use std::collections::VecDeque;

use futures::StreamExt;

use crate::arguments::{Common, Tail};
use crate::bucket::{Listed, Reader, Wanted};
use crate::cat::Printer;
use crate::failure::{Failure, Outcome};
use crate::follow::Follow;
use crate::object::{Chunk, Refused, ended_well, read};
use crate::output::Output;

pub(crate) async fn run(
    arguments: &Tail,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let printer = Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.pretty, output);
    let (mut wrong, mut refused) = (false, Refused::default());
    // Objects that exist before the search for the last records must not be printed as new.
    let mut follow = match arguments.follow {
        true => Some(Follow::begin(&reader, arguments).await?),
        false => None,
    };
    let mut last = VecDeque::new();
    let objects = last_objects(&reader, arguments.lines).await?;
    let empty = objects.is_empty();
    for object in objects {
        let (records, well) = records_of(&reader, &object, &printer, &mut refused, output).await?;
        wrong |= !well;
        last.extend(records);
        last.drain(..last.len().saturating_sub(arguments.lines));
        // It may have arrived since.
        if let Some(follow) = &mut follow {
            follow.add(&object);
        }
    }
    for record in &last {
        output.write(&[record])?;
    }
    let Some(mut follow) = follow else {
        if empty && arguments.lines > 0 {
            output.note(&reader.why_nothing(&Wanted::all()).await);
        }
        printer.notes().iter().for_each(|note| output.note(note));
        refused.end()?;
        return Ok(Outcome::wrong_if(wrong));
    };
    loop {
        output.flush()?;
        for object in follow.next(&reader).await? {
            // Its damage is reported; the exit code will be that of Ctrl-C.
            let (records, _well) =
                records_of(&reader, &object, &printer, &mut refused, output).await?;
            for record in records {
                output.write(&[&record])?;
            }
            output.flush()?;
        }
    }
}

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
                // The last objects of an hour suffice.
                if of_hour.len() >= 2 * records.max(1_000) {
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

/// The printed records of an object, and whether it is undamaged.
async fn records_of(
    reader: &Reader,
    object: &Listed,
    printer: &Printer,
    refused: &mut Refused,
    output: &Output,
) -> Result<(Vec<Vec<u8>>, bool), Failure> {
    let mut records = Vec::new();
    let content = read(reader, object, None, |sequence, line, _| {
        let mut record = Chunk::default();
        printer.print(object.key.stream(), sequence, line, &mut record);
        if !record.ends.is_empty() {
            records.push(record.bytes);
        }
    })
    .await;
    let well = ended_well(object, &content, refused, output)?;
    Ok((records, well))
}
