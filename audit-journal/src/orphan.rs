//! Delivery of the journal of a host that is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::{Health, SinkError, SinkErrorKind, SystemClock, SystemRandom};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::deliveries::{self, Deliveries};
use crate::delivery::{Context, DeliveryMemory};
use crate::destination::Destination;
use crate::disk::{Disk, LocalDisk};
use crate::followers::{Follower, FollowerMemory, FollowerRecord, FollowerState, KnownFollowers};
use crate::health::HealthBoard;
use crate::kept::KeptJournal;
use crate::plan::Decided;
use crate::reader::{self, JournalState};
use crate::recovery::Recovered;
use crate::routes::{MAX_PLACES, RouteOpening, Routes};
use crate::segments::LiveSegments;
use crate::shared::executor::{BlockingThreads, cores};
use crate::shared::latest;
use crate::startup::{can_be_sent, cannot_open, cannot_open_route, cannot_recover, read_whole};
use crate::{JournalSettings, OpenError, OpenErrorKind};

/// The journal of a host that is gone, locked and recovered by this process, as if the host had
/// restarted. No records are added to it.
#[derive(Debug)]
pub struct OrphanedJournal {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    recovered: Recovered,
    decided: Decided,
    state: JournalState,
    remove_delivered: bool,
}

impl OrphanedJournal {
    /// Locks and recovers a journal.
    ///
    /// A crash of this process or its host at any point leaves a journal that can be opened again,
    /// as an orphan or by a sink.
    ///
    /// # Errors
    ///
    /// If there is no journal in the directory, a process has it open, or acknowledged records are
    /// damaged or missing ([`Damaged`](crate::OpenErrorKind::Damaged)). In the last case nothing
    /// was changed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(directory: impl AsRef<Path>) -> Result<OrphanedJournal, OpenError> {
        let directory = directory.as_ref().to_owned();
        let opened = spawn_blocking(move || {
            // Opening would create the directory.
            reader::exists(&directory)?;
            let disk =
                LocalDisk::open(&directory).map_err(|error| cannot_open(&directory, error))?;
            let (recovered, decided) =
                read_whole(&disk).map_err(|error| cannot_recover(&directory, error))?;
            let state = reader::state(&directory, &disk, false, &recovered, &decided)
                .map_err(|error| cannot_open(&directory, error))?;
            let disk: Arc<dyn Disk> = Arc::new(disk);
            Ok(OrphanedJournal {
                directory,
                disk,
                recovered,
                decided,
                state,
                remove_delivered: false,
            })
        });
        match opened.await {
            Ok(opened) => opened,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// The journal's contents.
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Sets whether segments are removed once they are delivered, rather than kept for comparison.
    /// Objects that met a conflict are always kept.
    #[must_use]
    pub fn remove_delivered(self, remove_delivered: bool) -> OrphanedJournal {
        OrphanedJournal { remove_delivered, ..self }
    }

    /// Starts to deliver the undelivered records, each under the stream and number in its receipt.
    /// Planned objects are sent with the same bytes; the other records are cut into objects of
    /// `max_object_bytes` bytes of lines. Streams that the destination vouches for are closed,
    /// using their secrets.
    ///
    /// The given followers and those of the given routes, which the journal must know by name, get
    /// the records they do not have yet, and the delivery waits for that. Followers that are not
    /// given get nothing and keep nothing in the journal. If segments are removed, these followers'
    /// files list the missing records.
    ///
    /// The given routes, which the journal must know by name, get the records they do not have yet,
    /// each from a delivery of its own that reports to its own health, and the delivery waits for
    /// all of them. Records of other routes stay in the journal.
    ///
    /// # Errors
    ///
    /// If the journal holds objects that the destination cannot send, does not know one of the
    /// followers or routes, or cannot be read or written.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn deliver(
        self,
        destination: Arc<dyn Destination>,
        routes: Vec<RouteOpening>,
        followers: Vec<Follower>,
        max_object_bytes: usize,
        health: Arc<HealthBoard>,
    ) -> Result<JournalDelivering, OpenError> {
        let OrphanedJournal { directory, disk, recovered, mut decided, remove_delivered, .. } =
            self;
        let all = std::mem::take(&mut decided.followers);
        let is_own =
            |known: &&FollowerRecord| known.route == 0 && known.state != FollowerState::Retired;
        let mut left: Vec<_> = all.iter().filter(is_own).cloned().collect();
        decided.of_routes = KnownFollowers::new(all, &[]);
        let followers = followers.into_iter().map(|follower| {
            let Some(at) = left.iter().position(|known| known.name == follower.name) else {
                return Err(is_unknown(
                    &directory,
                    &format!("has no follower {:?}", follower.name),
                ));
            };
            Ok((until_it_has_all(follower), left.remove(at)))
        });
        let followers = followers.collect::<Result<_, _>>()?;
        can_be_sent(&directory, &decided, &*destination)?;
        are_known(&directory, &routes, &decided)?;
        let live = LiveSegments::recovered(&recovered.segments, &decided.planned_to(), MAX_PLACES)
            .map_err(|error| cannot_open(&directory, error))?;
        let journal = JournalSettings {
            retention_ms: if remove_delivered { 0 } else { u64::MAX },
            max_bytes: u64::MAX,
            ..JournalSettings::new(directory.clone())
        };
        let deliveries = Deliveries::new(deliveries::Parts {
            disk,
            context: Context {
                live: Arc::clone(&live),
                executor: Arc::new(BlockingThreads),
                memory: DeliveryMemory::new(journal.max_delivery_bytes, cores()),
                destination,
                max_object_bytes,
                journal,
                clock: Arc::new(SystemClock),
                random: Arc::new(SystemRandom),
            },
            follower_memory: FollowerMemory::new(),
            is_rescue: true,
            health: Arc::clone(&health),
            followers,
            left,
            // Nothing will be committed: the sender is dropped, so the delivery ends once
            // everything is delivered.
            durable: latest::channel(recovered.end).1,
            decided,
        });
        for mut opening in routes {
            opening.followers = opening.followers.into_iter().map(until_it_has_all).collect();
            let opened = Routes::open(&deliveries.routes, opening).await;
            let opened = opened.map_err(|error| cannot_open_route(&directory, error))?;
            drop(opened.taken());
        }
        live.routes().close();
        let board = Arc::clone(&health);
        let task = tokio::spawn(async move {
            if !deliveries.run(None).await {
                let why = board.stop_reason();
                let why = why.unwrap_or_else(|| "the delivery ended early: repeat it".to_owned());
                return Err(SinkError::not_persisted(SinkErrorKind::Closed, why));
            }
            let Health {
                objects_delivered: objects, records_delivered: records, conflicts, ..
            } = board.health(0);
            Ok(JournalDelivered { objects, records, conflicts })
        });
        Ok(JournalDelivering::new(health, task))
    }

    /// The delivered records of a route, 0 for the default route, that the segments still hold, for
    /// comparison with the destination. The journal stays locked while the returned value lives.
    #[doc(hidden)]
    pub fn kept(&self, route: u32) -> KeptJournal {
        KeptJournal::new(Arc::clone(&self.disk), &self.recovered, &self.decided, route)
    }
}

/// This follower without a limit on the records that are kept for it.
fn until_it_has_all(follower: Follower) -> Follower {
    Follower { max_kept_bytes: Some(u64::MAX), ..follower }
}

/// Checks that the journal knows these routes and their followers.
fn are_known(
    directory: &Path,
    openings: &[RouteOpening],
    Decided { routes, of_routes, .. }: &Decided,
) -> Result<(), OpenError> {
    for RouteOpening { name, followers: wanted, .. } in openings {
        let Some(number) = routes.find(name) else {
            return Err(is_unknown(directory, &format!("has no route {name:?}")));
        };
        let is_known = |name: &str| {
            let mut known = of_routes.records.iter();
            known.any(|known| known.route == number && known.name == name)
        };
        if let Some(unknown) = wanted.iter().find(|follower| !is_known(&follower.name)) {
            let what = format!("has no follower {:?} of route {name:?}", unknown.name);
            return Err(is_unknown(directory, &what));
        }
    }
    Ok(())
}

fn is_unknown(directory: &Path, what: &str) -> OpenError {
    let message = format!("the journal in {} {what}", directory.display());
    OpenError::new(OpenErrorKind::Configuration, message)
}

/// A running delivery of a journal. Dropping it stops the delivery and loses nothing.
#[derive(Debug)]
#[must_use]
pub struct JournalDelivering<T = JournalDelivered> {
    health: Arc<HealthBoard>,
    task: JoinHandle<Result<T, SinkError>>,
}

/// The result of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalDelivered {
    /// The number of objects now at the destination, including those that were already there. Those
    /// of routes are in the routes' healths.
    pub objects: u64,
    /// The number of records in them.
    pub records: u64,
    /// The number of objects that were set aside because another object has their place.
    pub conflicts: u64,
}

impl<T> JournalDelivering<T> {
    /// Wraps a task that reports to `health`.
    #[doc(hidden)]
    pub fn new(
        health: Arc<HealthBoard>,
        task: JoinHandle<Result<T, SinkError>>,
    ) -> JournalDelivering<T> {
        JournalDelivering { health, task }
    }

    /// The health of the delivery.
    pub fn health(&self) -> Health {
        self.health.health(0)
    }

    /// Whether the delivery has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until everything is at the destination or set aside, without a time limit. Dropping
    /// the future stops the delivery.
    ///
    /// # Errors
    ///
    /// If the delivery ended without an outcome, or if the task returned an error.
    pub async fn finished(mut self) -> Result<T, SinkError> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(SinkError::not_persisted(
                SinkErrorKind::Closed,
                "the delivery of the journal ended without an outcome: start it again",
            )),
        }
    }
}

impl<T> Drop for JournalDelivering<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
