//! `audit stats`: totals, and whether anything is missing, duplicated or damaged.

mod durations;
mod finding;
mod grouped;
mod groups;
mod remembered;
mod seen;
mod summary;
mod tally;

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::arguments::{Common, Stats};
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::ReadError;
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::refused::Refused;
use crate::units::counted;

use finding::Finding;
use seen::{Seen, look};
use tally::Tally;

pub(crate) use grouped::who;

/// The maximum number of possible copies that are listed. All are counted.
const SAME_LINES_SHOWN: u64 = 20;

pub(crate) async fn run(
    arguments: &Stats,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    if !arguments.by.is_empty() || arguments.grouping.per.is_some() {
        return grouped::run(arguments, common, output).await;
    }
    let reader = Reader::open(&arguments.source, common)?;
    let wanted = Wanted::selected(&arguments.selection, false);
    let partitions = reader.partitions(&wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    // Hosts' records about their streams are read after the logs, since they fill gaps between
    // them.
    let system = reader.system();
    let of_hosts = system.partitions(&wanted).await?;
    let objects = reader.objects_in(partitions, wanted.stream);
    let objects = objects.chain(system.objects_in(of_hosts, wanted.stream));
    let (heads, time) = (arguments.heads, Arc::new(arguments.filter.time.clone()));
    let from = reader.clone();
    type Looked = Result<(Listed, Result<Seen, ReadError>), Failure>;
    let work = move |object: Result<Listed, Failure>, sender: mpsc::Sender<Looked>| {
        let (reader, time) = (from.clone(), Arc::clone(&time));
        async move {
            let looked = match object {
                Ok(object) => {
                    let seen = look(&reader, &object, heads, time.as_ref().as_ref()).await;
                    Ok((object, seen))
                }
                Err(failure) => Err(failure),
            };
            // The reader may be gone.
            let _ = sender.send(looked).await;
        }
    };
    let mut results = std::pin::pin!(in_order(objects, reader.parallel, 1, work));
    let mut tally = Tally::default();
    let mut refused = Refused::default();
    let mut wrong = false;
    let mut report = |tally: &mut Tally, finding: Finding| {
        wrong |= finding.is_certain();
        tally.count(&finding);
        // A host that repeats the same logs would flood the output.
        let shown = finding.is_certain() || tally.same_lines <= SAME_LINES_SHOWN;
        if shown { finding::print(&finding, output) } else { Ok(()) }
    };
    while let Some(result) = results.next().await.transpose()? {
        let (object, seen) = result;
        progress.object(&object.key);
        let damaged = |what: String| Finding::Damaged { key: object.location.to_string(), what };
        match seen {
            Ok(seen) if object.key.is_system() => tally.add_system(&seen),
            Ok(seen) => {
                refused.given();
                for finding in tally.add(&seen) {
                    report(&mut tally, finding)?;
                }
            }
            Err(ReadError::Damaged(what)) => report(&mut tally, damaged(what))?,
            Err(ReadError::Gone) => refused.add_gone(&object, output),
            Err(ReadError::Refused(said)) => refused.add(&object, &said, output)?,
            Err(ReadError::Store(said)) => {
                return Err(Failure::new(format!("cannot read {}", object.location)).because(said));
            }
            Err(ReadError::Unwanted) => {}
        }
    }
    drop(progress);
    if tally.totals.objects == 0 && tally.damaged == 0 {
        report(&mut tally, Finding::NoStreams { why: reader.why_nothing(&wanted).await })?;
    }
    if tally.untimed > 0
        && let Some(time) = &arguments.filter.time
    {
        let objects = counted(tally.untimed, "object");
        output.note(&format!("no time was found at {time} in the first record of {objects}"));
    }
    // With a range of times, streams may have begun before it.
    for gap in tally.gaps(arguments.selection.since.is_none()) {
        report(&mut tally, gap)?;
    }
    summary::print(&reader, &tally, output)?;
    refused.end()?;
    reader.end()?;
    Ok(Outcome::wrong_if(wrong))
}
