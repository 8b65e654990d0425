//! The steps of one opening.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use audit_core::{Batch, Clock, Place};
use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::variants::{Variant, write_without_dropped};
use super::{Caller, Ended, Flush, Group, Process, Simulation, Stream, died};
use crate::commit::Taken;
use crate::delivery::Command;
use crate::format::EncodedBatch;
use crate::shared::panic::catch;
use crate::simulation::destination::Endpoint;

impl<E: Endpoint> Simulation<E> {
    /// One opening: commits and waits until something ends it.
    pub(super) async fn work(&mut self, mut process: Process) -> Result<Ended, String> {
        for _ in 0..self.dice.within(1..16) {
            match self.dice.below(10) {
                0..5 => self.commit(&mut process)?,
                5 => self.flush(&mut process),
                _ => {
                    let ms = [0, 1 << self.dice.below(14), 70_000][self.dice.below(3)];
                    self.wait(Duration::from_millis(ms)).await;
                }
            }
            if self.variant == Variant::RemovesSegmentsEarly && self.dice.chance(1, 4) {
                let _ = process.live.remove_while(&self.disk, |_| Ok(true));
            }
            tokio::task::yield_now().await;
            self.abort_request();
            if self.variant == Variant::TakesAbortedAsUnsent && !self.aborted_from.is_empty() {
                return died(process).await;
            }
            if self.dice.chance(self.cancels, 2_000) {
                return self.work_without_delivery(process).await;
            }
            self.answered(&mut process)?;
            if self.disk.is_stopped() {
                return died(process).await;
            }
        }
        if self.dice.chance(1, 2) { self.end(process).await } else { died(process).await }
    }

    async fn wait(&mut self, time: Duration) {
        // Waits for a part of the time first, so that requests that begin and end within the time
        // can be aborted too.
        let before = Duration::from_millis(1 << self.dice.below(12)).min(time);
        sleep(before).await;
        self.abort_request();
        sleep(time - before).await;
        self.clock.advance(i64::try_from(time.as_millis()).unwrap());
        if self.dice.chance(1, 12) {
            let most = 40 * 60 * 60 * 1000;
            self.clock.advance(
                i64::try_from(self.dice.below(2 * most)).unwrap() - i64::try_from(most).unwrap(),
            );
        }
    }

    /// Aborts the task of a request in flight, if there is one.
    fn abort_request(&mut self) {
        let mut requests = self.trouble.requests.lock().unwrap();
        requests.retain(|(_, request)| !request.is_finished());
        if requests.is_empty() || !self.dice.chance(self.cancels, 100) {
            return;
        }
        let chosen = self.dice.below(requests.len());
        let (plan, request) = requests.swap_remove(chosen);
        request.abort();
        self.aborted += 1;
        let first = self.aborted_from.entry(plan.stream).or_insert(plan.first_sequence);
        *first = plan.first_sequence.min(*first);
    }

    /// Continues after the delivery's task was aborted, with the callers and the committing thread.
    async fn work_without_delivery(&mut self, mut process: Process) -> Result<Ended, String> {
        process.delivery.abort();
        for _ in 0..self.dice.within(1..4) {
            tokio::task::yield_now().await;
            self.commit(&mut process)?;
            self.flush(&mut process);
            self.answered(&mut process)?;
        }
        died(process).await
    }

    /// Callers queue batches, and the committing thread takes some of them.
    pub(super) fn commit(&mut self, process: &mut Process) -> Result<(), String> {
        if process.is_stopped {
            return Ok(());
        }
        for batch in self.batches() {
            let lines = batch.records().map(|record| [&record[..], b"\n"].concat()).collect();
            let sink = Arc::clone(&process.sink);
            let persist = Box::pin(async move { sink.persist(batch).await });
            process.callers.push(Caller { persist, lines });
        }
        self.leave(process);
        // The batches enter the queue as far as there is room.
        self.hear(process, None)?;
        self.leave(process);
        let most = if self.dice.chance(1, 4) { self.dice.within(1..3) } else { usize::MAX };
        self.write_own(process);
        if process.is_stopped {
            return Ok(());
        }
        let taken = Taken::of(process.committer.queued.try_iter().take(most));
        self.leave(process);
        if taken.batches.is_empty() {
            return Ok(());
        }
        let ahead = process.prepared.is_empty() && self.dice.chance(1, 4);
        let needs = process.committer.writer.needs_segment(&taken.batches);
        let has_none = process.prepared.is_empty() && process.committer.next.is_none();
        if ahead || has_none && needs {
            let salt = u32::try_from(self.dice.draw() >> 32).unwrap();
            let bytes = self.dice.within(3..8) as u64 * 4096;
            let prepared =
                catch(|| process.live.prepare(&*process.disk, process.next_ordinal, bytes, salt));
            // After a panic or an error, the segment is prepared again.
            if let Ok(Ok(segment)) = prepared {
                process.next_ordinal += 1;
                process.prepared.push_back(segment);
            }
        }
        if process.committer.next.is_none() {
            process.committer.next = process.prepared.pop_front();
        }
        let lines = |encoded: &EncodedBatch| {
            encoded.batch().records().map(|record| [&record[..], b"\n"].concat()).collect()
        };
        let group = Group { batches: taken.batches.iter().map(lines).collect() };
        let before = process.durable.get();
        let id = process.committer.publisher.stream();
        let opens = process.is_vouched_for && self.streams.last().unwrap().acknowledged() == 0;
        let is_bad = self.variant == Variant::CountsDroppedAsUnwritten;
        let committer = &mut process.committer;
        let written = catch(|| {
            if is_bad { write_without_dropped(committer, taken) } else { committer.write(taken) }
        });
        let mut is_durable = process.durable.get() != before;
        self.leave(process);
        let stream = self.streams.last_mut().unwrap();
        let mut may_be_there = true;
        if opens {
            // The stream's first record and the batches are two consecutive groups.
            if is_durable {
                stream.groups.push(Group::own());
                stream.unknown.clear();
                is_durable = process.live.end_of(id) == Some(1 + group.records());
            } else {
                stream.unknown.push(Group::own());
                may_be_there = false;
            }
        }
        let outcome = Outcome { group: &group, first: stream.acknowledged(), is_durable };
        let is_certain = self.hear(process, Some(&outcome))?;
        let stream = self.streams.last_mut().unwrap();
        if is_durable {
            stream.groups.push(group);
            stream.unknown.clear();
        } else if !is_certain && may_be_there {
            stream.unknown.push(group);
        }
        if written.is_err() {
            process.stop();
        }
        let pending = process.sink.pending_bytes();
        if process.callers.is_empty() && most == usize::MAX && pending > 0 {
            return Err(format!("{pending} bytes wait, and no caller does"));
        }
        Ok(())
    }

    /// The committing thread checks whether to change streams, and which system records are due.
    pub(super) fn write_own(&mut self, process: &mut Process) {
        if process.is_stopped {
            return;
        }
        let committer = &mut process.committer;
        let (before, writes) = (process.durable.get(), self.disk.calls().writes);
        let written = catch(|| {
            committer.change_stream_if_over();
            committer.write_what_is_due()
        });
        let (sequence, id) = (committer.writer.next_sequence(), committer.publisher.stream());
        let stream = self.streams.last_mut().unwrap();
        if process.durable.get() != before {
            stream.groups.push(Group::own());
            stream.unknown.clear();
        } else if process.is_vouched_for && sequence > 0 && self.disk.calls().writes != writes {
            // A system record may have been written, in whole or in part.
            stream.unknown.push(Group::own());
        }
        if id != stream.id {
            self.streams.push(Stream::new(id));
        }
        if written.is_err() {
            process.stop();
        }
    }

    /// Some callers drop the future of their `persist`.
    fn leave(&mut self, process: &mut Process) {
        let (dice, cancels, left) = (&mut self.dice, self.cancels, &mut self.left);
        process.callers.retain(|_| {
            let leaves = dice.chance(cancels, 100);
            *left += u64::from(leaves);
            !leaves
        });
    }

    /// Polls the callers, and checks their results: those of the group that was just written, if
    /// any. Returns whether a caller was told that its batch was certainly not written.
    fn hear(
        &mut self,
        process: &mut Process,
        written: Option<&Outcome<'_>>,
    ) -> Result<bool, String> {
        let stream = self.streams.last().unwrap().id;
        let mut is_certain = false;
        let mut waiting = Vec::new();
        for mut caller in process.callers.drain(..) {
            let place = written.and_then(|written| written.place(&caller.lines));
            match ((&mut caller.persist).now_or_never(), place) {
                (None, None) => waiting.push(caller),
                (None, Some(_)) => return Err("a caller heard nothing".to_owned()),
                (Some(Ok(receipt)), Some((first_sequence, true))) => {
                    let count = u32::try_from(caller.lines.len()).unwrap();
                    let expected = Place { stream, first_sequence, count };
                    if receipt.place != Some(expected) {
                        return Err(format!("{receipt:?} where {expected:?} was written"));
                    }
                }
                (Some(Ok(receipt)), _) => return Err(format!("{receipt:?}, and nothing written")),
                (Some(Err(error)), Some((_, true))) => {
                    return Err(format!("a batch is durable, and its caller heard: {error}"));
                }
                (Some(Err(error)), Some((_, false))) => {
                    is_certain |= error.outcome() == audit_core::Outcome::NotPersisted;
                }
                (Some(Err(error)), None) => {
                    if error.outcome() != audit_core::Outcome::NotPersisted {
                        return Err(format!("a batch that nobody took: {error}"));
                    }
                }
            }
        }
        process.callers = waiting;
        Ok(is_certain)
    }

    fn batches(&mut self) -> Vec<Batch> {
        let clock = Arc::clone(&self.clock);
        (0..self.dice.within(1..4))
            .map(|_| {
                let mut lines = Vec::new();
                for _ in 0..self.dice.within(1..4) {
                    let padding = if self.dice.chance(1, 30) { 1500 } else { self.dice.below(80) };
                    lines.extend_from_slice(
                        format!("{{\"id\":{},\"@\":\"", self.records).as_bytes(),
                    );
                    lines.resize(lines.len() + padding, b'-');
                    lines.extend_from_slice(b"\"}\n");
                    self.records += 1;
                }
                Batch::from_lines(clock.now_ms(), lines.into()).unwrap()
            })
            .collect()
    }

    pub(super) fn flush(&self, process: &mut Process) {
        let (reply, answer) = oneshot::channel();
        let _ = process.commands.send(Command::Flush(process.durable.get(), reply));
        let records = self.acknowledged();
        process.flushes.push(Flush { answer, records });
    }

    pub(super) fn acknowledged(&self) -> BTreeMap<String, u64> {
        self.streams.iter().map(|stream| (stream.id.to_string(), stream.acknowledged())).collect()
    }

    /// Checks the results of completed flushes.
    pub(super) fn answered(&mut self, process: &mut Process) -> Result<(), String> {
        let mut waiting = Vec::new();
        for mut flush in process.flushes.drain(..) {
            match flush.answer.try_recv() {
                Ok(()) => self
                    .there(&flush.records)
                    .map_err(|what| format!("a flush was answered, and {what}"))?,
                Err(oneshot::error::TryRecvError::Empty) => waiting.push(flush),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        process.flushes = waiting;
        Ok(())
    }

    /// Closes the journal.
    pub(super) async fn end(&mut self, mut process: Process) -> Result<Ended, String> {
        let _ = process.commands.send(Command::Hurry);
        if !process.is_stopped {
            process.committer.end_stream();
        }
        process.stop();
        let Process { delivery, flushes, health, memory, .. } = &mut process;
        for round in 0..1_000 {
            if round == 500 {
                // Faults in most requests can outlast any patience by chance. Once they are over,
                // the delivery must end.
                self.bucket.set_faults(0);
                self.trouble.panics.store(0, Ordering::Relaxed);
            }
            let ended = timeout(Duration::from_secs(10), &mut *delivery).await;
            self.clock.advance(10_000);
            match ended {
                Ok(Ok(false)) => return Err("the journal was removed".to_owned()),
                Ok(Ok(true)) => {
                    let records = self.acknowledged();
                    self.there(&records)
                        .map_err(|what| format!("a journal was closed, and {what}"))?;
                    self.panics += health.health(0).panics;
                    if flushes.iter_mut().any(|flush| flush.answer.try_recv().is_err()) {
                        return Err("a journal was closed, and a flush was not answered".to_owned());
                    }
                    if !memory.is_unused() {
                        return Err("a journal was closed, and its memory is not free".to_owned());
                    }
                    return Ok(Ended::InOrder);
                }
                Ok(Err(error)) => return Err(format!("the delivery ended: {error}")),
                Err(_) if self.disk.is_stopped() => return died(process).await,
                Err(_) => {}
            }
        }
        Err("the delivery does not come to its end".to_owned())
    }
}

/// The outcome of a group.
struct Outcome<'a> {
    group: &'a Group,
    /// The number of its first record, if it was written.
    first: u64,
    is_durable: bool,
}

impl Outcome<'_> {
    /// The number of the first of these records if they are in the group, and whether they are
    /// durable.
    fn place(&self, lines: &[Vec<u8>]) -> Option<(u64, bool)> {
        let n = self.group.batches.iter().position(|batch| batch == lines)?;
        let before: usize = self.group.batches[..n].iter().map(Vec::len).sum();
        Some((self.first + before as u64, self.is_durable))
    }
}
