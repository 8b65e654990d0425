//! `audit tail`: the last records of a bucket, and those that come.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use audit_sink_s3::ObjectKey;
use futures::StreamExt;

use crate::arguments::{Common, Tail};
use crate::bucket::{Listed, Reader, Wanted};
use crate::cat::Printer;
use crate::failure::{Failure, Outcome};
use crate::lines::{Chunk, ended_well, read};
use crate::output::Output;
use crate::time::{HOUR_MS, now_ms};

pub(crate) async fn run(
    arguments: &Tail,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let printer = Printer::new(&arguments.filter, i64::MIN..i64::MAX, arguments.pretty, output);
    let mut wrong = false;
    // What is there before the last records are looked for must not be printed as new.
    let mut known =
        if arguments.follow { recent(&reader, arguments.hours).await? } else { BTreeMap::new() };
    let mut last = VecDeque::new();
    for object in last_objects(&reader, arguments.lines).await? {
        let (records, well) = records_of(&reader, &object, &printer, output).await?;
        wrong |= !well;
        last.extend(records);
        last.drain(..last.len().saturating_sub(arguments.lines));
        // It may have come since.
        known.insert(object.key, object);
    }
    for record in &last {
        output.write(&[record])?;
    }
    if !arguments.follow {
        return Ok(Outcome::wrong_if(wrong));
    }
    loop {
        output.flush()?;
        tokio::time::sleep(Duration::from_millis(arguments.interval_ms)).await;
        let now = recent(&reader, arguments.hours).await?;
        let mut new: Vec<_> =
            now.values().filter(|object| !known.contains_key(&object.key)).collect();
        new.sort_by_key(|object| (object.modified_ms, object.key));
        for object in new {
            // What is wrong with it is said, and the exit code will be that of Ctrl-C.
            let (records, _well) = records_of(&reader, object, &printer, output).await?;
            for record in records {
                output.write(&[&record])?;
            }
            output.flush()?;
        }
        known = now;
    }
}

/// The objects that are filed under the last hours, or the next one: clocks differ.
async fn recent(reader: &Reader, hours: u16) -> Result<BTreeMap<ObjectKey, Listed>, Failure> {
    let now = now_ms();
    let wanted = Wanted { times_ms: now - i64::from(hours) * HOUR_MS..now + HOUR_MS, stream: None };
    let mut objects = std::pin::pin!(reader.objects(&wanted).await?);
    let mut found = BTreeMap::new();
    while let Some(object) = objects.next().await.transpose()? {
        found.insert(object.key, object);
    }
    Ok(found)
}

/// The objects that came last, the last one at the end: enough for so many records if each object
/// has one.
///
/// Hours are looked at from the last one on, so that little is listed of a large bucket.
async fn last_objects(reader: &Reader, records: usize) -> Result<Vec<Listed>, Failure> {
    let mut last: Vec<Listed> = Vec::new();
    if records == 0 {
        return Ok(last);
    }
    let all = Wanted { times_ms: i64::MIN..i64::MAX, stream: None };
    for day in reader.days(&all).await?.into_iter().rev() {
        for hour in reader.hours(&day).await?.into_iter().rev() {
            let mut objects = std::pin::pin!(reader.objects_of(&hour).await);
            let mut of_hour: Vec<Listed> = Vec::new();
            while let Some(object) = objects.next().await.transpose()? {
                of_hour.push(object);
                // Of an hour with many objects the last ones suffice.
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

/// Keeps those that the store took last, in that order.
fn keep_last(objects: &mut Vec<Listed>, count: usize) {
    objects.sort_by_key(|object| (object.modified_ms, object.key));
    objects.drain(..objects.len().saturating_sub(count));
}

/// The records of an object, as they are printed, and whether nothing is wrong with it.
async fn records_of(
    reader: &Reader,
    object: &Listed,
    printer: &Printer,
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
    let well = ended_well(object, &content, output)?;
    Ok((records, well))
}
