//! Real processes on a real file system, killed at any moment: every acknowledged record is in the
//! bucket once, and an auditor with the host's public key finds nothing wrong.
//!
//! A child persists from several tasks and reports acknowledged batches. The parent runs the
//! bucket, over HTTP with faults, and kills the child with SIGKILL, in rounds on one journal; the
//! last round closes orderly. Then a checker that shares no code with the sink reads the bucket.
//!
//! Longer runs: `REAL_CRASHES_ROUNDS=500 cargo test -p audit-sink-s3 --test it
//! killed_at_any_moment`, with `REAL_CRASHES_SEED` for other choices. Kills and errors at chosen
//! system calls need strace: `tests/system-calls`.
//!
//! A killed process loses nothing that it passed to the kernel. The simulation covers power
//! failures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::child::{self, ChildProcess};
use crate::support::evidence::{Acknowledged, verify};
use crate::support::{self, Checker, TIME_MS, read_server};
use audit_core::testing::{SeededRandom, StoredRecord};
use audit_core::{AuditSink, Batch, Outcome, Random, UniqueId};
use audit_evidence::SignerKey;
use audit_sink_s3::{Compression, EvidenceSettings, JournalSettings, S3Sink, Settings};
use bytes::Bytes;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

/// The number of concurrent tasks in a child.
const TASKS: u32 = 4;

/// The parameters of a round's child. They determine its records, so that the checker can recreate
/// them.
#[derive(Debug, Clone, Copy)]
struct Round {
    number: u32,
    /// Few batches of megabytes, which fill segments, instead of many small ones.
    large: bool,
    /// Zstd, gzip, none.
    compression: u32,
    max_object_bytes: usize,
}

impl Round {
    /// The number of batches that each task persists.
    fn batches(self) -> u32 {
        if self.large { 12 } else { 100 }
    }

    /// One task's `n`th batch.
    fn batch(self, task: u32, n: u32) -> Batch {
        let random =
            SeededRandom::new(u64::from(self.number) << 32 | u64::from(task) << 16 | u64::from(n));
        let count = 1 + random.next_u64() % 4;
        let most = if self.large { 600_000 } else { 2_000 };
        let lines: String = (0..count)
            .map(|i| {
                let padding = usize::try_from(random.next_u64() % most).unwrap();
                let number = self.number;
                let pad = "x".repeat(padding);
                format!("{{\"r\":{number},\"t\":{task},\"n\":{n},\"i\":{i},\"x\":\"{pad}\"}}\n")
            })
            .collect();
        Batch::from_lines(TIME_MS + i64::from(self.number) * 1_000_000, lines.into()).unwrap()
    }
}

/// The child process. Does nothing when run as a test.
#[test]
fn child() {
    child::run(persist_until_told());
}

async fn persist_until_told() {
    let round = Round {
        number: child::required("ROUND"),
        large: child::required("LARGE"),
        compression: child::required("COMPRESSION"),
        max_object_bytes: child::required("MAX_OBJECT_BYTES"),
    };
    let journal = support::journal(child::required::<String>("DIRECTORY"), 5);
    let journal = JournalSettings { retention_ms: 0, ..journal };
    let settings = Settings {
        compression: [Compression::Zstd, Compression::Gzip, Compression::None]
            [round.compression as usize],
        max_object_bytes: round.max_object_bytes,
        // The server leaves some requests without a response.
        put_timeout_ms: 500,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        evidence: Some(EvidenceSettings {
            key_file: Some(journal.directory.with_file_name("host.key")),
            ..EvidenceSettings::new("crashes")
        }),
        journal: Some(journal),
        ..Settings::default()
    };
    let mut told = child::listen();
    child::say("opening");
    let opened = S3Sink::builder(child::bucket("logs")).with_settings(settings).open().await;
    let sink = match opened {
        Ok(sink) => Arc::new(sink),
        Err(error) => {
            child::say(&format!(
                "refused {:?} {error}: {:?}",
                error.kind(),
                std::error::Error::source(&error)
            ));
            return;
        }
    };
    child::say(&format!("open {}", sink.stream()));
    let closing = Arc::new(AtomicBool::new(false));
    let tasks = (0..TASKS).map(|task| {
        let (sink, closing) = (Arc::clone(&sink), Arc::clone(&closing));
        tokio::spawn(async move {
            for n in 0..round.batches() {
                if closing.load(Ordering::Relaxed) {
                    break;
                }
                match sink.persist(round.batch(task, n)).await {
                    Ok(receipt) => {
                        let place = receipt.place.unwrap();
                        child::say(&format!(
                            "ack {task} {n} {} {}",
                            place.stream, place.first_sequence
                        ));
                    }
                    Err(error) => {
                        child::say(&format!("failed {task} {n} {:?} {error}", error.outcome()));
                        break;
                    }
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
        // The parent evaluates errors: the journal may have stopped.
        if sink.flush().await.is_ok() {
            child::say("flushed");
        }
    };
    let asked = async {
        assert_eq!(told.recv().await.as_deref(), Some("close"));
        closing.store(true, Ordering::Relaxed);
    };
    tokio::join!(all, asked);
    sink.close().await.unwrap();
    child::say("closed");
}

#[derive(Debug, Default)]
struct Account {
    rounds: Vec<Round>,
    /// The stream of each round that opened one.
    streams: BTreeMap<u32, UniqueId>,
    /// The places of the batches of each round's tasks, in order.
    acknowledged: BTreeMap<(u32, u32), Vec<u64>>,
    /// Whether the children's disk is made to fail.
    disk_fails: bool,
    /// The outcome of the following batch, if it failed.
    failed: BTreeMap<(u32, u32), Outcome>,
}

impl Account {
    fn note(&mut self, round: u32, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["open", stream] => {
                self.streams.insert(round, stream.parse().unwrap());
            }
            ["ack", task, n, stream, first] => {
                let so_far = self.acknowledged.entry((round, task.parse().unwrap())).or_default();
                assert_eq!(so_far.len().to_string(), n, "the child's order");
                assert_eq!(
                    self.streams[&round],
                    stream.parse().unwrap(),
                    "one stream for each opening"
                );
                so_far.push(first.parse().unwrap());
            }
            ["failed", task, _n, outcome, ..] => {
                let outcome = match outcome {
                    "Indeterminate" => Outcome::Indeterminate,
                    "NotPersisted" => Outcome::NotPersisted,
                    _ => panic!("{line}"),
                };
                self.failed.insert((round, task.parse().unwrap()), outcome);
            }
            // An opening is refused only if the disk was made to fail, and never as damaged.
            ["refused", "Blocked", ..] if self.disk_fails => {}
            ["opening" | "flushed" | "closed"] => {}
            _ => panic!("the child said {line:?}"),
        }
    }

    fn batches(&self) -> usize {
        self.acknowledged.values().map(Vec::len).sum()
    }

    /// Checks that every acknowledged batch is stored once at its place, and nothing else except at
    /// most one batch in flight per task when its process ended, whole or not at all.
    fn check(&self, stored: &[StoredRecord]) -> Result<(), String> {
        let mut streams: BTreeMap<UniqueId, BTreeMap<u64, &Bytes>> = BTreeMap::new();
        for record in stored {
            if streams
                .entry(record.stream)
                .or_default()
                .insert(record.sequence, &record.line)
                .is_some()
            {
                return Err(format!(
                    "record {} of {} stands there twice",
                    record.sequence, record.stream
                ));
            }
        }
        let mut found: BTreeMap<(u32, u32), BTreeMap<u32, (UniqueId, u64)>> = BTreeMap::new();
        for (stream, records) in &streams {
            let mut lines = records.iter();
            while let Some((first, line)) = lines.next() {
                let id: serde_json::Value =
                    serde_json::from_slice(line).map_err(|error| error.to_string())?;
                let [number, task, n] =
                    ["r", "t", "n"].map(|name| u32::try_from(id[name].as_u64().unwrap()).unwrap());
                let round = self
                    .rounds
                    .iter()
                    .find(|round| round.number == number)
                    .ok_or("an unknown round")?;
                let batch = round.batch(task, n);
                // The rest of the batch must follow directly.
                let rest = u64::from(batch.count()) - 1;
                let there = std::iter::once(*line).chain(
                    lines.by_ref().take(usize::try_from(rest).unwrap()).map(|(_, line)| *line),
                );
                if !there.eq(&batch.records().collect::<Vec<_>>()) {
                    return Err(format!(
                        "round {number} task {task} batch {n}: not as it was handed in, at {first} of {stream}"
                    ));
                }
                if self.streams.get(&number).is_some_and(|expected| expected != stream) {
                    return Err(format!("round {number} is in stream {stream}"));
                }
                if found.entry((number, task)).or_default().insert(n, (*stream, *first)).is_some() {
                    return Err(format!("round {number} task {task} batch {n} stands there twice"));
                }
            }
        }
        for (of, firsts) in &self.acknowledged {
            let there = found.entry(*of).or_default();
            for (n, first) in (0u32..).zip(firsts) {
                match there.get(&n) {
                    Some((_, at)) if at == first => {}
                    Some((_, at)) => {
                        return Err(format!(
                            "{of:?} batch {n} stands at {at}, acknowledged at {first}"
                        ));
                    }
                    None => {
                        return Err(format!("{of:?} batch {n} was acknowledged and is missing"));
                    }
                }
            }
        }
        for (of, there) in &found {
            let acknowledged = self.acknowledged.get(of).map_or(0, Vec::len);
            let uncertain = usize::from(self.failed.get(of) != Some(&Outcome::NotPersisted));
            if there.len() > acknowledged + uncertain {
                return Err(format!(
                    "{of:?}: {} batches there, {acknowledged} acknowledged",
                    there.len()
                ));
            }
            if !there.keys().copied().eq(0..u32::try_from(there.len()).unwrap()) {
                return Err(format!("{of:?}: batches {:?}", there.keys().collect::<Vec<_>>()));
            }
            if !there.values().is_sorted_by_key(|(_, first)| *first) {
                return Err(format!("{of:?}: not in the order in which it was handed in"));
            }
        }
        Ok(())
    }
}

/// A bucket and a journal that outlive the processes.
struct Crashes {
    server: S3TestServer,
    directory: tempfile::TempDir,
    account: Account,
    checker: Checker,
    random: Arc<SeededRandom>,
}

impl Crashes {
    async fn new(seed: u64) -> Crashes {
        let server = S3TestServer::start().await;
        let random = Arc::new(SeededRandom::new(seed));
        let drawn = Arc::clone(&random);
        server.faults().plan(move |request| {
            let bits = drawn.next_u64();
            // A response that needs an operator would prevent opening.
            if request.key.ends_with("_audit/probe") || !bits.is_multiple_of(4) {
                return Fault::None;
            }
            let faults = faults();
            faults[usize::try_from(bits >> 32).unwrap() % faults.len()]
        });
        // On the disk of the build, since a temporary directory may be in memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Crashes {
            server,
            directory,
            account: Account::default(),
            checker: Checker::default(),
            random,
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn journal(&self) -> std::path::PathBuf {
        self.directory.path().join("journal")
    }

    fn start(&mut self, wrapper: &[String], large: bool) -> (u32, ChildProcess) {
        let number = u32::try_from(self.account.rounds.len()).unwrap();
        let compression = u32::try_from(self.draw(3)).unwrap();
        let max_object_bytes = 1 << (13 + self.draw(8));
        self.account.rounds.push(Round { number, large, compression, max_object_bytes });
        let parameters = [
            ("ROUND", number.to_string()),
            ("LARGE", large.to_string()),
            ("COMPRESSION", compression.to_string()),
            ("MAX_OBJECT_BYTES", max_object_bytes.to_string()),
            ("DIRECTORY", self.journal().to_str().unwrap().to_owned()),
        ];
        (number, ChildProcess::start(module_path!(), &self.server, wrapper, &parameters))
    }

    /// Records all output of a child until it has ended.
    async fn drain(&mut self, number: u32, child: &mut ChildProcess) {
        while let Some(line) = child.line().await {
            self.account.note(number, &line);
        }
    }

    /// Kills a child after this many lines of output, or this many requests to the bucket.
    async fn round_of(&mut self, large: bool, lines: u64, requests: u64) {
        let before = self.server.requests().len();
        let (number, mut child) = self.start(&[], large);
        let wanted = before + usize::try_from(requests).unwrap();
        let mut said = 0;
        while said < lines {
            tokio::select! {
                line = child.line() => {
                    let line = line.expect("a child runs until it is killed");
                    self.account.note(number, &line);
                    said += 1;
                    if line == "flushed" {
                        break;
                    }
                }
                () = self.server.wait_requests(wanted) => break,
            }
        }
        child.kill();
        self.drain(number, &mut child).await;
        assert!(!child.wait().success());
    }

    /// Runs a child under strace with `injection`, until it is killed or finished.
    async fn round_with(&mut self, call: &str, injection: &str) -> bool {
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned);
        let what = [
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:{injection}"),
        ];
        let (number, mut child) = self.start(&[&strace[..], &what].concat(), false);
        let mut done = false;
        while !done && let Some(line) = child.line().await {
            self.account.note(number, &line);
            done = line == "flushed";
        }
        child.kill();
        self.drain(number, &mut child).await;
        assert!(!child.wait().success() || self.account.disk_fails);
        done
    }

    /// Lets a child deliver everything and close, then checks the bucket and the rest of the
    /// journal.
    async fn close_and_check(&mut self) {
        self.server.faults().none();
        let (number, mut child) = self.start(&[], false);
        for _ in 0..20 {
            let line = child.line().await.unwrap();
            self.account.note(number, &line);
        }
        child.tell("close");
        self.drain(number, &mut child).await;
        assert!(child.wait().success());
        self.check().unwrap();
        let left =
            |extension: &str| names(&self.journal()).iter().any(|name| name.ends_with(extension));
        let is_left = [".object", ".conflict", ".secret"].into_iter().any(left);
        assert!(!is_left, "{:?}", names(&self.journal()));
    }

    /// Checks that no record is missing, system records included.
    fn check(&self) -> Result<(), String> {
        let objects = read_server(&self.server);
        self.account.check(&self.checker.check("logs/", &objects)?)?;
        let key = std::fs::read_to_string(self.directory.path().join("host.key")).unwrap();
        let host = SignerKey::parse(key.trim_end()).unwrap();
        let report = verify("logs/", &objects, host.verifier(), &Acknowledged::new(), u64::MAX);
        match report.findings.first() {
            Some(finding) => Err(format!("{finding:?}")),
            None => Ok(()),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn faults() -> [Fault; 12] {
    [
        Fault::CutInBody,
        Fault::StoredThenCut,
        Fault::StoredThenCut,
        Fault::CutInResponse { after_bytes: 0 },
        Fault::CutInResponse { after_bytes: 20 },
        Fault::Hung,
        Fault::StoredThenHung,
        Fault::Slow { delay: Duration::from_millis(5) },
        Fault::Refused(ErrorAnswer::SLOW_DOWN),
        Fault::StoredThenError(ErrorAnswer::INTERNAL_ERROR),
        Fault::Refused(ErrorAnswer::EXPIRED_TOKEN),
        Fault::StoredThenError(ErrorAnswer::CONDITIONAL_REQUEST_CONFLICT),
    ]
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment() {
    let seed = number("REAL_CRASHES_SEED", 1);
    let rounds = number("REAL_CRASHES_ROUNDS", 15);
    println!("REAL_CRASHES_SEED={seed} REAL_CRASHES_ROUNDS={rounds}");
    let mut crashes = Crashes::new(seed).await;
    for _ in 0..rounds {
        let large = crashes.draw(8) == 0;
        // Some kills at the start, some during opening, most under load, some during delivery.
        let (lines, requests) = match crashes.draw(6) {
            0 => (crashes.draw(4), 1_000),
            1 | 2 => (10_000, 3 + crashes.draw(40)),
            _ => (2 + crashes.draw(if large { 40 } else { 400 }), 1_000),
        };
        crashes.round_of(large, lines, requests).await;
    }
    crashes.close_and_check().await;
    println!(
        "{} rounds, {} batches acknowledged, {} objects, {} faults",
        rounds,
        crashes.account.batches(),
        crashes.server.objects().len(),
        crashes.server.faults().fired().len()
    );
}

/// The ordinal of the call to hit. Each thread counts its own, and preparing two segments takes 68
/// writes: only the committing thread reaches the higher numbers.
fn which_calls() -> impl Iterator<Item = u64> {
    (1..=number("REAL_CRASHES_CALLS", 20)).chain([69, 75, 90, 120])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace: run tests/system-calls"]
async fn killed_at_each_system_call() {
    for call in ["pwrite64", "fdatasync", "fsync", "rename", "unlink", "pread64"] {
        let mut crashes = Crashes::new(1).await;
        let mut killed = 0;
        for n in which_calls() {
            let done = crashes.round_with(call, &format!("signal=KILL:when={n}")).await;
            killed += u32::from(!done);
        }
        crashes.close_and_check().await;
        println!("{call}: {killed} kills, {} batches acknowledged", crashes.account.batches());
        assert!(killed > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace: run tests/system-calls"]
async fn system_calls_that_fail() {
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fdatasync", "EIO"),
        ("fsync", "EIO"),
        ("rename", "EIO"),
        ("unlink", "EIO"),
        ("pread64", "EIO"),
    ] {
        let mut crashes = Crashes::new(2).await;
        crashes.account.disk_fails = true;
        for n in which_calls() {
            crashes.round_with(call, &format!("error={error}:when={n}")).await;
        }
        crashes.account.disk_fails = false;
        crashes.close_and_check().await;
        let failed: Vec<_> = crashes.account.failed.values().collect();
        println!(
            "{call} {error}: {} batches acknowledged, {} failed of which {} as not persisted",
            crashes.account.batches(),
            failed.len(),
            failed.iter().filter(|outcome| ***outcome == Outcome::NotPersisted).count()
        );
    }
}
