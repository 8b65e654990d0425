//! Each disk call of an open journal fails in each way, or panics. No acknowledged record is lost
//! or duplicated, and either the journal continues by itself, or its health says that the process
//! must be restarted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::testing::SeededRandom;
use audit_core::{Batch, Commits, HealthState, Outcome, Random, SinkErrorKind, UniqueId};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::bucket::{Believes, Manners, SimulatedBucket};
use super::destination::{Endpoint, Known, Own, Sending};
use super::disk::SimulatedDisk;
use super::disk::faulty::{Call, FaultyDisk, Injected};
use super::receiver::{ReceiverDestination, SimulatedReceiver};
use super::vouching::OWN;
use crate::disk::{Disk, LocalDisk};
use crate::health::HealthBoard;
use crate::{Bounds, Follower, Journal, JournalSettings, Opening};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Batches may fail, and later ones succeed without a restart.
    GoesOn,
    /// All batches fail until a restart.
    Stops,
}

/// The disk calls of an open journal, by the suffix of the file's name.
const CALLS: [(Call, &str); 21] = [
    (Call::Write, ".journal"),
    (Call::SyncData, ".journal"),
    (Call::Read, ".journal"),
    (Call::Create, ".preparing"),
    (Call::Write, ".preparing"),
    (Call::SyncAll, ".preparing"),
    (Call::Rename, ".journal"),
    (Call::Create, ".object.preparing"),
    (Call::Write, ".object.preparing"),
    (Call::SyncAll, ".object.preparing"),
    (Call::Rename, ".object"),
    (Call::Remove, ".object"),
    (Call::Write, ".delivered.preparing"),
    (Call::SyncAll, ".delivered.preparing"),
    (Call::Rename, ".delivered"),
    (Call::Write, ".follower.preparing"),
    (Call::Rename, ".follower"),
    (Call::Write, "begin.preparing"),
    (Call::Rename, "begin"),
    (Call::Remove, ".journal"),
    (Call::SyncDirectory, ""),
];

const INJECTED: [Injected; 5] = [
    Injected::Fails(ENOSPC),
    Injected::Fails(EDQUOT),
    Injected::Fails(EIO),
    Injected::Panics { carried_out: false },
    Injected::Panics { carried_out: true },
];

/// The expected consequence. Only commits write to segments and sync their data.
fn behaviour(call: Call, file: &str, injected: Injected) -> Behaviour {
    match (call, file, injected) {
        (Call::Write, ".journal", Injected::Fails(ENOSPC | EDQUOT)) => Behaviour::GoesOn,
        (Call::Write | Call::SyncData, ".journal", _) => Behaviour::Stops,
        _ => Behaviour::GoesOn,
    }
}

/// Opens a journal in this directory, with its health and its log.
async fn open(
    directory: &Path,
    bucket: &SimulatedBucket,
    receiver: &SimulatedReceiver,
    stream: u128,
    disk: Arc<dyn Disk>,
) -> (Journal, Arc<HealthBoard>) {
    let journal = JournalSettings {
        segment_bytes: 16 * 4096,
        // Enough that no follower is paused.
        max_bytes: 100 * 16 * 4096,
        cut_after_ms: 0,
        retention_ms: 0,
        ..JournalSettings::new(directory)
    };
    let random = Arc::new(SeededRandom::new(7));
    let health = HealthBoard::new(String::new());
    let bounds = Bounds { max_pending_bytes: 64 << 20, persist_timeout: Duration::from_secs(20) };
    let max_object_bytes = 8 << 20;
    let sending = Sending {
        packs: false,
        vouches: true,
        is_hasty: false,
        is_rash: false,
        put_timeout_ms: 10_000,
        retry_base_ms: 1,
        retry_cap_ms: 20,
        blocked_retry_cap_ms: 20,
        random: Arc::clone(&random) as Arc<dyn Random>,
        health: Arc::clone(&health),
    };
    let destination = Own::destination(bucket, sending);
    let follower_health = HealthBoard::new("f".to_owned());
    let follower = Follower {
        name: "f".to_owned(),
        destination: Arc::new(ReceiverDestination {
            receiver: receiver.clone(),
            health: Arc::clone(&follower_health),
        }),
        health: follower_health,
        max_object_bytes: 4096,
        cut_after_ms: 0,
        max_in_flight: 4,
        // The follower's file is also written when segments are removed.
        max_kept_bytes: Some(u64::MAX),
    };
    let stream = UniqueId::from_bits(stream);
    let board = Arc::clone(&health);
    let clock = Arc::new(audit_core::SystemClock);
    let opening = Opening {
        journal,
        bounds,
        max_object_bytes,
        stream,
        destination,
        followers: vec![follower],
        health: board,
        clock,
        random,
    };
    (opening.open_on(disk).await.unwrap(), health)
}

/// The number of occurrences of each line in the bucket.
fn lines(bucket: &SimulatedBucket) -> BTreeMap<String, u32> {
    let mut lines = BTreeMap::new();
    let reading = Own::read(&mut Known::default(), &bucket.objects(), true).unwrap();
    for line in reading.values().flatten().flat_map(|object| &object.lines) {
        let line = std::str::from_utf8(line).unwrap().trim_end().to_owned();
        if line.starts_with(OWN) {
            continue;
        }
        *lines.entry(line).or_default() += 1;
    }
    lines
}

/// The number of these lines that a follower lacks. A follower gets no system records.
fn lacking(receiver: &SimulatedReceiver, lines: &[String]) -> u64 {
    let there: BTreeSet<_> = receiver.records().into_values().collect();
    assert!(!there.iter().any(|line| line.starts_with(OWN.as_bytes())));
    let is_there = |line: &&String| there.contains(format!("{line}\n").as_bytes());
    lines.iter().filter(|line| !is_there(line)).count() as u64
}

fn bucket() -> SimulatedBucket {
    let manners = Manners {
        faults: 0,
        foreign: 0,
        panics: 0,
        overwrites: false,
        attributes: true,
        believes: Believes::Nothing,
        // The journal is on another disk.
        wants_plans: false,
    };
    SimulatedBucket::new(7, manners, SimulatedDisk::new(7))
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} in a minute");
}

async fn try_one(call: Call, file: &'static str, injected: Injected) {
    let what = format!("{call:?} of *{file}, which {injected:?}");
    let expected = behaviour(call, file, injected);
    let directory = tempfile::tempdir().unwrap();
    let (bucket, receiver) = (bucket(), SimulatedReceiver::new(7, 0, 0));
    // The number of faults to inject: none before the journal is open.
    let left = Arc::new(AtomicU64::new(0));
    let met = Arc::new(AtomicU64::new(0));
    let (faults, hits) = (Arc::clone(&left), Arc::clone(&met));
    let disk = Arc::new(LocalDisk::open(directory.path()).unwrap());
    let disk = FaultyDisk::new(disk, move |called, name| {
        let is_it = called == call && name.ends_with(file);
        let fewer = |left: u64| left.checked_sub(1);
        if is_it && faults.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok() {
            hits.fetch_add(1, Ordering::AcqRel);
            return Some(injected);
        }
        None
    });
    let (journal, health) = open(directory.path(), &bucket, &receiver, 1, Arc::new(disk)).await;
    let mut acknowledged = Vec::new();
    let mut failed = 0;
    for n in 0..2_000 {
        if n == 3 {
            left.store(2, Ordering::Release);
        }
        let line = format!("{{\"n\":{n}}}");
        let batch = Batch::from_lines(n, format!("{line}\n").into()).unwrap();
        match journal.persist(batch).await {
            Ok(_) => acknowledged.push(line),
            Err(error) => {
                failed += 1;
                let refused = (error.kind(), error.outcome());
                assert!(
                    refused == (SinkErrorKind::Unavailable, Outcome::Indeterminate)
                        || refused == (SinkErrorKind::Closed, Outcome::Indeterminate)
                        || error.outcome() == Outcome::NotPersisted,
                    "{what}: {error:?}"
                );
                if expected == Behaviour::Stops {
                    break;
                }
            }
        }
        let is_over = left.load(Ordering::Acquire) == 0 && n > 50;
        if is_over && met.load(Ordering::Acquire) > 0 {
            break;
        }
    }
    // The journal stops without another commit.
    if expected == Behaviour::Stops {
        until(&format!("{what}: does not stop"), || {
            matches!(health.health(0).commits, Commits::Stopped { .. })
        })
        .await;
        let Commits::Stopped { reason } = health.health(0).commits else { unreachable!() };
        assert!(reason.contains("restart this process"), "{what}: {reason}");
        assert!(health.stop_reason().is_some());
        let error =
            journal.persist(Batch::from_lines(0, "{}\n".into()).unwrap()).await.unwrap_err();
        let refused = (error.kind(), error.outcome());
        assert_eq!(refused, (SinkErrorKind::Closed, Outcome::NotPersisted), "{what}: {error}");
    }
    journal.close().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(met.load(Ordering::Acquire) > 0, "{what}: never met");
    let panics = matches!(injected, Injected::Panics { .. });
    let seen = health.health(0).panics + journal.health().followers[0].panics;
    assert_eq!(seen > 0, panics, "{what}: {:?}", journal.health());
    if expected == Behaviour::GoesOn {
        assert_eq!(health.health(0).state, HealthState::Ok, "{what}");
    }
    drop(journal);
    // The next opening decides what a commit left unknown.
    let disk = Arc::new(LocalDisk::open(directory.path()).unwrap());
    let (journal, _) = open(directory.path(), &bucket, &receiver, 2, disk).await;
    let is_followed = || {
        let follower = &journal.health().followers[0];
        // Without room on the disk, commits take precedence over a follower's segments.
        let is_full = matches!(injected, Injected::Fails(ENOSPC | EDQUOT));
        assert!(is_full || follower.missing_records == 0, "{what}: {follower:?}");
        follower.lag_bytes == 0 && lacking(&receiver, &acknowledged) <= follower.missing_records
    };
    until(&format!("{what}: the follower does not have everything"), is_followed).await;
    assert_eq!(receiver.broken(), None, "{what}");
    journal.close().await.unwrap();
    let stored = lines(&bucket);
    for line in &acknowledged {
        assert_eq!(stored.get(line), Some(&1), "{what}: {line}");
    }
    assert!(stored.values().all(|times| *times == 1), "{what}: {stored:?}");
    assert!(stored.len() <= acknowledged.len() + failed, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_calls_of_the_disk_lose_nothing() {
    let mut cases = JoinSet::new();
    for (call, file) in CALLS {
        for injected in INJECTED {
            cases.spawn(try_one(call, file, injected));
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}
