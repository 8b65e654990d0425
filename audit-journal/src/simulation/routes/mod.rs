//! Simulates one journal with many destinations, with faults that follow from a seed. Routes with
//! up to three followers each are added, closed and retired while groups are committed; in half of
//! the seeds, the default route has up to three others; requests fail to one destination or to all;
//! disk calls fail or panic; and the process closes the journal or is killed at any step.
//!
//! Code that reads the buckets independently checks that each acknowledged record is in its route's
//! bucket exactly once, under the number in its receipt; that refused records are nowhere; that no
//! bucket has records of others; that no watermark exceeds what a bucket has; and that a retired
//! route has everything. In half of the seeds, streams of most routes have evidence: an auditor
//! with the streams' secrets finds nothing wrong in any bucket after any crash, and in the end
//! every stream of a route that was opened is closed, and its secret destroyed. A follower has the
//! acknowledged records of its route since it was added, under the numbers in their receipts,
//! except those recorded as missing. Only a follower that was paused or retired misses records. No
//! follower has records of another route.
//!
//! `cargo test -p audit-journal --lib simulation::routes` runs 300 seeds. For more or other
//! seeds:
//!
//! ```text
//! AUDIT_SIMULATION_FIRST_SEED=1000000 AUDIT_SIMULATION_SEEDS=100000 \
//!     cargo test --release -p audit-journal --lib simulation::routes::tests::each -- --nocapture
//! ```

mod check;
#[cfg(test)]
mod damage;
mod followers;
mod many;
mod scenarios;
#[cfg(test)]
mod tests;
mod variants;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, iter};

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{Batch, Clock, Outcome, Random, Receipt, SinkError, UniqueId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use self::followers::Candidate;
use self::variants::{BadDisk, Variant};
use super::bucket::{Believes, Manners, SimulatedBucket};
use super::checkers::followers::Known as KnownFollowers;
use super::delivery::trouble::{SimulatedExecutor, Trouble, any_memory};
use super::destination::{Endpoint, Known, Own, Sending};
use super::disk::faulty::{FaultyDisk, Injected};
use super::disk::{Dice, Fault, SimulatedDisk};
use crate::commit::{self, Bounds, Committer, Journal, Taken};
use crate::delivery::{Command, DeliveryMemory};
use crate::disk::Disk;
use crate::followers::FollowerMemory;
use crate::format::Position;
use crate::health::HealthBoard;
use crate::recovery_error::RecoveryError;
use crate::routes::{MAX_PLACES, RouteNames, read_routes};
use crate::segment::Segment;
use crate::segments::{LiveSegments, Publisher};
use crate::shared::latest;
use crate::shared::panic::{catch, catch_in};
use crate::startup::{self, Assembled, Means, Opening, Recovery};
use crate::{Follower, JournalSettings, OpenError, Route, RouteOpening};

/// 2026-01-01.
const NOW_MS: i64 = 1_767_225_600_000;

/// A route's name, its bucket, and the expected fate of its records.
struct Customer {
    name: String,
    /// The member with its name in each of its records.
    of: String,
    bucket: SimulatedBucket,
    known: RefCell<Known>,
    /// Acknowledged records by stream and number.
    acknowledged: BTreeMap<(UniqueId, u64), Vec<u8>>,
    /// Records that were certainly not written.
    refused: BTreeSet<Vec<u8>>,
    /// The error of the last refused batch.
    refusal: Option<SinkError>,
    /// Records with an unknown outcome.
    unknown: BTreeSet<Vec<u8>>,
    route: Option<Arc<Route>>,
    /// The task that retires it in the current opening.
    retired: Option<JoinHandle<Result<(), SinkError>>>,
    followers: Vec<Candidate>,
    /// Whether its streams may have evidence.
    vouches: bool,
    /// Whether it was opened in the last opening of the journal.
    is_open_last: bool,
}

/// Counts of what happened in a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Figures {
    acknowledged: u64,
    routes: u64,
    retired: u64,
    panics: u64,
    /// The sealed objects of routes, and their streams that end.
    sealed: u64,
    closed: u64,
    /// The records that followers have, and those that are recorded as missing.
    followed: u64,
    missing: u64,
    /// A hash of the number of disk calls and of what is left on the disk, in buckets and with
    /// receivers.
    trace: u64,
}

struct Simulation {
    disk: SimulatedDisk,
    trouble: Arc<Trouble>,
    dice: Dice,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
    /// The first one is the default route.
    customers: Vec<Customer>,
    records: u64,
    variant: Variant,
    figures: Figures,
    known_followers: RefCell<KnownFollowers>,
    max_bytes: u64,
    /// From which the size of a segment is chosen, in blocks.
    segment_blocks: Range<usize>,
    retention_ms: u64,
    retry_cap_ms: u64,
    /// The memory of deliveries, in bytes. `None` for any.
    delivery_bytes: Option<u64>,
}

type Persist = JoinHandle<Result<Receipt, SinkError>>;

/// One opening.
struct Process {
    journal: Arc<Journal>,
    committer: Committer,
    live: Arc<LiveSegments>,
    disk: Arc<dyn Disk>,
    commands: mpsc::UnboundedSender<Command>,
    running: JoinHandle<bool>,
    prepared: VecDeque<Segment>,
    next_ordinal: u32,
    callers: Vec<(usize, Vec<Vec<u8>>, Persist)>,
    /// The health boards, which die with the process.
    boards: Vec<Arc<HealthBoard>>,
    segment_bytes: u64,
    is_stopped: bool,
    /// Once set, its tasks do nothing more to the disk.
    is_dead: Arc<AtomicBool>,
}

const EIO: i32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    InOrder,
    Died,
}

impl Simulation {
    fn new(seed: u64, variant: Variant) -> Simulation {
        let mut dice = Dice::new(seed);
        let disk = SimulatedDisk::new(dice.draw());
        let customers = [1, 3, 8, 50][dice.below(4)];
        let vouches = dice.chance(1, 2);
        let customers = (0..=customers).map(|n| {
            let manners = Manners {
                faults: [0, 10, 60][dice.below(3)],
                panics: [0, 0, 10][dice.below(3)],
                foreign: [0, 0, 0, 10][dice.below(4)],
                overwrites: dice.chance(1, 6),
                attributes: true,
                believes: Believes::Nothing,
                wants_plans: variant != Variant::PlansUnsynced,
            };
            let bucket = SimulatedBucket::new(dice.draw(), manners, disk.clone());
            // Seeds from before the default route had followers are even.
            let has_followers = n > 0 || seed % 2 == 1;
            let followers = if has_followers { Candidate::all(&mut dice) } else { Vec::new() };
            let vouches = n > 0 && vouches && dice.chance(4, 5);
            Customer { vouches, ..Customer::new(n, bucket, followers) }
        });
        let customers = customers.collect();
        let trouble = Arc::new(Trouble::new(&mut dice));
        Simulation {
            disk,
            trouble,
            clock: Arc::new(ManualClock::at(NOW_MS)),
            random: Arc::new(SeededRandom::new(dice.draw())),
            dice,
            customers,
            records: 0,
            variant,
            figures: Figures::default(),
            known_followers: RefCell::default(),
            max_bytes: u64::MAX / 8,
            segment_blocks: 4..9,
            retention_ms: 0,
            retry_cap_ms: 500,
            delivery_bytes: None,
        }
    }

    async fn run(mut self) -> Result<Figures, String> {
        for _ in 0..self.dice.within(1..5) {
            self.plan_trouble();
            let ended = match self.open(false).await? {
                Some(process) => self.work(process).await?,
                None => Ended::Died,
            };
            self.forget_handles();
            if self.dice.chance(6, 10) {
                self.disk.crash()
            } else {
                self.disk.kill()
            }
            self.check(false)?;
            let _ = ended;
        }
        for customer in &self.customers {
            customer.bucket.set_faults(0);
            customer.bucket.stop_at(None);
        }
        self.trouble.panics.store(0, Ordering::Relaxed);
        let mut process = self.open(true).await?.ok_or("a journal cannot be opened")?;
        for n in 1..self.customers.len() {
            if !self.has_records(n) && self.dice.chance(1, 2) {
                continue;
            }
            self.open_route(&mut process, n, true).await?;
            if self.customers[n].route.is_none() {
                return Err(format!("{} cannot be opened", self.customers[n].name));
            }
            self.customers[n].is_open_last = true;
        }
        self.commit(&mut process).await?;
        if self.end(process).await? != Ended::InOrder {
            return Err("a process died of nothing".to_owned());
        }
        self.forget_handles();
        self.disk.crash();
        self.check(true)?;
        self.figures.acknowledged =
            self.customers.iter().map(|customer| customer.acknowledged.len() as u64).sum();
        (self.figures.followed, self.figures.missing) = self.followed();
        (self.figures.sealed, self.figures.closed) = self.sealed();
        self.figures.trace = self.trace();
        Ok(self.figures)
    }

    fn trace(&self) -> u64 {
        let mut trace = DefaultHasher::new();
        (self.disk.operation(), self.disk.files()).hash(&mut trace);
        for customer in &self.customers {
            customer.bucket.requests().hash(&mut trace);
            for (key, stored) in customer.bucket.objects() {
                (key, stored.bytes, stored.attributes).hash(&mut trace);
            }
            for follower in &customer.followers {
                follower.receiver.records().hash(&mut trace);
            }
        }
        trace.finish()
    }

    fn has_records(&self, n: usize) -> bool {
        let Customer { acknowledged, unknown, .. } = &self.customers[n];
        !acknowledged.is_empty() || !unknown.is_empty()
    }

    fn forget_handles(&mut self) {
        for customer in &mut self.customers {
            customer.route = None;
            if let Some(retired) = customer.retired.take() {
                retired.abort();
            }
        }
    }

    fn plan_trouble(&mut self) {
        let now = self.disk.operation();
        let ahead = |dice: &mut Dice| {
            let most = [20, 100, 600][dice.below(3)];
            dice.below(most) as u64
        };
        if self.dice.chance(1, 2) {
            let at = now + ahead(&mut self.dice);
            self.disk.stop_at(at);
        }
        let mut lacks_room = false;
        for _ in 0..self.dice.below(3) {
            let from = now + ahead(&mut self.dice);
            let calls = if self.dice.chance(2, 3) { 1 } else { self.dice.within(1..6) as u64 };
            let fault = Fault::any(&mut self.dice);
            lacks_room |= fault.no_space;
            self.disk.fail(from..from + calls, fault);
        }
        if self.dice.chance(1, 5) {
            lacks_room = true;
            let from = now + ahead(&mut self.dice);
            self.disk.lack_space(from..from + [1, 4, 30][self.dice.below(3)]);
        }
        if lacks_room {
            let followers = self.customers.iter_mut().flat_map(|customer| &mut customer.followers);
            followers.for_each(Candidate::may_lack);
        }
    }

    fn journal(&mut self) -> JournalSettings {
        let dice = &mut self.dice;
        JournalSettings {
            segment_bytes: dice.within(self.segment_blocks.clone()) as u64 * 4096,
            max_bytes: self.max_bytes,
            cut_after_ms: [0, 100, 5_000][dice.below(3)],
            retention_ms: [0, 100, 90_000][dice.below(3)].max(self.retention_ms),
            max_in_flight: dice.within(1..5),
            ..JournalSettings::new("")
        }
    }

    fn sending(&mut self, health: &Arc<HealthBoard>, vouches: bool) -> Sending {
        Sending {
            packs: self.dice.chance(1, 6),
            vouches,
            is_hasty: false,
            is_rash: false,
            put_timeout_ms: 1_000,
            retry_base_ms: 10,
            retry_cap_ms: self.retry_cap_ms,
            blocked_retry_cap_ms: 10 * self.retry_cap_ms,
            random: Arc::new(SeededRandom::new(self.dice.draw())),
            health: Arc::clone(health),
        }
    }

    /// Opens the journal. `None` if the process died. With `is_last`, closing it waits until
    /// followers have everything.
    async fn open(&mut self, is_last: bool) -> Result<Option<Process>, String> {
        let disk: Arc<dyn Disk> = if self.variant == Variant::AsItIs {
            Arc::new(self.disk.clone())
        } else {
            Arc::new(BadDisk::new(self.disk.clone(), self.variant))
        };
        let followers = self.choose_followers(0, is_last);
        let names: Vec<_> = followers.iter().map(|follower| follower.name.clone()).collect();
        for _ in 0..100 {
            let stream = UniqueId::generate(&*self.clock, &*self.random);
            match startup::read(&*disk, stream, None, &names) {
                Ok((recovered, decided)) => {
                    self.note_followers(0, &names)?;
                    let disk = Arc::clone(&disk);
                    let recovery = Recovery { disk, new: None, recovered, decided };
                    if let Ok(process) = self.start(recovery, stream, &followers, is_last) {
                        return Ok(Some(process));
                    }
                    if self.disk.is_stopped() {
                        return Ok(None);
                    }
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
        followers: &[Follower],
        is_last: bool,
    ) -> io::Result<Process> {
        let journal = self.journal();
        let max_object_bytes = self.dice.within(1..1_500);
        let health = HealthBoard::new("default".to_owned());
        let sending = self.sending(&health, false);
        let trouble = Arc::clone(&self.trouble);
        let is_dead = Arc::new(AtomicBool::new(false));
        let dead = Arc::clone(&is_dead);
        recovery.disk = Arc::new(FaultyDisk::new(recovery.disk, move |_, _| {
            if dead.load(Ordering::Relaxed) {
                return Some(Injected::Fails(EIO));
            }
            trouble.panics().map(|carried_out| Injected::Panics { carried_out })
        }));
        let counted = if self.variant == Variant::CountsNoShares {
            JournalSettings { max_bytes: u64::MAX / 8, ..journal.clone() }
        } else {
            journal.clone()
        };
        let opening = Opening {
            journal: counted,
            bounds: Bounds { max_pending_bytes: 1 << 20, persist_timeout: Duration::from_secs(20) },
            max_object_bytes,
            stream,
            destination: Own::destination(&self.customers[0].bucket, sending),
            followers: followers.to_vec(),
            health: Arc::clone(&health),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::clone(&self.random) as Arc<dyn Random>,
        };
        let means = Means {
            executor: Arc::new(SimulatedExecutor(Arc::clone(&self.trouble))),
            memory: match self.delivery_bytes {
                Some(bytes) => DeliveryMemory::new(bytes, 2),
                None => any_memory(&mut self.dice),
            },
            follower_memory: FollowerMemory {
                objects: any_memory(&mut self.dice),
                // Few, so that places and groups are both read.
                max_places: 4,
            },
            // None, few, or more than there are batches.
            max_places: [0, 12, MAX_PLACES][self.records as usize % 3],
            own_write_from: 1_000,
        };
        let Assembled { commits, deliveries, .. } = opening.assemble(recovery, means)?;
        let segment_bytes = journal.segment_bytes;
        let (live, disk) = (Arc::clone(&commits.live), Arc::clone(&commits.disk));
        let next_ordinal = commits.next_ordinal;
        let (sink, committer, ..) = Journal::connect(commit::Parts { journal, ..commits });
        self.trouble.requests.lock().unwrap().clear();
        let followed = followers.iter().map(|follower| Arc::clone(&follower.health));
        let patience = (!is_last).then_some(Duration::from_secs(5));
        Ok(Process {
            journal: Arc::new(sink),
            committer,
            live,
            disk,
            commands: deliveries.commands.clone(),
            running: tokio::spawn(deliveries.run(patience)),
            prepared: VecDeque::new(),
            next_ordinal,
            callers: Vec::new(),
            boards: iter::once(health).chain(followed).collect(),
            segment_bytes,
            is_stopped: false,
            is_dead,
        })
    }

    async fn work(&mut self, mut process: Process) -> Result<Ended, String> {
        for _ in 0..self.dice.within(1..20) {
            match self.dice.below(12) {
                0..5 => self.commit(&mut process).await?,
                5 | 6 if self.customers.len() > 1 => {
                    let n = self.dice.within(1..self.customers.len());
                    self.open_route(&mut process, n, false).await?;
                }
                7 if self.customers.len() > 1 => {
                    let n = self.dice.within(1..self.customers.len());
                    self.retire(n);
                }
                8 => self.retire_unopened(&process).await?,
                _ => {
                    let ms = [0, 1 << self.dice.below(14), 70_000][self.dice.below(3)];
                    sleep(Duration::from_millis(ms)).await;
                    self.clock.advance(i64::try_from(ms).unwrap());
                }
            }
            self.abort_request();
            if self.variant == Variant::DropsUnplanned && self.dice.chance(1, 4) {
                self.drop_unplanned(&process);
            }
            tokio::task::yield_now().await;
            self.hear_retired().await?;
            if self.disk.is_stopped() {
                return self.die(process).await;
            }
        }
        if self.dice.chance(1, 2) { self.end(process).await } else { self.die(process).await }
    }

    fn abort_request(&mut self) {
        let mut requests = self.trouble.requests.lock().unwrap();
        requests.retain(|(_, request)| !request.is_finished());
        if !requests.is_empty() && self.dice.chance(1, 10) {
            let chosen = self.dice.below(requests.len());
            requests.swap_remove(chosen).1.abort();
        }
    }

    async fn open_route(
        &mut self,
        process: &mut Process,
        n: usize,
        is_last: bool,
    ) -> Result<(), String> {
        if self.customers[n].route.is_some() || self.customers[n].retired.is_some() {
            return Ok(());
        }
        let name = self.customers[n].name.clone();
        let health = HealthBoard::new(name.clone());
        process.boards.push(Arc::clone(&health));
        let vouches = self.customers[n].vouches && self.dice.chance(5, 6);
        let sending = self.sending(&health, vouches);
        let destination = Own::destination(&self.customers[n].bucket, sending);
        let place = format!("bucket of {name}");
        let followers = self.choose_followers(n, is_last);
        let wanted: Vec<_> = followers.iter().map(|follower| follower.name.clone()).collect();
        process.boards.extend(followers.iter().map(|follower| Arc::clone(&follower.health)));
        let opening = RouteOpening { name, destination, place, health, followers };
        let journal = Arc::clone(&process.journal);
        match catch_in(async move { journal.open_route(opening).await }).await {
            Ok(Ok(route)) => {
                self.figures.routes += 1;
                self.customers[n].route = Some(Arc::new(route));
                self.note_followers(n, &wanted)?;
            }
            // The committing thread has panicked, or the disk failed.
            Ok(Err(error)) if process.is_stopped || is_disk(&error) => {}
            Ok(Err(error)) => return Err(format!("a route cannot be opened: {error}")),
            Err(_panicked) => {}
        }
        Ok(())
    }

    fn retire(&mut self, n: usize) {
        let customer = &mut self.customers[n];
        if let Some(route) = customer.route.take() {
            customer.followers.iter_mut().for_each(Candidate::may_lack);
            customer.retired = Some(tokio::spawn(async move { route.retire().await }));
        }
    }

    /// Checks that routes that are not open are retired only if they have everything.
    async fn retire_unopened(&mut self, process: &Process) -> Result<(), String> {
        let routes = self.customers.iter_mut().skip(1);
        for customer in routes.filter(|customer| customer.route.is_none()) {
            customer.followers.iter_mut().for_each(Candidate::may_lack);
        }
        let journal = Arc::clone(&process.journal);
        let retired = catch_in(async move { journal.retire_unopened_routes().await }).await;
        let Ok(Ok(left)) = retired else { return Ok(()) };
        for n in 1..self.customers.len() {
            let Customer { name, route, retired, .. } = &self.customers[n];
            let is_left = left.iter().any(|left| left.name == *name);
            if route.is_none() && retired.is_none() && !is_left {
                self.is_whole(n)
                    .and_then(|()| self.verify(n, true))
                    .map_err(|what| format!("an unopened route was retired: {what}"))?;
                self.end_followers(n);
            }
        }
        Ok(())
    }

    /// Checks that a retired route has everything.
    async fn hear_retired(&mut self) -> Result<(), String> {
        for n in 0..self.customers.len() {
            let retired = self.customers[n].retired.take_if(|retired| retired.is_finished());
            let Some(retired) = retired else { continue };
            if let Ok(Ok(())) = retired.await {
                self.figures.retired += 1;
                self.end_followers(n);
                self.is_whole(n)
                    .and_then(|()| self.verify(n, true))
                    .map_err(|what| format!("a route was retired, and {what}"))?;
            }
        }
        Ok(())
    }

    /// Callers queue batches, and the committing thread takes some of them.
    async fn commit(&mut self, process: &mut Process) -> Result<(), String> {
        for _ in 0..self.dice.within(1..8) {
            let n = self.dice.below(self.customers.len());
            let lines = self.lines(n);
            let batch = Batch::from_lines(self.clock.now_ms(), lines.concat().into()).unwrap();
            let (journal, route) = (Arc::clone(&process.journal), self.customers[n].route.clone());
            let persist = match (n, route) {
                (0, _) => tokio::spawn(async move { journal.persist(batch).await }),
                (_, Some(route)) => tokio::spawn(async move { route.persist(batch).await }),
                (_, None) => continue,
            };
            process.callers.push((n, lines, persist));
        }
        // A batch enters the queue after the first files of its stream, and after a system record.
        for _ in 0..self.dice.within(1..4) {
            let ms = [0, 300][self.dice.below(2)];
            for _ in 0..4 {
                sleep(Duration::from_millis(ms)).await;
                tokio::task::yield_now().await;
            }
            // Some callers drop their `persist`.
            let dice = &mut self.dice;
            for (_, _, persist) in &process.callers {
                if dice.chance(1, 20) {
                    persist.abort();
                }
            }
            if !process.is_stopped {
                self.write(process);
            }
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.hear(process).await
    }

    fn write(&mut self, process: &mut Process) {
        let taken = Taken::of(process.committer.queued.try_iter());
        if taken.batches.is_empty() {
            return;
        }
        let needs = process.committer.writer.needs_segment(&taken.batches);
        let has_none = process.prepared.is_empty() && process.committer.next.is_none();
        let bytes = process.segment_bytes;
        let has_room = process.live.bytes().saturating_add(bytes) <= self.max_bytes;
        if !has_room {
            process.live.want_room();
        }
        if has_none && needs && has_room {
            let salt = u32::try_from(self.dice.draw() >> 32).unwrap();
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
        let committer = &mut process.committer;
        if catch(|| committer.write(taken)).is_err() {
            process.stop();
        }
    }

    /// Checks the results that callers got.
    async fn hear(&mut self, process: &mut Process) -> Result<(), String> {
        for (n, lines, persist) in std::mem::take(&mut process.callers) {
            if !persist.is_finished() {
                process.callers.push((n, lines, persist));
                continue;
            }
            let customer = &mut self.customers[n];
            match persist.await {
                Ok(Ok(receipt)) => customer.acknowledge(lines, &receipt)?,
                Ok(Err(error)) if error.outcome() == Outcome::NotPersisted => {
                    customer.refused.extend(lines);
                    customer.refusal = Some(error);
                }
                Ok(Err(_)) | Err(_) => customer.unknown.extend(lines),
            }
        }
        Ok(())
    }

    fn lines(&mut self, n: usize) -> Vec<Vec<u8>> {
        let name = &self.customers[n].name;
        let lines = (0..self.dice.within(1..4)).map(|_| {
            let padding = if self.dice.chance(1, 30) { 1500 } else { self.dice.below(80) };
            self.records += 1;
            let (id, padding) = (self.records, "-".repeat(padding));
            format!("{{\"id\":{id},\"of\":\"{name}\",\"@\":\"{padding}\"}}\n").into_bytes()
        });
        lines.collect()
    }

    /// Closes the journal with all routes, open or not, and the default one.
    async fn end(&mut self, mut process: Process) -> Result<Ended, String> {
        let _ = process.commands.send(Command::Hurry);
        process.stop();
        for round in 0..1_000 {
            // A delivery that panicked starts over and reads all its plans. With many plans and a
            // panic in each fiftieth call, it may never come to their end.
            if round == 500 {
                self.trouble.panics.store(0, Ordering::Relaxed);
            }
            let ended = timeout(Duration::from_secs(10), &mut process.running).await;
            self.clock.advance(10_000);
            self.hear(&mut process).await?;
            match ended {
                Ok(Ok(false)) => return Err("the journal was removed".to_owned()),
                Ok(Ok(true)) => {
                    self.figures.panics +=
                        process.boards.iter().map(|board| board.health(0).panics).sum::<u64>();
                    for n in 0..self.customers.len() {
                        let is_open = n == 0 || self.customers[n].route.is_some();
                        if is_open {
                            self.is_whole(n)
                                .map_err(|what| format!("a journal was closed, and {what}"))?;
                        }
                    }
                    self.unheard(&mut process);
                    process.is_dead.store(true, Ordering::Relaxed);
                    return Ok(Ended::InOrder);
                }
                Ok(Err(error)) => return Err(format!("the delivery ended: {error}")),
                Err(_) if self.disk.is_stopped() => return self.die(process).await,
                Err(_) => {}
            }
        }
        Err("the delivery does not come to its end".to_owned())
    }

    /// Kills the process: its tasks end where they are.
    async fn die(&mut self, mut process: Process) -> Result<Ended, String> {
        process.is_dead.store(true, Ordering::Relaxed);
        process.running.abort();
        let _ = (&mut process.running).await;
        self.hear(&mut process).await?;
        self.unheard(&mut process);
        Ok(Ended::Died)
    }

    /// Notes the records of callers without a result.
    fn unheard(&mut self, process: &mut Process) {
        for (n, lines, persist) in process.callers.drain(..) {
            persist.abort();
            self.customers[n].unknown.extend(lines);
        }
    }

    fn names(&self) -> Result<RouteNames, String> {
        read_routes(&self.disk).map_err(|error| error.to_string())
    }
}

impl Customer {
    /// The default route has number 0.
    fn new(n: usize, bucket: SimulatedBucket, followers: Vec<Candidate>) -> Customer {
        let name = if n == 0 { "default".to_owned() } else { format!("customer-{n}") };
        Customer {
            of: format!(",\"of\":\"{name}\","),
            name,
            bucket,
            known: RefCell::default(),
            acknowledged: BTreeMap::new(),
            refused: BTreeSet::new(),
            refusal: None,
            unknown: BTreeSet::new(),
            route: None,
            retired: None,
            followers,
            vouches: false,
            is_open_last: false,
        }
    }

    fn acknowledge(&mut self, lines: Vec<Vec<u8>>, receipt: &Receipt) -> Result<(), String> {
        let place = receipt.place.ok_or("a receipt names no place")?;
        if u64::from(place.count) != lines.len() as u64 {
            return Err(format!("{receipt:?} for {} records", lines.len()));
        }
        for (number, line) in (place.first_sequence..).zip(lines) {
            if self.acknowledged.insert((place.stream, number), line).is_some() {
                return Err(format!("two records have the number {number} of {}", place.stream));
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

/// Whether the disk caused the error.
fn is_disk(error: &OpenError) -> bool {
    error.kind() == crate::OpenErrorKind::Blocked
}

/// Runs one seed. A panic counts as a failure.
fn run(seed: u64, variant: Variant) -> Result<Figures, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let simulation = Simulation::new(seed, variant);
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(simulation.run()))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    })
}
