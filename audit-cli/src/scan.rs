//! Scans of a bucket: objects are read and decoded several at once, on all cores, and what is made
//! of their records comes in the order of the keys: by hour, then by stream, then by number.
//!
//! Memory is bounded by the objects that are read at once and the parts that each may be ahead.

use std::ops::ControlFlow;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::arguments::Common;
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::{Failure, Outcome};
use crate::in_order::in_order;
use crate::object::{Part, Read, Refused, ended_well, read_parts};
use crate::output::Output;
use crate::progress::PartitionProgress;
use crate::units::DAY_MS;

/// The most parts that an object may be ahead of who takes them.
const PARTS_AHEAD: usize = 4;

/// Reads objects. `begin` is called for each and gives what takes its records.
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
                    let content = read_parts(&reader, &object, Some(&sender), take).await;
                    Ok(Read::Ended(Box::new(object), content))
                }
                Err(failure) => Err(failure),
            };
            // Who takes it may be gone.
            let _ = sender.send(read).await;
        }
    };
    in_order(objects, reader.parallel, PARTS_AHEAD, work)
}

/// What comes of a scan, in order: the parts of an object, then its end.
pub(crate) enum Step<P> {
    Part(P),
    Ended(Box<Listed>),
}

/// What a command's scan was of.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) objects: u64,
    pub(crate) days: u64,
    /// Whether an object is damaged.
    pub(crate) wrong: bool,
    /// Whether it was ended before its end.
    pub(crate) stopped: bool,
    refused: Refused,
}

impl Scanned {
    /// The end of a command that read all that it wanted.
    ///
    /// # Errors
    ///
    /// When objects were refused, since the output is incomplete then.
    pub(crate) fn end(self) -> Result<Outcome, Failure> {
        self.refused.end()?;
        Ok(Outcome::wrong_if(self.wrong))
    }
}

/// Scans what is wanted for a command: shows progress, and reports objects that are damaged or
/// refused. `take` may end it.
///
/// # Errors
///
/// When the bucket cannot be listed or an object cannot be read, and those of `take`.
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
                // Days that are read only for the hour at their edge are not counted.
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
    Ok(scanned)
}
