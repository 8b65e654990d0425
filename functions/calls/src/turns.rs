//! Whose turn it is on the worker threads: start-time fair queueing by the time that each caller
//! has used.
//!
//! Each caller has a lane with its waiting jobs. The lane that has used the least time goes next,
//! and a lane that was idle begins where the others are: it has no credit for having been idle, and
//! at most one job of each other lane comes before its own. The host's own work (scheduled
//! functions and crons) stands apart and gets at least a quarter of the time, however many callers
//! there are.
//!
//! A job that arrives at an idle lane, of a caller whose jobs have been short and who has sent no
//! more of them, is **prompt**. Those have a thread kept for them, so that they need not wait for
//! the rest of a long job of another caller.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use audit_runtime::RequestContext;

/// The caller that a job counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Host,
    Connection(u64),
    /// An IPv6 client has a whole /64, so the rest is cut off.
    Address(Option<IpAddr>),
}

impl Lane {
    /// The host's own work: scheduled functions and crons.
    pub const HOST: Lane = Lane(Kind::Host);

    /// A connection that is followed for longer than one call, such as a WebSocket.
    pub fn connection() -> Lane {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Lane(Kind::Connection(NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The address that a request came from. Clients that share an address share a lane.
    pub fn of(request: &RequestContext) -> Lane {
        Lane(Kind::Address(request.ip().map(|ip| match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
            ip @ IpAddr::V4(_) => ip,
        })))
    }
}

/// What a job costs its lane at least, so that jobs of no time have an order too.
const LEAST: Duration = Duration::from_millis(1);

/// The host's own work is charged three times its time, so that a quarter of it is its share.
const HOST_WEIGHT: u32 = 3;

/// A lane is prompt as long as its jobs take no longer than this.
const PROMPT: Duration = Duration::from_millis(5);

/// Idle lanes are forgotten once there are more of them than this.
const MAX_IDLE: usize = 1_024;

/// Waiting jobs, and what each lane has used.
#[derive(Debug)]
pub(super) struct Turns<J> {
    lanes: HashMap<Lane, Waiting<J>>,
    /// The callers' lanes with waiting jobs, the one that goes next first.
    ready: BTreeSet<(Duration, u64, Lane)>,
    /// The lanes whose first job is prompt, the one that has waited longest first.
    prompt: BTreeSet<(u64, Lane)>,
    /// How many prompt jobs run.
    prompt_running: usize,
    /// How many more jobs each lane will have as soon as those before have ended.
    expected: HashMap<Lane, usize>,
    /// What the last lane had used when it had its turn. No lane is behind it.
    floor: Duration,
    /// What all callers together have used, and the host itself by its weight.
    clients: Used,
    host: Used,
    next_serial: u64,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Used {
    time: Duration,
    /// Jobs that wait or run.
    jobs: usize,
}

#[derive(Debug)]
struct Waiting<J> {
    jobs: VecDeque<J>,
    used: Duration,
    /// More than it had used at its last turn: what was charged too much is not given back beyond
    /// that, or the lane would have several turns in a row.
    least: Duration,
    serial: u64,
    running: usize,
    /// The number under which the lane stands in `prompt`, if it does.
    prompt: Option<u64>,
    /// What a job of this lane took lately: it is charged when the job begins, and set right when
    /// it ends, so that a lane does not begin many long jobs before the first has ended.
    expected: Duration,
}

/// A job's turn. It ends with [`Turns::end`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    lane: Lane,
    charged: Duration,
    is_prompt: bool,
}

impl Turn {
    pub(super) fn lane(&self) -> Lane {
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
    pub(super) fn push(&mut self, lane: Lane, job: J) {
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
            expected: LEAST,
        });
        if waiting.jobs.is_empty() {
            waiting.serial = serial;
            waiting.used = waiting.used.max(floor);
            if lane != Lane::HOST {
                self.ready.insert((waiting.used, serial, lane));
                let is_idle = waiting.running == 0 && !self.expected.contains_key(&lane);
                if is_idle && waiting.expected <= PROMPT {
                    waiting.prompt = Some(serial);
                    self.prompt.insert((serial, lane));
                }
            }
        }
        waiting.jobs.push_back(job);
    }

    /// The prompt job that has waited longest.
    pub(super) fn pop_prompt(&mut self) -> Option<(J, Turn)> {
        let (_, lane) = self.prompt.first().copied()?;
        let waiting = self.lanes.get(&lane)?;
        self.ready.remove(&(waiting.used, waiting.serial, lane));
        self.take(lane)
    }

    /// The job whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(J, Turn)> {
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

    /// Begins the first job of a lane that is not among the ready ones.
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
        Some((job, Turn { lane, charged, is_prompt: prompt.is_some() }))
    }

    /// A job ended that took this long, or was not begun at all.
    pub(super) fn end(&mut self, turn: Turn, took: Option<Duration>) {
        let Turn { lane, charged, is_prompt } = turn;
        self.prompt_running -= usize::from(is_prompt);
        let took = took.map(|took| took.max(LEAST));
        let paid = took.unwrap_or(Duration::ZERO);
        let class = if lane == Lane::HOST { &mut self.host } else { &mut self.clients };
        let weight = if lane == Lane::HOST { HOST_WEIGHT } else { 1 };
        class.time = (class.time + paid * weight).saturating_sub(charged * weight);
        class.jobs -= 1;
        if let Some(waiting) = self.lanes.get_mut(&lane) {
            let is_ready = self.ready.remove(&(waiting.used, waiting.serial, lane));
            let used = (waiting.used + paid).saturating_sub(charged);
            waiting.used = used.max(waiting.least).max(self.floor);
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

    /// Removes jobs of a lane that nobody wants any more.
    pub(super) fn retain(&mut self, lane: Lane, is_wanted: impl FnMut(&J) -> bool) {
        let Some(waiting) = self.lanes.get_mut(&lane) else { return };
        let before = waiting.jobs.len();
        waiting.jobs.retain(is_wanted);
        let removed = before - waiting.jobs.len();
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

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether the first job of any lane is prompt.
    pub(super) fn has_prompt(&self) -> bool {
        !self.prompt.is_empty()
    }

    /// How many prompt jobs wait or run.
    pub(super) fn prompt(&self) -> usize {
        self.prompt.len() + self.prompt_running
    }

    /// How many jobs of this lane wait.
    pub(super) fn waiting_of(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |waiting| waiting.jobs.len())
    }

    /// Whether this lane has more jobs than those that run.
    pub(super) fn has_more(&self, lane: Lane) -> bool {
        self.waiting_of(lane) > 0 || self.expected.contains_key(&lane)
    }

    /// Announces a job of a lane that comes when those before it have ended.
    pub(super) fn expect(&mut self, lane: Lane) {
        *self.expected.entry(lane).or_default() += 1;
    }

    /// A job that was announced comes now, or not at all.
    pub(super) fn expect_no_more(&mut self, lane: Lane) {
        if let Entry::Occupied(mut expected) = self.expected.entry(lane) {
            *expected.get_mut() -= 1;
            if *expected.get() == 0 {
                expected.remove();
            }
        }
    }

    /// A lane whose debt the others have caught up with is as good as a new one.
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
