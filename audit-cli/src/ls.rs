//! `audit ls`: the contents of a bucket, from listings only.

use std::collections::BTreeMap;

use audit_core::UniqueId;
use audit_sink_s3::layout::ObjectKey;
use futures::StreamExt;
use serde::Serialize;

use crate::arguments::{Common, Ls};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::units::{Size, shown};

/// A stream, summarized from the names of its objects.
#[derive(Debug)]
struct Summary {
    objects: u64,
    bytes: u64,
    first: ObjectKey,
    last: ObjectKey,
    modified_ms: i64,
}

impl Summary {
    fn of(object: &Listed) -> Summary {
        let Listed { key, location: _, bytes, modified_ms } = object;
        Summary { objects: 1, bytes: *bytes, first: *key, last: *key, modified_ms: *modified_ms }
    }

    fn add(&mut self, object: &Listed) {
        let Summary { objects, bytes, first, last, modified_ms } = self;
        *objects += 1;
        *bytes += object.bytes;
        if object.key.first_sequence() < first.first_sequence() {
            *first = object.key;
        }
        if object.key.first_sequence() > last.first_sequence() {
            *last = object.key;
        }
        *modified_ms = (*modified_ms).max(object.modified_ms);
    }
}

#[derive(Serialize)]
struct StreamLine {
    stream: String,
    began: String,
    objects: u64,
    bytes: u64,
    first_sequence: u64,
    first_hour: String,
    last_object_sequence: u64,
    last_hour: String,
    last_arrival: String,
}

#[derive(Serialize)]
struct ObjectLine<'a> {
    key: &'a str,
    stream: String,
    first_sequence: u64,
    hour: String,
    bytes: u64,
    arrived: String,
}

pub(crate) async fn run(
    arguments: &Ls,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::selected(&arguments.selection, false);
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let mut objects = std::pin::pin!(reader.objects_in(partitions, wanted.stream));
    let mut streams: BTreeMap<UniqueId, Summary> = BTreeMap::new();
    let mut count = 0;
    while let Some(object) = objects.next().await.transpose()? {
        count += 1;
        progress.object(&object.key);
        if arguments.objects {
            print_object(&object, output)?;
        } else {
            let known = streams.entry(object.key.stream());
            known
                .and_modify(|summary| summary.add(&object))
                .or_insert_with(|| Summary::of(&object));
        }
    }
    drop(progress);
    if !arguments.objects {
        print_streams(&streams, output)?;
    }
    if count == 0 {
        output.note(&reader.why_nothing(&wanted).await);
    } else if let Some(others) = reader.others() {
        output.note(&others.to_string());
    }
    reader.end()?;
    Ok(Outcome::Well)
}

fn print_object(object: &Listed, output: &Output) -> Result<(), Failure> {
    let Listed { key, location, bytes, modified_ms } = object;
    if output.is_json() {
        return output.json(&ObjectLine {
            key: location.as_ref(),
            stream: key.stream().to_string(),
            first_sequence: key.first_sequence(),
            hour: shown(key.hour_ms()),
            bytes: *bytes,
            arrived: shown(*modified_ms),
        });
    }
    let arrived = output.style().faint(&shown(modified_ms - modified_ms.rem_euclid(1_000)));
    output.line(&format!("{:>10}  {arrived}  {location}", Size(*bytes)))
}

fn print_streams(streams: &BTreeMap<UniqueId, Summary>, output: &Output) -> Result<(), Failure> {
    if !output.is_json() && !streams.is_empty() {
        let head = format!(
            "{:26}  {:>8}  {:>10}  {:20}  {:20}",
            "STREAM", "OBJECTS", "SIZE", "FIRST HOUR", "LAST HOUR"
        );
        output.line(&output.style().strong(&head))?;
    }
    for (stream, summary) in streams {
        let Summary { objects, bytes, first, last, modified_ms } = summary;
        let began = i64::try_from(stream.time_ms()).unwrap_or(i64::MAX);
        let (first_hour, last_hour) = (shown(first.hour_ms()), shown(last.hour_ms()));
        if output.is_json() {
            output.json(&StreamLine {
                stream: stream.to_string(),
                began: shown(began),
                objects: *objects,
                bytes: *bytes,
                first_sequence: first.first_sequence(),
                first_hour,
                last_object_sequence: last.first_sequence(),
                last_hour,
                last_arrival: shown(*modified_ms),
            })?;
        } else {
            output.line(&format!(
                "{stream}  {objects:>8}  {:>10}  {first_hour:20}  {last_hour:20}",
                Size(*bytes)
            ))?;
        }
    }
    Ok(())
}
