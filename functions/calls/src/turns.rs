//! Whose turn it is on the worker threads: start-time fair queueing by the time that each caller
//! has used.
//!
//! Each caller has a lane with its waiting jobs. The lane that has used the least time goes next,
//! and a lane that was idle begins where the others are: it has no credit for having been idle, and
//! at most one job of each other lane comes before its own. The host's own work (scheduled
//! functions and crons) stands apart and gets at least a quarter of the time, however many callers
//! there are.
//!
//! A job that arrives at an idle lane, of a caller whose jobs have been short, is **prompt**. Those
//! have a thread kept for them, so that they need not wait for the rest of a long job of another
//! caller.

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
                if waiting.running == 0 && waiting.expected <= PROMPT {
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
        if let Some(serial) = waiting.prompt.take() {
            self.prompt.remove(&(serial, lane));
        }
        let job = waiting.jobs.pop_front()?;
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
        Some((job, Turn { lane, charged }))
    }

    /// A job ended that took this long, or was not begun at all.
    pub(super) fn end(&mut self, Turn { lane, charged }: Turn, took: Option<Duration>) {
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

    /// How many jobs of this lane wait.
    pub(super) fn waiting_of(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |waiting| waiting.jobs.len())
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
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_waiting_client_precedes_the_next_round_of_a_flood() {
        // With several worker threads jobs begin while others run: 1 to 4 of them here.
        for threads in 1..=4 {
            let mut turns = Turns::default();
            let floods: Vec<_> = (0..3).map(|_| Lane::connection()).collect();
            for lane in &floods {
                for _ in 0..64 {
                    turns.push(*lane, "flood");
                }
            }
            let mut running = VecDeque::new();
            for _ in 0..20 {
                while running.len() < threads {
                    running.push_back(turns.pop().unwrap().1);
                }
                turns.end(running.pop_front().unwrap(), Some(SECOND));
            }
            turns.push(Lane::connection(), "quiet");
            let before = std::iter::from_fn(|| turns.pop()).position(|(job, _)| job == "quiet");
            assert!(before.unwrap() <= floods.len(), "{before:?} jobs came before");
        }
    }

    #[test]
    fn time_is_shared_and_not_the_number_of_jobs() {
        let mut turns = Turns::default();
        let (long, short) = (Lane::connection(), Lane::connection());
        for _ in 0..10_000 {
            turns.push(long, Duration::from_millis(100));
            turns.push(short, Duration::from_millis(5));
        }
        let mut used: HashMap<Lane, Duration> = HashMap::new();
        for _ in 0..2_000 {
            let (took, turn) = turns.pop().unwrap();
            *used.entry(turn.lane).or_default() += took;
            turns.end(turn, Some(took));
        }
        assert!(used[&long].abs_diff(used[&short]) <= SECOND, "{used:?}");
    }

    #[test]
    fn the_host_keeps_a_quarter_of_the_time() {
        let mut turns = Turns::default();
        for _ in 0..100 {
            let lane = Lane::connection();
            for _ in 0..50 {
                turns.push(lane, false);
            }
        }
        for _ in 0..1_000 {
            turns.push(Lane::HOST, true);
        }
        let mut hosts = 0;
        for _ in 0..400 {
            let (is_host, turn) = turns.pop().unwrap();
            hosts += u32::from(is_host);
            turns.end(turn, Some(SECOND));
        }
        assert!((95..=105).contains(&hosts), "{hosts} of 400");
    }

    #[test]
    fn prompt_jobs_are_those_of_idle_callers_with_short_jobs() {
        let mut turns = Turns::default();
        let (flood, long, quiet) = (Lane::connection(), Lane::connection(), Lane::connection());
        for _ in 0..20 {
            turns.push(long, "long");
            let (_, turn) = turns.pop().unwrap();
            turns.end(turn, Some(SECOND));
        }
        for _ in 0..3 {
            turns.push(flood, "flood");
        }
        let (_, first) = turns.pop().unwrap();
        turns.push(long, "long");
        turns.push(Lane::HOST, "host");
        assert!(turns.pop_prompt().is_none(), "neither queued, nor long, nor the host's jobs");
        turns.push(quiet, "quiet");
        turns.push(quiet, "next");
        let (job, turn) = turns.pop_prompt().unwrap();
        assert_eq!(job, "quiet");
        assert!(turns.pop_prompt().is_none(), "one at a time");
        turns.end(turn, Some(LEAST));
        turns.end(first, Some(LEAST));
        let rest: Vec<_> = std::iter::from_fn(|| turns.pop()).map(|(job, _)| job).collect();
        assert_eq!(rest.len(), 5, "{rest:?}");
    }

    #[test]
    fn lanes_that_are_idle_are_forgotten() {
        let mut turns = Turns::default();
        for _ in 0..10 * MAX_IDLE {
            turns.push(Lane::connection(), ());
            let ((), turn) = turns.pop().unwrap();
            turns.end(turn, Some(SECOND));
        }
        assert!(turns.lanes.len() <= MAX_IDLE + 1, "{}", turns.lanes.len());
    }

    #[test]
    fn clients_of_one_ipv6_network_share_a_lane() {
        let runtime = audit_runtime::AuditRuntime::new(std::sync::Arc::new(
            audit_core::testing::MemorySink::new(),
        ));
        let lane = |ip: &str| Lane::of(&runtime.new_request().with_ip(ip.parse().unwrap()));
        assert_eq!(lane("2001:db8::1"), lane("2001:db8::ffff:2"));
        assert_ne!(lane("2001:db8::1"), lane("2001:db8:0:1::1"));
        assert_eq!(lane("::ffff:192.0.2.1"), lane("192.0.2.1"));
        assert_ne!(lane("192.0.2.1"), lane("192.0.2.2"));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push(usize),
        Pop { is_wanted: bool },
        PopPrompt,
        End { which: usize, took_ms: u64 },
        Cancel { lane: usize, number: usize },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..6usize).prop_map(Event::Push),
            3 => prop::bool::weighted(0.8).prop_map(|is_wanted| Event::Pop { is_wanted }),
            1 => Just(Event::PopPrompt),
            3 => (any::<usize>(), 0..3_000u64)
                .prop_map(|(which, took_ms)| Event::End { which, took_ms }),
            1 => (0..6usize, 0..200usize).prop_map(|(lane, number)| Event::Cancel { lane, number }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever ran before and however long it took: nothing is lost, each lane keeps its
        /// order, and the first job of a lane that owes nothing has at most one job of each other
        /// lane before it.
        #[test]
        fn no_lane_waits_for_more_than_one_job_of_each_other(
            events in prop::collection::vec(event(), 0..200),
        ) {
            let lanes: Vec<_> = (0..6).map(|_| Lane::connection()).collect();
            let mut turns = Turns::default();
            let mut running = Vec::new();
            let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); 6];
            // For each lane with a first job that waits: what of the others began since.
            let mut began: HashMap<usize, [u32; 6]> = HashMap::new();
            for (number, event) in events.into_iter().enumerate() {
                match event {
                    Event::Push(lane) => {
                        let known = turns.lanes.get(&lanes[lane]);
                        let owes_nothing = known.is_none_or(|known| known.used <= turns.floor);
                        if queues[lane].is_empty() && owes_nothing {
                            began.insert(lane, [0; 6]);
                        }
                        queues[lane].push_back(number);
                        turns.push(lanes[lane], number);
                    }
                    Event::Pop { is_wanted } => {
                        let Some((number, turn)) = turns.pop() else {
                            prop_assert!(queues.iter().all(VecDeque::is_empty));
                            continue;
                        };
                        let lane = lanes.iter().position(|lane| *lane == turn.lane).unwrap();
                        prop_assert_eq!(queues[lane].pop_front(), Some(number));
                        began.remove(&lane);
                        if !is_wanted {
                            turns.end(turn, None);
                            continue;
                        }
                        began.values_mut().for_each(|others| others[lane] += 1);
                        let most = began.values().flatten().max();
                        prop_assert!(most.is_none_or(|most| *most <= 1), "{:?}", began);
                        running.push(turn);
                    }
                    // Another thread takes it, so it holds nobody up.
                    Event::PopPrompt => {
                        let Some((number, turn)) = turns.pop_prompt() else { continue };
                        let lane = lanes.iter().position(|lane| *lane == turn.lane).unwrap();
                        prop_assert_eq!(queues[lane].pop_front(), Some(number));
                        let is_alone = running.iter().all(|other: &Turn| other.lane != turn.lane);
                        prop_assert!(is_alone);
                        began.remove(&lane);
                        running.push(turn);
                    }
                    Event::End { .. } if running.is_empty() => {}
                    Event::End { which, took_ms } => {
                        let turn = running.swap_remove(which % running.len());
                        turns.end(turn, Some(Duration::from_millis(took_ms)));
                        // It took longer than it was charged, so the lane owes something now.
                        began.retain(|lane, _| lanes[*lane] != turn.lane);
                    }
                    Event::Cancel { lane, number } => {
                        queues[lane].retain(|waiting| *waiting != number);
                        turns.retain(lanes[lane], |waiting| *waiting != number);
                        if queues[lane].is_empty() {
                            began.remove(&lane);
                        }
                    }
                }
                prop_assert_eq!(turns.waiting(), queues.iter().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
