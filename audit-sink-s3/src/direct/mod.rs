//! Direct mode: nothing is kept on this host, and a batch is durable once its object is in the
//! bucket.
//!
//! One task owns the queue, cuts it into objects and numbers the records (`queue`). A task for each
//! object encodes and delivers it, and replies to its callers (`group`). The state of a stream,
//! with its evidence, is in `stream`.

mod group;
#[cfg(test)]
mod panics;
mod pending;
mod queue;
mod stream;

use std::fmt;
use std::sync::Arc;

use audit_core::{Batch, Receipt, SinkError, SinkErrorKind};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use self::pending::Pending;
pub(crate) use self::queue::Parts;
use self::queue::{Command, Queue, Queued};
use crate::Settings;
use crate::health::HealthBoard;
use crate::panic::catch_in;
use crate::take_once::TakeOnce;

/// The handle on the queue's task. Once it is dropped, the task ends after all accepted batches
/// have a certain outcome.
pub(crate) struct Direct {
    commands: mpsc::UnboundedSender<Command>,
    /// One permit for each byte of lines that may be pending. It bounds the queue, which itself has
    /// no bound.
    room: Arc<Semaphore>,
    /// Becomes true when the task has ended; closed without that if it panicked.
    ended: watch::Receiver<bool>,
    health: Arc<HealthBoard>,
    settings: Settings,
}

impl Direct {
    /// Starts the task, in the current tokio runtime. The settings were checked.
    pub(crate) fn start(parts: Parts) -> Direct {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(false);
        let settings = parts.settings.clone();
        let room = Arc::new(Semaphore::new(settings.max_pending_bytes));
        let health = Arc::clone(&parts.put.health);
        let queue = Queue::new(parts, receiver);
        let must_end = health.must_end("the task that writes audit logs");
        tokio::spawn(async move {
            match catch_in(queue.run()).await {
                Ok(()) => {
                    must_end.ended();
                    end.send_replace(true);
                }
                Err(panicked) => must_end.panicked(&panicked),
            }
        });
        Direct { commands, room, ended, health, settings }
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
            // The queue's task, or the task that delivered the batch, was dropped with its runtime.
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
        // If the task has ended, `ended` below returns its result.
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

    /// The error if the queue is gone: it was closed meanwhile, or its task panicked.
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

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("health", &self.health.health(self.pending_bytes()))
            .field("closed", &self.room.is_closed())
            .finish_non_exhaustive()
    }
}
