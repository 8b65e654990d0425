//! Without a journal: `persist` waits until the receiver has the batch.
//!
//! Each batch is sent by its own task, which continues until the outcome is certain, even if the
//! caller is gone or a step panics. Nothing is stored on this host: a crash leaves the outcome of
//! batches in flight unknown, and none of them was acknowledged.
//!
//! If a task is dropped with its runtime, the sink stops: flushes fail, since nobody sends the
//! batch again.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Batch, Durability, Place, Receipt, SinkError, SinkErrorKind, UniqueId};
use audit_journal::health::{MustEnd, PendingBatch};
use audit_journal::shared::panic::catch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::Settings;
use crate::delivery::{Delivery, Rejected, Rejects};
use crate::event::{Event, Events};

const LOST: &str = "the delivery of an audit batch ended without an outcome";

/// The batches in flight to one receiver.
pub(crate) struct Direct {
    delivery: Arc<Delivery>,
    settings: Settings,
    stream: UniqueId,
    /// One permit for each byte of lines that may be pending.
    room: Arc<Semaphore>,
    /// One permit for each batch in flight.
    slots: Arc<Semaphore>,
    numbers: Arc<Numbers>,
}

/// The sequence numbers of records, and the batches in flight.
struct Numbers {
    state: Mutex<State>,
    /// The first batch in flight, or the next one.
    first_pending: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next_sequence: u64,
    next_ticket: u64,
    pending: BTreeSet<u64>,
    /// Whether a batch in flight was dropped before its outcome was certain.
    has_lost: bool,
}

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a batch is no longer in flight.
    fn ended(&self, ticket: u64, is_lost: bool) {
        let mut state = self.lock();
        state.has_lost |= is_lost;
        state.pending.remove(&ticket);
        let first = state.pending.first().copied().unwrap_or(state.next_ticket);
        // Wakers do not run under this lock. Batches that end at once may get here in any order,
        // and flushes would wait forever if the number that an earlier one found came last.
        drop(state);
        let raise = || self.first_pending.send_modify(|known| *known = first.max(*known));
        // The wakers of flushes may panic, and those behind them wait too.
        while catch(raise).is_err() {}
    }
}

/// A batch in flight. [Ended](UnderWay::end) once its outcome is certain, or dropped with its
/// runtime.
struct UnderWay {
    numbers: Arc<Numbers>,
    ticket: u64,
    must_end: Option<MustEnd>,
    _counted: PendingBatch,
    _room: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

impl UnderWay {
    fn end(mut self) {
        if let Some(must_end) = self.must_end.take() {
            must_end.ended();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.numbers.ended(self.ticket, self.must_end.is_some());
    }
}

impl Direct {
    pub(crate) fn new(delivery: Arc<Delivery>, settings: Settings, stream: UniqueId) -> Direct {
        Direct {
            delivery,
            stream,
            room: Arc::new(Semaphore::new(settings.max_pending_bytes)),
            slots: Arc::new(Semaphore::new(settings.max_in_flight)),
            numbers: Arc::new(Numbers {
                state: Mutex::default(),
                first_pending: watch::Sender::new(0),
            }),
            settings,
        }
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        (self.settings.max_pending_bytes - self.room.available_permits()) as u64
    }

    /// Sends a batch at this place, or at the next place of this sink's own stream.
    pub(crate) async fn persist(
        &self,
        batch: Batch,
        place: Option<Place>,
    ) -> Result<Receipt, SinkError> {
        let deadline = Instant::now() + self.settings.persist_timeout();
        if place.is_none() {
            self.check_sizes(&batch)?;
        }
        let bytes = batch.lines().len();
        let permits = u32::try_from(bytes).expect("a batch has at most MAX_BATCH_BYTES");
        let room = Arc::clone(&self.room).acquire_many_owned(permits);
        let room = match timeout_at(deadline, room).await {
            Ok(Ok(room)) => room,
            Ok(Err(_closed)) => return Err(SinkError::closed()),
            Err(_elapsed) => return Err(self.no_room(bytes)),
        };
        let slot = match timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_closed)) => return Err(SinkError::closed()),
            Err(_elapsed) => return Err(self.not_sent()),
        };
        let is_own = place.is_none();
        let (place, under_way) = self.number(&batch, place, room, slot)?;
        let (reply, outcome) = oneshot::channel();
        let delivery = Arc::clone(&self.delivery);
        let rejects = if is_own { Rejects::Fail } else { Rejects::Aside };
        tokio::spawn(async move {
            let events = Events::of_batch(&batch, place);
            let delivered = delivery.deliver(&events, rejects).await;
            // The caller may be gone, or its waker may panic. It gets the outcome before flushes
            // complete.
            let _ = catch(|| reply.send(delivered));
            under_way.end();
        });
        match timeout_at(deadline, outcome).await {
            Ok(Ok(Ok(()))) => Ok(Receipt { durability: Durability::Delivered, place: Some(place) }),
            Ok(Ok(Err(rejected))) => Err(self.rejected(rejected)),
            Ok(Err(_gone)) => Err(SinkError::indeterminate(SinkErrorKind::Unavailable, LOST)),
            Err(_elapsed) => Err(self.not_certain()),
        }
    }

    /// Numbers a batch, unless the sink was closed in the meantime. From then on it will be sent.
    fn number(
        &self,
        batch: &Batch,
        place: Option<Place>,
        room: OwnedSemaphorePermit,
        slot: OwnedSemaphorePermit,
    ) -> Result<(Place, UnderWay), SinkError> {
        let mut state = self.numbers.lock();
        if self.room.is_closed() {
            return Err(SinkError::closed());
        }
        if state.has_lost {
            return Err(SinkError::not_persisted(SinkErrorKind::Closed, LOST));
        }
        let place = place.unwrap_or_else(|| {
            let first_sequence = state.next_sequence;
            state.next_sequence += u64::from(batch.count());
            Place { stream: self.stream, first_sequence, count: batch.count() }
        });
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.pending.insert(ticket);
        drop(state);
        let under_way = UnderWay {
            numbers: Arc::clone(&self.numbers),
            ticket,
            must_end: Some(self.delivery.health.must_end("the delivery of an audit batch")),
            _counted: self.delivery.health.pending_batch(),
            _room: room,
            _slot: slot,
        };
        Ok((place, under_way))
    }

    /// Refuses records that are too large: the receiver would only get a pointer to a record that
    /// is stored nowhere.
    fn check_sizes(&self, batch: &Batch) -> Result<(), SinkError> {
        for line in batch.records() {
            let bytes = line.len();
            // The longest possible number and time.
            let event = Event { sequence: u64::MAX, time_ms: i64::MIN, line };
            if !self.delivery.envelope.fits(self.stream, &event) {
                let most = self.settings.limits().record_bytes;
                let message = format!(
                    "an audit log of {bytes} bytes exceeds limit of {most} bytes with the envelope \
                     of the log stream {} (raise max_record_bytes if the receiver takes more)",
                    self.settings.name
                );
                return Err(SinkError::not_persisted(SinkErrorKind::Blocked, message));
            }
        }
        Ok(())
    }

    /// Waits until the outcomes of all batches accepted so far are certain, or fails if one never
    /// will be.
    pub(crate) async fn flush(&self) -> Result<(), SinkError> {
        let up_to = self.numbers.lock().next_ticket;
        let mut first_pending = self.numbers.first_pending.subscribe();
        // The sender lives as long as this sink.
        let _ = first_pending.wait_for(|first| *first >= up_to).await;
        if self.numbers.lock().has_lost {
            return Err(SinkError::indeterminate(SinkErrorKind::Closed, LOST));
        }
        Ok(())
    }

    pub(crate) async fn close(&self) -> Result<(), SinkError> {
        {
            // Under this lock, so that callers that have room but no number yet find the sink
            // closed.
            let _state = self.numbers.lock();
            self.room.close();
            self.slots.close();
        }
        self.flush().await
    }

    fn rejected(&self, rejected: Rejected) -> SinkError {
        let Rejected { reason, may_have_arrived } = rejected;
        if may_have_arrived {
            let message = format!("a part of the audit batch was rejected: {reason}");
            SinkError::indeterminate(SinkErrorKind::Blocked, message)
        } else {
            let message = format!("the audit batch was rejected: {reason}");
            SinkError::not_persisted(SinkErrorKind::Blocked, message)
        }
    }

    fn no_room(&self, bytes: usize) -> SinkError {
        let (kind, why) = self.trouble();
        let Settings { persist_timeout_ms, max_pending_bytes, .. } = self.settings;
        let pending = self.pending_bytes();
        let message = format!(
            "no room for an audit batch of {bytes} bytes within {persist_timeout_ms} ms: {pending} \
             of {max_pending_bytes} bytes wait for the log stream; {why}"
        );
        SinkError::not_persisted(kind, message)
    }

    fn not_sent(&self) -> SinkError {
        let (kind, why) = self.trouble();
        let Settings { persist_timeout_ms, max_in_flight, .. } = self.settings;
        let message = format!(
            "audit batch not sent within {persist_timeout_ms} ms, behind {max_in_flight} others \
             that wait for the log stream; {why}"
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
        match self.delivery.health.trouble() {
            None => (SinkErrorKind::Unavailable, "the log stream has not answered yet".to_owned()),
            Some(trouble) if trouble.is_blocked() => {
                (SinkErrorKind::Blocked, format!("last response: {trouble}"))
            }
            Some(trouble) => (SinkErrorKind::Unavailable, format!("last response: {trouble}")),
        }
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("stream", &self.stream)
            .field("pending_bytes", &self.pending_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// The last number that flushes see is that of the last batch, whichever task tells it first.
    #[test]
    fn batches_that_end_at_once_hold_up_no_flush() {
        const TASKS: u64 = 4;
        const ROUNDS: u64 = 20_000;
        let numbers = Numbers { state: Mutex::default(), first_pending: watch::Sender::new(0) };
        let next = Barrier::new(usize::try_from(TASKS).unwrap());
        std::thread::scope(|scope| {
            for task in 0..TASKS {
                let (numbers, next) = (&numbers, &next);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        if next.wait().is_leader() {
                            let mut state = numbers.lock();
                            state.next_ticket = (round + 1) * TASKS;
                            state.pending = (round * TASKS..state.next_ticket).collect();
                        }
                        next.wait();
                        numbers.ended(round * TASKS + task, false);
                        next.wait();
                        assert_eq!(*numbers.first_pending.borrow(), (round + 1) * TASKS);
                    }
                });
            }
        });
    }
}
