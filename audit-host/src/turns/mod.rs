//! Turns of clients: which of their waiting jobs begins next.

mod semaphore;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use audit_runtime::RequestContext;

pub use self::semaphore::{Busy, FairLimits, FairSemaphore, Permit};
use crate::connections::client_of;

/// The queue of one client's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Host,
    Unique(u64),
    /// The unit by which connections are limited too.
    Address(Option<IpAddr>),
}

impl Lane {
    /// The host's own work: scheduled functions and crons.
    pub const HOST: Lane = Lane(Kind::Host);

    /// A new lane, for a connection that lasts longer than one call, such as a WebSocket, or for a
    /// tenant.
    pub fn unique() -> Lane {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Lane(Kind::Unique(NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The lane of a request's address, or of its /64 for IPv6, which a single client usually has.
    /// Clients that share an address share a lane, and so do all whose address is unknown.
    pub fn of(request: &RequestContext) -> Lane {
        Lane(Kind::Address(request.ip().map(client_of)))
    }
}

/// The minimum charge for a job, so that lanes with very short jobs take turns too.
const LEAST: Duration = Duration::from_millis(1);

/// The factor by which the host's own work is charged. Three times its time makes its share a
/// quarter.
const HOST_WEIGHT: u32 = 3;

/// The expected time up to which a job can be prompt.
const PROMPT: Duration = Duration::from_millis(5);

/// The number of idle lanes above which they are forgotten.
const MAX_IDLE: usize = 1_024;

/// The waiting jobs and their order: start-time fair queueing by the time that each client has
/// used.
///
/// Each client has a lane with its waiting jobs. The lane that has used the least time goes next. A
/// lane that was idle starts level with the others: it gets no credit for idleness, and at most one
/// job of each other lane runs before its own. The host's own work (scheduled functions and crons)
/// is accounted separately and gets at least a quarter of the time, however many clients there are.
///
/// A job is **prompt** if its lane was idle, the lane's jobs have been short, and no others are
/// waiting or expected. A host reserves a thread or a permit for prompt jobs, so that they need not
/// wait for the end of another client's long job.
///
/// A client that sends one request at a time would get its share too, but wait for a job of each
/// lane before each of its own. [`pop_idle`](Self::pop_idle) lets it go first.
#[derive(Debug)]
pub struct Turns<J> {
    lanes: HashMap<Lane, Waiting<J>>,
    /// The clients' lanes with waiting jobs, in the order of their turns.
    ready: BTreeSet<(Duration, u64, Lane)>,
    /// The lanes whose first job is prompt, longest waiting first.
    prompt: BTreeSet<(u64, Lane)>,
    prompt_running: usize,
    /// The number of announced jobs of each lane, which arrive when the earlier ones have ended.
    expected: HashMap<Lane, usize>,
    /// The time that the last lane had used at its turn. All lanes have used at least as much.
    floor: Duration,
    /// The time that all clients together have used.
    clients: Used,
    /// The weighted time that the host has used.
    host: Used,
    next_serial: u64,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Used {
    time: Duration,
    /// The number of jobs that wait or run.
    jobs: usize,
}

#[derive(Debug)]
struct Waiting<J> {
    jobs: VecDeque<J>,
    used: Duration,
    /// A lower bound of `used`, above its value at the last turn. Refunds for overcharged jobs stop
    /// there. Otherwise the lane would get several turns in a row.
    least: Duration,
    serial: u64,
    running: usize,
    /// The lane's number in `Turns::prompt`, if it is there.
    prompt: Option<u64>,
    /// Whether the lane was idle when its first waiting job came.
    was_idle: bool,
    /// A moving average of the time of this lane's jobs. It is charged when a job begins and
    /// corrected when it ends, so that a lane cannot begin many long jobs before the first ends.
    expected: Duration,
}

/// The turn of a job, which [`Turns::end`] ends.
#[derive(Debug, Clone, Copy)]
#[must_use = "the job counts as running until its turn is ended"]
pub struct Turn {
    lane: Lane,
    charged: Duration,
    is_prompt: bool,
    was_idle: bool,
}

impl Turn {
    /// The lane of the job.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

impl<J> Default for Turns<J> {
    fn default() -> Turns<J> {
        Turns {
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            prompt: BTreeSet::new(),
            prompt_running: 0,
            expected: HashMap::new(),
            floor: Duration::ZERO,
            clients: Used::default(),
            host: Used::default(),
            next_serial: 0,
            waiting: 0,
        }
    }
}

impl<J> Turns<J> {
    /// Adds a job at the end of its lane.
    pub fn push(&mut self, lane: Lane, job: J) {
        let (own, other) = match lane {
            Lane::HOST => (&mut self.host, &self.clients),
            _ => (&mut self.clients, &self.host),
        };
        if own.jobs == 0 {
            own.time = own.time.max(other.time);
        }
        own.jobs += 1;
        self.waiting += 1;
        let serial = self.next_serial;
        self.next_serial += 1;
        let floor = self.floor;
        let waiting = self.lanes.entry(lane).or_insert_with(|| Waiting {
            jobs: VecDeque::new(),
            used: floor,
            least: floor,
            serial,
            running: 0,
            prompt: None,
            was_idle: true,
            expected: LEAST,
        });
        if waiting.jobs.is_empty() {
            waiting.serial = serial;
            waiting.used = waiting.used.max(floor);
            waiting.was_idle = waiting.running == 0 && !self.expected.contains_key(&lane);
            if lane != Lane::HOST {
                self.ready.insert((waiting.used, serial, lane));
                if waiting.was_idle && waiting.expected <= PROMPT {
                    waiting.prompt = Some(serial);
                    self.prompt.insert((serial, lane));
                }
            }
        }
        waiting.jobs.push_back(job);
    }

    /// Begins the prompt job that has waited longest.
    pub fn pop_prompt(&mut self) -> Option<(J, Turn)> {
        let (_, lane) = self.prompt.first().copied()?;
        let waiting = self.lanes.get(&lane)?;
        self.ready.remove(&(waiting.used, waiting.serial, lane));
        self.take(lane)
    }

    /// Begins the job that has waited longest among the lanes that were idle and whose jobs are
    /// short: at most 5 milliseconds, or twice as long as those of the lane whose turn it is. Only
    /// such jobs begin here, so call [`pop`](Self::pop) in between, or the other lanes wait for as
    /// long as there are any.
    pub fn pop_idle(&mut self) -> Option<(J, Turn)> {
        let (_, _, next) = self.ready.first()?;
        let longest = PROMPT.max(2 * self.lanes.get(next)?.expected);
        let goes_first = |(_, _, lane): &&(Duration, u64, Lane)| {
            self.lanes.get(lane).is_some_and(|it| it.was_idle && it.expected <= longest)
        };
        let first = self.ready.iter().filter(goes_first).min_by_key(|(_, serial, _)| *serial);
        let first = *first?;
        self.ready.remove(&first);
        self.take(first.2)
    }

    /// Begins the next job.
    pub fn pop(&mut self) -> Option<(J, Turn)> {
        let host_waits = self.lanes.get(&Lane::HOST).is_some_and(|host| !host.jobs.is_empty());
        let first = self.ready.first().copied();
        let lane = match first {
            Some((used, _, lane)) if !host_waits || self.clients.time < self.host.time => {
                self.ready.pop_first();
                self.floor = self.floor.max(used);
                lane
            }
            _ if host_waits => Lane::HOST,
            Some(_) | None => return None,
        };
        self.take(lane)
    }

    /// Begins the first job of a lane, which must not be in `ready`.
    fn take(&mut self, lane: Lane) -> Option<(J, Turn)> {
        let waiting = self.lanes.get_mut(&lane)?;
        let prompt = waiting.prompt.take();
        if let Some(serial) = prompt {
            self.prompt.remove(&(serial, lane));
        }
        let job = waiting.jobs.pop_front()?;
        self.prompt_running += usize::from(prompt.is_some());
        self.waiting -= 1;
        let charged = waiting.expected;
        waiting.least = waiting.used + LEAST;
        waiting.used += charged;
        waiting.running += 1;
        let was_idle = std::mem::take(&mut waiting.was_idle);
        waiting.serial = self.next_serial;
        self.next_serial += 1;
        if lane == Lane::HOST {
            self.host.time += charged * HOST_WEIGHT;
        } else {
            self.clients.time += charged;
            if !waiting.jobs.is_empty() {
                self.ready.insert((waiting.used, waiting.serial, lane));
            }
        }
        Some((job, Turn { lane, charged, is_prompt: prompt.is_some(), was_idle }))
    }

    /// Ends the turn of a job that took this long, or `None` if it did not begin.
    pub fn end(&mut self, turn: Turn, took: Option<Duration>) {
        let Turn { lane, charged, is_prompt, was_idle } = turn;
        self.prompt_running -= usize::from(is_prompt);
        let took = took.map(|took| took.max(LEAST));
        let paid = took.unwrap_or(Duration::ZERO);
        let class = if lane == Lane::HOST { &mut self.host } else { &mut self.clients };
        let weight = if lane == Lane::HOST { HOST_WEIGHT } else { 1 };
        class.time = (class.time + paid * weight).saturating_sub(charged * weight);
        class.jobs -= 1;
        if let Some(waiting) = self.lanes.get_mut(&lane) {
            let is_ready = self.ready.remove(&(waiting.used, waiting.serial, lane));
            let used = (waiting.used + paid).saturating_sub(charged).max(waiting.least);
            // A lane that was idle before this job, and is idle again, counts only this job as time
            // used beyond the floor, even if `pop_idle` let many of its earlier jobs go first.
            let is_idle = waiting.jobs.is_empty() && waiting.running == 1;
            let most = if was_idle && is_idle { self.floor + paid.max(LEAST) } else { used };
            waiting.used = used.min(most).max(self.floor);
            if is_ready {
                self.ready.insert((waiting.used, waiting.serial, lane));
            }
            waiting.running -= 1;
            if let Some(took) = took {
                waiting.expected = (3 * waiting.expected + took) / 4;
            }
        }
        self.forget_the_idle();
    }

    /// Removes the jobs of a lane that are no longer wanted.
    pub fn retain(&mut self, lane: Lane, is_wanted: impl FnMut(&J) -> bool) {
        let Some(waiting) = self.lanes.get_mut(&lane) else { return };
        let before = waiting.jobs.len();
        waiting.jobs.retain(is_wanted);
        let removed = before - waiting.jobs.len();
        self.removed(lane, removed);
    }

    /// Removes the last job of the lane with the most waiting jobs, or of `lane` if no other has
    /// more.
    pub fn remove_longest(&mut self, lane: Lane) -> Option<J> {
        let length =
            |(other, waiting): &(&Lane, &Waiting<J>)| (waiting.jobs.len(), **other == lane);
        let (&longest, _) = self.lanes.iter().max_by_key(length)?;
        let job = self.lanes.get_mut(&longest)?.jobs.pop_back()?;
        self.removed(longest, 1);
        Some(job)
    }

    /// Accounts for waiting jobs that were removed from a lane.
    fn removed(&mut self, lane: Lane, removed: usize) {
        let Some(waiting) = self.lanes.get_mut(&lane) else { return };
        self.waiting -= removed;
        let class = if lane == Lane::HOST { &mut self.host } else { &mut self.clients };
        class.jobs -= removed;
        if waiting.jobs.is_empty() {
            self.ready.remove(&(waiting.used, waiting.serial, lane));
            if let Some(serial) = waiting.prompt.take() {
                self.prompt.remove(&(serial, lane));
            }
        }
    }

    /// The number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether a prompt job waits.
    pub fn has_prompt(&self) -> bool {
        !self.prompt.is_empty()
    }

    /// The number of prompt jobs that wait or run.
    pub fn prompt(&self) -> usize {
        self.prompt.len() + self.prompt_running
    }

    /// The number of a lane's waiting jobs.
    pub fn waiting_of(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |waiting| waiting.jobs.len())
    }

    /// Whether this lane has jobs besides the running ones.
    pub fn has_more(&self, lane: Lane) -> bool {
        self.waiting_of(lane) > 0 || self.expected.contains_key(&lane)
    }

    /// Announces a job of a lane that arrives when the earlier ones have ended.
    pub fn expect(&mut self, lane: Lane) {
        *self.expected.entry(lane).or_default() += 1;
    }

    /// Withdraws the announcement of a job: it arrives now, or not at all.
    pub fn expect_no_more(&mut self, lane: Lane) {
        if let Entry::Occupied(mut expected) = self.expected.entry(lane) {
            *expected.get_mut() -= 1;
            if *expected.get() == 0 {
                expected.remove();
            }
        }
    }

    /// Forgets idle lanes, if there are many. A lane that has not used more than the floor is
    /// equivalent to a new one, and so is every idle lane while no lane waits.
    fn forget_the_idle(&mut self) {
        if self.lanes.len() > self.ready.len() + MAX_IDLE {
            let (floor, nothing_waits) = (self.floor, self.ready.is_empty());
            self.lanes.retain(|_, waiting| {
                let is_idle = waiting.jobs.is_empty() && waiting.running == 0;
                !is_idle || (waiting.used > floor && !nothing_waits)
            });
        }
    }
}

#[cfg(test)]
mod tests;
