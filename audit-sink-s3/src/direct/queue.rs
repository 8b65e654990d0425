//! The queue, in which batches wait for others, are cut into objects and numbered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use audit_core::{Batch, Clock, Place, Random, Receipt, SinkError, UniqueId};
use audit_evidence::SystemRecord;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::group::{Ended, Group, Waiter};
use super::pending::{Pending, Ticket};
use super::stream::Stream;
use crate::bucket::put::Put;
use crate::evidence::Evidence;
use crate::executor::Executor;
use crate::take_once::TakeOnce;
use crate::{ObjectKey, Settings};

/// How many commands the task takes before it handles other events.
const MAX_COMMANDS: usize = 256;

pub(super) enum Command {
    Persist(Queued),
    Flush(oneshot::Sender<()>),
    Close,
}

/// An accepted batch on its way to the cut.
pub(super) struct Queued {
    /// Taken by the cut, or by the caller when it times out.
    pub(super) slot: Arc<TakeOnce<(Batch, Pending)>>,
    pub(super) reply: oneshot::Sender<Result<Receipt, SinkError>>,
    pub(super) bytes: usize,
    /// When its linger ends.
    pub(super) due: Instant,
}

pub(super) struct Queue {
    /// The streams with records in flight. New batches go to the last one.
    streams: VecDeque<Stream>,
    evidence: Option<Arc<Evidence>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    put: Arc<Put>,
    executor: Arc<dyn Executor>,
    settings: Settings,
    commands: mpsc::UnboundedReceiver<Command>,
    /// The channel is closed and empty.
    drained: bool,
    closing: bool,
    batches: VecDeque<(Ticket, Queued)>,
    queued_bytes: usize,
    /// The length at which withdrawn batches are removed, so that they do not fill the queue in a
    /// long outage.
    sweep_at: usize,
    next_ticket: Ticket,
    deliveries: JoinSet<Option<Ended>>,
    /// The first ticket of each object in flight, and its stream.
    in_flight: HashMap<task::Id, (Ticket, UniqueId)>,
    /// Each waits until all tickets below its own have a certain outcome. In the order of their
    /// tickets.
    flushes: VecDeque<(Ticket, oneshot::Sender<()>)>,
}

const MIN_SWEEP: usize = 1_024;

/// The longest wait between checks of the clock, which may be set while a host sleeps.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Parts {
    pub(crate) stream: UniqueId,
    pub(crate) evidence: Option<Arc<Evidence>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) put: Put,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) settings: Settings,
}

impl Queue {
    pub(super) fn new(parts: Parts, commands: mpsc::UnboundedReceiver<Command>) -> Queue {
        let Parts { stream, evidence, clock, random, put, executor, settings } = parts;
        Queue {
            streams: VecDeque::from([Stream::new(stream, evidence.clone(), &*random)]),
            evidence,
            clock,
            random,
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
            self.write_system_records();
            self.answer_flushes();
            if self.is_ending() && self.in_flight.is_empty() {
                return;
            }
            // While the maximum of objects is in flight, nothing is cut.
            let due =
                self.batches.front().filter(|_| self.has_slot()).map(|(_, queued)| queued.due);
            let wait = self.system_record_due();
            tokio::select! {
                count = self.commands.recv_many(&mut received, MAX_COMMANDS), if !self.drained => {
                    self.drained = count == 0;
                    received.drain(..).for_each(|command| self.take(command));
                }
                Some(ended) = self.deliveries.join_next_with_id(), if !self.deliveries.is_empty() => {
                    // A delivery without an outcome was dropped with its runtime.
                    let (id, ended) = ended.unwrap_or_else(|gone| (gone.id(), None));
                    self.delivered(id, ended);
                }
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
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
            Command::Flush(reply) => {
                // Callers that gave up, in a long outage.
                self.flushes.retain(|(_, reply)| !reply.is_closed());
                self.flushes.push_back((self.next_ticket, reply));
            }
            // Commands sent before the channel closes are still received.
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
        let unfinished = self.in_flight.values().map(|(ticket, _)| *ticket).min();
        let queued = self.batches.front().map(|(ticket, _)| *ticket);
        let oldest = unfinished.or(queued).unwrap_or(self.next_ticket);
        while let Some((_, reply)) = self.flushes.pop_front_if(|(ticket, _)| *ticket <= oldest) {
            // The caller may be gone.
            let _ = reply.send(());
        }
    }

    fn cut_what_is_due(&mut self) {
        while self.has_slot() && self.is_due() {
            self.change_stream_if_due();
            if let Some(group) = self.cut() {
                self.deliver(group);
            }
        }
    }

    fn deliver(&mut self, group: Group) {
        let of = (group.first_ticket, group.key.stream());
        let deliver = group.deliver(Arc::clone(&self.put), Arc::clone(&self.executor));
        let id = self.deliveries.spawn(deliver).id();
        self.in_flight.insert(id, of);
    }

    /// Handles the end of a delivery.
    fn delivered(&mut self, id: task::Id, ended: Option<Ended>) {
        let Some((_, stream)) = self.in_flight.remove(&id) else { return };
        let Some(stream) = self.streams.iter_mut().find(|known| known.id == stream) else { return };
        match ended {
            Some(Ended { key, count, conflict }) => {
                stream.ended(key.first_sequence(), count, conflict);
            }
            None => stream.vanished(),
        }
    }

    /// Whether no further batch will be cut.
    fn is_ending(&self) -> bool {
        self.drained && self.batches.is_empty()
    }

    /// Starts another stream if the current one is over.
    fn change_stream_if_due(&mut self) {
        let now_ms = self.clock.now_ms();
        if self.streams.back().is_some_and(|stream| stream.is_over(now_ms)) {
            let id = UniqueId::generate(&*self.clock, &*self.random);
            self.streams.push_back(Stream::new(id, self.evidence.clone(), &*self.random));
        }
    }

    /// The time until a system record may be due or a stream is over.
    fn system_record_due(&self) -> Option<Duration> {
        let now_ms = self.clock.now_ms();
        let current = self.streams.len() - 1;
        let streams = self.streams.iter().enumerate();
        let due = streams.filter_map(|(n, stream)| stream.due_in_ms(now_ms, n == current)).min()?;
        Some(Duration::from_millis(due).min(MAX_WAIT))
    }

    /// Writes the system records that are due, and forgets completed streams.
    fn write_system_records(&mut self) {
        self.change_stream_if_due();
        let now_ms = self.clock.now_ms();
        let last = self.streams.len() - 1;
        for n in 0..=last {
            let is_ending = n < last || self.is_ending();
            while let Some(record) = self.streams[n].due_record(now_ms, is_ending) {
                self.write_system_record(n, now_ms, &record);
            }
        }
        while self.streams.len() > 1 && self.streams.front().is_some_and(Stream::is_done) {
            self.streams.pop_front();
        }
    }

    fn write_system_record(&mut self, n: usize, now_ms: i64, record: &SystemRecord) {
        let stream = &mut self.streams[n];
        let (sequence, seal) = stream.number(1, &self.random);
        let line = Bytes::from(record.to_line() + "\n");
        let group = Group {
            // Flushes that are waiting already do not wait for this record.
            first_ticket: self.next_ticket,
            key: ObjectKey::system(now_ms, stream.id, sequence),
            count: 1,
            bytes: line.len(),
            lines: vec![line],
            waiters: Vec::new(),
            seal,
        };
        self.deliver(group);
    }

    fn is_due(&self) -> bool {
        let Some((ticket, queued)) = self.batches.front() else { return false };
        self.closing
            || self.drained
            || self.queued_bytes >= self.settings.max_object_bytes
            || self.flushes.back().is_some_and(|(flushed, _)| ticket < flushed)
            || queued.due <= Instant::now()
    }

    /// Takes one object's batches from the front and numbers their records. `None` if all were
    /// withdrawn.
    fn cut(&mut self) -> Option<Group> {
        let mut bytes = 0;
        let mut taken: Vec<(Ticket, oneshot::Sender<_>, Batch, Pending)> = Vec::new();
        let (current, mut count) = (self.streams.len() - 1, 0);
        while let Some((_, next)) = self.batches.front() {
            let is_full = bytes > 0 && bytes + next.bytes > self.settings.max_object_bytes;
            if is_full || self.streams[current].is_full_after(count) {
                break;
            }
            let Some((ticket, Queued { slot, reply, bytes: queued, due: _ })) =
                self.batches.pop_front()
            else {
                break;
            };
            self.queued_bytes -= queued;
            let Some((batch, pending)) = slot.take() else { continue };
            bytes += queued;
            count += u64::from(batch.count());
            taken.push((ticket, reply, batch, pending));
        }
        let &(first_ticket, _, ref first, _) = taken.first()?;
        let time_ms = first.time_ms();
        let now_ms = self.clock.now_ms();
        if let Some(opened) = self.streams[current].open(now_ms) {
            self.write_system_record(current, now_ms, &opened);
        }
        let stream = &mut self.streams[current];
        let (first_sequence, seal) = stream.number(count, &self.random);
        let (stream, mut sequence) = (stream.id, first_sequence);
        let (mut lines, mut waiters) = (Vec::new(), Vec::new());
        for (_, reply, batch, pending) in taken {
            let place = Place { stream, first_sequence: sequence, count: batch.count() };
            sequence += u64::from(batch.count());
            lines.push(batch.lines().clone());
            waiters.push(Waiter { reply, place, pending });
        }
        let key = ObjectKey::new(time_ms, stream, first_sequence, self.settings.compression);
        Some(Group { first_ticket, key, count, bytes, lines, waiters, seal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;
    use crate::executor::BlockingThreads;
    use crate::health::HealthBoard;
    use audit_core::testing::SeededRandom;

    #[test]
    fn withdrawn_batches_do_not_fill_the_queue() {
        let (bucket, settings) = (Bucket::open("memory:///").unwrap(), Settings::default());
        let health = HealthBoard::new(String::new());
        let put = Put::new(bucket, health, Arc::new(SeededRandom::new(1)), settings.clone());
        let (_commands, receiver) = mpsc::unbounded_channel();
        let executor = Arc::new(BlockingThreads);
        let parts = Parts {
            stream: UniqueId::from_bits(1),
            evidence: None,
            clock: Arc::new(audit_core::SystemClock),
            random: Arc::new(SeededRandom::new(2)),
            put,
            executor,
            settings,
        };
        let mut queue = Queue::new(parts, receiver);
        for _ in 0..100 * MIN_SWEEP {
            let slot = Arc::default();
            let (reply, _) = oneshot::channel();
            queue.take(Command::Persist(Queued { slot, reply, bytes: 1, due: Instant::now() }));
            assert!(queue.batches.len() < MIN_SWEEP && queue.queued_bytes == queue.batches.len());
        }
    }
}
