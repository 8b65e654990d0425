//! The delivery to one follower.
//!
//! A task reads durable records, cuts them into objects, records durably where each object ends,
//! sends it, and records durably what the follower has. After a crash, objects that were sent but
//! not recorded are cut in the same way and sent again with the same ids.
//!
//! After a panic, a dropped request or a pause, it starts over from the durable state.

mod objects;
mod route;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::BufferPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::objects::UnderWay;
pub(crate) use self::route::{FollowerMemory, RouteSource};
use super::{Follower, Standing};
use crate::cutter::{Cut, Cutter};
use crate::destination::{Delivery, Encoded, Plan};
use crate::disk::Disk;
use crate::format::Position;
use crate::health::{Trouble, Watch};
use crate::segments::LiveSegments;
use crate::shared::executor::Executor;
use crate::shared::latest;
use crate::shared::panic::{catch, catch_in};
use crate::shared::pieces::pieces;

/// The delay before a refused disk operation is retried.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// How often a closing follower is checked for trouble.
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// When the task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Once nothing more will be committed and the follower has everything.
    Open,
    /// Once the follower has everything or is in trouble.
    Settle,
    /// Immediately.
    Stop,
}

/// The parts that the tasks of all followers of a journal share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) live: Arc<LiveSegments>,
    pub(crate) executor: Arc<dyn Executor>,
    /// The end of the last durable group. Its sender is dropped when nothing more will be
    /// committed.
    pub(crate) durable: latest::Receiver<Position>,
    /// The size of encoded objects in flight above which no further one is read, in bytes.
    pub(crate) max_bytes_under_way: usize,
}

pub(crate) struct FollowerTask {
    parts: Parts,
    follower: Follower,
    standing: Arc<Standing>,
    /// `None` for the default route.
    route: Option<RouteSource>,
    pool: BufferPool,
    /// The standing's generation when the task last started from the durable state.
    generation: u64,
    /// Used for the default route. The lock is never contended: the task waits while another thread
    /// reads.
    cutter: Arc<Mutex<Cutter>>,
    /// Whether there may be records for the cutter to read.
    more: bool,
    /// Nothing more will be committed.
    ended: bool,
    /// The task is to end soon.
    ending: bool,
    /// The state in memory cannot be trusted.
    lost: bool,
    /// The objects whose ends are recorded, in order.
    under_way: VecDeque<UnderWay>,
    /// The object after those under way, whose end is still to be recorded.
    next: Option<(UnderWay, Encoded)>,
    requests: JoinSet<(Plan, Delivery)>,
    /// How many objects may be in flight, as in the journal's delivery.
    allowed: usize,
    /// The end of the last group that the follower has.
    delivered_to: Position,
    /// The earliest time at which the disk is used again.
    again_at: Instant,
    refused: Option<Watch>,
    /// The trouble reported after panics or dropped requests, and the number of consecutive ones.
    broken: Option<(Watch, u32)>,
}

impl FollowerTask {
    pub(crate) fn new(
        parts: Parts,
        follower: Follower,
        standing: Arc<Standing>,
        route: Option<RouteSource>,
    ) -> FollowerTask {
        let cutter = Cutter::new(Arc::clone(&parts.live), Default::default(), 0);
        let pool = route.as_ref().map_or_else(pieces, |route| route.memory.pool().clone());
        FollowerTask {
            parts,
            follower,
            standing,
            route,
            pool,
            generation: 0,
            cutter: Arc::new(Mutex::new(cutter)),
            more: true,
            ended: false,
            ending: false,
            lost: true,
            under_way: VecDeque::new(),
            next: None,
            requests: JoinSet::new(),
            allowed: 1,
            delivered_to: Position { ordinal: 0, offset: 0 },
            again_at: Instant::now(),
            refused: None,
            broken: None,
        }
    }

    /// Runs until `ending` allows it to end. It never gives up.
    pub(crate) async fn run(mut self, mut ending: latest::Receiver<Ending>) {
        while let Err(panicked) = catch_in(self.work(&mut ending)).await {
            let trouble = Trouble::panicked("the delivery to a follower", &panicked);
            // The metrics or the backoff may panic as well.
            let pause = catch(|| self.broke(trouble)).unwrap_or(DISK_PAUSE);
            (self.lost, self.again_at) = (true, Instant::now() + pause);
        }
    }

    /// Starts over from the durable state. Requests in flight are dropped, and their outcomes are
    /// unknown.
    fn begin(&mut self) {
        let (record, generation) = self.standing.durable();
        let watermark = record.watermark;
        self.requests = JoinSet::new();
        self.under_way.clear();
        self.next = None;
        self.delivered_to = Position { ordinal: watermark.ordinal, offset: 0 };
        (self.generation, self.more, self.allowed, self.lost) = (generation, true, 1, false);
        if self.route.is_some() {
            return self.begin_route(record);
        }
        let (live, most) = (Arc::clone(&self.parts.live), self.follower.max_object_bytes);
        let cutter = Cutter::following(live, watermark, record.cuts, most);
        self.cutter = Arc::new(Mutex::new(cutter));
    }

    /// Takes the next step that uses the disk. Returns whether there was one.
    async fn step(&mut self) -> bool {
        if self.lost || self.generation != self.standing.generation() {
            self.begin();
        }
        if self.has_slot() && self.more {
            self.read().await;
            return true;
        }
        let is_due = || self.due().is_some_and(|due| due <= Instant::now());
        if self.has_slot() && is_due() && self.has_memory() {
            self.cut().await;
            return true;
        }
        let has_news = self.next.is_some() || self.done() > 0;
        if has_news {
            self.note().await;
        }
        has_news
    }

    async fn work(&mut self, ending: &mut latest::Receiver<Ending>) {
        loop {
            let may_use_disk = self.again_at <= Instant::now();
            if may_use_disk && self.step().await {
                continue;
            }
            let is_idle = self.rest();
            let now = ending.see();
            self.ending = now != Ending::Open;
            let in_trouble = || self.follower.health.delivery_in_trouble() || !may_use_disk;
            if now == Ending::Stop
                || is_idle && (self.ended || now == Ending::Settle)
                || now == Ending::Settle && in_trouble()
            {
                return;
            }
            let due = self.due();
            let waits_for_memory = self.route.as_ref().is_some_and(RouteSource::is_waiting);
            let waits_for_time =
                may_use_disk && self.has_slot() && due.is_some() && !waits_for_memory;
            let (refuses, again_at) = (!may_use_disk, self.again_at);
            let turn_at = self.route.as_ref().map(|route| route.turn_at);
            let turn_at = turn_at.filter(|_| !self.requests.is_empty());
            tokio::select! {
                biased;
                Some(request) = self.requests.join_next(), if !self.requests.is_empty() => match request {
                    Ok((plan, delivery)) => self.arrived(&plan, delivery),
                    Err(error) => self.vanished(error),
                },
                () = self.standing.paused() => {}
                changed = ending.changed() => if changed.is_err() {
                    return;
                },
                changed = self.parts.durable.changed(), if !self.ended => {
                    self.ended = changed.is_err();
                    self.more = self.route.is_none();
                }
                memory = RouteSource::taken(&mut self.route), if waits_for_memory => {
                    if let Some(route) = &mut self.route {
                        route.take(memory);
                    }
                }
                () = sleep_until(turn_at.unwrap_or_else(Instant::now)), if turn_at.is_some() => {
                    self.turn_over();
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if waits_for_time => {}
                () = sleep_until(again_at), if refuses => {}
                () = sleep(SETTLE_EVERY), if now == Ending::Settle => {}
            }
        }
    }

    fn cutter(&self) -> MutexGuard<'_, Cutter> {
        lock(&self.cutter)
    }

    /// When the object that is being filled is cut, however full it is.
    fn due(&self) -> Option<Instant> {
        if self.route.is_some() {
            return self.route_due();
        }
        let since = self.cutter().pending.as_ref()?.since;
        Some(since + self.patience())
    }

    /// The longest time that records wait for others in the same object.
    fn patience(&self) -> Duration {
        let cut_after = Duration::from_millis(self.follower.cut_after_ms);
        if self.ended || self.ending { Duration::ZERO } else { cut_after }
    }

    /// Frees memory while idle, and reports the follower's lag. Returns whether it has everything.
    fn rest(&mut self) -> bool {
        let (pending, read_to) = match self.route {
            Some(_) => (self.unread().and_then(|unread| unread.time_ms), None),
            None => {
                let cutter = self.cutter();
                (cutter.pending.as_ref().map(Cut::time_ms), cutter.read_to)
            }
        };
        let next = self.next.as_ref().map(|(next, _)| next.plan.time_ms);
        let oldest = self.under_way.front().map(|object| object.plan.time_ms).or(next).or(pending);
        self.follower.health.oldest_undelivered(oldest);
        let is_read = !self.more && self.unread().is_none();
        let is_idle = !self.lost && is_read && oldest.is_none();
        self.standing.lags(if is_idle { 0 } else { self.lag_bytes() });
        if is_idle {
            self.mended();
            if let Some(watermark) = read_to {
                self.standing.reached(self.generation, watermark);
            }
            self.cutter().trim();
            self.follower.destination.trim();
            match &mut self.route {
                Some(route) => route.rest(),
                None => self.pool.trim(),
            }
        }
        is_idle
    }

    /// The size of what the follower lacks in the journal, in bytes. For a route, only its own
    /// records count.
    fn lag_bytes(&self) -> u64 {
        if self.route.is_none() {
            return self.parts.live.bytes_behind(self.delivered_to);
        }
        let under_way = self.under_way.iter().chain(self.next.as_ref().map(|(next, _)| next));
        let under_way: usize = under_way.map(|object| object.bytes).sum();
        under_way as u64 + self.unread().map_or(0, |unread| unread.bytes)
    }

    fn refuse(&mut self, what: &'static str, error: &io::Error) {
        let watch = self.refused.take().unwrap_or_else(|| self.follower.health.watch());
        watch.report(Trouble::disk(what, error));
        self.refused = Some(watch);
        self.again_at = Instant::now() + DISK_PAUSE;
    }

    /// Counts a panic or a dropped request. Returns the backoff before the retry.
    fn broke(&mut self, trouble: Trouble) -> Duration {
        let health = &self.follower.health;
        health.panicked();
        let (watch, times) = self.broken.take().unwrap_or_else(|| (health.watch(), 0));
        watch.report(trouble);
        self.broken = Some((watch, times.saturating_add(1)));
        self.follower.destination.backoff_after_panic(times)
    }

    /// Ends the trouble that a panic or a dropped request caused.
    fn mended(&mut self) {
        if let Some((watch, _)) = self.broken.take() {
            watch.over();
        }
    }
}

/// A poisoned cutter is never used: after a panic it is replaced.
fn lock(cutter: &Mutex<Cutter>) -> MutexGuard<'_, Cutter> {
    cutter.lock().unwrap_or_else(PoisonError::into_inner)
}
