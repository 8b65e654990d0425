//! Simulates the journal, its delivery and a destination, with faults of the disk and of requests
//! that follow from a seed.
//!
//! A seed opens one journal several times in succession. In each opening, groups are committed
//! while the real delivery sends them to the bucket; time passes, segments are removed, requests
//! are lost, and the disk fails. Then the process closes the journal, or is killed at any disk
//! operation or request, with or without a power failure. The last opening has no faults and closes
//! the journal.
//!
//! Code that reads the bucket independently checks that:
//!
//! - Every record whose commit returned is in the bucket exactly once, under its number. If a
//!   foreign object has its key, it is in one set-aside file instead. No object divides a batch,
//!   and no record is invented.
//! - All requests for a key have the same bytes, and its plan is durable before the first.
//! - The watermark of a stream never exceeds what has arrived. A flush never completes before its
//!   records have arrived, and always completes in the end.
//! - Panics of the bucket's client, of disk calls, of work on other threads and of requests change
//!   none of this.
//! - Cancellations change none of this either. Callers drop their `persist` while it waits for room
//!   or while its batch is queued, written or acknowledged; the tasks of requests and of the
//!   delivery are aborted at any point. Each caller that still waits gets the result of its own
//!   batch, and the queue's memory of the others is released.
//! - With evidence, an auditor finds nothing wrong in the bucket after any crash, also compared
//!   with what a witness was shown. In the end every stream is closed and states what was set
//!   aside, is named by at most one later stream, and no secret is left.
//! - Each record that was committed since a follower was added has reached it under the same
//!   number, is still in the journal for it, or is recorded as missing. A repeated request has the
//!   same records. An unreachable follower delays no close, and keeps no segments in a full
//!   journal.
//! - The journal always opens, and a close always completes.
//!
//! `cargo test -p audit-journal --lib simulation::delivery` runs 300 seeds with the simulation's
//! own destination; `audit-sink-s3` runs them with its bucket. For more or other seeds:
//!
//! ```text
//! AUDIT_SIMULATION_FIRST_SEED=1000000 AUDIT_SIMULATION_SEEDS=2000000 \
//!     cargo test --release -p audit-journal --lib simulation::delivery::tests::acknowledged -- --nocapture
//! ```

mod check;
mod followers;
mod scenarios;
mod steps;
#[cfg(test)]
mod tests;
pub(super) mod trouble;
mod variants;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{Clock, Random, Receipt, SinkError, UniqueId};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::followers::Candidate;
use self::trouble::{PanickyRandom, SimulatedExecutor, Trouble, any_memory};
use self::variants::{BadDisk, Variant};
use super::bucket::{Believes, Manners, SimulatedBucket};
use super::checkers::journal as journal_checker;
use super::destination::{Endpoint, Known, Sending};
use super::disk::faulty::{FaultyDisk, Injected};
use super::disk::{Dice, Fault, SimulatedDisk};
use super::each_seed;
use super::vouching::OWN;
use crate::commit::{Bounds, Committer, Journal};
use crate::delivery::{Command, DeliveryMemory};
use crate::disk::Disk;
use crate::followers::{Follower, FollowerMemory};
use crate::format::Position;
use crate::health::HealthBoard;
use crate::plan::DecidedObject;
use crate::recovery_error::RecoveryError;
use crate::routes::MAX_PLACES;
use crate::segment::Segment;
use crate::segments::{LiveSegments, Publisher};
use crate::shared::latest;
use crate::shared::panic::catch;
use crate::startup::{self, Assembled, Means, Opening, Recovery};
use crate::{Destination, JournalSettings};

/// Batches that are committed together.
#[derive(Debug)]
struct Group {
    /// The lines of each batch.
    batches: Vec<Vec<Vec<u8>>>,
}

/// Stands for any system record.
const ANY_OWN: &[u8] = b"own";

/// Whether a line is the expected one.
fn is_line(expected: &[u8], found: &[u8]) -> bool {
    expected == found || expected == ANY_OWN && found.starts_with(OWN.as_bytes())
}

impl Group {
    /// One system record.
    fn own() -> Group {
        Group { batches: vec![vec![ANY_OWN.to_vec()]] }
    }

    fn records(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }
}

/// The groups of one stream, acknowledged or not.
#[derive(Debug)]
struct Stream {
    id: UniqueId,
    /// Groups whose commit returned, or that a recovery has found.
    groups: Vec<Group>,
    /// Groups whose commit did not return. One of them may be in the journal after `groups`.
    unknown: Vec<Group>,
}

impl Stream {
    fn new(id: UniqueId) -> Stream {
        Stream { id, groups: Vec::new(), unknown: Vec::new() }
    }

    fn acknowledged(&self) -> u64 {
        self.groups.iter().map(Group::records).sum()
    }
}

/// Counts of what happened in a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Figures {
    /// The number of acknowledged records.
    acknowledged: u64,
    /// The number of callers that dropped their `persist`.
    left: u64,
    /// The number of requests whose tasks were aborted before their end.
    aborted: u64,
    /// The numbers of records that followers have, and that are recorded as missing.
    followed: u64,
    missing: u64,
    /// A hash of all operations on the disk and the bucket, and of what is left.
    trace: u64,
}

/// The settings of the journal in one opening.
#[derive(Debug, Clone)]
struct Config {
    /// Whether the destination compresses objects.
    packs: bool,
    vouches: bool,
    max_object_bytes: usize,
    max_pending_bytes: usize,
    journal: JournalSettings,
    followers: Vec<Follower>,
    /// How long a close waits for followers.
    patience: Option<Duration>,
}

/// One opening.
struct Process {
    sink: Arc<Journal>,
    callers: Vec<Caller>,
    committer: Committer,
    live: Arc<LiveSegments>,
    durable: latest::Receiver<Position>,
    commands: mpsc::UnboundedSender<Command>,
    delivery: JoinHandle<bool>,
    prepared: VecDeque<Segment>,
    next_ordinal: u32,
    flushes: Vec<Flush>,
    health: Arc<HealthBoard>,
    disk: Arc<dyn Disk>,
    memory: Arc<DeliveryMemory>,
    /// Whether the current streams have evidence.
    is_vouched_for: bool,
    /// Whether the committing thread has panicked.
    is_stopped: bool,
}

/// A caller that waits until its batch is durable.
struct Caller {
    persist: BoxFuture<'static, Result<Receipt, SinkError>>,
    lines: Vec<Vec<u8>>,
}

/// A flush that waits until these records are in the bucket.
struct Flush {
    answer: oneshot::Receiver<()>,
    records: BTreeMap<String, u64>,
}

/// How an opening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    InOrder,
    Died,
}

struct Simulation<E> {
    endpoint: PhantomData<E>,
    disk: SimulatedDisk,
    bucket: SimulatedBucket,
    manners: Manners,
    trouble: Arc<Trouble>,
    panics: u64,
    candidates: Vec<Candidate>,
    /// Whether the disk may be full at times.
    may_lack_room: bool,
    /// Whether disk calls may fail.
    may_fail: bool,
    /// Whether the current journal's limit leaves no space for followers.
    is_full: bool,
    dice: Dice,
    clock: Arc<ManualClock>,
    /// Whether streams may have evidence.
    vouches: bool,
    random: Arc<SeededRandom>,
    variant: Variant,
    streams: Vec<Stream>,
    records: u64,
    known: Known,
    /// The longest pause between requests for one object.
    retry_cap_ms: u64,
    /// How long delivered segments are kept, if it is not chosen at random.
    retention: Option<Duration>,
    /// The percentage of callers that leave at each of their steps, and of steps at which a request
    /// is aborted.
    cancels: usize,
    left: u64,
    aborted: u64,
    /// The first object of each stream whose request was aborted in the last opening.
    aborted_from: BTreeMap<UniqueId, u64>,
}

/// 2026-01-01.
const NOW_MS: i64 = 1_767_225_600_000;

impl<E: Endpoint> Simulation<E> {
    fn new(seed: u64, variant: Variant) -> Simulation<E> {
        let mut dice = Dice::new(seed);
        let disk = SimulatedDisk::new(dice.draw());
        let looks = !matches!(
            variant,
            Variant::PlansAfterSending
                | Variant::PlansOutOfOrder
                | Variant::PlansWithoutFileSync
                | Variant::PlansWithoutDirectorySync
        );
        let believes = if variant == Variant::BelievesSilence {
            Believes::Silence
        } else if variant == Variant::BelievesExists {
            Believes::Exists
        } else if variant == Variant::DropsPanicked {
            Believes::Panics
        } else {
            Believes::Nothing
        };
        let manners = Manners {
            faults: [0, 10, 30, 60][dice.below(4)],
            panics: [0, 0, 5, 25][dice.below(4)],
            foreign: [0, 0, 0, 15][dice.below(4)],
            overwrites: dice.chance(1, 6),
            attributes: dice.chance(5, 6),
            believes,
            wants_plans: looks,
        };
        let bucket = SimulatedBucket::new(dice.draw(), manners, disk.clone());
        let cancels = [0, 3, 15, 40][dice.below(4)];
        let candidates = Candidate::all(&mut dice);
        Simulation {
            endpoint: PhantomData,
            disk,
            bucket,
            manners,
            trouble: Arc::new(Trouble::new(&mut dice)),
            panics: 0,
            candidates,
            may_lack_room: false,
            may_fail: false,
            is_full: false,
            clock: Arc::new(ManualClock::at(NOW_MS)),
            vouches: manners.attributes
                && variant != Variant::CountsDroppedAsUnwritten
                && (dice.chance(2, 3) || variant.needs_vouching()),
            random: Arc::new(SeededRandom::new(dice.draw())),
            dice,
            variant,
            streams: Vec::new(),
            records: 0,
            known: Known::default(),
            retry_cap_ms: 500,
            retention: None,
            cancels,
            left: 0,
            aborted: 0,
            aborted_from: BTreeMap::new(),
        }
    }

    async fn run(mut self) -> Result<Figures, String> {
        for _ in 0..self.dice.within(1..5) {
            self.plan_trouble();
            let ended = match self.open(false)? {
                Some(process) => self.work(process).await?,
                None => Ended::Died,
            };
            if ended == Ended::InOrder {
                self.check_room()?;
            }
            if self.dice.chance(6, 10) {
                self.disk.crash()
            } else {
                self.disk.kill()
            }
            self.check(ended == Ended::InOrder)?;
        }
        self.bucket.set_faults(0);
        self.bucket.stop_at(None);
        self.trouble.panics.store(0, Ordering::Relaxed);
        self.cancels = 0;
        let mut process =
            self.open(true)?.ok_or("a journal cannot be opened on a disk that works")?;
        self.commit(&mut process)?;
        self.flush(&mut process);
        if self.end(process).await? != Ended::InOrder {
            return Err("a process died of nothing".to_owned());
        }
        self.disk.crash();
        self.check(true)?;
        self.are_closed()?;
        self.check_followers(true)?;
        let (_, decided) = startup::read(&self.disk, self.new_stream(), None, &[])
            .map_err(|error| error.to_string())?;
        if let Some(object) = decided.objects.first() {
            return Err(format!("{} is still to be sent", object.plan.file_name()));
        }
        let acknowledged = self.streams.iter().map(Stream::acknowledged).sum();
        let (followed, missing) = self.followed();
        let (left, aborted) = (self.left, self.aborted);
        let trace = self.trace();
        Ok(Figures { acknowledged, left, aborted, followed, missing, trace })
    }

    fn trace(&self) -> u64 {
        let mut trace = DefaultHasher::new();
        (self.disk.operation(), self.bucket.requests(), self.disk.files()).hash(&mut trace);
        for candidate in &self.candidates {
            candidate.receiver.records().hash(&mut trace);
        }
        trace.finish()
    }

    fn plan_trouble(&mut self) {
        let now = self.disk.operation();
        let ahead = |dice: &mut Dice| {
            let most = [20, 60, 200][dice.below(3)];
            dice.below(most) as u64
        };
        if self.dice.chance(1, 2) {
            let at = now + ahead(&mut self.dice);
            self.disk.stop_at(at);
        }
        let at =
            self.dice.chance(1, 4).then(|| self.bucket.requests() + 1 + self.dice.below(12) as u64);
        self.bucket.stop_at(at);
        for _ in 0..self.dice.below(3) {
            let from = now + ahead(&mut self.dice);
            let calls = if self.dice.chance(2, 3) { 1 } else { self.dice.within(1..6) as u64 };
            let fault = Fault::any(&mut self.dice);
            (self.may_lack_room, self.may_fail) = (self.may_lack_room | fault.no_space, true);
            self.disk.fail(from..from + calls, fault);
        }
        if self.dice.chance(1, 5) {
            let from = now + ahead(&mut self.dice);
            let calls = [1, 4, 30][self.dice.below(3)];
            self.disk.lack_space(from..from + calls);
            (self.may_lack_room, self.may_fail) = (true, true);
        }
    }

    fn config(&mut self, is_last: bool) -> Config {
        let (followers, patience) = (self.choose_followers(is_last), Self::patience(is_last));
        let dice = &mut self.dice;
        // Rarely, since setting up zstd takes most of the time.
        let packs = dice.chance(1, 6);
        let vouches = self.vouches && dice.chance(5, 6);
        let max_object_bytes = dice.within(1..600);
        // Callers wait for room, but each batch fits.
        let max_pending_bytes = [1 << 20, 6_000][dice.below(2)];
        let journal = JournalSettings {
            segment_bytes: dice.within(3..8) as u64 * 4096,
            // A full journal releases segments at once.
            max_bytes: [u64::MAX, 40 * 4096, 0][dice.below(3)],
            cut_after_ms: [0, 100, 5_000][dice.below(3)],
            retention_ms: [0, 100, 90_000][dice.below(3)],
            max_in_flight: dice.within(1..5),
            ..JournalSettings::new("")
        };
        let journal = match self.retention {
            Some(retention) => JournalSettings {
                max_bytes: u64::MAX,
                retention_ms: u64::try_from(retention.as_millis()).unwrap(),
                ..journal
            },
            None => journal,
        };
        self.note_limits(&journal);
        Config { packs, vouches, max_object_bytes, max_pending_bytes, journal, followers, patience }
    }

    fn new_stream(&self) -> UniqueId {
        UniqueId::generate(&*self.clock, &*self.random)
    }

    /// Opens the journal, retrying if the disk fails. `None` if the process died. With `is_last`,
    /// followers have no faults and enough time.
    fn open(&mut self, is_last: bool) -> Result<Option<Process>, String> {
        let disk: Arc<dyn Disk> = if self.variant == Variant::AsItIs {
            Arc::new(self.disk.clone())
        } else {
            Arc::new(BadDisk::new(self.disk.clone(), self.variant))
        };
        let config = self.config(is_last);
        let names: Vec<_> = config.followers.iter().map(|f| f.name.clone()).collect();
        let health = HealthBoard::new(String::new());
        let random = SeededRandom::new(self.dice.draw());
        let random: Arc<dyn Random> = Arc::new(PanickyRandom(random, Arc::clone(&self.trouble)));
        let sending = Sending {
            packs: config.packs,
            vouches: config.vouches,
            is_hasty: self.variant == Variant::TakesWhatIsUnderWayForStable,
            is_rash: self.variant == Variant::ShowsWhatIsUnplanned,
            put_timeout_ms: 1_000,
            retry_base_ms: 10,
            retry_cap_ms: self.retry_cap_ms,
            blocked_retry_cap_ms: 5_000,
            random,
            health: Arc::clone(&health),
        };
        let destination = E::destination(&self.bucket, sending);
        for _ in 0..100 {
            let stream = self.new_stream();
            // The host's randomness may panic.
            let Ok(new) = catch(|| destination.begin_stream(stream)) else { continue };
            let secret = new.as_ref().map(|new| &new.secret);
            match startup::read(&*disk, stream, secret, &names) {
                Ok((recovered, decided)) => {
                    self.settle()?;
                    self.note_followers()?;
                    let recovery = Recovery { disk, new, recovered, decided };
                    return Ok(Some(self.start(recovery, stream, config, destination, health)));
                }
                Err(RecoveryError::Io(_)) if self.disk.is_stopped() => return Ok(None),
                Err(RecoveryError::Io(_)) => {}
                Err(error @ RecoveryError::Damaged { .. }) => {
                    return Err(format!("opening refuses: {error}"));
                }
            }
        }
        Err("a journal cannot be opened".to_owned())
    }

    fn start(
        &mut self,
        mut recovery: Recovery,
        stream: UniqueId,
        config: Config,
        destination: Arc<dyn Destination>,
        health: Arc<HealthBoard>,
    ) -> Process {
        let Config { max_object_bytes, max_pending_bytes, journal, followers, patience, .. } =
            config;
        let decided = &mut recovery.decided;
        if self.variant == Variant::ForgetsPlans {
            decided.objects.clear();
        }
        let aborted_from = std::mem::take(&mut self.aborted_from);
        if self.variant == Variant::TakesAbortedAsUnsent {
            decided.objects.retain(|DecidedObject { plan, .. }| {
                aborted_from.get(&plan.stream).is_none_or(|from| plan.first_sequence < *from)
            });
        }
        // During opening, panics are caught here.
        let trouble = Arc::clone(&self.trouble);
        let faulty = FaultyDisk::new(recovery.disk, move |_, _| {
            trouble.panics().map(|carried_out| Injected::Panics { carried_out })
        });
        recovery.disk = Arc::new(faulty);
        let is_vouched_for = recovery.new.is_some();
        let memory = any_memory(&mut self.dice);
        let opening = Opening {
            journal,
            bounds: Bounds { max_pending_bytes, persist_timeout: Duration::from_secs(20) },
            max_object_bytes,
            stream,
            destination,
            followers,
            health: Arc::clone(&health),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::clone(&self.random) as Arc<dyn Random>,
        };
        let means = Means {
            executor: Arc::new(SimulatedExecutor(Arc::clone(&self.trouble))),
            memory: Arc::clone(&memory),
            follower_memory: FollowerMemory { objects: Arc::clone(&memory), max_places: 4 },
            max_places: MAX_PLACES,
            own_write_from: 1_000,
        };
        let assembled = opening.assemble(recovery, means);
        let Assembled { commits, deliveries, .. } = assembled.expect("there are no routes to read");
        self.streams.push(Stream::new(stream));
        self.trouble.requests.lock().unwrap().clear();
        let (durable, live) = (commits.durable.subscribe(), Arc::clone(&commits.live));
        let (disk, next_ordinal) = (Arc::clone(&commits.disk), commits.next_ordinal);
        let (sink, committer, ..) = Journal::connect(commits);
        Process {
            sink: Arc::new(sink),
            callers: Vec::new(),
            committer,
            durable,
            live,
            commands: deliveries.commands.clone(),
            delivery: tokio::spawn(deliveries.run(patience)),
            prepared: VecDeque::new(),
            next_ordinal,
            flushes: Vec::new(),
            health,
            disk,
            memory,
            is_vouched_for,
            is_stopped: false,
        }
    }

    /// Notes the decision of a recovery, which later ones must keep.
    fn settle(&mut self) -> Result<(), String> {
        let reading = journal_checker::read(&self.disk.files())?;
        for stream in &mut self.streams {
            let id = stream.id.to_string();
            let unknown = std::mem::take(&mut stream.unknown);
            let Some(there) = reading.streams.iter().find(|there| there.stream == id) else {
                continue;
            };
            let must = stream.acknowledged().saturating_sub(there.first);
            let behind = there.records.get(usize::try_from(must).unwrap()..).unwrap_or_default();
            let is_found = |group: &Group| {
                let lines = group.batches.iter().flatten();
                lines.clone().count() == behind.len()
                    && lines.zip(behind).all(|(expected, found)| is_line(expected, found))
            };
            match unknown.into_iter().find(is_found) {
                None if !behind.is_empty() => {
                    return Err(format!("records of {id} are found that nobody wrote"));
                }
                found => stream.groups.extend(found),
            }
        }
        Ok(())
    }
}

impl Process {
    /// Ends commits.
    fn stop(&mut self) {
        self.is_stopped = true;
        let nothing = latest::channel(Position { ordinal: 0, offset: 0 }).0;
        let stream = self.committer.publisher.stream();
        self.committer.publisher = Publisher::new(Arc::clone(&self.live), stream, nothing);
    }
}

async fn died(process: Process) -> Result<Ended, String> {
    process.delivery.abort();
    match process.delivery.await {
        Err(error) if error.is_panic() => Err(format!("the delivery panicked: {error}")),
        Ok(_) | Err(_) => Ok(Ended::Died),
    }
}

#[cfg(test)]
use self::scenarios::unwritten_is_known;
pub use self::scenarios::{
    a_day_without_a_follower, a_day_without_the_destination, a_disk_without_room,
    clock_jumps_backwards, refusals_that_end,
};

/// Runs one seed. A panic counts as a failure.
fn run<E: Endpoint>(seed: u64, variant: Variant) -> Result<Figures, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let simulation = Simulation::<E>::new(seed, variant);
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(simulation.run()))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    })
}

/// Runs the seeds. `test` are the arguments of `cargo test` that replay one.
pub fn acknowledged_records_arrive_once<E: Endpoint>(test: &str) {
    let figures = each_seed(test, 300, |seed| run::<E>(seed, Variant::AsItIs));
    let seeds = figures.len() as u64;
    let sum = |count: fn(&Figures) -> u64| figures.iter().map(count).sum::<u64>();
    let (acknowledged, left, aborted) =
        (sum(|f| f.acknowledged), sum(|f| f.left), sum(|f| f.aborted));
    let (followed, missing) = (sum(|f| f.followed), sum(|f| f.missing));
    println!(
        "{seeds} seeds, {acknowledged} records acknowledged, {left} callers left, {aborted} \
         requests aborted; followers have {followed} records and miss {missing}"
    );
    let many = [acknowledged, left, aborted * 10, followed, missing * 10];
    let much = acknowledged > seeds && (seeds < 100 || many.iter().all(|events| *events > seeds));
    assert!(much, "a simulation in which little happens shows little");
}

/// A seed always runs the same, so that a failure can be replayed.
pub fn seeds_repeat<E: Endpoint>() {
    for seed in 0..30 {
        let [once, twice] = [(); 2].map(|()| run::<E>(seed, Variant::AsItIs).unwrap());
        assert_eq!(once, twice, "seed {seed}");
    }
}

/// Finds a seed that catches each known-bad delivery.
pub fn bad_deliveries_are_caught<E: Endpoint>() {
    for variant in Variant::BAD {
        let caught = (0..3_000).find_map(|seed| Some((seed, run::<E>(seed, variant).err()?)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{variant:?} is not caught"));
        println!("{variant:?}: seed {seed}: {what}");
    }
}
