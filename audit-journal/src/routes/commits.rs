//! The stream that a route's batches are committed to.
//!
//! A stream begins with its first batch: its files are durable before. If the destination vouches
//! for streams, a system record comes first, and a task writes heartbeats from then on, through the
//! journal's queue like any batch. Where the default route's committing thread changes from one
//! stream to the next between two groups, a route does so when no batch of it is on its way: each
//! holds a [`Turn`] until its outcome is known.
//!
//! A stream ends when it is over or its route is closed, unless a write failed and the next
//! recovery may still find the batch: then the stream continues, and the next opening ends it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use audit_core::{Clock, Random, SinkError, SinkErrorKind, UniqueId, async_trait};
use tokio::sync::{
    Mutex as AsyncMutex, Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, mpsc,
};
use tokio::time::{sleep, timeout};

use super::share::{Charge, Share};
use crate::commit::own_records::{self, OwnRecords, prepare_stream};
use crate::delivery::Command;
use crate::destination::Destination;
use crate::disk::Disk;
use crate::format::{EncodedBatch, RouteStream};
use crate::segments::LiveSegments;
use crate::shared::executor::{Executor, execute};
use crate::shared::panic::{catch, catch_in};
use crate::streams::Streams;

/// The shortest time between two checks for due records, and the delay after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time between two readings of the wall clock. The clock may be set, and it advances
/// while the host is suspended, so a computed wait may be too long.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The journal whose queue a route uses.
#[async_trait]
pub(crate) trait SystemQueue: Send + Sync {
    /// Commits a system record.
    async fn persist_system(&self, record: EncodedBatch, charge: Charge) -> Result<(), SinkError>;

    /// The journal's directory.
    ///
    /// # Errors
    ///
    /// If the journal is closed.
    fn disk(&self) -> io::Result<Arc<dyn Disk>>;

    /// Whether the directory may still be used.
    fn is_open(&self) -> bool;
}

/// The commits of a route.
pub(crate) struct RouteCommits {
    parts: Parts,
    /// Locked for reading by each batch until its outcome is known.
    current: Arc<RwLock<Current>>,
    /// A copy of the stream in `current`, which may be locked for long.
    stream: Mutex<UniqueId>,
    /// `None` before the route is open.
    destination: Mutex<Option<Arc<dyn Destination>>>,
    /// Locked while the directory is used.
    using_disk: AsyncMutex<()>,
    /// Whether there were batches since the last heartbeat.
    is_active: AtomicBool,
    woken: Notify,
}

pub(crate) struct Parts {
    pub(crate) route: u32,
    pub(crate) streams: Arc<Streams>,
    pub(crate) share: Arc<Share>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

/// The stream of the next batch.
struct Current {
    stream: UniqueId,
    state: State,
    /// An upper bound on the number of its records: batches that were not written are counted too.
    records: AtomicU64,
}

enum State {
    /// Its files may not be durable.
    New,
    /// Its files are durable, and its first system record is not.
    Prepared(Own),
    /// Batches are committed to it.
    Begun(Option<Own>),
}

/// The system records of the stream, if the destination vouches for it.
#[derive(Clone)]
struct Own {
    records: Arc<Mutex<OwnRecords>>,
    max_records: u64,
}

/// The right to commit a batch. As long as it exists, the stream of the batch does not end.
pub(crate) struct Turn(OwnedRwLockReadGuard<Current>);

impl Turn {
    /// The stream of the batch.
    pub(crate) fn stream(&self) -> UniqueId {
        self.0.stream
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.stream()).finish()
    }
}

impl Own {
    fn records(&self) -> MutexGuard<'_, OwnRecords> {
        lock(&self.records)
    }
}

/// Ignores poisoning: a panic leaves none of the guarded values half changed.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Current {
    fn new(stream: UniqueId) -> Current {
        Current { stream, state: State::New, records: AtomicU64::new(0) }
    }

    /// Counts a batch of `count` records. Returns false if another stream must begin before the
    /// batch.
    fn admits(&self, count: u64) -> bool {
        let most = match &self.state {
            State::New | State::Prepared(_) => return false,
            State::Begun(None) => u64::MAX,
            State::Begun(Some(own)) => own.max_records,
        };
        let add = |records: u64| records.checked_add(count).filter(|records| *records <= most);
        self.records.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    fn own(&self) -> Option<&Own> {
        match &self.state {
            State::New | State::Begun(None) => None,
            State::Prepared(own) | State::Begun(Some(own)) => Some(own),
        }
    }
}

impl RouteCommits {
    pub(crate) fn new(parts: Parts) -> RouteCommits {
        let stream = UniqueId::generate(&*parts.clock, &*parts.random);
        RouteCommits {
            parts,
            current: Arc::new(RwLock::new(Current::new(stream))),
            stream: Mutex::new(stream),
            destination: Mutex::default(),
            using_disk: AsyncMutex::default(),
            is_active: AtomicBool::new(false),
            woken: Notify::new(),
        }
    }

    /// Commits for this destination from now on. Returns the stream of the next batch.
    pub(crate) fn open(&self, destination: Arc<dyn Destination>) -> UniqueId {
        *lock(&self.destination) = Some(destination);
        *lock(&self.stream)
    }

    /// Waits for the turn of a batch of `count` records in a stream that has begun.
    ///
    /// # Errors
    ///
    /// If the stream cannot begin: the batch is certainly not written.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        journal: &Arc<dyn SystemQueue>,
        count: u32,
    ) -> Result<Turn, SinkError> {
        loop {
            let current = Arc::clone(&self.current).read_owned().await;
            if current.admits(count.into()) {
                if current.own().is_some() && !self.is_active.swap(true, Ordering::AcqRel) {
                    self.woken.notify_one();
                }
                return Ok(Turn(current));
            }
            drop(current);
            let current = Arc::clone(&self.current).write_owned().await;
            let (commits, journal) = (Arc::clone(self), Arc::clone(journal));
            // Runs in a task of its own: if the caller goes away, its write must still end before
            // the next one begins.
            let begin = async move { commits.begin(current, &journal, count.into()).await };
            let begun = tokio::spawn(begin);
            begun.await.map_err(|error| not_begun(io::Error::other(error))).flatten()?;
        }
    }

    /// Begins a stream, unless the current one has room for `count` records.
    ///
    /// After a crash in here, the stream has no records, and the next process removes its files, or
    /// it has a single system record, and the next process closes it.
    async fn begin(
        self: &Arc<Self>,
        mut current: OwnedRwLockWriteGuard<Current>,
        journal: &Arc<dyn SystemQueue>,
        count: u64,
    ) -> Result<(), SinkError> {
        match &current.state {
            State::New | State::Prepared(_) => {}
            State::Begun(None) => return Ok(()),
            State::Begun(Some(own)) => {
                let records = current.records.load(Ordering::Acquire);
                if records.saturating_add(count) <= own.max_records {
                    return Ok(());
                }
                if count >= own.max_records {
                    let most = own.max_records - 1;
                    let what = format!("a batch of {count} records exceeds limit of {most}");
                    return Err(not_begun(io::Error::other(what)));
                }
                if !self.end_current(&mut current) {
                    let full = "its stream is full, and cannot end while the outcome of a write is \
                                unknown";
                    return Err(not_begun(io::Error::other(full)));
                }
            }
        }
        if let State::New = current.state {
            let own = self.prepare(&**journal, &current).await.map_err(not_begun)?;
            current.state = own.map_or(State::Begun(None), State::Prepared);
        }
        let State::Prepared(own) = &current.state else { return Ok(()) };
        let own = own.clone();
        let opened = self.on_disk(&**journal, &own, OwnRecords::opened).await?;
        let charge = self.parts.share.charge_system(opened.bytes());
        // After a crash before this returns, recovery may find the record, and the next process
        // closes the stream. If there is no space for the record, it is written again.
        journal.persist_system(opened, charge).await?;
        own.records().committed();
        current.records.store(1, Ordering::Release);
        let stream = current.stream;
        current.state = State::Begun(Some(own.clone()));
        drop(current);
        let (commits, journal) = (Arc::clone(self), Arc::downgrade(journal));
        tokio::spawn(async move { commits.keep(journal, stream, own).await });
        Ok(())
    }

    /// Makes the files of the current stream durable. For a crash, see [`prepare_stream`].
    async fn prepare(
        &self,
        journal: &dyn SystemQueue,
        current: &Current,
    ) -> io::Result<Option<Own>> {
        let Parts { route, streams, live, executor, clock, random, .. } = &self.parts;
        let (route, stream) = (*route, current.stream);
        let _using_disk = self.using_disk.lock().await;
        let disk = journal.disk()?;
        let no_destination = || io::Error::other("the route is not open");
        let destination = lock(&self.destination).clone().ok_or_else(no_destination)?;
        let new = catch(|| destination.begin_stream(stream))
            .map_err(|_panicked| io::Error::other("the destination panicked"))?;
        // The stream is registered before its first file is written: a delivery may read the plans
        // at any time.
        live.routes().add_stream(stream, route);
        let secret = new.as_ref().map(|new| new.secret.clone());
        streams.begin(stream, secret.clone());
        let of_route = Arc::clone(streams);
        let prepare = move || {
            let _locked = of_route.lock_files();
            prepare_stream(&*disk, route, stream, secret.as_ref())
        };
        execute(&**executor, prepare).await?;
        Ok(new.map(|new| {
            let parts = own_records::Parts {
                route: Some(RouteStream { route, stream }),
                destination,
                clock: Arc::clone(clock),
                random: Arc::clone(random),
                streams: Arc::clone(streams),
            };
            let records = OwnRecords::new(new.records, parts);
            let max_records = records.max_records();
            Own { records: Arc::new(Mutex::new(records)), max_records }
        }))
    }

    /// Makes a system record. If the record names an earlier stream, that is noted durably first.
    async fn on_disk(
        &self,
        journal: &dyn SystemQueue,
        own: &Own,
        make: impl FnOnce(&mut OwnRecords, &dyn Disk) -> EncodedBatch + Send + 'static,
    ) -> Result<EncodedBatch, SinkError> {
        let _using_disk = self.using_disk.lock().await;
        let (disk, own) = (journal.disk().map_err(not_begun)?, own.clone());
        Ok(execute(&*self.parts.executor, move || make(&mut own.records(), &*disk)).await)
    }

    /// Writes the heartbeats of a stream until it ends.
    async fn keep(self: Arc<Self>, journal: Weak<dyn SystemQueue>, stream: UniqueId, own: Own) {
        loop {
            let due_in = own.records().due_in().clamp(PAUSE, MAX_WAIT);
            let _woken = timeout(due_in, self.woken.notified()).await;
            let Some(journal) = journal.upgrade() else { return };
            match catch_in(self.write_what_is_due(&journal, stream)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                // The journal itself reports trouble with its disk, and a lack of room.
                Ok(Err(_)) | Err(_) if journal.is_open() => sleep(PAUSE).await,
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Writes the due heartbeat, or ends the stream if it is over. Returns false if it has ended.
    async fn write_what_is_due(
        &self,
        journal: &Arc<dyn SystemQueue>,
        stream: UniqueId,
    ) -> Result<bool, SinkError> {
        let current = Arc::clone(&self.current).read_owned().await;
        let State::Begun(Some(own)) = &current.state else { return Ok(false) };
        if current.stream != stream || !journal.is_open() {
            return Ok(false);
        }
        let own = own.clone();
        let (is_over, is_due) = {
            let mut records = own.records();
            if self.is_active.load(Ordering::Acquire) {
                records.note_records();
            }
            let count = current.records.load(Ordering::Acquire);
            (records.is_over(count), records.due_in().is_zero())
        };
        if is_over && !self.parts.share.is_uncertain() {
            drop(current);
            let mut current = self.current.write().await;
            return Ok(current.stream == stream && !self.end_current(&mut current));
        }
        if is_due {
            self.is_active.store(false, Ordering::Release);
            let heartbeat = self.on_disk(&**journal, &own, OwnRecords::heartbeat).await?;
            let charge = self.parts.share.charge_system(heartbeat.bytes());
            current.records.fetch_add(1, Ordering::AcqRel);
            journal.persist_system(heartbeat, charge.with_turn(Turn(current))).await?;
            own.records().committed();
        }
        Ok(true)
    }

    /// Ends the current stream if the destination vouches for it: nothing more is committed to it,
    /// and its delivery may write its last record. Returns false if the stream's end is unknown.
    fn end_current(&self, current: &mut Current) -> bool {
        let Parts { streams, share, commands, clock, random, .. } = &self.parts;
        // The secret decides, and not the state: a stream that could not begin may still have
        // files.
        if streams.secret(current.stream).is_none() {
            return true;
        }
        if share.is_uncertain() {
            return false;
        }
        streams.end();
        *current = Current::new(UniqueId::generate(&**clock, &**random));
        *lock(&self.stream) = current.stream;
        self.woken.notify_one();
        let _ = commands.send(Command::EndStreams);
        true
    }

    /// Ends the stream once no batch is on its way.
    pub(crate) async fn end(&self) {
        let mut current = self.current.write().await;
        self.end_current(&mut current);
    }

    /// Whether no stream is left to be ended. While a stream begins or ends, this is false.
    pub(crate) fn has_ended(&self) -> bool {
        let has_secret = |stream| self.parts.streams.secret(stream).is_some();
        self.current.try_read().is_ok_and(|current| !has_secret(current.stream))
    }

    /// Completes once the directory is no longer used, and ends the task that writes heartbeats.
    pub(crate) async fn released(&self) {
        drop(self.using_disk.lock().await);
        self.woken.notify_one();
    }
}

/// The error of a stream that cannot begin.
fn not_begun(error: io::Error) -> SinkError {
    let message = "the progress of a route cannot be written to the journal's disk";
    SinkError::not_persisted(SinkErrorKind::Unavailable, message).with_source(error)
}
