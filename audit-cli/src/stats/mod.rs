//! `audit stats`: totals, and whether anything is missing, duplicated or damaged.

mod durations;
mod finding;
mod grouped;
mod groups;
mod holders;
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
    if arguments.is_grouped() {
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
    let mut examination = Examination::new(output);
    while let Some(result) = results.next().await.transpose()? {
        let (object, seen) = result;
        progress.object(&object.key);
        examination.take(&object, seen)?;
    }
    drop(progress);
    if examination.has_found_nothing() {
        examination.report(Finding::NoStreams { why: reader.why_nothing(&wanted).await })?;
    }
    if let untimed @ 1.. = examination.tally.untimed
        && let Some(time) = &arguments.filter.time
    {
        let objects = counted(untimed, "object");
        output.note(&format!("no time was found at {time} in the first record of {objects}"));
    }
    // With a range of times, streams may have begun before it.
    for gap in examination.tally.gaps(arguments.selection.since.is_none()) {
        examination.report(gap)?;
    }
    let Examination { tally, refused, wrong, .. } = examination;
    summary::print(&reader, &tally, output)?;
    refused.end()?;
    reader.end()?;
    Ok(Outcome::wrong_if(wrong))
}

/// What was seen of a bucket so far. Findings are printed as they are made.
struct Examination<'a> {
    output: &'a Output,
    tally: Tally,
    refused: Refused,
    /// Whether any finding is certain.
    wrong: bool,
}

impl<'a> Examination<'a> {
    fn new(output: &'a Output) -> Examination<'a> {
        let (tally, refused) = (Tally::default(), Refused::default());
        Examination { output, tally, refused, wrong: false }
    }

    fn take(&mut self, object: &Listed, seen: Result<Seen, ReadError>) -> Result<(), Failure> {
        match seen {
            Ok(seen) if object.key.is_system() => self.tally.add_system(&seen),
            Ok(seen) => {
                self.refused.given();
                for finding in self.tally.add(&seen) {
                    self.report(finding)?;
                }
            }
            Err(ReadError::Damaged(what)) => {
                self.report(Finding::Damaged { key: object.location.to_string(), what })?;
            }
            Err(ReadError::Gone) => self.refused.add_gone(object, self.output),
            Err(ReadError::Refused(said)) => self.refused.add(object, &said, self.output)?,
            Err(ReadError::Store(said)) => {
                return Err(Failure::new(format!("cannot read {}", object.location)).because(said));
            }
            Err(ReadError::Unwanted) => {}
        }
        Ok(())
    }

    fn report(&mut self, finding: Finding) -> Result<(), Failure> {
        self.wrong |= finding.is_certain();
        self.tally.count(&finding);
        // A host that repeats the same logs would flood the output.
        if finding.is_certain() || self.tally.same_lines <= SAME_LINES_SHOWN {
            finding::print(&finding, self.output)?;
        }
        Ok(())
    }

    fn has_found_nothing(&self) -> bool {
        self.tally.totals.objects == 0 && self.tally.damaged == 0
    }
}
