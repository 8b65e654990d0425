//! Opens a journal: recovers it, and starts its threads and tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{Clock, Random, UniqueId};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::commit::own_records::{self, OwnRecords, prepare_stream};
use crate::commit::{self, Bounds, Journal};
use crate::deliveries::{self, Deliveries};
use crate::delivery::{Context, DeliveryMemory};
use crate::destination::{Destination, NewStream, StreamSecret};
use crate::disk::{Disk, LocalDisk};
use crate::followers::{
    self, Follower, FollowerMemory, KnownFollowers, check_names, read_followers,
};
use crate::health::{HealthBoard, MustEnd};
use crate::plan::{self, Decided};
use crate::recovery::{self, Recovered};
use crate::recovery_error::RecoveryError;
use crate::routes::{CannotOpen, MAX_PLACES, read_routes};
use crate::segment_writer::{OWN_WRITE_FROM, SegmentWriter};
use crate::segments::LiveSegments;
use crate::settings::JournalSettings;
use crate::shared::executor::{BlockingThreads, Executor, cores};
use crate::shared::latest;
use crate::shared::panic::catch_in;
use crate::{OpenError, OpenErrorKind};

/// How long followers have for the remaining records when a journal is closed.
const FOLLOWERS_PATIENCE: Duration = Duration::from_secs(5);

/// The parts needed to open a journal.
#[derive(Debug)]
pub struct Opening {
    /// Its directory and limits.
    pub journal: JournalSettings,
    /// Limits on callers.
    pub bounds: Bounds,
    /// The size at which an object is full, in bytes of its lines.
    pub max_object_bytes: usize,
    /// The stream, which must be new, that records are first committed to.
    pub stream: UniqueId,
    /// The destination of the records.
    pub destination: Arc<dyn Destination>,
    /// Additional destinations, which nothing waits for.
    pub followers: Vec<Follower>,
    /// The health that the journal reports to.
    pub health: Arc<HealthBoard>,
    /// The clock for system records.
    pub clock: Arc<dyn Clock>,
    /// The source of the segments' checksum seeds and of later streams' names.
    pub random: Arc<dyn Random>,
}

impl Opening {
    /// Recovers the journal and starts its threads and its task.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, a process has it open, acknowledged records are damaged or
    /// missing, it holds objects that the destination cannot send, or the names of followers are
    /// invalid.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(self) -> Result<Journal, OpenError> {
        let directory = self.journal.directory.clone();
        let failed = |error| cannot_open(&directory, error);
        let path = self.journal.directory.clone();
        let disk = spawn_blocking(move || LocalDisk::open(&path))
            .await
            .map_err(io::Error::other)
            .flatten();
        self.open_on(Arc::new(disk.map_err(failed)?)).await
    }

    /// Like [`open`](Self::open), on this disk.
    pub(crate) async fn open_on(self, disk: Arc<dyn Disk>) -> Result<Journal, OpenError> {
        let directory = self.journal.directory.clone();
        let failed = |error| cannot_open(&directory, error);
        let names = check_names(&self.followers)
            .map_err(|what| OpenError::new(OpenErrorKind::Configuration, what))?;
        let new = self.destination.begin_stream(self.stream);
        let secret = new.as_ref().map(|new| new.secret.clone());
        let (from, stream) = (Arc::clone(&disk), self.stream);
        let read = spawn_blocking(move || read(&*from, stream, secret.as_ref(), &names))
            .await
            .map_err(io::Error::other)
            .map_err(failed)?;
        let (recovered, decided) = read.map_err(|error| cannot_recover(&directory, error))?;
        can_be_sent(&directory, &decided, &*self.destination)?;
        self.start(Recovery { disk, new, recovered, decided }).map_err(failed)
    }

    fn start(self, recovery: Recovery) -> io::Result<Journal> {
        let health = Arc::clone(&self.health);
        let means = Means {
            executor: Arc::new(BlockingThreads),
            memory: DeliveryMemory::new(self.journal.max_delivery_bytes, cores()),
            follower_memory: FollowerMemory::new(),
            max_places: MAX_PLACES,
            own_write_from: OWN_WRITE_FROM,
        };
        let Assembled { commits, deliveries, end } = self.assemble(recovery, means)?;
        let journal = Journal::start(commits)?;
        let must_end = health.must_end("the delivery of the journal");
        tokio::spawn(deliver(deliveries.run(Some(FOLLOWERS_PATIENCE)), must_end, end));
        Ok(journal)
    }

    /// Connects the parts of a recovered journal without starting its threads and its task.
    ///
    /// # Errors
    ///
    /// If the records of routes cannot be read.
    pub(crate) fn assemble(self, recovery: Recovery, means: Means) -> io::Result<Assembled> {
        let Opening {
            journal,
            bounds,
            max_object_bytes,
            stream,
            destination,
            followers,
            health,
            clock,
            random,
        } = self;
        let Recovery { disk, new, recovered, mut decided } = recovery;
        let Means { executor, memory, follower_memory, max_places, own_write_from } = means;
        let planned_to = decided.planned_to();
        let live = LiveSegments::recovered(&recovered.segments, &planned_to, max_places)?;
        let (durable, committed) = latest::channel(recovered.end);
        let records = std::mem::take(&mut decided.followers);
        let deliveries = Deliveries::new(deliveries::Parts {
            disk: Arc::clone(&disk),
            context: Context {
                live: Arc::clone(&live),
                executor,
                memory,
                destination: Arc::clone(&destination),
                max_object_bytes,
                journal: journal.clone(),
                clock: Arc::clone(&clock),
                random: Arc::clone(&random),
            },
            follower_memory,
            is_rescue: false,
            health: Arc::clone(&health),
            followers: followers.into_iter().zip(records).collect(),
            left: Vec::new(),
            durable: committed,
            decided,
        });
        health.journal_limit(journal.max_bytes);
        let streams = Arc::clone(&deliveries.streams);
        streams.begin(stream, new.as_ref().map(|new| new.secret.clone()));
        let own = new.map(|new| {
            let random = Arc::clone(&random);
            let parts = own_records::Parts { route: None, destination, clock, random, streams };
            OwnRecords::new(new.records, parts)
        });
        let (end, ended) = watch::channel(false);
        let commits = commit::Parts {
            disk,
            writer: SegmentWriter::new(stream, recovered.end, own_write_from),
            own,
            live,
            followers: Arc::clone(&deliveries.followers),
            routes: Arc::clone(&deliveries.routes),
            next_ordinal: recovered.next_ordinal,
            random,
            stream,
            durable,
            delivery: deliveries.commands.clone(),
            ended,
            health,
            bounds,
            journal,
        };
        Ok(Assembled { commits, deliveries, end })
    }
}

/// Delivers until nothing is left. If not everything was delivered, `end` is dropped, which fails
/// the callers that wait for it.
///
/// A panic stops the sink. What was not delivered stays in the journal for the next process.
async fn deliver(
    deliveries: impl Future<Output = bool>,
    must_end: MustEnd,
    end: watch::Sender<bool>,
) {
    match catch_in(deliveries).await {
        Ok(is_delivered) => {
            must_end.ended();
            if is_delivered {
                end.send_replace(true);
            }
        }
        Err(panicked) => must_end.panicked(&panicked),
    }
}

/// A recovered journal.
pub(crate) struct Recovery {
    pub(crate) disk: Arc<dyn Disk>,
    /// Present if the destination vouches for streams.
    pub(crate) new: Option<NewStream>,
    pub(crate) recovered: Recovered,
    pub(crate) decided: Decided,
}

/// The threads and the memory that a journal works with.
pub(crate) struct Means {
    pub(crate) executor: Arc<dyn Executor>,
    /// The memory of all deliveries.
    pub(crate) memory: Arc<DeliveryMemory>,
    /// The memory of all followers of routes.
    pub(crate) follower_memory: FollowerMemory,
    /// The most places of the routes' records in memory.
    pub(crate) max_places: usize,
    /// The size from which parts of a batch are written without a copy, in bytes.
    pub(crate) own_write_from: usize,
}

/// A journal whose threads and task are not started.
pub(crate) struct Assembled {
    pub(crate) commits: commit::Parts,
    pub(crate) deliveries: Deliveries,
    /// Tells the commits that the deliveries have ended.
    pub(crate) end: watch::Sender<bool>,
}

/// Checks that the destination can send the planned objects and continue the streams.
pub(crate) fn can_be_sent(
    directory: &Path,
    decided: &Decided,
    destination: &dyn Destination,
) -> Result<(), OpenError> {
    let is_foreign =
        |(stream, secret): &(&UniqueId, &StreamSecret)| !destination.understands(**stream, secret);
    if let Some((stream, _)) = decided.secrets.iter().find(is_foreign) {
        let message = format!(
            "the journal in {} holds a secret of stream {stream} that this version cannot use: use \
             the version that wrote it",
            directory.display()
        );
        return Err(OpenError::new(OpenErrorKind::Configuration, message));
    }
    let planned = decided.objects.iter().map(|object| object.plan);
    let Some(unknown) = planned.into_iter().find(|plan| !destination.accepts(plan.encoding)) else {
        return Ok(());
    };
    let message = format!(
        "the journal in {} holds an object with the encoding {}, which this destination cannot \
         send: open it with the kind of destination and the version that wrote it",
        directory.display(),
        unknown.encoding
    );
    Err(OpenError::new(OpenErrorKind::Configuration, message))
}

/// The error of a directory that cannot be used.
pub(crate) fn cannot_open(directory: &Path, error: io::Error) -> OpenError {
    // Another process has it open, or a later version wrote it.
    let is_other = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported);
    let kind = if is_other { OpenErrorKind::Configuration } else { OpenErrorKind::Blocked };
    let message = format!("the journal in {} cannot be opened", directory.display());
    OpenError::new(kind, message).with_source(error)
}

/// The error of a route that cannot be opened.
pub(crate) fn cannot_open_route(directory: &Path, error: CannotOpen) -> OpenError {
    match error {
        CannotOpen::Refused(why) => OpenError::new(OpenErrorKind::Configuration, why),
        CannotOpen::Disk(error) => cannot_open(directory, error),
    }
}

/// The error of a journal that cannot be recovered.
pub(crate) fn cannot_recover(directory: &Path, error: RecoveryError) -> OpenError {
    match error {
        RecoveryError::Io(error) => cannot_open(directory, error),
        error @ RecoveryError::Damaged { .. } => {
            let message = format!(
                "the journal in {} is damaged: keep it, and look at what is left before you start another",
                directory.display()
            );
            OpenError::new(OpenErrorKind::Damaged, message).with_source(error)
        }
    }
}

/// Like [`read_whole`], for an opening that will commit to `stream`. After a crash in here,
/// `stream` has no records, and the next process removes its files.
///
/// Before anything is committed to the new stream, this makes its `.delivered` file durable, since
/// a stream without that file counts as damaged, and its `secret` if the destination vouches for
/// it. The files of the default route's followers with these names are made durable too, and they
/// are returned in the order of the names.
pub(crate) fn read(
    disk: &dyn Disk,
    stream: UniqueId,
    secret: Option<&StreamSecret>,
    names: &[String],
) -> Result<(Recovered, Decided), RecoveryError> {
    let (recovered, mut decided) = read_whole(disk)?;
    prepare_stream(disk, 0, stream, secret)?;
    let known = std::mem::take(&mut decided.followers);
    decided.followers = followers::adopt(disk, &known, names, &recovered, stream)?;
    decided.of_routes = KnownFollowers::new(known, &decided.followers);
    Ok((recovered, decided))
}

/// Reads segments and plans, and checks that they are consistent.
pub(crate) fn read_whole(disk: &dyn Disk) -> Result<(Recovered, Decided), RecoveryError> {
    let recovered = recovery::recover(disk)?;
    let with_records = recovered.segments.iter().flat_map(|segment| {
        let default = (segment.next_sequence > 0).then_some(segment.stream);
        default.into_iter().chain(segment.all_routed().map(|records| records.stream))
    });
    let with_records: BTreeSet<_> = with_records.collect();
    let mut decided = plan::recover(disk, |_| true, |stream| with_records.contains(&stream))?;
    decided.routes = read_routes(disk)?;
    decided.followers = read_followers(disk, &recovered)?;
    let planned_to = decided.planned_to();
    // For each stream, the sequence number after its last record in the segments so far.
    let mut reached: BTreeMap<UniqueId, u64> = BTreeMap::new();
    for segment in &recovered.segments {
        let damaged = |what: String| RecoveryError::Damaged {
            file: crate::segment::file_name(segment.segment.header.ordinal),
            offset: 0,
            what,
        };
        let default = (segment.stream, segment.first_sequence, segment.next_sequence);
        let routed = segment.all_routed().map(|of| (of.stream, of.first, of.next));
        for (stream, first, next) in std::iter::once(default).chain(routed) {
            let Some(planned_to) = planned_to.get(&stream) else {
                return Err(damaged(format!(
                    "the file of the delivery progress of stream {stream} is missing"
                )));
            };
            let (expected, is_whole) = match reached.insert(stream, next) {
                // Earlier segments with records of the stream may have been removed: those records
                // are delivered or in objects.
                None => (*planned_to, first <= *planned_to),
                Some(expected) => (expected, first == expected),
            };
            if !is_whole {
                return Err(damaged(format!(
                    "it begins with record {first}, but records from {expected} on are missing"
                )));
            }
        }
        let unknown = segment.routed.keys().find(|route| decided.routes.get(**route).is_none());
        if let Some(route) = unknown {
            return Err(damaged(format!(
                "it has records of route {route}, which the file of routes does not name"
            )));
        }
    }
    Ok((recovered, decided))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_deliveries_is_counted_and_named() {
        let health = HealthBoard::new("b".to_owned());
        let (end, mut ended) = watch::channel(false);
        let must_end = health.must_end("the delivery of the journal");
        let deliveries = async { panic!("no lane") };
        tokio::spawn(deliver(deliveries, must_end, end)).await.unwrap();
        assert!(ended.changed().await.is_err(), "nothing says that all is delivered");
        assert_eq!(health.health(0).panics, 1);
        let reason = health.stop_reason().unwrap();
        assert!(reason.contains("panicked: no lane"), "{reason}");
    }
}
