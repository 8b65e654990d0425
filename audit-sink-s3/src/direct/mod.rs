//! Direct mode: nothing is kept on this host, and a batch is durable once its object is in the
//! bucket.
//!
//! One task owns the queue, cuts it into objects and numbers the records; a task for each object
//! encodes and delivers it, and tells its callers.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::{Batch, Durability, Place, Receipt, SinkError, SinkErrorKind, UniqueId};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{self, JoinSet};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout_at};

use crate::bucket::put::{Put, PutOutcome};
use crate::health::{HealthBoard, Trouble, Watch};
use crate::journal::executor::{Executor, execute};
use crate::object::encode::{EncodedObject, ObjectEncoder};
use crate::object::pieces::pieces;
use crate::panic::{Panicked, catch, catch_in};
use crate::take_once::TakeOnce;
use crate::{Compression, ObjectKey, Settings};

#[cfg(test)]
mod panics;

/// Above this many bytes of lines an object is encoded on a thread for blocking work: by then
/// compressing takes longer than a runtime's thread should be held up (about 0.2 ms), and far
/// longer than handing it over.
const MAX_ENCODE_INLINE_BYTES: usize = 64 << 10;

/// How many commands the writer takes before it looks around again.
const MAX_COMMANDS: usize = 256;

/// The handle on the writer's task. Dropping it lets the task end by itself, once everything
/// accepted is certain.
pub(crate) struct DirectWriter {
    commands: mpsc::UnboundedSender<Command>,
    /// One permit for each byte of lines that may be pending. It bounds the queue, which itself has
    /// no bound.
    room: Arc<Semaphore>,
    /// Becomes true when the task has come to its end; closed before that if it panicked.
    ended: watch::Receiver<bool>,
    health: Arc<HealthBoard>,
    settings: Settings,
}

enum Command {
    Persist(Queued),
    Flush(oneshot::Sender<()>),
    Close,
}

/// An accepted batch on its way to the cut.
struct Queued {
    /// The cut takes the batch, or the caller who gives up.
    slot: Arc<TakeOnce<(Batch, Pending)>>,
    reply: oneshot::Sender<Result<Receipt, SinkError>>,
    bytes: usize,
    /// When it has waited long enough for others.
    due: Instant,
}

/// Counts a batch as pending while it lives.
struct Pending {
    _room: OwnedSemaphorePermit,
    health: Arc<HealthBoard>,
}

impl Pending {
    fn new(room: OwnedSemaphorePermit, health: &Arc<HealthBoard>) -> Pending {
        health.pending_batches.fetch_add(1, Ordering::Relaxed);
        Pending { _room: room, health: Arc::clone(health) }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.health.pending_batches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DirectWriter {
    /// Starts the task, in the current tokio runtime. `settings` were checked.
    pub(crate) fn start(
        stream: UniqueId,
        put: Put,
        executor: Arc<dyn Executor>,
        settings: Settings,
    ) -> DirectWriter {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        let room = Arc::new(Semaphore::new(settings.max_pending_bytes));
        let health = Arc::clone(&put.health);
        let writer = Writer::new(stream, put, executor, settings.clone(), receiver);
        let must_end = health.must_end("the task that writes audit logs");
        tokio::spawn(async move {
            match catch_in(writer.run()).await {
                Ok(()) => {
                    must_end.ended();
                    end.send_replace(true);
                }
                Err(panicked) => must_end.panicked(&panicked),
            }
        });
        DirectWriter { commands, room, ended, health, settings }
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        (self.settings.max_pending_bytes - self.room.available_permits()) as u64
    }

    /// See [`AuditSink::persist`](audit_core::AuditSink::persist).
    pub(crate) async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let now = Instant::now();
        let deadline = now + self.settings.persist_timeout();
        let bytes = batch.lines().len();
        let permits = u32::try_from(bytes).expect("a batch has at most MAX_BATCH_BYTES");
        let room =
            match timeout_at(deadline, Arc::clone(&self.room).acquire_many_owned(permits)).await {
                Ok(Ok(room)) => room,
                Ok(Err(_closed)) => return Err(SinkError::closed()),
                Err(_elapsed) => return Err(self.no_room(bytes)),
            };
        let slot = Arc::new(TakeOnce::new((batch, Pending::new(room, &self.health))));
        let (reply, outcome) = oneshot::channel();
        let queued =
            Queued { slot: Arc::clone(&slot), reply, bytes, due: now + self.settings.linger() };
        if self.commands.send(Command::Persist(queued)).is_err() {
            return Err(self.not_taken());
        }
        match timeout_at(deadline, outcome).await {
            Ok(Ok(result)) => result,
            // The task that had the batch is gone with its runtime.
            Ok(Err(_gone)) => Err(match slot.take() {
                Some(_) => self.not_taken(),
                None => SinkError::indeterminate(
                    SinkErrorKind::Unavailable,
                    "the delivery of the audit batch ended without an outcome",
                ),
            }),
            Err(_elapsed) => Err(match slot.take() {
                Some(_) => self.not_sent(),
                None => self.not_certain(),
            }),
        }
    }

    /// See [`AuditSink::flush`](audit_core::AuditSink::flush).
    pub(crate) async fn flush(&self) -> Result<(), SinkError> {
        let (reply, flushed) = oneshot::channel();
        // Without a writer there is nothing to wait for but its end.
        let _ = self.commands.send(Command::Flush(reply));
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => self.ended().await,
        }
    }

    /// See [`AuditSink::close`](audit_core::AuditSink::close).
    pub(crate) async fn close(&self) -> Result<(), SinkError> {
        self.room.close();
        let _ = self.commands.send(Command::Close);
        self.ended().await
    }

    async fn ended(&self) -> Result<(), SinkError> {
        let mut ended = self.ended.clone();
        ended.wait_for(|ended| *ended).await.map(drop).map_err(|_panicked| self.stopped())
    }

    /// The queue is gone: closed in the meantime, or the task panicked.
    fn not_taken(&self) -> SinkError {
        if self.room.is_closed() { SinkError::closed() } else { self.stopped() }
    }

    fn stopped(&self) -> SinkError {
        SinkError::not_persisted(
            SinkErrorKind::Closed,
            "the task that writes audit logs ended unexpectedly",
        )
    }

    fn no_room(&self, bytes: usize) -> SinkError {
        let (kind, why) = self.trouble();
        let Settings { persist_timeout_ms, max_pending_bytes, .. } = self.settings;
        let pending = self.pending_bytes();
        let message = format!(
            "no room for an audit batch of {bytes} bytes within {persist_timeout_ms} ms: {pending} of {max_pending_bytes} \
             bytes wait for the bucket; {why}"
        );
        SinkError::not_persisted(kind, message)
    }

    fn not_sent(&self) -> SinkError {
        let (kind, why) = self.trouble();
        let Settings { persist_timeout_ms, max_in_flight, .. } = self.settings;
        let message = format!(
            "audit batch not sent within {persist_timeout_ms} ms, behind {max_in_flight} objects that wait for the \
             bucket; {why}"
        );
        SinkError::not_persisted(kind, message)
    }

    fn not_certain(&self) -> SinkError {
        let (kind, why) = self.trouble();
        let message = format!(
            "delivery of the audit batch not certain after {} ms; {why}",
            self.settings.persist_timeout_ms
        );
        SinkError::indeterminate(kind, message)
    }

    fn trouble(&self) -> (SinkErrorKind, String) {
        match self.health.trouble() {
            None => (SinkErrorKind::Unavailable, "the bucket has not answered yet".to_owned()),
            Some(trouble) => {
                let kind = if trouble.is_blocked() {
                    SinkErrorKind::Blocked
                } else {
                    SinkErrorKind::Unavailable
                };
                (kind, format!("last response: {trouble}"))
            }
        }
    }
}

impl fmt::Debug for DirectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectWriter")
            .field("health", &self.health.health(self.pending_bytes()))
            .field("closed", &self.room.is_closed())
            .finish_non_exhaustive()
    }
}

/// The task that owns the queue.
struct Writer {
    stream: UniqueId,
    /// The number of the next record.
    next_sequence: u64,
    put: Arc<Put>,
    executor: Arc<dyn Executor>,
    settings: Settings,
    commands: mpsc::UnboundedReceiver<Command>,
    /// No command will come any more.
    drained: bool,
    closing: bool,
    queue: VecDeque<(Ticket, Queued)>,
    queued_bytes: usize,
    /// At this length the queue is rid of what was taken back, so that a long outage does not fill
    /// it.
    sweep_at: usize,
    next_ticket: Ticket,
    deliveries: JoinSet<()>,
    /// The first ticket of each object under way.
    in_flight: HashMap<task::Id, Ticket>,
    /// Each waits until every ticket below its own is certain. In the order of their tickets.
    flushes: VecDeque<(Ticket, oneshot::Sender<()>)>,
}

/// Numbers batches in the order of their arrival.
type Ticket = u64;

const MIN_SWEEP: usize = 1_024;

impl Writer {
    fn new(
        stream: UniqueId,
        put: Put,
        executor: Arc<dyn Executor>,
        settings: Settings,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Writer {
        Writer {
            stream,
            next_sequence: 0,
            put: Arc::new(put),
            executor,
            settings,
            commands,
            drained: false,
            closing: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sweep_at: MIN_SWEEP,
            next_ticket: 0,
            deliveries: JoinSet::new(),
            in_flight: HashMap::new(),
            flushes: VecDeque::new(),
        }
    }

    async fn run(mut self) {
        let mut received = Vec::with_capacity(MAX_COMMANDS);
        loop {
            self.cut_what_is_due();
            self.answer_flushes();
            if self.drained && self.queue.is_empty() && self.in_flight.is_empty() {
                return;
            }
            // While every object is under way there is nothing to cut, due or not.
            let due = self.queue.front().filter(|_| self.has_slot()).map(|(_, queued)| queued.due);
            tokio::select! {
                count = self.commands.recv_many(&mut received, MAX_COMMANDS), if !self.drained => {
                    self.drained = count == 0;
                    received.drain(..).for_each(|command| self.take(command));
                }
                Some(ended) = self.deliveries.join_next_with_id(), if !self.deliveries.is_empty() => {
                    // A delivery that is gone without an outcome went with its runtime.
                    let id = ended.map_or_else(|gone| gone.id(), |(id, ())| id);
                    self.in_flight.remove(&id);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Persist(queued) => {
                self.queued_bytes += queued.bytes;
                self.queue.push_back((self.next_ticket, queued));
                self.next_ticket += 1;
                if self.queue.len() >= self.sweep_at {
                    self.sweep();
                }
            }
            Command::Flush(reply) => self.flushes.push_back((self.next_ticket, reply)),
            // What was sent before this took effect is still received.
            Command::Close => {
                self.closing = true;
                self.commands.close();
            }
        }
    }

    fn sweep(&mut self) {
        self.queue.retain(|(_, queued)| !queued.slot.is_empty());
        self.queued_bytes = self.queue.iter().map(|(_, queued)| queued.bytes).sum();
        self.sweep_at = MIN_SWEEP.max(2 * self.queue.len());
    }

    fn has_slot(&self) -> bool {
        self.in_flight.len() < self.settings.max_in_flight
    }

    fn answer_flushes(&mut self) {
        let unfinished = self.in_flight.values().copied().min();
        let queued = self.queue.front().map(|(ticket, _)| *ticket);
        let oldest = unfinished.or(queued).unwrap_or(self.next_ticket);
        while let Some((_, reply)) = self.flushes.pop_front_if(|(ticket, _)| *ticket <= oldest) {
            // The caller may have gone.
            let _ = reply.send(());
        }
    }

    fn cut_what_is_due(&mut self) {
        while self.has_slot() && self.is_due() {
            if let Some(group) = self.cut() {
                let ticket = group.first_ticket;
                let deliver = group.deliver(
                    Arc::clone(&self.put),
                    Arc::clone(&self.executor),
                    self.settings.compression,
                );
                let id = self.deliveries.spawn(deliver).id();
                self.in_flight.insert(id, ticket);
            }
        }
    }

    /// Whether the batch at the front need not wait for others any more.
    fn is_due(&self) -> bool {
        let Some((ticket, queued)) = self.queue.front() else { return false };
        self.closing
            || self.drained
            || self.queued_bytes >= self.settings.max_object_bytes
            || self.flushes.back().is_some_and(|(flushed, _)| ticket < flushed)
            || queued.due <= Instant::now()
    }

    /// Takes one object's batches from the front and numbers their records. `None` if all were
    /// taken back.
    fn cut(&mut self) -> Option<Group> {
        let mut group: Option<Group> = None;
        while let Some((_, next)) = self.queue.front() {
            let bytes = group.as_ref().map_or(0, |group| group.bytes);
            if bytes > 0 && bytes + next.bytes > self.settings.max_object_bytes {
                break;
            }
            let Some((ticket, Queued { slot, reply, bytes, due: _ })) = self.queue.pop_front()
            else {
                break;
            };
            self.queued_bytes -= bytes;
            let Some((batch, pending)) = slot.take() else { continue };
            let group = group.get_or_insert_with(|| Group {
                first_ticket: ticket,
                stream: self.stream,
                first_sequence: self.next_sequence,
                time_ms: batch.time_ms(),
                count: 0,
                bytes: 0,
                lines: Vec::new(),
                waiters: Vec::new(),
            });
            let place = Place {
                stream: self.stream,
                first_sequence: self.next_sequence,
                count: batch.count(),
            };
            self.next_sequence += u64::from(batch.count());
            group.count += u64::from(batch.count());
            group.bytes += bytes;
            group.lines.push(batch.lines().clone());
            group.waiters.push(Waiter { reply, place, pending });
        }
        group
    }
}

/// The batches of one object.
struct Group {
    first_ticket: Ticket,
    stream: UniqueId,
    first_sequence: u64,
    time_ms: i64,
    count: u64,
    bytes: usize,
    lines: Vec<Bytes>,
    waiters: Vec<Waiter>,
}

struct Waiter {
    reply: oneshot::Sender<Result<Receipt, SinkError>>,
    place: Place,
    /// Gives its room back when the outcome is certain.
    pending: Pending,
}

impl Group {
    /// Delivers the object until that is certain, and then tells the callers. A panic leaves the
    /// outcome unknown and the records in memory, so delivery is retried like after any other
    /// failure; that no copy is stored is the key's matter, as for every retry.
    async fn deliver(self, put: Arc<Put>, executor: Arc<dyn Executor>, compression: Compression) {
        let Group {
            first_ticket: _,
            stream,
            first_sequence,
            time_ms,
            count,
            bytes,
            lines,
            waiters,
        } = self;
        let key = ObjectKey::new(time_ms, stream, first_sequence, compression);
        let path = put.bucket.path(&key.to_string());
        let encode = || {
            let lines = lines.clone();
            let encode = move || {
                let lines = lines.concat();
                ObjectEncoder::new(pieces()).encode(&lines, first_sequence, count, compression)
            };
            let executor = &*executor;
            async move {
                if bytes > MAX_ENCODE_INLINE_BYTES {
                    execute(executor, encode).await
                } else {
                    encode()
                }
            }
        };
        let mut object: Option<EncodedObject> = None;
        let mut panics: Option<(Watch, u32)> = None;
        let outcome = loop {
            let attempt = async {
                let object = match &mut object {
                    Some(object) => object,
                    none => none.insert(encode().await),
                };
                put.until_certain(&path, object).await
            };
            match catch_in(attempt).await {
                Ok(outcome) => break outcome,
                Err(panicked) => {
                    // What counts and what draws the backoff may be what panics.
                    let backoff = catch(|| backoff_after(&panicked, &mut panics, &put));
                    sleep(backoff.unwrap_or(FALLBACK_BACKOFF)).await;
                }
            }
        };
        if let Some((watch, _)) = panics {
            let _ = catch(|| watch.over());
        }
        for Waiter { reply, place, pending } in waiters {
            let result = match outcome {
                // A crash before this line: the object is in the bucket, nobody was told. That is
                // allowed.
                PutOutcome::Stored => {
                    Ok(Receipt { durability: Durability::Delivered, place: Some(place) })
                }
                PutOutcome::Conflict => Err(SinkError::not_persisted(
                    SinkErrorKind::Blocked,
                    format!("another object stands at {path}, where the audit batch should go"),
                )),
            };
            // The caller may have gone; the records stay where they are. Or it panics when it is
            // woken, which is nothing to the other callers.
            let _ = catch(move || {
                let _ = reply.send(result);
                drop(pending);
            });
        }
    }
}

/// How long delivery waits after a panic when the backoff itself cannot be drawn.
const FALLBACK_BACKOFF: Duration = Duration::from_secs(1);

/// Reports a panic of a delivery, and says how long to wait before the retry. `panics` are those
/// of this delivery so far.
fn backoff_after(panicked: &Panicked, panics: &mut Option<(Watch, u32)>, put: &Put) -> Duration {
    let (watch, count) = panics.get_or_insert_with(|| (put.health.watch(), 0));
    *count = count.saturating_add(1);
    let retry = *count - 1;
    put.health.panicked();
    watch.report(Trouble::panicked("the delivery of an object", panicked));
    put.backoff_after_panic(retry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;
    use crate::journal::executor::BlockingThreads;
    use audit_core::testing::SeededRandom;

    #[test]
    fn batches_taken_back_do_not_fill_the_queue() {
        let (bucket, settings) = (Bucket::open("memory:///").unwrap(), Settings::default());
        let health = HealthBoard::new(String::new());
        let put = Put::new(bucket, health, Arc::new(SeededRandom::new(1)), settings.clone());
        let (_commands, receiver) = mpsc::unbounded_channel();
        let executor = Arc::new(BlockingThreads);
        let mut writer = Writer::new(UniqueId::from_bits(1), put, executor, settings, receiver);
        for _ in 0..100 * MIN_SWEEP {
            let slot = Arc::default();
            let (reply, _) = oneshot::channel();
            writer.take(Command::Persist(Queued { slot, reply, bytes: 1, due: Instant::now() }));
            assert!(writer.queue.len() < MIN_SWEEP && writer.queued_bytes == writer.queue.len());
        }
    }
}
