//! The thread that commits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self as threads, RecvTimeoutError, TryRecvError};
use std::thread;

use audit_core::{DiskFault, Durability, Place, Receipt, SinkError, SinkErrorKind};
use tokio::time::{Duration, Instant};

use super::errors::stopped;
use super::own_records::OwnRecords;
use super::{PATIENCE, Queued, Reply, Room};
use crate::disk::Disk;
use crate::format::EncodedBatch;
use crate::health::{HealthBoard, Trouble, Watch};
use crate::routes::UncertainBatch;
use crate::segment::Segment;
use crate::segment_writer::{CommitError, CommittedBatch, SegmentWriter};
use crate::segments::Publisher;

/// A group is closed at this size: its sync then costs little compared with its write.
const MAX_GROUP_BYTES: u64 = 4 << 20;

/// How long the committing thread polls the queue after a group before it sleeps: a fraction of a
/// sync.
const AWAKE: Duration = Duration::from_micros(50);

/// The longest pause after a write ran out of space. Every attempt may use up a segment.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The maximum size of a system record with its header, in bytes.
const MAX_OWN_BYTES: u64 = 4 << 10;

/// The longest time between two readings of the wall clock. The clock may be set, and it advances
/// while the host is suspended, so a computed wait may be too long.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A caller's reply channel, and its batch's room in the queue.
type Waiter = (Reply, Room);

/// Batches that their callers can no longer withdraw.
pub(crate) struct Taken {
    pub(crate) batches: Vec<EncodedBatch>,
    /// In the order of the batches.
    pub(crate) waiters: Vec<Waiter>,
}

impl Taken {
    /// Takes the batches that were not withdrawn.
    pub(crate) fn of(group: impl Iterator<Item = Queued>) -> Taken {
        let (mut batches, mut waiters) = (Vec::new(), Vec::new());
        for Queued { slot, reply, .. } in group {
            let Some((encoded, mut room)) = slot.take() else { continue };
            room.set_may_be_durable(true);
            waiters.push((reply, room));
            batches.push(encoded);
        }
        Taken { batches, waiters }
    }
}

pub(crate) struct Committer {
    pub(crate) writer: SegmentWriter,
    pub(super) disk: Arc<dyn Disk>,
    /// The system records, if the destination vouches for streams.
    pub(super) own: Option<OwnRecords>,
    pub(crate) queued: threads::Receiver<Queued>,
    pub(super) segments: threads::Receiver<Segment>,
    /// The next segment, already prepared.
    pub(crate) next: Option<Segment>,
    pub(crate) publisher: Publisher,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) health: Arc<HealthBoard>,
    /// The trouble of the last write, if it ran out of space.
    pub(super) trouble: Option<Watch>,
    /// After a write that ran out of space, the end of the pause and its length.
    pub(super) pause: Option<(Instant, Duration)>,
    /// Whether a batch had to wait for room and no batch was committed since.
    pub(super) starving: bool,
    /// The batches of routes whose write found no space, so that a recovery may still find them.
    /// The next durable group shows a recovery that they were abandoned.
    pub(super) uncertain: Vec<UncertainBatch>,
}

impl Committer {
    pub(super) fn run(&mut self) {
        let mut group = Vec::new();
        // The first batch that does not fit into a group begins the next one.
        let mut left: Option<Queued> = None;
        loop {
            self.change_stream_if_over();
            self.write_what_is_due();
            match left.take().map_or_else(|| self.receive(), |queued| Ok(Some(queued))) {
                Ok(Some(first)) => group.push(first),
                // A system record may be due.
                Ok(None) => continue,
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
            // The waits come before the batches are taken: while there is no space or no segment,
            // callers may still withdraw their batches.
            while !group.is_empty() && self.is_pausing() {
                thread::park_timeout(PATIENCE);
                group.retain(|queued| !queued.reply.is_closed());
            }
            if self.must_open(&group) {
                self.wait_for_segment(&mut group, MAX_OWN_BYTES);
                if !group.is_empty()
                    && let Err(error) = self.open_stream(0)
                {
                    let Taken { batches: _, waiters } = Taken::of(group.drain(..));
                    self.fail(error, waiters);
                    continue;
                }
            }
            self.wait_for_segment(&mut group, bytes);
            self.commit(group.drain(..));
        }
        self.end_stream();
    }

    /// Ends the stream: nothing more will be committed, and the delivery may write the stream's
    /// last record.
    ///
    /// If the stream's end is unknown, the stream is not ended here: the next recovery finds its
    /// end, and the next process closes it.
    pub(crate) fn end_stream(&mut self) {
        if let Some(own) = self.own.as_ref().filter(|_| self.writer.is_certain()) {
            own.end_stream();
        }
    }

    /// Waits until there is a segment with room for this many bytes, or no caller is waiting.
    fn wait_for_segment(&mut self, group: &mut Vec<Queued>, bytes: u64) {
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
    }

    /// Whether the default route's stream must get its first record before these batches are
    /// written. As long as nothing is logged to the default route, its stream gets no record,
    /// whatever is logged to other routes.
    fn must_open(&self, group: &[Queued]) -> bool {
        let is_new = self.own.is_some() && self.writer.next_sequence() == 0;
        is_new && group.iter().any(|queued| !queued.is_routed)
    }

    fn is_pausing(&self) -> bool {
        self.pause.is_some_and(|(until, _)| Instant::now() < until)
    }

    /// Waits for a batch. It polls first, since a caller that was just answered often submits the
    /// next batch, and waking a thread takes a considerable part of a sync's time. Returns `None`
    /// if a system record is due first.
    fn receive(&self) -> Result<Option<Queued>, threads::RecvError> {
        let began = Instant::now();
        loop {
            match self.queued.try_recv() {
                Ok(queued) => return Ok(Some(queued)),
                Err(TryRecvError::Disconnected) => return Err(threads::RecvError),
                Err(TryRecvError::Empty) if began.elapsed() < AWAKE => thread::yield_now(),
                Err(TryRecvError::Empty) => break,
            }
        }
        let Some(due) = self.due_in() else { return self.queued.recv().map(Some) };
        match self.queued.recv_timeout(due) {
            Ok(queued) => Ok(Some(queued)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(threads::RecvError),
        }
    }

    /// The time until a system record is due. `None` for a stream without records, which gets no
    /// system records.
    fn due_in(&self) -> Option<Duration> {
        let own = self.own.as_ref().filter(|_| self.writer.next_sequence() > 0)?;
        // Never zero: a due record may have to wait for the disk.
        Some(own.due_in().clamp(PATIENCE, MAX_WAIT))
    }

    /// Continues with another stream when the current one is over.
    ///
    /// After a crash before the new stream's first record, the next process removes the new
    /// stream's files.
    pub(crate) fn change_stream_if_over(&mut self) {
        let records = self.writer.next_sequence();
        let Some(own) = &mut self.own else { return };
        if records == 0 || !self.writer.is_certain() || !own.is_over(records) {
            return;
        }
        if let Some(stream) = own.change_stream(&*self.disk) {
            self.writer.change_stream(stream);
            self.publisher.change_stream(stream);
        }
    }

    /// Writes the due heartbeat, if there is room for it now.
    pub(crate) fn write_what_is_due(&mut self) {
        let has_records = self.writer.next_sequence() > 0;
        let Some(own) = self.own.as_mut().filter(|_| has_records) else { return };
        if !own.due_in().is_zero() || self.is_pausing() {
            return;
        }
        if self.next.is_none() && !self.writer.has_room(MAX_OWN_BYTES) {
            self.next = self.segments.try_recv().ok();
            if self.next.is_none() {
                return;
            }
        }
        let Some(own) = &mut self.own else { return };
        let heartbeat = own.heartbeat(&*self.disk);
        if let Err(error) = self.write_own(heartbeat) {
            self.fail(error, Vec::new());
        }
    }

    /// Writes the stream's first record, if it has none yet.
    fn open_stream(&mut self, count: u64) -> Result<(), CommitError> {
        let Some(own) = &mut self.own else { return Ok(()) };
        own.note_records();
        let records = self.writer.next_sequence();
        if records + count > own.max_records() {
            return Err(CommitError::StreamFull);
        }
        if records > 0 {
            return Ok(());
        }
        let opened = own.opened(&*self.disk);
        self.write_own(opened)
    }

    fn write_own(&mut self, record: EncodedBatch) -> Result<(), CommitError> {
        let next = &mut self.next;
        let committed = self.writer.commit(&[record], || next.take())?;
        self.publisher.publish(&committed, 1);
        self.uncertain.drain(..).for_each(UncertainBatch::settle);
        if let Some(own) = &mut self.own {
            own.committed();
        }
        Ok(())
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

    /// Writes batches and answers their callers. The batch of a caller that is gone keeps its
    /// numbers and is delivered like the others.
    pub(crate) fn write(&mut self, taken: Taken) {
        let Taken { batches, waiters } = taken;
        let default = batches.iter().filter(|encoded| encoded.route().is_none());
        let count: u32 = default.map(|encoded| encoded.batch().count()).sum();
        let opened = if count > 0 { self.open_stream(u64::from(count)) } else { Ok(()) };
        let next = &mut self.next;
        let began = Instant::now();
        match opened.and_then(|()| self.writer.commit(&batches, || next.take())) {
            Ok(committed) => {
                let bytes = batches.iter().map(EncodedBatch::bytes).sum();
                self.health.committed(began.elapsed(), batches.len(), bytes);
                self.publisher.publish(&committed, committed.count);
                self.uncertain.drain(..).for_each(UncertainBatch::settle);
                self.starve(false);
                self.pause = None;
                if let Some(trouble) = self.trouble.take() {
                    trouble.over();
                }
                for ((reply, room), batch) in waiters.into_iter().zip(&committed.batches) {
                    let CommittedBatch { stream, first_sequence, count, .. } = *batch;
                    let place = Place { stream, first_sequence, count };
                    room.commit();
                    // After a crash before this line, the records are durable and will be
                    // delivered, although the caller has no receipt.
                    let _ = reply.send(Ok(Receipt {
                        durability: Durability::Journaled,
                        place: Some(place),
                    }));
                }
            }
            Err(error) => self.fail(error, waiters),
        }
    }

    /// Answers the callers of a group that may not be durable.
    fn fail(&mut self, error: CommitError, waiters: Vec<Waiter>) {
        match error {
            CommitError::Failed(error) => {
                // If the journal was removed, a failed listing says so, and the error of the sync
                // may not.
                let listed = self.disk.list().err();
                let removed =
                    listed.filter(|error| DiskFault::of(error) == Some(DiskFault::Removed));
                let trouble = match removed {
                    Some(removed) => Trouble::removed(&removed),
                    None => Trouble::stopped(&error),
                };
                self.health.stop(trouble);
                for (reply, _room) in waiters {
                    let message =
                        "the journal's disk failed while the audit batch was being written";
                    let failed = SinkError::indeterminate(SinkErrorKind::Closed, message);
                    let _ = reply.send(Err(failed.with_source(Arc::clone(&error))));
                }
            }
            CommitError::NoSpace { error, sealed, next_sequence } => {
                self.publisher.seal(&sealed, next_sequence);
                let watch = self.trouble.get_or_insert_with(|| self.health.watch());
                watch.report(Trouble::disk("no space for an audit batch", &error));
                self.starve(true);
                let pause = self.pause.map_or(PATIENCE, |(_, pause)| (2 * pause).min(MAX_PAUSE));
                self.pause = Some((Instant::now() + pause, pause));
                for (reply, room) in waiters {
                    self.uncertain.extend(room.uncertain());
                    let message = "no space on the journal's disk for the audit batch";
                    let failed = SinkError::indeterminate(SinkErrorKind::Unavailable, message);
                    let _ = reply.send(Err(failed.with_source(Arc::clone(&error))));
                }
            }
            CommitError::Stopped(error) => {
                for (reply, mut room) in waiters {
                    room.set_may_be_durable(false);
                    let _ = reply.send(Err(stopped().with_source(Arc::clone(&error))));
                }
            }
            CommitError::NoSegment | CommitError::StreamFull => {
                for (reply, mut room) in waiters {
                    room.set_may_be_durable(false);
                    let _ = reply.send(Err(stopped()));
                }
            }
        }
    }
}
