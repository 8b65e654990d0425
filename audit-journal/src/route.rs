//! The handle of an open route.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::{
    Batch, Commits, Health, Receipt, SinkError, SinkErrorKind, UniqueId, async_trait,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::OpenError;
use crate::commit::Journal;
use crate::delivery::Command;
use crate::disk::Disk;
use crate::format::{EncodedBatch, RouteStream};
use crate::health::{HealthBoard, Trouble, Watch};
use crate::reader::JournalRoute;
#[cfg(test)]
use crate::routes::Share;
use crate::routes::{Charge, Lane, Refused, RouteOpening, Routes, SystemQueue, Turn};
use crate::startup::cannot_open_route;

/// An open route of a [`Journal`]: commits to the journal, for a destination of its own.
///
/// Dropping it loses nothing: what is committed is delivered.
pub struct Route {
    journal: Arc<Journal>,
    number: u32,
    name: String,
    /// The stream of the route's next record when the route was opened.
    stream: UniqueId,
    lane: Lane,
    health: Arc<HealthBoard>,
    /// The trouble while its share is used up.
    full: Mutex<Option<Watch>>,
}

impl Journal {
    /// Opens a route: another destination of this journal, with records of its own.
    ///
    /// A route that the journal knows by this name continues: what an earlier opening left is
    /// delivered to this destination. Otherwise the name gets a number, durably, before anything is
    /// committed to the route.
    ///
    /// # Errors
    ///
    /// If the name or those of its followers are invalid or the route is open already, if the file
    /// of routes or those of its followers cannot be written, or if the journal is closed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancellation
    ///
    /// The route is not open, and the journal may know its name. It can be opened again.
    pub async fn open_route(self: &Arc<Self>, opening: RouteOpening) -> Result<Route, OpenError> {
        let (name, health) = (opening.name.clone(), Arc::clone(&opening.health));
        let opened = Routes::open(self.routes(), opening).await;
        let opened = opened.map_err(|error| cannot_open_route(self.directory(), error))?;
        let (number, stream, lane) = opened.taken();
        let (journal, full) = (Arc::clone(self), Mutex::default());
        Ok(Route { journal, number, name, stream, lane, health, full })
    }

    /// Retires each route that is not open and has no undelivered records. Returns the routes that
    /// are not open and have undelivered records, which wait until a process opens the route, and
    /// the routes that are still being closed.
    ///
    /// # Errors
    ///
    /// If the file of routes or that of a follower cannot be written, or if the journal is closed.
    /// Any of the routes without undelivered records may have been retired. Call it again.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancellation
    ///
    /// The call completes in the background: the routes are retired unless that fails.
    pub async fn retire_unopened_routes(&self) -> Result<Vec<JournalRoute>, SinkError> {
        let left = Routes::retire_unopened(self.routes()).await.map_err(cannot_retire)?;
        Ok(left.iter().map(|(number, row)| JournalRoute::of((*number, row))).collect())
    }
}

fn cannot_retire(error: std::io::Error) -> SinkError {
    let message = "a route cannot be retired";
    SinkError::not_persisted(SinkErrorKind::Unavailable, message).with_source(error)
}

impl Route {
    /// Its number in the journal.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream of its records in this opening of the journal. If the destination vouches for
    /// streams, the first one; receipts name the stream of each record.
    pub fn stream(&self) -> UniqueId {
        self.stream
    }

    /// See [`AuditSink::health`](audit_core::AuditSink::health). `journal_bytes` is what the
    /// route's undelivered records take of its share.
    pub fn health(&self) -> Health {
        let used = self.lane.share.used();
        if used < self.journal.routes().limit() {
            // Ends the report of a full share: the caller that was refused may have given up since.
            self.has_room();
        }
        let followers = self.journal.routes().followers().health(self.number);
        let health = self.health.health(self.journal.pending_bytes());
        let health = Health { journal_bytes: Some(used), followers, ..health };
        match self.journal.health().commits {
            Commits::Accepted => health,
            // If the journal accepts no batches, none of its routes does.
            commits @ (Commits::Refused { .. } | Commits::Stopped { .. }) => {
                Health { commits, ..health }
            }
        }
    }

    /// See [`AuditSink::persist`](audit_core::AuditSink::persist). When the route's share of the
    /// journal is used up, it waits for room and then fails as *not persisted*, `Unavailable`.
    pub async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let deadline = Instant::now() + self.journal.persist_timeout();
        let charge = self.charge(EncodedBatch::bytes_of(&batch), deadline).await?;
        let turn = self.turn(batch.count(), deadline).await?;
        let stream = RouteStream { route: self.number, stream: turn.stream() };
        let encoded = EncodedBatch::routed(batch, stream);
        self.journal.persist_encoded(encoded, Some(charge.with_turn(turn)), deadline).await
    }

    /// Waits for the turn of a batch of `count` records in a stream that has begun.
    async fn turn(&self, count: u32, deadline: Instant) -> Result<Turn, SinkError> {
        let journal = Arc::clone(&self.journal) as Arc<dyn SystemQueue>;
        let turn = self.lane.commits.turn(&journal, count);
        timeout_at(deadline, turn).await.unwrap_or_else(|_elapsed| Err(self.journal.no_room()))
    }

    /// Waits for room in the route's share.
    async fn charge(&self, bytes: u64, deadline: Instant) -> Result<Charge, SinkError> {
        let routes = self.journal.routes();
        let charge = || match self.lane.share.charge(bytes, routes.limit()) {
            Ok(charge) => Some(Ok(charge)),
            Err(Refused::Closed) => Some(Err(SinkError::closed())),
            Err(Refused::Full { used }) => {
                self.is_full(used);
                None
            }
        };
        match timeout_at(deadline, self.lane.share.until(charge)).await {
            Ok(Ok(charge)) => {
                self.has_room();
                Ok(charge)
            }
            Ok(Err(closed)) => Err(closed),
            Err(_elapsed) => Err(self.no_room()),
        }
    }

    fn is_full(&self, used: u64) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = full.get_or_insert_with(|| self.health.watch());
        watch.report(Trouble::share_full(&self.name, used, self.journal.routes().limit()));
        self.health.starving(true);
    }

    fn has_room(&self) {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watch) = full {
            watch.over();
            self.health.starving(false);
        }
    }

    /// For a known-bad variant of the simulation.
    #[cfg(test)]
    pub(crate) fn share(&self) -> &Share {
        &self.lane.share
    }

    fn no_room(&self) -> SinkError {
        let (used, limit) = (self.lane.share.used(), self.journal.routes().limit());
        let why = match self.health.hindrance() {
            Some(Trouble::JournalFull(_)) | None => "its records are not delivered yet".to_owned(),
            Some(trouble) => trouble.to_string(),
        };
        let message = format!(
            "route {:?} has no room in the journal within {} ms: {used} of {limit} bytes of its \
             share are used; {why}",
            self.name,
            self.journal.persist_timeout().as_millis()
        );
        SinkError::not_persisted(SinkErrorKind::Unavailable, message)
    }

    /// See [`AuditSink::flush`](audit_core::AuditSink::flush), for the route's records.
    pub async fn flush(&self) -> Result<(), SinkError> {
        let Some(durable) = self.journal.live().routes().end_of(self.number) else {
            return Ok(());
        };
        let (reply, flushed) = oneshot::channel();
        let _ = self.lane.commands.send(Command::Flush(durable, reply));
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => self.is_delivered(),
        }
    }

    /// See [`AuditSink::close`](audit_core::AuditSink::close), for this route alone: nothing more
    /// is accepted, and it returns once everything is delivered. Put a time limit on it. The route
    /// stays in the journal and can be opened again.
    pub async fn close(&self) -> Result<(), SinkError> {
        self.lane.share.close();
        let _ = self.lane.commands.send(Command::Hurry);
        let delivered = async {
            // Twice: a batch that was accepted before the close may have waited for its turn, and
            // then have begun another stream. Once that batch is delivered, no batch is left that
            // could begin a stream.
            for _ in 0..2 {
                self.lane.commits.end().await;
                self.lane.share.until(|| self.has_nothing_left().then_some(())).await;
            }
        };
        tokio::select! {
            () = delivered => Ok(()),
            () = self.lane.commands.closed() => {
                self.lane.commits.end().await;
                self.is_delivered()
            }
        }
    }

    /// [Closes](Self::close) the route, and then retires it durably: its number is never used
    /// again, and a later route of this name is another one. Its followers have five seconds for
    /// the remaining records, as long as they accept them without trouble. What they lack then is
    /// recorded as missing.
    ///
    /// # Errors
    ///
    /// Those of [`close`](Self::close); if a write of the route's batches failed with an unknown
    /// outcome since the journal was opened, which the next opening settles; and if the file of
    /// routes cannot be written. The route is then closed and not retired. Also if the route was
    /// opened again meanwhile: it then stays in use.
    pub async fn retire(&self) -> Result<(), SinkError> {
        self.close().await?;
        if self.lane.share.is_uncertain() {
            let message = format!(
                "route {:?} is closed and cannot be retired: a batch whose write failed may still \
                 be found; retire it after the next start",
                self.name
            );
            return Err(SinkError::not_persisted(SinkErrorKind::Unavailable, message));
        }
        let (routes, number) = (Arc::clone(self.journal.routes()), self.number);
        let retired = tokio::spawn(async move { routes.retire(number).await });
        retired.await.map_err(std::io::Error::other).flatten().map_err(cannot_retire)
    }

    /// Whether everything is delivered, the last records of streams included.
    fn has_nothing_left(&self) -> bool {
        self.lane.share.used() == 0 && !self.lane.streams.are_ending()
    }

    /// Whether everything is delivered, after the delivery has ended.
    fn is_delivered(&self) -> Result<(), SinkError> {
        if self.has_nothing_left() { Ok(()) } else { Err(self.journal.stopped()) }
    }
}

#[async_trait]
impl SystemQueue for Journal {
    async fn persist_system(&self, record: EncodedBatch, charge: Charge) -> Result<(), SinkError> {
        Journal::persist_system(self, record, charge).await
    }

    fn disk(&self) -> io::Result<Arc<dyn Disk>> {
        self.routes().disk()
    }

    fn is_open(&self) -> bool {
        self.routes().is_open()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("number", &self.number)
            .field("name", &self.name)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
