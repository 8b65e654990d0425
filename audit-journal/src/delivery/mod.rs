//! Delivers the journal's records to the destination: cuts them into objects, plans each object
//! durably, sends it, and removes delivered segments that no follower needs.
//!
//! A panic or a dropped request leaves an unknown outcome. After a panic the task restarts from the
//! durable state, and an object without a request is sent again from its file.
//!
//! One task seals objects, plans them and records progress, all in order. Several objects are
//! encoded at once, on as many cores as there are, and several requests are under way. The memory
//! for an object's lines, and then for its bytes, comes from one budget for all deliveries of the
//! journal; an object that gets no memory waits in its file.
//!
//! An operation that the disk refuses is retried indefinitely. Nothing new is started until it
//! succeeds, but requests under way continue, and delivered segments are removed because the disk
//! may lack space.

mod cleaning;
mod encoding;
mod ending;
mod flushes;
mod memory;
mod objects;
mod pace;
mod planned;
mod refusals;
mod request;
mod restart;
mod route;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{Clock, Random, UniqueId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::encoding::{EncodingObject, encoded, next_encoded};
use self::flushes::Flushes;
pub(crate) use self::memory::{DeliveryMemory, Memory};
use self::pace::taken;
use self::planned::{Planned, State, Unplanned};
use self::refusals::{DISK_PAUSE, Refused};
use self::request::Ended;
pub(crate) use self::request::{MAX_TURN, TURN};
pub(crate) use self::route::RouteLane;
use crate::cutter::Cutter;
use crate::destination::Destination;
use crate::disk::Disk;
use crate::followers::Followers;
use crate::format::Position;
use crate::health::{HealthBoard, Trouble, Watch};
use crate::plan::Decided;
use crate::progress::Progress;
use crate::segments::LiveSegments;
use crate::settings::JournalSettings;
use crate::shared::executor::Executor;
use crate::shared::job::Job;
use crate::shared::latest;
use crate::shared::panic::{catch, catch_in};
use crate::streams::Streams;

/// A command from the journal's handle.
pub(crate) enum Command {
    /// Reports when everything up to this position is at the destination.
    Flush(Position, oneshot::Sender<()>),
    /// From now on, cuts objects without waiting for more records.
    Hurry,
    /// Delivers a route's records to this destination from now on, and no longer hurries.
    Open(Arc<dyn Destination>, Arc<HealthBoard>),
    /// Ends the delivery of a route that is retired: everything is delivered.
    Retire,
    /// Wakes the delivery of a route: one of its streams gets no more commits and must be ended.
    EndStreams,
}

/// The delivery task.
pub(crate) struct JournalDelivery {
    disk: Arc<dyn Disk>,
    live: Arc<LiveSegments>,
    executor: Arc<dyn Executor>,
    memory: Arc<DeliveryMemory>,
    destination: Arc<dyn Destination>,
    health: Arc<HealthBoard>,
    /// The size at which an object is full, in bytes of its lines.
    max_object_bytes: usize,
    journal: JournalSettings,
    clock: Arc<dyn Clock>,
    /// The state of streams, shared with the commits.
    streams: Arc<Streams>,
    /// The followers that segments are also kept for.
    followers: Arc<Followers>,
    /// The end of the last durable group. Its sender is dropped when nothing more will be
    /// committed.
    durable: latest::Receiver<Position>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// `None` for the default route.
    route: Option<RouteLane>,
    /// The lock is never contended: while the cutter reads on another thread, the task waits.
    cutter: Arc<Mutex<Cutter>>,
    /// Whether there may be unread records.
    more: bool,
    ended: bool,
    hurry: bool,
    /// The plans in memory cannot be trusted and must be read again.
    lost: bool,
    /// The journal's directory was removed: nothing more can be planned or read.
    is_gone: bool,
    /// The trouble reported after panics or dropped requests, and the number of consecutive ones.
    broken: Option<(Watch, u32)>,
    /// The earliest time at which objects are sent again from their files.
    resend_at: Instant,
    /// Objects whose plan is durable, in the order of their records.
    planned: VecDeque<Planned>,
    /// The object after the planned ones, whose plan is still to be written.
    unplanned: Option<Unplanned>,
    /// The objects after `unplanned`, which are being encoded.
    encodings: VecDeque<EncodingObject>,
    /// Memory for the lines of the default route's next object, and a task that waits for it.
    cutting: Option<Memory>,
    wanted: Option<Job<Memory>>,
    /// The last operation that the disk refused, until it succeeds.
    refused: Option<Refused>,
    requests: JoinSet<Ended>,
    /// The durable progress of each stream. The current stream may be missing.
    delivered: BTreeMap<UniqueId, Progress>,
    delivered_to: Position,
    /// How many objects may be under way. It grows while objects are delivered and drops to one in
    /// trouble.
    allowed: usize,
    flushes: Flushes,
    clean_at: Instant,
}

/// The next action of a delivery.
enum Next {
    Step,
    Wait,
    End,
}

/// The parts that all deliveries of a journal share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) memory: Arc<DeliveryMemory>,
    /// The default route's destination. It also encodes objects of routes that are not open.
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) max_object_bytes: usize,
    pub(crate) journal: JournalSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

/// The parts of a [`JournalDelivery`].
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) context: Context,
    pub(crate) health: Arc<HealthBoard>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) durable: latest::Receiver<Position>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// `None` for the default route.
    pub(crate) route: Option<RouteLane>,
    pub(crate) decided: Decided,
}

impl JournalDelivery {
    pub(crate) fn new(parts: Parts) -> JournalDelivery {
        let Parts { disk, context, health, streams, followers, durable, commands, route, decided } =
            parts;
        let Context {
            live, executor, memory, destination, max_object_bytes, journal, clock, ..
        } = context;
        let cutter = Cutter::new(Arc::clone(&live), BTreeMap::new(), max_object_bytes);
        let mut delivery = JournalDelivery {
            disk,
            live,
            executor,
            memory,
            destination,
            health,
            max_object_bytes,
            journal,
            clock,
            streams,
            followers,
            durable,
            commands,
            route,
            cutter: Arc::new(Mutex::new(cutter)),
            more: true,
            ended: false,
            hurry: false,
            lost: false,
            is_gone: false,
            broken: None,
            resend_at: Instant::now(),
            planned: VecDeque::new(),
            unplanned: None,
            encodings: VecDeque::new(),
            cutting: None,
            wanted: None,
            refused: None,
            requests: JoinSet::new(),
            delivered: BTreeMap::new(),
            delivered_to: Position { ordinal: 0, offset: 0 },
            allowed: 1,
            flushes: Flushes::default(),
            clean_at: Instant::now(),
        };
        delivery.begin(decided);
        delivery
    }

    /// Runs until nothing more will be committed and everything is delivered. It never gives up,
    /// unless the journal's directory is removed: after a panic it starts over from the durable
    /// state, as the next process would.
    pub(crate) async fn run(mut self) -> JournalDelivery {
        while let Err(panicked) = catch_in(self.work()).await {
            self.lost = true;
            let trouble = Trouble::panicked("the delivery of the journal", &panicked);
            // The metrics or the backoff may panic as well.
            let pause = catch(|| self.broke(trouble)).unwrap_or(DISK_PAUSE);
            sleep(pause).await;
        }
        self
    }

    async fn work(&mut self) {
        while self.lost {
            if let Err(failed) = self.read_plans().await {
                self.refuse(failed, false);
                if self.is_gone {
                    return;
                }
                sleep_until(self.again_at()).await;
            }
        }
        loop {
            match self.step().await {
                Next::Step => {}
                Next::Wait => self.wait().await,
                Next::End => return,
            }
        }
    }

    /// Does what can be done now.
    async fn step(&mut self) -> Next {
        if self.may_use_disk() {
            self.catch_up().await;
        }
        // Requests under way have their objects in memory, so they can still end.
        if self.is_gone && self.ended && self.requests.is_empty() {
            return Next::End;
        }
        if self.unplanned.is_some() && self.may_use_disk() {
            return Next::Step;
        }
        if self.clean_at <= Instant::now() {
            self.clean().await;
        }
        if self.unplanned.is_none()
            && let Some(encoded) = encoded(&mut self.encodings)
        {
            self.seal(encoded).await;
            return Next::Step;
        }
        let must_read = match self.route {
            None => self.more && self.may_cut() && self.has_memory(),
            Some(_) => self.must_cut_route(),
        };
        if must_read {
            self.read().await;
            return Next::Step;
        }
        if self.due().is_some_and(|due| due <= Instant::now()) && self.may_cut() {
            let cut = self.cutter().take();
            if let Some(cut) = cut {
                self.encode(cut);
            }
            return Next::Step;
        }
        // Updated before callers of flush learn that nothing older is left.
        self.note_oldest();
        self.answer_flushes();
        self.rest();
        let is_left = !self.is_idle() || self.streams.are_ending();
        // Encodings are waited for: an abandoned one might read the journal's files after the
        // journal is closed.
        let is_unopened = self.is_unopened() && self.encodings.is_empty();
        if self.ended && (!is_left || is_unopened) {
            // From here on no route can be opened, and its opening fails. One that was opened just
            // now is still delivered.
            self.commands.close();
            if let Ok(command) = self.commands.try_recv() {
                self.obey(command);
                return Next::Step;
            }
            self.clean().await;
            self.mended();
            return Next::End;
        }
        if self.is_idle() {
            self.mended();
        }
        Next::Wait
    }

    /// Waits for something to do.
    async fn wait(&mut self) {
        let due = self.due().filter(|_| self.has_slot() && self.may_use_disk());
        let (awaits_encoded, awaits_memory) = (self.unplanned.is_none(), self.wanted.is_some());
        let is_waiting = self.planned.iter().any(|planned| planned.state == State::Waiting);
        let resends = is_waiting && self.resend_at > Instant::now();
        let (refuses, again_at) = (!self.may_use_disk(), self.again_at());
        tokio::select! {
            // Requests first: their number is bounded, so they starve no other branch.
            biased;
            Some(request) = self.requests.join_next(), if !self.requests.is_empty() => {
                match request {
                    Ok(ended) => self.arrived(ended),
                    Err(error) => self.vanished(error),
                }
            }
            encoded = next_encoded(&mut self.encodings), if awaits_encoded => {
                self.seal(encoded).await;
            }
            memory = taken(&mut self.wanted), if awaits_memory => {
                (self.cutting, self.wanted) = (Some(memory), None);
            }
            Some(command) = self.commands.recv() => self.obey(command),
            changed = self.durable.changed(), if !self.ended => {
                self.ended = changed.is_err();
                self.more = true;
                self.end_route();
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = sleep_until(again_at), if refuses => {}
            () = sleep_until(self.resend_at), if resends => {}
            () = self.live.room_is_wanted(), if self.route.is_none() => {
                self.clean_at = Instant::now();
            }
            () = sleep_until(self.clean_at) => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Flush(position, reply) => {
                self.flushes.push(position, reply);
                self.more = true;
            }
            Command::Hurry => self.hurry = true,
            Command::Open(destination, health) => self.open_route(destination, health),
            Command::EndStreams => {}
            Command::Retire => {
                self.streams.end();
                self.streams.tell_all();
                self.ended = true;
            }
        }
    }

    fn cutter(&self) -> MutexGuard<'_, Cutter> {
        lock(&self.cutter)
    }

    /// Does all pending work on the disk.
    async fn catch_up(&mut self) {
        // All steps are tried even if one fails: a later step may free the room that it lacks.
        let done = [
            self.keep_conflicts().await,
            self.advance().await,
            self.write_plan().await,
            self.end_streams().await,
        ];
        self.send_waiting();
        match done.into_iter().find_map(Result::err) {
            Some(failed) => self.refuse(failed, false),
            None => {
                if let Some(refused) = self.refused.take_if(|refused| !refused.reading) {
                    refused.watch.over();
                }
            }
        }
    }
}

/// A poisoned cutter is never used: after a panic it is replaced.
fn lock(cutter: &Mutex<Cutter>) -> MutexGuard<'_, Cutter> {
    cutter.lock().unwrap_or_else(PoisonError::into_inner)
}
