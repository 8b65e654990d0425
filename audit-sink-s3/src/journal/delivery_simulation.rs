//! The journal, its delivery and the bucket together, on a disk and a bucket that fail in every
//! way, from seed to seed.
//!
//! Each seed is a few openings of one journal, one after the other. In each, groups are committed
//! while the real delivery brings them to the bucket; time passes, segments are removed, requests
//! get lost, the disk refuses; and then the process ends in order, or dies at any operation of its
//! disk or any request to the bucket, with the power or without. The last opening meets no faults
//! and ends in order.
//!
//! What must hold is checked by code that reads the bucket for itself:
//!
//! - Every record whose commit returned is in the bucket exactly once, with the number that it was
//!   given; where another's object stands under its key, it is in one file that was set aside, and
//!   nowhere in the bucket. No object divides a batch, and nothing is invented.
//! - Whatever is sent for a key is always the same bytes, and its plan is durable before the first
//!   of it.
//! - A stream is never said to be delivered beyond what is there, a flush is never answered before,
//!   and always in the end.
//! - A panic of the bucket's client, of any call of the disk, of what is done on other threads, or
//!   of a request changes none of that.
//! - Neither does a cancellation: callers drop the future of their `persist` while it waits for
//!   room, while its batch is queued, written, or acknowledged; tasks of requests are aborted
//!   wherever they are, and so is the task of the delivery. Each caller that waits hears of its own
//!   batch, and what the others had of the queue's room is free again.
//! - An opening never refuses what was left, and an orderly end comes to its end.
//!
//! `cargo test -p audit-sink-s3 --lib journal::delivery_simulation` runs 20,000 seeds. More, and
//! others:
//!
//! ```text
//! AUDIT_SIMULATION_FIRST_SEED=1000000 AUDIT_SIMULATION_SEEDS=2000000 \
//!     cargo test --release -p audit-sink-s3 --lib journal::delivery_simulation::acknowledged_records -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{
    Batch, Clock, Durability, Place, Random, Receipt, SinkError, UniqueId, async_trait,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};

use super::commit::{self, Bounds, Committer, JournaledWriter, Taken};
use super::delivery::{Command, JournalDelivery, Parts};
use super::delivery_checker::{self as checker, Known, Reading};
use super::destination::Plan;
use super::disk::{Disk, DiskFile, UnsyncedFile, write_durably};
use super::executor::{Executor, Work};
use super::faulty_disk::{FaultyDisk, Injected, panic_silently};
use super::format::{EncodedBatch, Position};
use super::plan::{self, Decided, DecidedObject};
use super::recovery::Recovered;
use super::recovery_error::RecoveryError;
use super::segment::Segment;
use super::segments::{LiveSegments, Publisher};
use super::simulated_bucket::{Believes, Manners, Refuses, SimulatedBucket};
use super::simulated_disk::{Dice, Fault, SimulatedDisk};
use super::simulation_checker as journal_checker;
use super::startup;
use super::writer::JournalWriter;
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::health::HealthBoard;
use crate::object::pieces::pieces;
use crate::panic::catch;
use crate::{Bucket, Compression, HealthState, JournalSettings, Settings};

/// The delivery as it is, or one of those that it must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    AsItIs,
    /// The plan of an object is written when its first request is under way. Nobody looks for the
    /// plan.
    PlansAfterSending,
    /// A plan gets its name before its bytes are durable. Nobody looks for the plan.
    PlansWithoutFileSync,
    /// The name of a plan is not made durable. Nobody looks for the plan.
    PlansWithoutDirectorySync,
    /// A stream is said to be delivered as soon as that is planned.
    NotesDeliveryWhenPlanned,
    /// A request that got no answer is taken as carried out.
    BelievesSilence,
    /// A plan is removed before it is noted that it is done.
    RemovesPlansEarly,
    /// What was planned before is cut anew.
    ForgetsPlans,
    /// A full segment is removed, delivered or not.
    RemovesSegmentsEarly,
    /// An object that met a conflict is not set aside.
    DropsConflicts,
    /// A key at which something stands is taken as delivered.
    BelievesExists,
    /// An object is taken as delivered when its request panics.
    DropsPanicked,
    /// A batch whose caller has gone is counted as not written.
    CountsDroppedAsUnwritten,
    /// An object whose request was aborted is taken as not sent, and cut anew.
    TakesAbortedAsUnsent,
}

/// Batches that were to be committed together.
#[derive(Debug)]
struct Group {
    /// The lines of each batch.
    batches: Vec<Vec<Vec<u8>>>,
}

impl Group {
    fn records(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }
}

/// What one opening acknowledged.
#[derive(Debug)]
struct Stream {
    id: UniqueId,
    /// Their commit returned, or a recovery has found them.
    groups: Vec<Group>,
    /// Their commit did not return. One of them may be in the journal behind the others.
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

/// What happened in a seed.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    /// Records.
    acknowledged: u64,
    /// Callers that dropped the future of their `persist`.
    left: u64,
    /// Tasks of requests that were aborted before they had ended.
    aborted: u64,
}

/// Panics of whatever a process has, from a seed, and its requests, to be aborted.
#[derive(Debug)]
struct Trouble {
    requests: Mutex<Vec<(Plan, AbortHandle)>>,
    dice: Mutex<Dice>,
    /// Of 1,000 calls of the disk, pieces of work, and pauses, in how many.
    panics: AtomicUsize,
    /// How often work is done later.
    delays: bool,
}

impl Trouble {
    fn new(dice: &mut Dice) -> Trouble {
        let panics = [0, 0, 4, 20][dice.below(4)];
        let delays = dice.chance(1, 2);
        let requests = Mutex::default();
        Trouble {
            requests,
            dice: Mutex::new(Dice::new(dice.next())),
            panics: panics.into(),
            delays,
        }
    }

    fn none() -> Trouble {
        let (requests, dice) = (Mutex::default(), Mutex::new(Dice::new(0)));
        Trouble { requests, dice, panics: 0.into(), delays: false }
    }

    /// Whether to panic here, and whether to do before what was asked for.
    fn panics(&self) -> Option<bool> {
        let mut dice = self.dice.lock().unwrap();
        let panics = self.panics.load(Ordering::Relaxed);
        dice.chance(panics, 1_000).then(|| dice.chance(1, 2))
    }
}

/// Does work at once or later, and panics before or after it.
#[derive(Debug)]
struct SimulatedExecutor(Arc<Trouble>);

#[async_trait]
impl Executor for SimulatedExecutor {
    async fn execute(&self, work: Work) {
        let delay = |most: usize| {
            let mut dice = self.0.dice.lock().unwrap();
            let some = self.0.delays && dice.chance(1, 3);
            Duration::from_millis(if some { dice.below(most) as u64 } else { 0 })
        };
        let (before, after) = (delay(50), delay(50));
        if !before.is_zero() {
            sleep(before).await;
        }
        let panics = self.0.panics();
        if panics != Some(false) {
            work();
        }
        if panics.is_some() {
            panic_silently();
        }
        if !after.is_zero() {
            sleep(after).await;
        }
    }

    fn began(&self, plan: &Plan, request: AbortHandle) {
        let mut requests = self.0.requests.lock().unwrap();
        requests.retain(|(_, request)| !request.is_finished());
        requests.push((*plan, request));
    }
}

/// Panics now and then: as whatever of a request is not the bucket's client.
#[derive(Debug)]
struct PanickyRandom(SeededRandom, Arc<Trouble>);

impl Random for PanickyRandom {
    fn next_u64(&self) -> u64 {
        if self.1.panics().is_some() {
            panic_silently();
        }
        self.0.next_u64()
    }
}

/// How the journal is set in one opening.
#[derive(Debug, Clone)]
struct Config {
    settings: Settings,
    journal: JournalSettings,
}

/// One opening.
struct Process {
    sink: Arc<JournaledWriter>,
    callers: Vec<Caller>,
    committer: Committer,
    live: Arc<LiveSegments>,
    durable: watch::Receiver<Position>,
    commands: mpsc::UnboundedSender<Command>,
    delivery: JoinHandle<()>,
    prepared: VecDeque<Segment>,
    next_ordinal: u32,
    flushes: Vec<Flush>,
    health: Arc<HealthBoard>,
    disk: Arc<dyn Disk>,
    /// The thread that commits has panicked.
    is_stopped: bool,
}

/// Somebody waits until this batch is durable.
struct Caller {
    persist: BoxFuture<'static, Result<Receipt, SinkError>>,
    lines: Vec<Vec<u8>>,
}

/// Somebody waits until these records are in the bucket.
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

struct Simulation {
    disk: SimulatedDisk,
    bucket: SimulatedBucket,
    manners: Manners,
    trouble: Arc<Trouble>,
    panics: u64,
    dice: Dice,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
    variant: Variant,
    streams: Vec<Stream>,
    records: u64,
    known: Known,
    /// The longest pause between requests for one object.
    retry_cap_ms: u64,
    /// How long delivered segments are kept, if that is not for the dice to say.
    retention: Option<Duration>,
    /// Of 100 callers, how many leave at each step of theirs; and of 100 steps, at how many a
    /// request is aborted.
    cancels: usize,
    left: u64,
    aborted: u64,
    /// The first object of each stream whose request was aborted in the last opening.
    aborted_from: BTreeMap<UniqueId, u64>,
}

/// 2026-01-01.
const NOW_MS: i64 = 1_767_225_600_000;

impl Simulation {
    fn new(seed: u64, variant: Variant) -> Simulation {
        let mut dice = Dice::new(seed);
        let disk = SimulatedDisk::new(dice.next());
        let looks = !matches!(
            variant,
            Variant::PlansAfterSending
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
        let bucket = SimulatedBucket::new(dice.next(), manners, disk.clone());
        let cancels = [0, 3, 15, 40][dice.below(4)];
        Simulation {
            disk,
            bucket,
            manners,
            trouble: Arc::new(Trouble::new(&mut dice)),
            panics: 0,
            clock: Arc::new(ManualClock::at(NOW_MS)),
            random: Arc::new(SeededRandom::new(dice.next())),
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
            let ended = match self.open()? {
                Some(process) => self.work(process).await?,
                None => Ended::Died,
            };
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
        let mut process = self.open()?.ok_or("a journal cannot be opened on a disk that works")?;
        self.commit(&mut process)?;
        self.flush(&mut process);
        if self.end(process).await? != Ended::InOrder {
            return Err("a process died of nothing".to_owned());
        }
        self.disk.crash();
        self.check(true)?;
        let (_, decided) =
            startup::read(&self.disk, self.new_stream()).map_err(|error| error.to_string())?;
        if let Some(object) = decided.objects.first() {
            return Err(format!("{} is still to be sent", object.plan.key()));
        }
        let acknowledged = self.streams.iter().map(Stream::acknowledged).sum();
        Ok(Figures { acknowledged, left: self.left, aborted: self.aborted })
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
            self.disk.fail(from..from + calls, Fault::any(&mut self.dice));
        }
        if self.dice.chance(1, 5) {
            let from = now + ahead(&mut self.dice);
            let calls = [1, 4, 30][self.dice.below(3)];
            self.disk.lack_space(from..from + calls);
        }
    }

    fn config(&mut self) -> Config {
        let dice = &mut self.dice;
        let settings = Settings {
            // Setting up zstd takes most of the time.
            compression: if dice.chance(1, 6) { Compression::Zstd } else { Compression::None },
            max_object_bytes: dice.within(1..600),
            put_timeout_ms: 1_000,
            retry_base_ms: 10,
            retry_cap_ms: self.retry_cap_ms,
            blocked_retry_cap_ms: 5_000,
            // Callers wait for each other's room, and each batch has room.
            max_pending_bytes: [1 << 20, 6_000][dice.below(2)],
            ..Settings::default()
        };
        let journal = JournalSettings {
            segment_bytes: dice.within(3..8) as u64 * 4096,
            // What is full lets go of segments at once.
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
        Config { settings, journal }
    }

    fn new_stream(&self) -> UniqueId {
        UniqueId::generate(&*self.clock, &*self.random)
    }

    /// Opens the journal, again where the disk fails. `None` if the process died.
    fn open(&mut self) -> Result<Option<Process>, String> {
        let disk: Arc<dyn Disk> = if self.variant == Variant::AsItIs {
            Arc::new(self.disk.clone())
        } else {
            Arc::new(BadDisk::new(self.disk.clone(), self.variant))
        };
        for _ in 0..100 {
            let stream = self.new_stream();
            match startup::read(&*disk, stream) {
                Ok((recovered, decided)) => {
                    self.settle()?;
                    return Ok(Some(self.start(disk, stream, &recovered, decided)));
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
        disk: Arc<dyn Disk>,
        stream: UniqueId,
        recovered: &Recovered,
        mut decided: Decided,
    ) -> Process {
        let Config { settings, journal } = self.config();
        if self.variant == Variant::ForgetsPlans {
            decided.objects.clear();
        }
        let aborted_from = std::mem::take(&mut self.aborted_from);
        if self.variant == Variant::TakesAbortedAsUnsent {
            decided.objects.retain(|DecidedObject { plan, .. }| {
                aborted_from.get(&plan.stream).is_none_or(|from| plan.first_sequence < *from)
            });
        }
        let live = Arc::new(LiveSegments::recovered(&recovered.segments, Instant::now()));
        let (durable, committed) = watch::channel(recovered.end);
        let (commands, received) = mpsc::unbounded_channel();
        let bucket = Bucket::from_store(Arc::new(self.bucket.clone()), "");
        // While it is opened it is read by one who hears of a panic.
        let trouble = Arc::clone(&self.trouble);
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(disk, move |_, _| {
            trouble.panics().map(|carried_out| Injected::Panics { carried_out })
        }));
        let random = SeededRandom::new(self.dice.next());
        let random: Arc<dyn Random> = Arc::new(PanickyRandom(random, Arc::clone(&self.trouble)));
        let health = HealthBoard::new(String::new());
        let max_object_bytes = settings.max_object_bytes;
        let bounds = Bounds {
            max_pending_bytes: settings.max_pending_bytes,
            persist_timeout: Duration::from_millis(settings.persist_timeout_ms),
        };
        let board = Arc::clone(&health);
        let destination = BucketDestination::new(Put::new(bucket, board, random, settings));
        let delivery = JournalDelivery::new(Parts {
            disk: Arc::clone(&disk),
            live: Arc::clone(&live),
            executor: Arc::new(SimulatedExecutor(Arc::clone(&self.trouble))),
            destination: Arc::new(destination),
            health: Arc::clone(&health),
            max_object_bytes,
            journal: journal.clone(),
            own_stream: Some(stream),
            durable: committed,
            commands: received,
            decided,
        });
        self.streams.push(Stream::new(stream));
        self.trouble.requests.lock().unwrap().clear();
        let watching = durable.subscribe();
        let (sink, committer, ..) = JournaledWriter::connect(commit::Parts {
            disk: Arc::clone(&disk),
            writer: JournalWriter::new(stream, recovered.end, 1_000),
            live: Arc::clone(&live),
            next_ordinal: recovered.next_ordinal,
            random: Arc::clone(&self.random) as Arc<dyn Random>,
            stream,
            durable,
            delivery: commands.clone(),
            ended: watch::channel(false).1,
            health: Arc::clone(&health),
            bounds,
            journal,
        });
        Process {
            sink: Arc::new(sink),
            callers: Vec::new(),
            committer,
            durable: watching,
            live,
            commands,
            delivery: tokio::spawn(delivery.run()),
            prepared: VecDeque::new(),
            next_ordinal: recovered.next_ordinal,
            flushes: Vec::new(),
            health,
            disk,
            is_stopped: false,
        }
    }

    /// What a recovery has decided stays so.
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
            let is_found = |group: &Group| group.batches.iter().flatten().eq(behind);
            match unknown.into_iter().find(is_found) {
                None if !behind.is_empty() => {
                    return Err(format!("records of {id} are found that nobody wrote"));
                }
                found => stream.groups.extend(found),
            }
        }
        Ok(())
    }

    /// One opening: commits and waits until something ends it.
    async fn work(&mut self, mut process: Process) -> Result<Ended, String> {
        for _ in 0..self.dice.within(1..16) {
            match self.dice.below(10) {
                0..5 => self.commit(&mut process)?,
                5 => self.flush(&mut process),
                _ => {
                    let ms = [0, 1 << self.dice.below(14), 70_000][self.dice.below(3)];
                    self.wait(Duration::from_millis(ms)).await;
                }
            }
            if self.variant == Variant::RemovesSegmentsEarly && self.dice.chance(1, 4) {
                let _ = process.live.remove_while(&self.disk, |_| true);
            }
            tokio::task::yield_now().await;
            self.abort_request();
            if self.variant == Variant::TakesAbortedAsUnsent && !self.aborted_from.is_empty() {
                return died(process).await;
            }
            if self.dice.chance(self.cancels, 2_000) {
                return self.work_without_delivery(process).await;
            }
            self.answered(&mut process)?;
            if self.disk.is_stopped() {
                return died(process).await;
            }
        }
        if self.dice.chance(1, 2) { self.end(process).await } else { died(process).await }
    }

    async fn wait(&mut self, time: Duration) {
        // Requests that are begun and end within it can be aborted too.
        let before = Duration::from_millis(1 << self.dice.below(12)).min(time);
        sleep(before).await;
        self.abort_request();
        sleep(time - before).await;
        self.clock.advance(i64::try_from(time.as_millis()).unwrap());
        if self.dice.chance(1, 12) {
            let most = 40 * 60 * 60 * 1000;
            self.clock.advance(
                i64::try_from(self.dice.below(2 * most)).unwrap() - i64::try_from(most).unwrap(),
            );
        }
    }

    /// Aborts the task of a request that is under way, if any is.
    fn abort_request(&mut self) {
        let mut requests = self.trouble.requests.lock().unwrap();
        requests.retain(|(_, request)| !request.is_finished());
        if requests.is_empty() || !self.dice.chance(self.cancels, 100) {
            return;
        }
        let chosen = self.dice.below(requests.len());
        let (plan, request) = requests.swap_remove(chosen);
        request.abort();
        self.aborted += 1;
        let first = self.aborted_from.entry(plan.stream).or_insert(plan.first_sequence);
        *first = plan.first_sequence.min(*first);
    }

    /// The task of the delivery is aborted, and callers and the thread that commits are still
    /// there.
    async fn work_without_delivery(&mut self, mut process: Process) -> Result<Ended, String> {
        process.delivery.abort();
        for _ in 0..self.dice.within(1..4) {
            tokio::task::yield_now().await;
            self.commit(&mut process)?;
            self.flush(&mut process);
            self.answered(&mut process)?;
        }
        died(process).await
    }

    /// Callers hand in batches, and the thread that commits takes some of them.
    fn commit(&mut self, process: &mut Process) -> Result<(), String> {
        if process.is_stopped {
            return Ok(());
        }
        for batch in self.batches() {
            let lines = batch.records().map(|record| [&record[..], b"\n"].concat()).collect();
            let sink = Arc::clone(&process.sink);
            let persist = Box::pin(async move { sink.persist(batch).await });
            process.callers.push(Caller { persist, lines });
        }
        self.leave(process);
        // They come to the queue, as far as there is room.
        self.hear(process, None)?;
        self.leave(process);
        let most = if self.dice.chance(1, 4) { self.dice.within(1..3) } else { usize::MAX };
        let taken = Taken::of(process.committer.queued.try_iter().take(most));
        self.leave(process);
        if taken.batches.is_empty() {
            return Ok(());
        }
        let ahead = process.prepared.is_empty() && self.dice.chance(1, 4);
        let needs = process.committer.writer.needs_segment(&taken.batches);
        let has_none = process.prepared.is_empty() && process.committer.next.is_none();
        if ahead || has_none && needs {
            let salt = u32::try_from(self.dice.next() >> 32).unwrap();
            let bytes = self.dice.within(3..8) as u64 * 4096;
            let prepared =
                catch(|| process.live.prepare(&*process.disk, process.next_ordinal, bytes, salt));
            // After a panic it is made anew.
            if let Ok(Ok(segment)) = prepared {
                process.next_ordinal += 1;
                process.prepared.push_back(segment);
            }
        }
        if process.committer.next.is_none() {
            process.committer.next = process.prepared.pop_front();
        }
        let lines = |encoded: &EncodedBatch| {
            encoded.batch().records().map(|record| [&record[..], b"\n"].concat()).collect()
        };
        let group = Group { batches: taken.batches.iter().map(lines).collect() };
        let before = *process.durable.borrow();
        let is_bad = self.variant == Variant::CountsDroppedAsUnwritten;
        let committer = &mut process.committer;
        let written = catch(|| {
            if is_bad { write_without_dropped(committer, taken) } else { committer.write(taken) }
        });
        let is_durable = *process.durable.borrow() != before;
        self.leave(process);
        let stream = self.streams.last().unwrap();
        let outcome = Outcome { group: &group, first: stream.acknowledged(), is_durable };
        let is_certain = self.hear(process, Some(&outcome))?;
        let stream = self.streams.last_mut().unwrap();
        if is_durable {
            stream.groups.push(group);
            stream.unknown.clear();
        } else if !is_certain {
            stream.unknown.push(group);
        }
        if written.is_err() {
            process.stop();
        }
        let pending = process.sink.pending_bytes();
        if process.callers.is_empty() && most == usize::MAX && pending > 0 {
            return Err(format!("{pending} bytes wait, and no caller does"));
        }
        Ok(())
    }

    /// Some callers drop the future of their `persist`.
    fn leave(&mut self, process: &mut Process) {
        let (dice, cancels, left) = (&mut self.dice, self.cancels, &mut self.left);
        process.callers.retain(|_| {
            let leaves = dice.chance(cancels, 100);
            *left += u64::from(leaves);
            !leaves
        });
    }

    /// Lets the callers go on, and looks at what they hear: of the group that was just written, if
    /// one was, and else of none. Says whether one heard that it was certainly not written.
    fn hear(
        &mut self,
        process: &mut Process,
        written: Option<&Outcome<'_>>,
    ) -> Result<bool, String> {
        let stream = self.streams.last().unwrap().id;
        let mut is_certain = false;
        let mut waiting = Vec::new();
        for mut caller in process.callers.drain(..) {
            let place = written.and_then(|written| written.place(&caller.lines));
            match ((&mut caller.persist).now_or_never(), place) {
                (None, None) => waiting.push(caller),
                (None, Some(_)) => return Err("a caller heard nothing".to_owned()),
                (Some(Ok(receipt)), Some((first_sequence, true))) => {
                    let count = u32::try_from(caller.lines.len()).unwrap();
                    let expected = Place { stream, first_sequence, count };
                    if receipt.place != Some(expected) {
                        return Err(format!("{receipt:?} where {expected:?} was written"));
                    }
                }
                (Some(Ok(receipt)), _) => return Err(format!("{receipt:?}, and nothing written")),
                (Some(Err(error)), Some((_, true))) => {
                    return Err(format!("a batch is durable, and its caller heard: {error}"));
                }
                (Some(Err(error)), Some((_, false))) => {
                    is_certain |= error.outcome() == audit_core::Outcome::NotPersisted;
                }
                (Some(Err(error)), None) => {
                    if error.outcome() != audit_core::Outcome::NotPersisted {
                        return Err(format!("a batch that nobody took: {error}"));
                    }
                }
            }
        }
        process.callers = waiting;
        Ok(is_certain)
    }

    fn batches(&mut self) -> Vec<Batch> {
        let clock = Arc::clone(&self.clock);
        (0..self.dice.within(1..4))
            .map(|_| {
                let mut lines = Vec::new();
                for _ in 0..self.dice.within(1..4) {
                    let padding = if self.dice.chance(1, 30) { 1500 } else { self.dice.below(80) };
                    lines.extend_from_slice(
                        format!("{{\"id\":{},\"@\":\"", self.records).as_bytes(),
                    );
                    lines.resize(lines.len() + padding, b'-');
                    lines.extend_from_slice(b"\"}\n");
                    self.records += 1;
                }
                Batch::from_lines(clock.now_ms(), lines.into()).unwrap()
            })
            .collect()
    }

    fn flush(&self, process: &mut Process) {
        let (reply, answer) = oneshot::channel();
        let _ = process.commands.send(Command::Flush(*process.durable.borrow(), reply));
        let records = self.acknowledged();
        process.flushes.push(Flush { answer, records });
    }

    fn acknowledged(&self) -> BTreeMap<String, u64> {
        self.streams.iter().map(|stream| (stream.id.to_string(), stream.acknowledged())).collect()
    }

    /// Whether the flushes that were answered were answered rightly.
    fn answered(&mut self, process: &mut Process) -> Result<(), String> {
        let mut waiting = Vec::new();
        for mut flush in process.flushes.drain(..) {
            match flush.answer.try_recv() {
                Ok(()) => self
                    .there(&flush.records)
                    .map_err(|what| format!("a flush was answered, and {what}"))?,
                Err(oneshot::error::TryRecvError::Empty) => waiting.push(flush),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        process.flushes = waiting;
        Ok(())
    }

    /// Ends a process in order.
    async fn end(&mut self, mut process: Process) -> Result<Ended, String> {
        let _ = process.commands.send(Command::Hurry);
        process.stop();
        let Process { delivery, flushes, health, .. } = &mut process;
        for _ in 0..1_000 {
            let ended = timeout(Duration::from_secs(10), &mut *delivery).await;
            self.clock.advance(10_000);
            match ended {
                Ok(Ok(())) => {
                    let records = self.acknowledged();
                    self.there(&records)
                        .map_err(|what| format!("a journal was closed, and {what}"))?;
                    self.panics += health.health(0).panics;
                    if flushes.iter_mut().any(|flush| flush.answer.try_recv().is_err()) {
                        return Err("a journal was closed, and a flush was not answered".to_owned());
                    }
                    return Ok(Ended::InOrder);
                }
                Ok(Err(error)) => return Err(format!("the delivery ended: {error}")),
                Err(_) if self.disk.is_stopped() => return died(process).await,
                Err(_) => {}
            }
        }
        Err("the delivery does not come to its end".to_owned())
    }

    fn reading(&mut self) -> Result<Reading, String> {
        let objects = self.bucket.objects();
        let mut reading = checker::read_bucket(&mut self.known, &objects, self.manners.attributes)?;
        checker::add_set_aside(&mut reading, &self.disk.files())?;
        reading.values_mut().for_each(|objects| objects.sort_by_key(|object| object.first));
        Ok(reading)
    }

    /// Whether these records of each stream are in the bucket or set aside.
    fn there(&mut self, records: &BTreeMap<String, u64>) -> Result<(), String> {
        are_in(&self.reading()?, records)
    }

    /// Whether what is in the bucket is what was acknowledged, and all of it if it is `whole`.
    fn check(&mut self, whole: bool) -> Result<(), String> {
        if let Some(broken) = self.bucket.broken() {
            return Err(broken);
        }
        let reading = self.reading()?;
        for (id, objects) in &reading {
            let stream = self.streams.iter().find(|stream| stream.id.to_string() == *id);
            let stream = stream.ok_or_else(|| format!("stream {id} was never written"))?;
            let batches: Vec<_> = stream.groups.iter().flat_map(|group| &group.batches).collect();
            let lines: Vec<_> = batches.iter().copied().flatten().collect();
            let mut next = 0;
            for object in objects {
                if object.first < next {
                    return Err(format!("record {} of {id} is there twice", object.first));
                }
                next = object.first + object.lines.len() as u64;
                let ends = batches.iter().scan(0, |at, batch| {
                    *at += batch.len() as u64;
                    Some(*at)
                });
                let bounds = |at| at == 0 || ends.clone().any(|end| end == at);
                if !bounds(object.first) || !bounds(next) {
                    return Err(format!(
                        "the object of {id} from {} divides a batch",
                        object.first
                    ));
                }
                let range = usize::try_from(object.first).unwrap()..usize::try_from(next).unwrap();
                let expected = lines
                    .get(range)
                    .ok_or_else(|| format!("{id} has more records than written"))?;
                if expected.iter().zip(&object.lines).any(|(expected, found)| *expected != found) {
                    return Err(format!(
                        "the object of {id} from {} is not what was written",
                        object.first
                    ));
                }
            }
        }
        for (id, next) in checker::delivered(&self.disk.files())? {
            are_in(&reading, &BTreeMap::from([(id, next)]))
                .map_err(|what| format!("all is said to be there, and {what}"))?;
        }
        if whole {
            are_in(&reading, &self.acknowledged())?;
            let set_aside = reading.values().flatten().filter(|object| object.set_aside).count();
            let conflicts = self.bucket.conflicts().len();
            if set_aside != conflicts {
                return Err(format!(
                    "{conflicts} conflicts, and {set_aside} objects are set aside"
                ));
            }
        }
        Ok(())
    }
}

impl Process {
    /// Nothing more will be committed.
    fn stop(&mut self) {
        self.is_stopped = true;
        let nothing = watch::channel(Position { ordinal: 0, offset: 0 }).0;
        let stream = self.committer.publisher.stream();
        self.committer.publisher = Publisher::new(Arc::clone(&self.live), stream, nothing);
    }
}

/// What became of a group.
struct Outcome<'a> {
    group: &'a Group,
    /// The number of its first record, if it was written.
    first: u64,
    is_durable: bool,
}

impl Outcome<'_> {
    /// The number of the first of these records, if they were in the group, and whether they are
    /// durable.
    fn place(&self, lines: &[Vec<u8>]) -> Option<(u64, bool)> {
        let n = self.group.batches.iter().position(|batch| batch == lines)?;
        let before: usize = self.group.batches[..n].iter().map(Vec::len).sum();
        Some((self.first + before as u64, self.is_durable))
    }
}

/// As [`Committer::write`], for one who takes a batch whose caller has gone for one that was not
/// written.
fn write_without_dropped(committer: &mut Committer, taken: Taken) {
    let Taken { batches, waiters } = taken;
    let next = &mut committer.next;
    let Ok(committed) = committer.writer.commit(&batches, || next.take()) else { return };
    let stream = committer.publisher.stream();
    let waiters: Vec<_> = waiters.into_iter().filter(|(reply, ..)| !reply.is_closed()).collect();
    committer.publisher.publish(&committed, waiters.iter().map(|(_, count, _)| *count).sum());
    let mut first_sequence = committed.first_sequence;
    for (reply, count, _room) in waiters {
        let place = Some(Place { stream, first_sequence, count });
        first_sequence += u64::from(count);
        let _ = reply.send(Ok(Receipt { durability: Durability::Journaled, place }));
    }
}

/// Whether these records of each stream are among the objects.
fn are_in(reading: &Reading, records: &BTreeMap<String, u64>) -> Result<(), String> {
    for (stream, records) in records {
        let mut next = 0;
        for object in
            reading.get(stream).into_iter().flatten().take_while(|object| object.first <= *records)
        {
            if object.first != next {
                return Err(format!("record {next} of {stream} is missing"));
            }
            next += object.lines.len() as u64;
        }
        if next < *records {
            return Err(format!("record {next} of {stream} is missing"));
        }
    }
    Ok(())
}

async fn died(process: Process) -> Result<Ended, String> {
    process.delivery.abort();
    match process.delivery.await {
        Err(error) if error.is_panic() => Err(format!("the delivery panicked: {error}")),
        Ok(()) | Err(_) => Ok(Ended::Died),
    }
}

/// A disk on which plans are treated as they must not be.
#[derive(Debug)]
struct BadDisk {
    inner: SimulatedDisk,
    variant: Variant,
    /// Files that are written later than they should be, by the name that they are to have.
    held: Mutex<BTreeMap<String, Arc<HeldFile>>>,
    /// Whether the last name that was given is a plan's.
    named_plan: Mutex<bool>,
}

impl BadDisk {
    fn new(inner: SimulatedDisk, variant: Variant) -> BadDisk {
        BadDisk { inner, variant, held: Mutex::default(), named_plan: Mutex::default() }
    }

    /// Writes what is late.
    fn release(&self) -> io::Result<()> {
        let held: Vec<_> =
            self.held.lock().unwrap().iter().map(|(n, f)| (n.clone(), Arc::clone(f))).collect();
        for (name, file) in held {
            if !*file.named.lock().unwrap() {
                continue;
            }
            self.held.lock().unwrap().remove(&name);
            write_durably(&self.inner, &name, [&file.bytes.lock().unwrap()[..]])?;
        }
        Ok(())
    }
}

/// A file in memory.
#[derive(Debug, Default)]
struct HeldFile {
    bytes: Mutex<Vec<u8>>,
    named: Mutex<bool>,
}

impl DiskFile for HeldFile {
    fn write_all_at(&self, bytes: &[u8], _: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        unreachable!("it is only written")
    }

    fn len(&self) -> io::Result<u64> {
        unreachable!("it is only written")
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for BadDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.release()?;
        let planned = name.strip_suffix(".object.preparing");
        match (self.variant, planned) {
            (Variant::PlansAfterSending, Some(planned)) => {
                let file = Arc::new(HeldFile::default());
                self.held.lock().unwrap().insert(format!("{planned}.object"), Arc::clone(&file));
                return Ok(file);
            }
            (Variant::PlansWithoutFileSync, Some(_)) => {
                return Ok(Arc::new(UnsyncedFile(self.inner.create(name)?)));
            }
            _ => {}
        }
        if self.variant == Variant::RemovesPlansEarly
            && let Some(stream) = name.strip_suffix(".delivered.preparing")
        {
            let names = self.inner.list()?;
            let is_plan = |name: &&String| name.starts_with(stream) && name.ends_with(".object");
            if let Some(first) = names.iter().filter(is_plan).min() {
                self.inner.remove(first)?;
                self.inner.sync_directory()?;
            }
        }
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.release()?;
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        *self.named_plan.lock().unwrap() = to.ends_with(".object");
        if let Some(file) = self.held.lock().unwrap().get(to) {
            *file.named.lock().unwrap() = true;
            return Ok(());
        }
        self.release()?;
        if self.variant == Variant::DropsConflicts && to.ends_with(".conflict") {
            return Ok(());
        }
        self.inner.rename(from, to)?;
        if self.variant == Variant::NotesDeliveryWhenPlanned
            && to.ends_with(".object")
            && let Ok((plan, _)) = plan::read_object(&self.inner, to, &pieces())?
        {
            plan::write_delivered(&self.inner, plan.stream, plan.next_sequence())?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // What removes a plan comes first: it is not held any more then.
        if !name.ends_with(".object.preparing") {
            self.release()?;
        }
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.variant == Variant::PlansWithoutDirectorySync && *self.named_plan.lock().unwrap() {
            return Ok(());
        }
        self.inner.sync_directory()
    }
}

/// Runs one seed; a panic is a failure too.
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

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn acknowledged_records_are_in_the_bucket_once_and_in_order() {
    let first = number("AUDIT_SIMULATION_FIRST_SEED", 0);
    let seeds = number("AUDIT_SIMULATION_SEEDS", 20_000);
    let Figures { mut acknowledged, mut left, mut aborted } = Figures::default();
    for seed in first..first + seeds {
        match run(seed, Variant::AsItIs) {
            Ok(figures) => {
                acknowledged += figures.acknowledged;
                left += figures.left;
                aborted += figures.aborted;
            }
            Err(what) => panic!(
                "seed {seed}: {what}\nto replay: AUDIT_SIMULATION_FIRST_SEED={seed} AUDIT_SIMULATION_SEEDS=1 \
                 cargo test -p audit-sink-s3 --lib journal::delivery_simulation::acknowledged_records"
            ),
        }
    }
    println!(
        "{seeds} seeds, {acknowledged} records acknowledged, {left} callers left, {aborted} requests aborted"
    );
    let much = acknowledged > seeds && (seeds < 100 || (left > seeds && aborted > seeds / 10));
    assert!(much, "a simulation in which little happens shows little");
}

#[test]
fn every_delivery_that_must_not_be_is_caught() {
    for variant in [
        Variant::PlansAfterSending,
        Variant::PlansWithoutFileSync,
        Variant::PlansWithoutDirectorySync,
        Variant::NotesDeliveryWhenPlanned,
        Variant::BelievesSilence,
        Variant::RemovesPlansEarly,
        Variant::ForgetsPlans,
        Variant::RemovesSegmentsEarly,
        Variant::DropsConflicts,
        Variant::BelievesExists,
        Variant::DropsPanicked,
        Variant::CountsDroppedAsUnwritten,
        Variant::TakesAbortedAsUnsent,
    ] {
        let caught = (0..2_000).find_map(|seed| Some((seed, run(seed, variant).err()?)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{variant:?} is not caught"));
        println!("{variant:?}: seed {seed}: {what}");
    }
}

/// A simulation in which nothing fails but what a test lets fail.
fn quiet(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed, Variant::AsItIs);
    simulation.manners =
        Manners { faults: 0, panics: 0, foreign: 0, overwrites: false, ..simulation.manners };
    simulation.trouble = Arc::new(Trouble::none());
    simulation.cancels = 0;
    simulation.bucket = SimulatedBucket::new(seed, simulation.manners, simulation.disk.clone());
    simulation
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Simulation {
    fn files(&self, suffix: &str) -> usize {
        self.disk.files().keys().filter(|name| name.ends_with(suffix)).count()
    }

    /// Commits a group each minute.
    async fn commit_for(&mut self, process: &mut Process, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.commit(process).unwrap();
            sleep(MINUTE).await;
            self.clock.advance(60_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_without_the_bucket_costs_disk_and_nothing_else() {
    for seed in 0..3 {
        let mut simulation = quiet(seed);
        simulation.retry_cap_ms = 60_000;
        let mut process = simulation.open().unwrap().unwrap();
        simulation.commit_for(&mut process, 5 * MINUTE).await;
        simulation.bucket.refuse(Refuses::OutOfReach, DAY);
        let mut most = 0;
        for _ in 0..24 * 4 {
            simulation.commit_for(&mut process, 15 * MINUTE).await;
            most = most.max(simulation.files(".object"));
        }
        // Each object that is in memory has its file, and is sent at most twice at once.
        assert!((1..=4).contains(&most), "{most} objects are in memory");
        assert!(
            simulation.bucket.most_under_way() <= 2 * most,
            "{}",
            simulation.bucket.most_under_way()
        );
        assert!(simulation.files(".journal") > 20, "{} segments", simulation.files(".journal"));
        assert!(simulation.records > 2_000);
        // It ended while nobody looked.
        simulation.flush(&mut process);
        sleep(10 * MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "drained");
        assert_eq!(simulation.files(".object"), 0);
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
        simulation.check(true).unwrap();
        assert!(
            simulation.files(".journal") <= 12,
            "{} segments are left",
            simulation.files(".journal")
        );
    }
}

/// The journal may have more than there is, so that only the disk itself says that it is full.
#[tokio::test(start_paused = true)]
async fn a_disk_without_room_gets_it_back_from_what_is_delivered() {
    for seed in 0..3 {
        let mut simulation = quiet(seed);
        simulation.retention = Some(DAY);
        let mut process = simulation.open().unwrap().unwrap();
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        let kept = simulation.files(".journal");
        assert!(kept > 5, "{kept} segments are kept for their age");

        // Enough to note something, and neither for a segment nor for the plan of an object.
        let used: usize = simulation.disk.files().values().map(Vec::len).sum();
        simulation.disk.set_room(used as u64 + 200);
        simulation.bucket.refuse(Refuses::OutOfReach, 5 * MINUTE);
        let before = simulation.acknowledged();
        simulation.commit_for(&mut process, 20 * MINUTE).await;
        assert!(simulation.files(".journal") < kept, "{kept} segments are still there");
        assert_ne!(simulation.acknowledged(), before, "commits go on");
        simulation.flush(&mut process);
        sleep(10 * MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "delivered without a restart, and without more room");
        assert_eq!(process.health.health(0).state, HealthState::Ok);
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
        simulation.check(true).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_expire_and_come_back() {
    let mut simulation = quiet(7);
    let mut process = simulation.open().unwrap().unwrap();
    simulation.commit_for(&mut process, 2 * MINUTE).await;
    for how in [Refuses::ExpiredCredentials, Refuses::Permission, Refuses::NoBucket] {
        simulation.bucket.refuse(how, 60 * MINUTE);
        simulation.commit_for(&mut process, 50 * MINUTE).await;
        let HealthState::Blocked { reason } = process.health.health(0).state else {
            panic!("{:?}", process.health.health(0));
        };
        let advice = match how {
            Refuses::ExpiredCredentials => "renew or correct the credentials",
            Refuses::Permission => "allow the credentials to put",
            Refuses::NoBucket => "create the bucket",
            Refuses::OutOfReach => unreachable!(),
        };
        assert!(reason.contains(advice), "{reason}");
        simulation.flush(&mut process);
        sleep(20 * MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "drained without a restart");
        assert_eq!(process.health.health(0).state, HealthState::Ok);
    }
    assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
    simulation.check(true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_backwards() {
    for seed in 0..4 {
        let mut simulation = quiet(seed);
        let year = 365 * 24 * 60 * 60 * 1000;
        // Streams that are named later, and come to stand before the others.
        for _ in 0..3 {
            let mut process = simulation.open().unwrap().unwrap();
            simulation.commit_for(&mut process, 20 * MINUTE).await;
            simulation.bucket.refuse(Refuses::OutOfReach, 60 * MINUTE);
            simulation.clock.advance(-year);
            simulation.commit_for(&mut process, 20 * MINUTE).await;
            assert_eq!(died(process).await.unwrap(), Ended::Died);
            simulation.disk.crash();
            simulation.clock.advance(-year);
        }
        let mut process = simulation.open().unwrap().unwrap();
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        simulation.clock.advance(-year);
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        sleep(5 * MINUTE).await;
        assert!(
            simulation.files(".journal") <= 12,
            "{} segments are kept",
            simulation.files(".journal")
        );
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
        simulation.check(true).unwrap();
        let streams =
            checker::read_bucket(&mut Known::default(), &simulation.bucket.objects(), false)
                .unwrap();
        assert_eq!(streams.len(), 4);
    }
}
