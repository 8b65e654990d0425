//! The queue: batches wait for others, are cut into objects, and are numbered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit_core::{Batch, Place, Receipt, SinkError, UniqueId};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::group::{Group, Waiter};
use crate::Settings;
use crate::bucket::put::Put;
use crate::executor::Executor;
use crate::health::HealthBoard;
use crate::take_once::TakeOnce;

/// How many commands the task takes before it looks around again.
const MAX_COMMANDS: usize = 256;

/// What the handle asks of the task.
pub(super) enum Command {
    Persist(Queued),
    Flush(oneshot::Sender<()>),
    Close,
}

/// An accepted batch on its way to the cut.
pub(super) struct Queued {
    /// The cut takes the batch, or the caller who gives up.
    pub(super) slot: Arc<TakeOnce<(Batch, Pending)>>,
    pub(super) reply: oneshot::Sender<Result<Receipt, SinkError>>,
    pub(super) bytes: usize,
    /// When it has waited long enough for others.
    pub(super) due: Instant,
}

/// Counts a batch as pending while it lives.
pub(super) struct Pending {
    _room: OwnedSemaphorePermit,
    health: Arc<HealthBoard>,
}

impl Pending {
    pub(super) fn new(room: OwnedSemaphorePermit, health: &Arc<HealthBoard>) -> Pending {
        health.pending_batches.fetch_add(1, Ordering::Relaxed);
        Pending { _room: room, health: Arc::clone(health) }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.health.pending_batches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The task that owns the queue.
pub(super) struct Queue {
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
    batches: VecDeque<(Ticket, Queued)>,
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
pub(super) type Ticket = u64;

const MIN_SWEEP: usize = 1_024;

impl Queue {
    pub(super) fn new(
        stream: UniqueId,
        put: Put,
        executor: Arc<dyn Executor>,
        settings: Settings,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Queue {
        Queue {
            stream,
            next_sequence: 0,
            put: Arc::new(put),
            executor,
            settings,
            commands,
            drained: false,
            closing: false,
            batches: VecDeque::new(),
            queued_bytes: 0,
            sweep_at: MIN_SWEEP,
            next_ticket: 0,
            deliveries: JoinSet::new(),
            in_flight: HashMap::new(),
            flushes: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut received = Vec::with_capacity(MAX_COMMANDS);
        loop {
            self.cut_what_is_due();
            self.answer_flushes();
            if self.drained && self.batches.is_empty() && self.in_flight.is_empty() {
                return;
            }
            // While every object is under way there is nothing to cut, due or not.
            let due =
                self.batches.front().filter(|_| self.has_slot()).map(|(_, queued)| queued.due);
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
                self.batches.push_back((self.next_ticket, queued));
                self.next_ticket += 1;
                if self.batches.len() >= self.sweep_at {
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
        self.batches.retain(|(_, queued)| !queued.slot.is_empty());
        self.queued_bytes = self.batches.iter().map(|(_, queued)| queued.bytes).sum();
        self.sweep_at = MIN_SWEEP.max(2 * self.batches.len());
    }

    fn has_slot(&self) -> bool {
        self.in_flight.len() < self.settings.max_in_flight
    }

    fn answer_flushes(&mut self) {
        let unfinished = self.in_flight.values().copied().min();
        let queued = self.batches.front().map(|(ticket, _)| *ticket);
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
        let Some((ticket, queued)) = self.batches.front() else { return false };
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
        while let Some((_, next)) = self.batches.front() {
            let bytes = group.as_ref().map_or(0, |group| group.bytes);
            if bytes > 0 && bytes + next.bytes > self.settings.max_object_bytes {
                break;
            }
            let Some((ticket, Queued { slot, reply, bytes, due: _ })) = self.batches.pop_front()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;
    use crate::executor::BlockingThreads;
    use audit_core::testing::SeededRandom;

    #[test]
    fn batches_taken_back_do_not_fill_the_queue() {
        let (bucket, settings) = (Bucket::open("memory:///").unwrap(), Settings::default());
        let health = HealthBoard::new(String::new());
        let put = Put::new(bucket, health, Arc::new(SeededRandom::new(1)), settings.clone());
        let (_commands, receiver) = mpsc::unbounded_channel();
        let executor = Arc::new(BlockingThreads);
        let mut queue = Queue::new(UniqueId::from_bits(1), put, executor, settings, receiver);
        for _ in 0..100 * MIN_SWEEP {
            let slot = Arc::default();
            let (reply, _) = oneshot::channel();
            queue.take(Command::Persist(Queued { slot, reply, bytes: 1, due: Instant::now() }));
            assert!(queue.batches.len() < MIN_SWEEP && queue.queued_bytes == queue.batches.len());
        }
    }
}
