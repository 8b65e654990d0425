//! Brings what is in the journal to its destination: cuts it into objects, plans each durably,
//! sends it, and removes what was delivered.
//!
//! A part of it that panics, or is dropped, leaves an outcome that is unknown: everything begins
//! anew from what is durable, and an object whose request vanished is retried from its file.
//!
//! One task does all of it in order; the requests of several objects are under way at once. A
//! backlog of any size is read from disk object by object, so memory holds what is under way and no
//! more: the lines of one object, the encoder, and the encoded objects that are on their way, all
//! in pieces that are used again.
//!
//! What the disk refuses stays to be done and is tried again, for ever. Nothing new is begun before
//! that; but what is under way arrives, and what is delivered makes room, since room may be what
//! the disk lacks.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{BufferPool, UniqueId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::destination::{Delivery, Destination, Encoded, Plan};
use crate::disk::{Disk, is_full};
use crate::format::{FIRST_GROUP, Found, Position};
use crate::health::{HealthBoard, Trouble, Watch};
use crate::plan::{
    self, Decided, DecidedObject, read_object, remove_delivered, set_aside, write_delivered,
    write_object,
};
use crate::recovery_error::RecoveryError;
use crate::segment::{SegmentReader, Window};
use crate::segments::LiveSegments;
use crate::settings::JournalSettings;
use crate::shared::executor::{Executor, execute};
use crate::shared::panic::{Panicked, catch, catch_in};
use crate::shared::pieces::pieces;

/// What the handle asks of the task.
pub(crate) enum Command {
    /// To say when everything up to this position is in the bucket.
    Flush(Position, oneshot::Sender<()>),
    /// To cut without waiting for more from now on.
    Hurry,
}

/// How often segments are looked through for those that may be removed.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// How many bytes of encoded objects may be under way before another is read, however many objects
/// may be: they are held in memory until they have arrived.
const MAX_BYTES_UNDER_WAY: usize = 12 << 20;

/// How long the task waits before it does something again that the disk refused.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// The task.
pub(crate) struct JournalDelivery {
    disk: Arc<dyn Disk>,
    live: Arc<LiveSegments>,
    executor: Arc<dyn Executor>,
    destination: Arc<dyn Destination>,
    health: Arc<HealthBoard>,
    /// When an object is full, in bytes of its lines.
    max_object_bytes: usize,
    journal: JournalSettings,
    /// The one that is committed to, if any is.
    own_stream: Option<UniqueId>,
    /// Where the last durable group ends. Its sender goes when nothing more will be committed.
    durable: watch::Receiver<Position>,
    commands: mpsc::UnboundedReceiver<Command>,
    pool: BufferPool,
    /// The lock is never contended: while it reads on another thread, the task waits for that.
    cutter: Arc<Mutex<Cutter>>,
    /// Whether there may be something to read.
    more: bool,
    ended: bool,
    hurry: bool,
    /// What is known of the plans is not to be believed: they are read again.
    lost: bool,
    /// What panicked or vanished, and how often in a row.
    broken: Option<(Watch, u32)>,
    /// Nothing is sent from its file before this.
    resend_at: Instant,
    /// Objects whose plan is durable, in the order of their records.
    planned: VecDeque<Planned>,
    /// The object after those, whose plan is to be written.
    unplanned: Option<Unplanned>,
    /// What the disk refused last, if that is still to be done.
    refused: Option<Refused>,
    requests: JoinSet<(Plan, Delivery)>,
    /// Up to before which record each stream is known to be delivered, durably.
    delivered: BTreeMap<UniqueId, u64>,
    delivered_to: Position,
    /// How many objects may be under way: more as long as they arrive, one when they do not.
    allowed: usize,
    flushes: Vec<(Position, oneshot::Sender<()>)>,
    clean_at: Instant,
}

struct Planned {
    plan: Plan,
    /// Where the last group ends that is in this object or an earlier one.
    end: Position,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In its file alone: of a process that ended before, or its request vanished.
    Waiting,
    /// In memory, on its way.
    UnderWay { bytes: usize, request: Id },
    /// Another one stands under its key. To be set aside.
    Conflict,
    /// In the bucket, or set aside.
    Done,
}

/// An object in memory alone. Nothing of it was sent.
struct Unplanned {
    plan: Plan,
    object: Encoded,
    end: Position,
}

/// The disk refused something.
struct Refused {
    again_at: Instant,
    /// For lack of room.
    is_full: bool,
    /// Reading the journal, and nothing that follows from it.
    reading: bool,
    watch: Watch,
}

/// What could not be done on the disk, and why.
type Failed = (&'static str, io::Error);

/// What a [`JournalDelivery`] is made of.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) health: Arc<HealthBoard>,
    pub(crate) max_object_bytes: usize,
    pub(crate) journal: JournalSettings,
    pub(crate) own_stream: Option<UniqueId>,
    pub(crate) durable: watch::Receiver<Position>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) decided: Decided,
}

impl JournalDelivery {
    pub(crate) fn new(parts: Parts) -> JournalDelivery {
        let Parts {
            disk,
            live,
            executor,
            destination,
            health,
            max_object_bytes,
            journal,
            own_stream,
            durable,
            commands,
            decided,
        } = parts;
        let cutter = Cutter::new(Arc::clone(&live), BTreeMap::new(), max_object_bytes);
        let mut delivery = JournalDelivery {
            disk,
            live,
            executor,
            destination,
            health,
            max_object_bytes,
            journal,
            own_stream,
            durable,
            commands,
            cutter: Arc::new(Mutex::new(cutter)),
            pool: pieces(),
            more: true,
            ended: false,
            hurry: false,
            lost: false,
            broken: None,
            resend_at: Instant::now(),
            planned: VecDeque::new(),
            unplanned: None,
            refused: None,
            requests: JoinSet::new(),
            delivered: BTreeMap::new(),
            delivered_to: Position { ordinal: 0, offset: 0 },
            allowed: 1,
            flushes: Vec::new(),
            clean_at: Instant::now(),
        };
        delivery.begin(decided);
        delivery
    }

    /// Begins with what is durable, and nothing else.
    fn begin(&mut self, decided: Decided) {
        let start = Position { ordinal: 0, offset: 0 };
        self.delivered = decided.delivered.into_iter().collect();
        let mut planned_to = self.delivered.clone();
        for DecidedObject { plan, set_aside: _ } in &decided.objects {
            planned_to.insert(plan.stream, plan.next_sequence());
        }
        let planned = decided.objects.into_iter().map(|DecidedObject { plan, set_aside }| {
            let state = if set_aside { State::Done } else { State::Waiting };
            Planned { plan, end: start, state }
        });
        self.planned = planned.collect();
        let live = Arc::clone(&self.live);
        let cutter = Cutter::new(live, planned_to, self.max_object_bytes);
        self.cutter = Arc::new(Mutex::new(cutter));
        (self.unplanned, self.refused) = (None, None);
        // Requests that are under way end here, and what becomes of them is unknown.
        self.requests = JoinSet::new();
        (self.delivered_to, self.allowed, self.more) = (start, 1, true);
    }

    /// Runs until nothing more will be committed and everything is in the bucket. It gives up for
    /// nothing: after a panic, of its own or of what it had others do, it begins anew from what is
    /// durable, as the next process would.
    pub(crate) async fn run(mut self) {
        while let Err(panicked) = catch_in(self.work()).await {
            self.lost = true;
            let trouble = Trouble::panicked("the delivery of the journal", &panicked);
            // What counts and what draws the pause may be what panics.
            let pause = catch(|| self.broke(trouble)).unwrap_or(DISK_PAUSE);
            sleep(pause).await;
        }
    }

    /// Counts what panicked or vanished. Says how long to wait before it is tried again.
    fn broke(&mut self, trouble: Trouble) -> Duration {
        let health = &self.health;
        health.panicked();
        let (watch, times) = self.broken.take().unwrap_or_else(|| (health.watch(), 0));
        watch.report(trouble);
        self.broken = Some((watch, times.saturating_add(1)));
        self.destination.backoff_after_panic(times)
    }

    /// What panicked or vanished goes on.
    fn mended(&mut self) {
        if let Some((watch, _)) = self.broken.take() {
            watch.over();
        }
    }

    /// Reads the plans again.
    async fn read_plans(&mut self) -> Result<(), Failed> {
        let live = Arc::clone(&self.live);
        let read = self.on_disk(move |disk| {
            plan::recover(disk, |stream| live.has(stream)).map_err(|error| match error {
                RecoveryError::Io(error) => error,
                error @ RecoveryError::Damaged { .. } => io::Error::other(error),
            })
        });
        let decided = read.await.map_err(|error| ("the plans of objects cannot be read", error))?;
        self.begin(decided);
        self.lost = false;
        Ok(())
    }

    async fn work(&mut self) {
        while self.lost {
            if let Err(failed) = self.read_plans().await {
                self.refuse(failed, false);
                sleep_until(self.again_at()).await;
            }
        }
        loop {
            if self.may_use_disk() {
                self.catch_up().await;
            }
            if self.clean_at <= Instant::now() {
                self.clean().await;
            }
            let has_slot = self.has_slot() && self.may_use_disk();
            if has_slot && self.more {
                self.read().await;
                continue;
            }
            let due = self.due();
            if has_slot && due.is_some_and(|due| due <= Instant::now()) {
                let cut = self.cutter().take();
                if let Some(cut) = cut {
                    self.encode(cut).await;
                }
                continue;
            }
            // Before those who flushed are told that nothing older is left.
            self.note_oldest();
            self.answer_flushes();
            self.rest();
            if self.ended && self.is_idle() {
                self.clean().await;
                self.mended();
                self.commands.close();
                while let Ok(command) = self.commands.try_recv() {
                    if let Command::Flush(_, reply) = command {
                        let _ = reply.send(());
                    }
                }
                return;
            }
            if self.is_idle() {
                self.mended();
            }
            let is_waiting = self.planned.iter().any(|planned| planned.state == State::Waiting);
            let (resends, resend_at) =
                (is_waiting && self.resend_at > Instant::now(), self.resend_at);
            let (refuses, again_at) = (!self.may_use_disk(), self.again_at());
            tokio::select! {
                // In this order: there are only so many requests, so none of the others waits for
                // ever.
                biased;
                Some(request) = self.requests.join_next(), if !self.requests.is_empty() => match request {
                    Ok((plan, delivery)) => self.arrived(&plan, delivery),
                    Err(error) => self.vanished(error),
                },
                Some(command) = self.commands.recv() => match command {
                    Command::Flush(position, reply) => {
                        self.flushes.push((position, reply));
                        self.more = true;
                    }
                    Command::Hurry => self.hurry = true,
                },
                changed = self.durable.changed(), if !self.ended => {
                    self.ended = changed.is_err();
                    self.more = true;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if has_slot && due.is_some() => {}
                () = sleep_until(again_at), if refuses => {}
                () = sleep_until(resend_at), if resends => {}
                () = sleep_until(self.clean_at) => {}
            }
        }
    }

    fn cutter(&self) -> MutexGuard<'_, Cutter> {
        lock(&self.cutter)
    }

    fn note_oldest(&self) {
        let gathered = self.cutter().pending.as_ref().map(|pending| pending.time_ms);
        let planned = self.planned.front().map(|planned| planned.plan.time_ms);
        let oldest = planned.or(self.unplanned.as_ref().map(|next| next.plan.time_ms)).or(gathered);
        self.health.oldest_undelivered(oldest);
    }

    /// When the object that is being filled is cut, whatever it holds then.
    fn due(&self) -> Option<Instant> {
        let since = self.cutter().pending.as_ref()?.since;
        let now = self.hurry || self.ended || !self.flushes.is_empty();
        Some(if now { since } else { since + self.journal.cut_after() })
    }

    /// Whether another object may be read and sent.
    fn has_slot(&self) -> bool {
        self.planned.len() < self.allowed && self.unplanned.is_none() && self.has_memory()
    }

    /// Whether another object may be held in memory.
    fn has_memory(&self) -> bool {
        let held = self.planned.iter().map(|planned| match planned.state {
            State::UnderWay { bytes, .. } => bytes,
            State::Waiting | State::Conflict | State::Done => 0,
        });
        held.sum::<usize>() < MAX_BYTES_UNDER_WAY
    }

    /// Reads on until an object is full or nothing more is durable.
    async fn read(&mut self) {
        let durable = *self.durable.borrow_and_update();
        let cutter = Arc::clone(&self.cutter);
        let read = execute(&*self.executor, move || lock(&cutter).read()).await;
        match read {
            Ok((full, caught_up)) => {
                if caught_up {
                    let mut cutter = self.cutter();
                    // Some of it may have been delivered and removed before it was read.
                    cutter.consumed = cutter.consumed.max(durable);
                }
                self.more = !caught_up;
                if let Some(refused) = self.refused.take() {
                    refused.watch.over();
                }
                if let Some(cut) = full {
                    self.encode(cut).await;
                }
            }
            Err(error) => self.refuse(("the journal cannot be read", error), true),
        }
    }

    /// Encodes an object. It is sent once its plan is durable.
    async fn encode(&mut self, cut: Cut) {
        let Cut { stream, first_sequence, count, time_ms, lines, since: _, end } = cut;
        let plan =
            Plan { stream, first_sequence, count, time_ms, encoding: self.destination.encoding() };
        let (destination, pool) = (Arc::clone(&self.destination), self.pool.clone());
        let (object, lines) = execute(&*self.executor, move || {
            let object = destination.encode(&plan, &lines, &pool);
            (object, lines)
        })
        .await;
        self.cutter().give_back(lines);
        self.unplanned = Some(Unplanned { plan, object, end });
    }

    /// Does what is to be done on the disk.
    async fn catch_up(&mut self) {
        // Each for itself: what one of them is refused, another may make room for.
        let done = [
            self.keep_conflicts().await,
            self.advance().await,
            self.write_plan().await,
            self.send_waiting().await,
        ];
        match done.into_iter().find_map(Result::err) {
            Some(failed) => self.refuse(failed, false),
            None => {
                if let Some(refused) = self.refused.take_if(|refused| !refused.reading) {
                    refused.watch.over();
                }
            }
        }
    }

    fn refuse(&mut self, failed: Failed, reading: bool) {
        let (what, error) = failed;
        let is_full = is_full(&error);
        let watch = self.refused.take().map_or_else(|| self.health.watch(), |before| before.watch);
        watch.report(Trouble::disk(what, &error));
        let again_at = Instant::now() + DISK_PAUSE;
        self.refused = Some(Refused { again_at, is_full, reading, watch });
        if is_full {
            self.clean_at = Instant::now();
        }
    }

    fn may_use_disk(&self) -> bool {
        self.again_at() <= Instant::now()
    }

    fn again_at(&self) -> Instant {
        self.refused.as_ref().map_or_else(Instant::now, |refused| refused.again_at)
    }

    /// Makes the plan of the next object durable, and only then sends it.
    async fn write_plan(&mut self) -> Result<(), Failed> {
        let Some(Unplanned { plan, object, end: _ }) = &self.unplanned else { return Ok(()) };
        let (plan, written) = (*plan, object.clone());
        let written = self.on_disk(move |disk| write_object(disk, &plan, &written)).await;
        written.map_err(|error| ("the plan of an object cannot be written", error))?;
        if let Some(Unplanned { plan, object, end }) = self.unplanned.take() {
            let bytes = object.bytes();
            let request = self.send(plan, object);
            let state = State::UnderWay { bytes, request };
            self.planned.push_back(Planned { plan, end, state });
        }
        Ok(())
    }

    fn send(&mut self, plan: Plan, object: Encoded) -> Id {
        let destination = Arc::clone(&self.destination);
        let request =
            self.requests.spawn(async move { (plan, destination.send(&plan, object).await) });
        let id = request.id();
        self.executor.began(&plan, request);
        id
    }

    /// Sends what is in its file alone, byte by byte as it was planned.
    async fn send_waiting(&mut self) -> Result<(), Failed> {
        if self.resend_at > Instant::now() {
            return Ok(());
        }
        let mut refused = Ok(());
        for n in 0..self.planned.len() {
            let Planned { plan, end: _, state } = self.planned[n];
            if state != State::Waiting {
                continue;
            }
            if self.requests.len() >= self.allowed || !self.has_memory() {
                break;
            }
            let pool = self.pool.clone();
            let read = self.on_disk(move |disk| {
                let object = read_object(disk, &plan.file_name(), &pool)?;
                object.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
            });
            match read.await {
                Ok((_, object)) => {
                    let bytes = object.bytes();
                    let request = self.send(plan, object);
                    self.planned[n].state = State::UnderWay { bytes, request };
                }
                // Later ones may be read.
                Err(error) => refused = Err(("the file of an object cannot be read", error)),
            }
        }
        refused
    }

    /// A request panicked outside of what it asks the bucket, or was dropped: what became of its
    /// object is unknown, and it is sent again from its file.
    fn vanished(&mut self, error: JoinError) {
        let request = error.id();
        let trouble = match error.try_into_panic() {
            Ok(panic) => Trouble::panicked("the delivery of an object", &Panicked::of(&*panic)),
            Err(_cancelled) => {
                Trouble::Panicked("the delivery of an object ended without an outcome".to_owned())
            }
        };
        self.resend_at = Instant::now() + self.broke(trouble);
        let is_its = |planned: &&mut Planned| matches!(planned.state, State::UnderWay { request: id, .. } if id == request);
        if let Some(planned) = self.planned.iter_mut().find(is_its) {
            planned.state = State::Waiting;
        }
    }

    /// Takes note of an object whose outcome is certain.
    fn arrived(&mut self, plan: &Plan, delivery: Delivery) {
        self.mended();
        let trouble = self.health.delivery_in_trouble();
        self.allowed = if trouble { 1 } else { (self.allowed + 1).min(self.journal.max_in_flight) };
        if let Some(planned) = self.planned.iter_mut().find(|planned| planned.plan == *plan) {
            planned.state = match delivery {
                Delivery::Delivered => State::Done,
                Delivery::Conflict => State::Conflict,
            };
        }
    }

    /// Keeps objects that met a conflict for an operator: the records are in the file, and those
    /// after them go on.
    async fn keep_conflicts(&mut self) -> Result<(), Failed> {
        for n in 0..self.planned.len() {
            let Planned { plan, end: _, state } = self.planned[n];
            if state == State::Conflict {
                let kept = self.on_disk(move |disk| set_aside(disk, &plan)).await;
                kept.map_err(|error| ("an object that met a conflict cannot be set aside", error))?;
                self.planned[n].state = State::Done;
            }
        }
        Ok(())
    }

    /// Notes how far the streams are delivered now, and removes what was planned for that.
    async fn advance(&mut self) -> Result<(), Failed> {
        let done = self.planned.iter().take_while(|planned| planned.state == State::Done).count();
        if done == 0 {
            return Ok(());
        }
        let streams: BTreeMap<_, _> = self
            .planned
            .range(..done)
            .map(|done| (done.plan.stream, done.plan.next_sequence()))
            .collect();
        let noted = streams.clone();
        let written = self.on_disk(move |disk| {
            noted.iter().try_for_each(|(stream, next)| write_delivered(disk, *stream, *next))
        });
        written.await.map_err(|error| ("the progress of delivery cannot be written", error))?;
        self.delivered.extend(streams);
        let done: Vec<_> = self.planned.drain(..done).collect();
        self.delivered_to = done.iter().map(|done| done.end).fold(self.delivered_to, Position::max);
        // What a crash or an error leaves of them, the next opening removes.
        let disk = Arc::clone(&self.disk);
        execute(&*self.executor, move || {
            for done in done {
                let _ = disk.remove(&done.plan.file_name());
            }
        })
        .await;
        if self.is_pressed() {
            self.clean_at = Instant::now();
        }
        Ok(())
    }

    /// Removes segments that are delivered and old enough, and what is known of streams of which
    /// nothing is left.
    async fn clean(&mut self) {
        self.clean_at = Instant::now() + CLEAN_EVERY;
        let (disk, live, delivered) =
            (Arc::clone(&self.disk), Arc::clone(&self.live), self.delivered.clone());
        let retention = Duration::from_millis(self.journal.retention_ms);
        let pressed = self.is_pressed();
        let own = self.own_stream;
        let cleaned = execute(&*self.executor, move || {
            live.remove_while(&*disk, |segment| {
                let next = delivered.get(&segment.stream).copied().unwrap_or(0);
                segment.next_sequence <= next
                    && segment
                        .sealed_at
                        .is_some_and(|sealed| pressed || sealed.elapsed() >= retention)
            })?;
            let is_gone = |stream: &UniqueId| Some(*stream) != own && !live.has(*stream);
            let gone: Vec<_> = delivered.keys().copied().filter(is_gone).collect();
            for stream in &gone {
                remove_delivered(&*disk, *stream)?;
            }
            Ok::<_, io::Error>(gone)
        })
        .await;
        self.health.journal_bytes(self.live.bytes());
        match cleaned {
            Ok(gone) => self.delivered.retain(|stream, _| !gone.contains(stream)),
            Err(error) => {
                tracing::warn!(%error, "delivered segments of the journal cannot be removed")
            }
        }
    }

    /// Whether what is kept for its age alone has to make way: the journal has so much of its disk
    /// that no more than a segment or a fifth is left, or the disk has no room.
    fn is_pressed(&self) -> bool {
        let left = self.journal.max_bytes.saturating_sub(self.live.bytes());
        left < self.journal.segment_bytes.max(self.journal.max_bytes / 5)
            || self.live.lacks_room()
            || self.refused.as_ref().is_some_and(|refused| refused.is_full)
    }

    /// Whether everything that was read is delivered, and nothing more is known of.
    fn is_idle(&mut self) -> bool {
        !self.more
            && self.planned.is_empty()
            && self.unplanned.is_none()
            && self.cutter().pending.is_none()
    }

    /// Releases memory that is not needed for now.
    fn rest(&mut self) {
        if self.is_idle() {
            self.cutter().trim();
            self.destination.trim();
            self.pool.trim();
        }
    }

    fn answer_flushes(&mut self) {
        let nothing_left = self.is_idle();
        let done = if nothing_left {
            self.cutter().consumed.max(self.delivered_to)
        } else {
            self.delivered_to
        };
        let has_waiting = self.planned.iter().any(|planned| planned.end.ordinal == 0);
        for (position, reply) in std::mem::take(&mut self.flushes) {
            if position <= done && !has_waiting {
                // The caller may have gone.
                let _ = reply.send(());
            } else {
                self.flushes.push((position, reply));
            }
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        action: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.disk);
        execute(&*self.executor, move || action(&*disk)).await
    }
}

/// What a panic leaves of it is replaced, not read.
fn lock(cutter: &Mutex<Cutter>) -> MutexGuard<'_, Cutter> {
    cutter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records for one object.
struct Cut {
    stream: UniqueId,
    first_sequence: u64,
    count: u64,
    time_ms: i64,
    lines: Vec<u8>,
    since: Instant,
    /// Where the last group ends all of whose records are in this object or an earlier one.
    end: Position,
}

/// Reads groups in order and gathers their batches into objects. A batch is never divided.
struct Cutter {
    live: Arc<LiveSegments>,
    reader: Option<SegmentReader>,
    /// For the next reader.
    window: Window,
    next_ordinal: u32,
    /// Up to before which record each stream is in an object already.
    planned_to: BTreeMap<UniqueId, u64>,
    pending: Option<Cut>,
    consumed: Position,
    max_object_bytes: usize,
    /// Memory for the lines of the next object.
    lines: Vec<u8>,
}

impl Cutter {
    fn new(
        live: Arc<LiveSegments>,
        planned_to: BTreeMap<UniqueId, u64>,
        max_object_bytes: usize,
    ) -> Cutter {
        let consumed = Position { ordinal: 0, offset: 0 };
        Cutter {
            live,
            reader: None,
            window: Window::default(),
            next_ordinal: 0,
            planned_to,
            pending: None,
            consumed,
            max_object_bytes,
            lines: Vec::new(),
        }
    }

    /// Takes what is gathered. What is read from now on goes into another object.
    fn take(&mut self) -> Option<Cut> {
        let cut = self.pending.take()?;
        self.planned_to.insert(cut.stream, cut.first_sequence + cut.count);
        Some(Cut { end: self.consumed, ..cut })
    }

    /// Reads on. Gives a full object, and says whether everything durable was read.
    fn read(&mut self) -> io::Result<(Option<Cut>, bool)> {
        loop {
            let Some(live) = self.live.from(self.reader_ordinal()) else { return Ok((None, true)) };
            let ordinal = live.segment.header.ordinal;
            // The one that was read to its end may have been removed since.
            if self.reader.as_ref().is_none_or(|reader| reader.segment().header.ordinal != ordinal)
            {
                self.close_reader();
                let window = std::mem::take(&mut self.window);
                self.reader = Some(SegmentReader::new(live.segment.clone(), FIRST_GROUP, window));
            }
            let reader = self.reader.as_mut().expect("made above");
            if reader.position().offset >= live.end {
                if live.sealed_at.is_none() {
                    return Ok((None, true));
                }
                self.next_ordinal = ordinal + 1;
                self.close_reader();
                continue;
            }
            reader.limit(live.end);
            if self.pending.as_ref().is_some_and(|pending| pending.stream != live.stream) {
                return Ok((self.take(), false));
            }
            let Found::Group(header) = reader.look()? else {
                let what = format!("a durable group is not there, at {}", reader.position());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            let planned_to = self.planned_to.get(&header.stream).copied().unwrap_or(0);
            let (places, payload) = reader.batches(&header)?;
            let mut sequence = header.first_sequence;
            let mut full = false;
            for place in places {
                let first_sequence = sequence;
                sequence += u64::from(place.count);
                if let Some(pending) = &self.pending {
                    // This batch was gathered before, or is the first that does not fit.
                    if first_sequence < pending.first_sequence + pending.count {
                        continue;
                    }
                    full = pending.lines.len() + place.lines.len() > self.max_object_bytes;
                    if full {
                        break;
                    }
                }
                if first_sequence < planned_to {
                    continue;
                }
                let lines = &mut self.lines;
                let pending = self.pending.get_or_insert_with(|| Cut {
                    stream: header.stream,
                    first_sequence,
                    count: 0,
                    time_ms: place.time_ms,
                    lines: {
                        // Of what is reserved, only what is written is ever touched; growing would
                        // move it.
                        lines.reserve(self.max_object_bytes);
                        std::mem::take(lines)
                    },
                    since: Instant::now(),
                    end: self.consumed,
                });
                pending.lines.extend_from_slice(&payload[place.lines]);
                pending.count += u64::from(place.count);
            }
            if full {
                return Ok((self.take(), false));
            }
            reader.step_over(&header);
            self.consumed = reader.position();
            if self
                .pending
                .as_ref()
                .is_some_and(|pending| pending.lines.len() >= self.max_object_bytes)
            {
                return Ok((self.take(), false));
            }
        }
    }

    fn close_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.window = reader.into_window();
        }
    }

    /// Takes back the memory of an object's lines. What one larger batch took is released.
    fn give_back(&mut self, mut lines: Vec<u8>) {
        if lines.capacity() <= 2 * self.max_object_bytes {
            lines.clear();
            self.lines = lines;
        }
    }

    /// Releases the memory that it reads into.
    fn trim(&mut self) {
        (self.lines, self.window) = (Vec::new(), Window::default());
        if let Some(reader) = &mut self.reader {
            reader.trim();
        }
    }

    fn reader_ordinal(&self) -> u32 {
        self.reader.as_ref().map_or(self.next_ordinal, |reader| reader.segment().header.ordinal)
    }
}
