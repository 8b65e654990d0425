//! The thread that commits: it takes what is queued, makes it durable with one sync, and tells
//! those who wait.
//!
//! There is no linger: while one group is being synced, the next one gathers in the queue.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self as threads, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use audit_core::{Batch, Durability, Place, Random, Receipt, SinkError, SinkErrorKind, UniqueId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::delivery::Command;
use crate::disk::Disk;
use crate::format::{EncodedBatch, Position};
use crate::health::{HealthBoard, Trouble, Watch};
use crate::segment::Segment;
use crate::segment_writer::{CommitError, SegmentWriter};
use crate::segments::{LiveSegments, Publisher};
use crate::settings::JournalSettings;
use crate::shared::panic::{Panicked, catch};
use crate::shared::take_once::TakeOnce;

/// A group is closed when it has this many bytes: by then a sync costs little beside the write.
const MAX_GROUP_BYTES: u64 = 4 << 20;

/// How long the thread that commits stays awake after a group: a part of what the sync took, and
/// nothing while nobody commits.
const AWAKE: Duration = Duration::from_micros(50);

/// How long the threads wait before they look again whether there is room.
const PATIENCE: Duration = Duration::from_millis(200);

/// The longest time that nothing is written after a write found no space. Each further one may use
/// up a segment.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The handle on the journal of an open sink.
pub struct Journal {
    queue: Mutex<Option<threads::Sender<Queued>>>,
    /// One permit for each byte that may be queued.
    room: Arc<Semaphore>,
    stream: UniqueId,
    durable: watch::Receiver<Position>,
    delivery: mpsc::UnboundedSender<Command>,
    /// Becomes true when everything is in the bucket and nothing more will come; closed before that
    /// if the task panicked.
    ended: watch::Receiver<bool>,
    /// Closed when the threads have ended and let go of the directory.
    threads: watch::Receiver<()>,
    live: Arc<LiveSegments>,
    health: Arc<HealthBoard>,
    bounds: Bounds,
    journal: JournalSettings,
}

/// What a caller of `persist` may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many bytes of lines may be queued.
    pub max_pending_bytes: usize,
    /// How long `persist` waits until its batch is certain.
    pub persist_timeout: Duration,
}

type Reply = oneshot::Sender<Result<Receipt, SinkError>>;

/// A batch in the queue.
pub(crate) struct Queued {
    /// The thread takes the batch, or the caller who gives up.
    slot: Arc<TakeOnce<(EncodedBatch, OwnedSemaphorePermit)>>,
    reply: Reply,
    bytes: u64,
}

/// What the threads of a journal are made of.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) writer: SegmentWriter,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) next_ordinal: u32,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) stream: UniqueId,
    pub(crate) durable: watch::Sender<Position>,
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
        let also_running = running.clone();
        thread::Builder::new().name("audit-prepare".to_owned()).spawn(move || {
            let _running = running;
            // What it makes is a file that nobody has written to, and is made anew.
            while let Err(panicked) = catch(|| preparer.run()) {
                preparer.panicked(&panicked);
            }
        })?;
        thread::Builder::new().name("audit-commit".to_owned()).spawn(move || {
            let _running = also_running;
            match catch(|| committer.run()) {
                Ok(()) => must_end.ended(),
                // What was being committed may be durable or not, and what the committer knows of
                // its segment may be wrong: as after a sync that failed, only a recovery can tell.
                Err(panicked) => must_end.panicked(&panicked),
            }
            committer.stopped.store(true, Ordering::Release);
        })?;
        Ok(handle)
    }

    /// What the threads do, without the threads.
    pub(crate) fn connect(parts: Parts) -> (Journal, Committer, Preparer, watch::Sender<()>) {
        let Parts {
            disk,
            writer,
            live,
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
        // Without a buffer: the one segment that is ready waits with whoever made it.
        let (ready, segments) = threads::sync_channel(0);
        let stopped = Arc::new(AtomicBool::new(false));
        let room = Arc::new(Semaphore::new(bounds.max_pending_bytes));
        let receiver = durable.subscribe();
        let preparer = Preparer {
            next_ordinal,
            made: None,
            trouble: None,
            disk,
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
            queued,
            segments,
            next: None,
            publisher: Publisher::new(Arc::clone(&live), stream, durable),
            stopped,
            health: Arc::clone(&health),
            trouble: None,
            pause: None,
            starving: false,
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
            health,
            bounds,
            journal,
        };
        (handle, committer, preparer, running)
    }

    /// How many bytes of lines are queued.
    pub fn pending_bytes(&self) -> u64 {
        (self.bounds.max_pending_bytes - self.room.available_permits()) as u64
    }

    /// See [`AuditSink::persist`](audit_core::AuditSink::persist).
    pub async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let deadline = Instant::now() + self.bounds.persist_timeout;
        let permits =
            u32::try_from(batch.lines().len()).expect("a batch has at most MAX_BATCH_BYTES");
        let room =
            match timeout_at(deadline, Arc::clone(&self.room).acquire_many_owned(permits)).await {
                Ok(Ok(room)) => room,
                Ok(Err(_closed)) => return Err(SinkError::closed()),
                Err(_elapsed) => return Err(self.no_room()),
            };
        // Nothing would bring it to the bucket before the next opening, and nobody would hear of
        // it.
        if self.delivery.is_closed() {
            return Err(self.stopped());
        }
        let encoded = EncodedBatch::new(batch);
        let bytes = encoded.bytes();
        let slot = Arc::new(TakeOnce::new((encoded, room)));
        let (reply, outcome) = oneshot::channel();
        let queued = Queued { slot: Arc::clone(&slot), reply, bytes };
        let sent = match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.send(queued).is_ok(),
            None => return Err(SinkError::closed()),
        };
        if !sent {
            return Err(self.stopped());
        }
        match timeout_at(deadline, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_gone)) => Err(match slot.take() {
                Some(_) => self.stopped(),
                None => SinkError::indeterminate(
                    SinkErrorKind::Closed,
                    "the journal stopped while the audit batch was being written: restart the process",
                ),
            }),
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

    /// The batch was not written, since there was no room for it in time.
    fn no_room(&self) -> SinkError {
        let (bytes, max_bytes) = (self.live.bytes(), self.journal.max_bytes);
        let why = match self.health.hindrance() {
            Some(refusal) => refusal.to_string(),
            None => "the disk is slow".to_owned(),
        };
        let message = format!(
            "no room in the journal within {} ms: it has {bytes} of {max_bytes} bytes; {why}",
            self.bounds.persist_timeout.as_millis()
        );
        SinkError::not_persisted(SinkErrorKind::Unavailable, message)
    }

    /// See [`AuditSink::flush`](audit_core::AuditSink::flush).
    pub async fn flush(&self) -> Result<(), SinkError> {
        let durable = *self.durable.borrow();
        let (reply, flushed) = oneshot::channel();
        // Without a task there is nothing to wait for but its end.
        let _ = self.delivery.send(Command::Flush(durable, reply));
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => self.end().await,
        }
    }

    /// See [`AuditSink::close`](audit_core::AuditSink::close).
    pub async fn close(&self) -> Result<(), SinkError> {
        self.room.close();
        // The thread commits what is queued, and ends.
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.delivery.send(Command::Hurry);
        let delivered = self.end().await;
        // One of them may be preparing a segment. Whoever opens the journal next must not find it
        // in use.
        let _ended = self.threads.clone().changed().await;
        delivered
    }

    async fn end(&self) -> Result<(), SinkError> {
        let mut ended = self.ended.clone();
        ended.wait_for(|ended| *ended).await.map(drop).map_err(|_gone| self.stopped())
    }

    /// Nothing more is taken before the process is restarted.
    fn stopped(&self) -> SinkError {
        let why = self.health.when_stopped().borrow().clone();
        match why {
            Some(why) => SinkError::not_persisted(SinkErrorKind::Closed, why),
            None => stopped(),
        }
    }
}

/// The threads are gone, or will not write any more.
fn stopped() -> SinkError {
    let message = "the journal has stopped: restart the process";
    SinkError::not_persisted(SinkErrorKind::Closed, message)
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("stream", &self.stream)
            .field("journal", &self.journal)
            .field("health", &self.health.health(self.pending_bytes()))
            .finish_non_exhaustive()
    }
}

/// Batches that nobody can take back any more.
pub(crate) struct Taken {
    pub(crate) batches: Vec<EncodedBatch>,
    /// The callers, how many records each has, and what their batches had of the queue's room.
    pub(crate) waiters: Vec<(Reply, u32, OwnedSemaphorePermit)>,
}

impl Taken {
    /// Takes the batches that were not taken back.
    pub(crate) fn of(group: impl Iterator<Item = Queued>) -> Taken {
        let (mut batches, mut waiters) = (Vec::new(), Vec::new());
        for Queued { slot, reply, bytes: _ } in group {
            let Some((encoded, room)) = slot.take() else { continue };
            waiters.push((reply, encoded.batch().count(), room));
            batches.push(encoded);
        }
        Taken { batches, waiters }
    }
}

/// The thread that commits.
pub(crate) struct Committer {
    pub(crate) writer: SegmentWriter,
    pub(crate) queued: threads::Receiver<Queued>,
    segments: threads::Receiver<Segment>,
    /// A segment that is ready.
    pub(crate) next: Option<Segment>,
    pub(crate) publisher: Publisher,
    stopped: Arc<AtomicBool>,
    health: Arc<HealthBoard>,
    /// The last write found no space.
    trouble: Option<Watch>,
    /// Until when nothing is written, and how long that is, after a write that found no space.
    pause: Option<(Instant, Duration)>,
    /// Whether a batch has waited for room, and none was committed since.
    starving: bool,
}

impl Committer {
    fn run(&mut self) {
        let mut group = Vec::new();
        // The first batch that did not fit into a group begins the next one.
        let mut left: Option<Queued> = None;
        loop {
            match left.take().map_or_else(|| self.receive(), Ok) {
                Ok(first) => group.push(first),
                // The sink was closed, or dropped.
                Err(_) => break,
            }
            let mut bytes = group[0].bytes;
            while bytes < MAX_GROUP_BYTES {
                match self.queued.try_recv() {
                    Ok(next) if bytes + next.bytes > MAX_GROUP_BYTES => {
                        left = Some(next);
                        break;
                    }
                    Ok(next) => {
                        bytes += next.bytes;
                        group.push(next);
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            // Before the batches are taken: while there is no space or no segment, their callers
            // may still take them back.
            while !group.is_empty() && self.is_pausing() {
                thread::park_timeout(PATIENCE);
                group.retain(|queued| !queued.reply.is_closed());
            }
            while !group.is_empty() && self.next.is_none() && !self.writer.has_room(bytes) {
                match self.segments.recv_timeout(PATIENCE) {
                    Ok(segment) => {
                        self.starve(false);
                        self.next = Some(segment);
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        self.starve(true);
                        group.retain(|queued| !queued.reply.is_closed());
                    }
                    Err(RecvTimeoutError::Disconnected) => group.clear(),
                }
            }
            self.commit(group.drain(..));
        }
    }

    fn is_pausing(&self) -> bool {
        self.pause.is_some_and(|(until, _)| Instant::now() < until)
    }

    /// Waits for a batch: at first awake, since whoever was just told that a batch is durable often
    /// has the next one, and waking a thread takes a good part of the time of a sync.
    fn receive(&self) -> Result<Queued, threads::RecvError> {
        let began = Instant::now();
        loop {
            match self.queued.try_recv() {
                Ok(queued) => return Ok(queued),
                Err(TryRecvError::Disconnected) => return Err(threads::RecvError),
                Err(TryRecvError::Empty) if began.elapsed() < AWAKE => thread::yield_now(),
                Err(TryRecvError::Empty) => return self.queued.recv(),
            }
        }
    }

    fn starve(&mut self, starving: bool) {
        if self.starving != starving {
            self.starving = starving;
            self.health.starving(starving);
        }
    }

    fn commit(&mut self, group: impl Iterator<Item = Queued>) {
        let taken = Taken::of(group);
        if !taken.batches.is_empty() {
            self.write(taken);
        }
    }

    /// Writes batches and answers their callers. One that has gone changes nothing: its batch has
    /// its numbers, and is delivered like the others.
    pub(crate) fn write(&mut self, taken: Taken) {
        let Taken { batches, waiters } = taken;
        let next = &mut self.next;
        let began = Instant::now();
        match self.writer.commit(&batches, || next.take()) {
            Ok(committed) => {
                let bytes = batches.iter().map(EncodedBatch::bytes).sum();
                self.health.committed(began.elapsed(), batches.len(), bytes);
                let count = batches.iter().map(|encoded| encoded.batch().count()).sum();
                self.publisher.publish(&committed, count);
                self.starve(false);
                self.pause = None;
                if let Some(trouble) = self.trouble.take() {
                    trouble.over();
                }
                let mut first_sequence = committed.first_sequence;
                for (reply, count, _room) in waiters {
                    let place = Place { stream: self.publisher.stream(), first_sequence, count };
                    first_sequence += u64::from(count);
                    // A crash before this line: the record is durable and will be delivered, and
                    // nobody was told.
                    let _ = reply.send(Ok(Receipt {
                        durability: Durability::Journaled,
                        place: Some(place),
                    }));
                }
            }
            Err(CommitError::Failed(error)) => {
                self.health.stop(Trouble::stopped(&error));
                for (reply, ..) in waiters {
                    let message =
                        "the journal's disk failed while the audit batch was being written";
                    let failed = SinkError::indeterminate(SinkErrorKind::Closed, message);
                    let _ = reply.send(Err(failed.with_source(Arc::clone(&error))));
                }
            }
            Err(CommitError::NoSpace { error, sealed, next_sequence }) => {
                self.publisher.seal(&sealed, next_sequence);
                let watch = self.trouble.get_or_insert_with(|| self.health.watch());
                watch.report(Trouble::disk("an audit batch found no space", &error));
                self.starve(true);
                let pause = self.pause.map_or(PATIENCE, |(_, pause)| (2 * pause).min(MAX_PAUSE));
                self.pause = Some((Instant::now() + pause, pause));
                for (reply, ..) in waiters {
                    let message = "no space on the journal's disk for the audit batch";
                    let failed = SinkError::indeterminate(SinkErrorKind::Unavailable, message);
                    let _ = reply.send(Err(failed.with_source(Arc::clone(&error))));
                }
            }
            Err(CommitError::Stopped(error)) => {
                for (reply, ..) in waiters {
                    let _ = reply.send(Err(stopped().with_source(Arc::clone(&error))));
                }
            }
            Err(CommitError::NoSegment) => {
                for (reply, ..) in waiters {
                    let _ = reply.send(Err(stopped()));
                }
            }
        }
    }
}

/// The thread that prepares segments: so that a commit never waits for one, and none exists beyond
/// what the journal may take.
pub(crate) struct Preparer {
    next_ordinal: u32,
    /// A segment that is to be handed over.
    made: Option<Segment>,
    /// Why there is none.
    trouble: Option<Watch>,
    disk: Arc<dyn Disk>,
    live: Arc<LiveSegments>,
    random: Arc<dyn Random>,
    ready: threads::SyncSender<Segment>,
    stopped: Arc<AtomicBool>,
    health: Arc<HealthBoard>,
    segment_bytes: u64,
    max_bytes: u64,
}

impl Preparer {
    fn run(&mut self) {
        while !self.stopped.load(Ordering::Acquire) {
            if let Some(segment) = self.made.take() {
                if self.ready.send(segment).is_err() {
                    return;
                }
                continue;
            }
            let (bytes, used) = (self.segment_bytes, self.live.bytes());
            if (used + bytes) * 5 > self.max_bytes * 4 && self.trouble.is_none() {
                tracing::warn!(
                    used,
                    max_bytes = self.max_bytes,
                    "the journal of audit logs fills up: at its end functions fail"
                );
            }
            if !self.live.wait_for_room(bytes, self.max_bytes, PATIENCE) {
                if self.trouble.is_none() {
                    let watch = self.trouble.insert(self.health.watch());
                    watch.report(Trouble::journal_full(used, self.max_bytes));
                }
                continue;
            }
            let salt = (self.random.next_u64() >> 32) as u32;
            match self.live.prepare(&*self.disk, self.next_ordinal, bytes, salt) {
                Ok(segment) => {
                    self.next_ordinal += 1;
                    self.made = Some(segment);
                    if let Some(trouble) = self.trouble.take() {
                        trouble.over();
                    }
                    self.health.journal_bytes(self.live.bytes());
                }
                Err(error) => {
                    let what = "no segment of the journal can be prepared";
                    self.in_trouble(Trouble::disk(what, &error));
                }
            }
        }
    }

    /// What it was preparing is not known to be whole, and was handed to nobody: it is made anew,
    /// under the same name.
    fn panicked(&mut self, panicked: &Panicked) {
        self.health.panicked();
        let what = "the thread that prepares segments of the journal";
        self.in_trouble(Trouble::panicked(what, panicked));
    }

    fn in_trouble(&mut self, trouble: Trouble) {
        let watch = self.trouble.get_or_insert_with(|| self.health.watch());
        watch.report(trouble);
        // Nothing is removed that this could wait for, so it waits for time alone.
        self.live.wait_for_room(u64::MAX / 2, 0, PATIENCE);
    }
}
