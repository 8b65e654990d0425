//! The committing thread makes all queued batches durable with one sync and answers their callers.
//!
//! There is no linger: while one group is being synced, the next one gathers in the queue.

mod committer;
mod errors;
pub(crate) mod own_records;
mod preparer;
mod thread;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as threads;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::{Batch, Health, Random, Receipt, SinkError, SinkErrorKind, UniqueId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub(crate) use self::committer::Committer;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::committer::Taken;
use self::own_records::OwnRecords;
pub(crate) use self::preparer::Preparer;
use self::thread::start_thread;
use crate::delivery::Command;
use crate::disk::Disk;
use crate::followers::Followers;
use crate::format::{EncodedBatch, Position};
use crate::health::HealthBoard;
use crate::routes::{Charge, Routes, UncertainBatch};
use crate::segment_writer::SegmentWriter;
use crate::segments::{LiveSegments, Publisher};
use crate::settings::JournalSettings;
use crate::shared::latest;
use crate::shared::panic::catch;
use crate::shared::take_once::TakeOnce;

/// The interval at which the threads check for room.
const PATIENCE: Duration = Duration::from_millis(200);

/// The handle of an open journal.
pub struct Journal {
    queue: Mutex<Option<threads::Sender<Queued>>>,
    /// One permit for each byte that may be queued.
    room: Arc<Semaphore>,
    stream: UniqueId,
    durable: latest::Receiver<Position>,
    delivery: mpsc::UnboundedSender<Command>,
    /// Becomes true when everything is delivered and nothing more will be committed. Closed before
    /// that if the task panicked.
    ended: watch::Receiver<bool>,
    /// Closed when the threads have ended and released the directory.
    threads: watch::Receiver<()>,
    live: Arc<LiveSegments>,
    followers: Arc<Followers>,
    routes: Arc<Routes>,
    health: Arc<HealthBoard>,
    bounds: Bounds,
    journal: JournalSettings,
}

/// Limits on callers of `persist`.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most bytes of lines that may be queued.
    pub max_pending_bytes: usize,
    /// How long `persist` waits for a certain outcome.
    pub persist_timeout: Duration,
}

type Reply = oneshot::Sender<Result<Receipt, SinkError>>;

/// A batch and its room, taken by the thread, or by the caller when it gives up.
type Slot = TakeOnce<(EncodedBatch, Room)>;

pub(crate) struct Queued {
    slot: Arc<Slot>,
    /// Whether the batch is of another route than the default one.
    is_routed: bool,
    reply: Reply,
    bytes: u64,
}

/// A batch's room in the queue and, on a route, in its share of the journal. Dropping it frees
/// both.
pub(crate) struct Room {
    _queue: OwnedSemaphorePermit,
    charge: Option<Charge>,
}

impl Room {
    /// Sets whether the batch may be durable: true before it is written, false once it was
    /// certainly not written.
    fn set_may_be_durable(&mut self, may_be_durable: bool) {
        if let Some(charge) = &mut self.charge {
            charge.set_may_be_durable(may_be_durable);
        }
    }

    /// Marks the outcome of the write as unknown. Returns `None` for a batch of the default route,
    /// which has no share.
    fn uncertain(self) -> Option<UncertainBatch> {
        self.charge.map(Charge::uncertain)
    }

    /// The batch is durable: frees its room in the queue, and keeps its room in the route's share.
    fn commit(self) {
        if let Some(charge) = self.charge {
            charge.commit();
        }
    }
}

/// The parts of a journal's threads.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) writer: SegmentWriter,
    /// Present if the destination vouches for streams.
    pub(crate) own: Option<OwnRecords>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) next_ordinal: u32,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) stream: UniqueId,
    pub(crate) durable: latest::Sender<Position>,
    pub(crate) delivery: mpsc::UnboundedSender<Command>,
    pub(crate) ended: watch::Receiver<bool>,
    pub(crate) health: Arc<HealthBoard>,
    pub(crate) bounds: Bounds,
    pub(crate) journal: JournalSettings,
}

impl Journal {
    /// Starts the thread that commits and the one that prepares segments for it.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Journal> {
        let (handle, mut committer, mut preparer, running) = Journal::connect(parts);
        let must_end = handle.health.must_end("the thread that commits audit logs");
        start_thread("audit-prepare", running.clone(), move || {
            // A panic leaves an unused file, which is then prepared again.
            while let Err(panicked) = catch(|| preparer.run()) {
                preparer.panicked(&panicked);
            }
        })?;
        start_thread("audit-commit", running, move || {
            match catch(|| committer.run()) {
                Ok(()) => must_end.ended(),
                // The group may be durable or not, and the committer's view of its segment may be
                // wrong. As after a failed sync, only a recovery can tell.
                Err(panicked) => must_end.panicked(&panicked),
            }
            committer.stopped.store(true, Ordering::Release);
        })?;
        Ok(handle)
    }

    /// Creates the work of the threads without starting them.
    pub(crate) fn connect(parts: Parts) -> (Journal, Committer, Preparer, watch::Sender<()>) {
        let Parts {
            disk,
            writer,
            own,
            live,
            followers,
            routes,
            next_ordinal,
            random,
            stream,
            durable,
            delivery,
            ended,
            health,
            bounds,
            journal,
        } = parts;
        let (queue, queued) = threads::channel();
        // Unbuffered: a ready segment waits in the thread that prepared it.
        let (ready, segments) = threads::sync_channel(0);
        let stopped = Arc::new(AtomicBool::new(false));
        let room = Arc::new(Semaphore::new(bounds.max_pending_bytes));
        let receiver = durable.subscribe();
        let preparer = Preparer {
            next_ordinal,
            made: None,
            trouble: None,
            disk: Arc::clone(&disk),
            live: Arc::clone(&live),
            random,
            ready,
            stopped: Arc::clone(&stopped),
            health: Arc::clone(&health),
            segment_bytes: journal.segment_bytes,
            max_bytes: journal.max_bytes,
        };
        let committer = Committer {
            writer,
            disk,
            own,
            queued,
            segments,
            next: None,
            publisher: Publisher::new(Arc::clone(&live), stream, durable),
            stopped,
            health: Arc::clone(&health),
            trouble: None,
            pause: None,
            starving: false,
            uncertain: Vec::new(),
        };
        let (running, threads) = watch::channel(());
        let handle = Journal {
            queue: Mutex::new(Some(queue)),
            room,
            stream,
            durable: receiver,
            delivery,
            ended,
            threads,
            live,
            followers,
            routes,
            health,
            bounds,
            journal,
        };
        (handle, committer, preparer, running)
    }

    /// The number of queued bytes of lines.
    pub fn pending_bytes(&self) -> u64 {
        (self.bounds.max_pending_bytes - self.room.available_permits()) as u64
    }

    /// See [`AuditSink::health`](audit_core::AuditSink::health).
    pub fn health(&self) -> Health {
        let health = self.health.health(self.pending_bytes());
        Health { followers: self.followers.health(), ..health }
    }

    /// See [`AuditSink::stopped`](audit_core::AuditSink::stopped).
    pub fn when_stopped(&self) -> impl Future<Output = String> + Send + 'static {
        self.health.stopped()
    }

    /// See [`AuditSink::persist`](audit_core::AuditSink::persist).
    pub async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let deadline = Instant::now() + self.bounds.persist_timeout;
        self.persist_encoded(EncodedBatch::new(batch), None, deadline).await
    }

    /// Commits a batch that has room in its route's share.
    pub(crate) async fn persist_encoded(
        &self,
        encoded: EncodedBatch,
        charge: Option<Charge>,
        deadline: Instant,
    ) -> Result<Receipt, SinkError> {
        let (slot, mut outcome) = self.queue(encoded, charge, deadline).await?;
        match timeout_at(deadline, &mut outcome).await {
            Ok(answer) => self.answered(&slot, answer),
            Err(_elapsed) => Err(match slot.take() {
                Some(_) => self.no_room(),
                None => SinkError::indeterminate(
                    SinkErrorKind::Unavailable,
                    format!(
                        "the journal's disk did not answer within {} ms",
                        self.bounds.persist_timeout.as_millis()
                    ),
                ),
            }),
        }
    }

    /// Commits a system record of a route. If the record is being written at the deadline, this
    /// waits for the outcome, which decides whether the record must be written again.
    pub(crate) async fn persist_system(
        &self,
        encoded: EncodedBatch,
        charge: Charge,
    ) -> Result<(), SinkError> {
        let deadline = Instant::now() + self.bounds.persist_timeout;
        let (slot, mut outcome) = self.queue(encoded, Some(charge), deadline).await?;
        let answer = match timeout_at(deadline, &mut outcome).await {
            Ok(answer) => answer,
            Err(_elapsed) if slot.take().is_some() => return Err(self.no_room()),
            Err(_elapsed) => outcome.await,
        };
        self.answered(&slot, answer).map(drop)
    }

    /// Queues a batch once there is room for it.
    async fn queue(
        &self,
        encoded: EncodedBatch,
        charge: Option<Charge>,
        deadline: Instant,
    ) -> Result<(Arc<Slot>, oneshot::Receiver<Result<Receipt, SinkError>>), SinkError> {
        let permits =
            u32::try_from(encoded.batch().lines().len()).expect("at most MAX_BATCH_BYTES");
        let queue =
            match timeout_at(deadline, Arc::clone(&self.room).acquire_many_owned(permits)).await {
                Ok(Ok(queue)) => queue,
                Ok(Err(_closed)) => return Err(SinkError::closed()),
                Err(_elapsed) => return Err(self.no_room()),
            };
        // Without the delivery task, a batch would stay undelivered until the next opening, and
        // nobody would notice.
        if self.delivery.is_closed() {
            return Err(self.stopped());
        }
        let (bytes, is_routed) = (encoded.bytes_in_group(), encoded.route().is_some());
        let room = Room { _queue: queue, charge };
        let slot = Arc::new(TakeOnce::new((encoded, room)));
        let (reply, outcome) = oneshot::channel();
        let queued = Queued { slot: Arc::clone(&slot), is_routed, reply, bytes };
        let sent = match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.send(queued).is_ok(),
            None => return Err(SinkError::closed()),
        };
        if !sent {
            return Err(self.stopped());
        }
        Ok((slot, outcome))
    }

    /// See [`AuditSink::flush`](audit_core::AuditSink::flush). It does not wait for followers.
    pub async fn flush(&self) -> Result<(), SinkError> {
        let durable = self.durable.get();
        let (reply, flushed) = oneshot::channel();
        // If the delivery task has ended, the reply is dropped, and `end` tells whether everything
        // was delivered.
        let _ = self.delivery.send(Command::Flush(durable, reply));
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => self.end().await,
        }
    }

    /// See [`AuditSink::close`](audit_core::AuditSink::close). Once the destination has everything,
    /// followers have five seconds to accept the remaining records, as long as they accept them
    /// without trouble.
    pub async fn close(&self) -> Result<(), SinkError> {
        self.room.close();
        // The thread commits the queued batches and ends.
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.delivery.send(Command::Hurry);
        let delivered = self.end().await;
        // A thread may still be preparing a segment. The next process must not find the journal in
        // use.
        let _ended = self.threads.clone().changed().await;
        delivered
    }

    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.journal.directory
    }

    pub(crate) fn live(&self) -> &LiveSegments {
        &self.live
    }

    pub(crate) fn persist_timeout(&self) -> Duration {
        self.bounds.persist_timeout
    }

    async fn end(&self) -> Result<(), SinkError> {
        let mut ended = self.ended.clone();
        ended.wait_for(|ended| *ended).await.map(drop).map_err(|_gone| self.stopped())
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("stream", &self.stream)
            .field("journal", &self.journal)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
