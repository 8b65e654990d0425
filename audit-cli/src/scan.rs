//! Scans of a bucket: several objects are read and decoded at once, on all cores, and their results
//! come in the order of the keys: by hour, then by stream, then by number.
//!
//! Memory is bounded by the number of objects read at once and the parts that each may be ahead.

use std::ops::ControlFlow;

use futures::{Stream, StreamExt};
use object_store::path::Path;
use tokio::sync::mpsc;

use crate::arguments::Common;
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::{Hash, Part, Read, read_parts};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::refused::{Refused, ended_well};
use crate::sieve::Sieve;
use crate::units::DAY_MS;

/// How many parts an object may be ahead of the receiver.
const PARTS_AHEAD: usize = 4;

/// Reads objects. `begin` is called for each object and returns the function that takes its
/// records.
pub(crate) fn scan<P: Part, S, B, T>(
    reader: &Reader,
    objects: S,
    begin: B,
) -> impl Stream<Item = Result<Read<P>, Failure>> + use<P, S, B, T>
where
    S: Stream<Item = Result<Listed, Failure>>,
    B: Fn(&Listed) -> T,
    T: FnMut(u64, &[u8], &mut P) + Send + 'static,
{
    let from = reader.clone();
    let work = move |object: Result<Listed, Failure>,
                     sender: mpsc::Sender<Result<Read<P>, Failure>>| {
        let reader = from.clone();
        let begun = object.map(|object| (begin(&object), object));
        async move {
            let read = match begun {
                Ok((take, object)) => {
                    let sender = Some(&sender);
                    let content =
                        read_parts(&reader, &object, sender, Hash::IfCompared, take).await;
                    Ok(Read::Ended(Box::new(object), content))
                }
                Err(failure) => Err(failure),
            };
            // The receiver may be gone.
            let _ = sender.send(read).await;
        }
    };
    in_order(objects, reader.parallel, PARTS_AHEAD, work)
}

/// A step of a scan, in order: the parts of an object, then its end.
pub(crate) enum Step<P> {
    Part(P),
    Ended(Box<Listed>),
}

/// The extent of a command's scan.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) objects: u64,
    pub(crate) days: u64,
    /// Whether an object is damaged.
    pub(crate) wrong: bool,
    pub(crate) stopped: bool,
    refused: Refused,
    /// Why the listing is incomplete, if it is.
    unlisted: Option<Failure>,
}

impl Scanned {
    /// The objects that were removed after they were listed.
    pub(crate) fn into_gone(self) -> Vec<Path> {
        self.refused.into_gone()
    }

    /// Takes over the removed objects of an earlier scan.
    pub(crate) fn add_gone_before(&mut self, before: Vec<Path>, output: &Output) {
        self.refused.add_gone_before(before, output);
    }

    /// Notes what was left out, and why nothing was found. Returns the outcome, as
    /// [`end`](Self::end) does.
    pub(crate) async fn end_with_notes(
        self,
        reader: &Reader,
        wanted: &Wanted,
        sieve: &Sieve,
        output: &Output,
    ) -> Result<Outcome, Failure> {
        if self.objects == 0 {
            output.note(&reader.why_nothing(wanted).await);
        }
        sieve.notes().iter().for_each(|note| output.note(note));
        self.end()
    }

    /// The outcome of a command that read everything it wanted.
    ///
    /// # Errors
    ///
    /// If objects or listings were refused, since the output is then incomplete.
    pub(crate) fn end(self) -> Result<Outcome, Failure> {
        self.refused.end()?;
        self.unlisted.map_or(Ok(Outcome::wrong_if(self.wrong)), Err)
    }
}

/// Scans the wanted objects for a command: shows progress, and reports damaged and refused objects.
/// `take` may stop the scan.
///
/// # Errors
///
/// If the bucket cannot be listed or an object cannot be read, and the errors of `take`.
pub(crate) async fn run<P: Part, T>(
    reader: &Reader,
    wanted: &Wanted,
    common: &Common,
    output: &Output,
    begin: impl Fn(&Listed) -> T,
    mut take: impl FnMut(Step<P>) -> Result<ControlFlow<()>, Failure>,
) -> Result<Scanned, Failure>
where
    T: FnMut(u64, &[u8], &mut P) + Send + 'static,
{
    let partitions = reader.partitions(wanted).await?;
    let mut progress = PartitionProgress::new(common, partitions.clone());
    let objects = reader.objects_in(partitions, wanted.stream);
    let mut results = std::pin::pin!(scan(reader, objects, begin));
    let mut scanned = Scanned::default();
    let mut last_day = None;
    while let Some(result) = results.next().await.transpose()? {
        let step = match result {
            Read::Part(part) => Step::Part(part),
            Read::Ended(object, content) => {
                progress.object(&object.key);
                let day = Some(object.key.hour_ms().div_euclid(DAY_MS));
                // Days that are read only because of the margin are not counted.
                let counts = last_day != day && wanted.names(&object.key.partition());
                scanned.days += u64::from(counts);
                last_day = if counts { day } else { last_day };
                scanned.objects += 1;
                scanned.wrong |= !ended_well(&object, &content, &mut scanned.refused, output)?;
                Step::Ended(object)
            }
        };
        if take(step)?.is_break() {
            scanned.stopped = true;
            break;
        }
    }
    scanned.unlisted = reader.end().err();
    Ok(scanned)
}
