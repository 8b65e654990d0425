//! The limits of the journal, and their errors: lock, size, disk, memory, close.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::child::{self, ChildProcess};
use crate::support::{
    self, Ledger, SEGMENT_BYTES, TIME_MS, batch, bucket_on, check, large_batch, read_server,
};
use audit_core::testing::SeededRandom;
use audit_core::{
    AuditSink, Batch, Commits, Durability, HealthState, Outcome, Place, Random, Receipt,
    SinkErrorKind, UniqueId,
};
use audit_sink_s3::{Compression, JournalSettings, OpenError, OpenErrorKind, S3Sink, Settings};
use futures::{StreamExt, stream};
use s3_testserver::{Fault, S3TestServer};
use tokio::time::timeout;

fn journal(directory: &Path) -> JournalSettings {
    JournalSettings { retention_ms: 0, ..support::journal(directory, 20) }
}

fn settings(journal: JournalSettings) -> Settings {
    Settings {
        persist_timeout_ms: 10_000,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        journal: Some(journal),
        ..Settings::default()
    }
}

async fn open(server: &S3TestServer, journal: JournalSettings) -> Result<S3Sink, OpenError> {
    S3Sink::builder(bucket_on(server, "logs")).with_settings(settings(journal)).open().await
}

/// On the disk of the build, since a temporary directory may be in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[tokio::test]
async fn a_journal_has_one_sink_at_a_time() {
    let (server, directory) = (S3TestServer::start().await, directory());
    for _ in 0..4 {
        let sink = open(&server, journal(directory.path())).await.unwrap();
        let error = open(&server, journal(directory.path())).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        assert_eq!(error.source().unwrap().to_string(), "another process has this journal open");
        sink.persist(batch("mine", 1)).await.unwrap();
        // After `close` the journal can be opened again, although the sink was not dropped and its
        // threads may have been busy.
        sink.close().await.unwrap();
    }
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 4);
}

#[tokio::test]
async fn a_removed_lock_lets_no_other_in() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let sink = open(&server, journal(directory.path())).await.unwrap();
    fs::remove_file(directory.path().join("LOCK")).unwrap();
    let error = open(&server, journal(directory.path())).await.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "another process has this journal open");
    sink.persist(batch("mine", 1)).await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_in_a_removed_segment() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let sink = open(&server, journal(directory.path())).await.unwrap();
    sink.persist(batch("before", 1)).await.unwrap();
    for (name, _) in files(directory.path()).iter().filter(|(name, _)| name.ends_with(".journal")) {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    let error = sink.persist(batch("after", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Closed, Outcome::Indeterminate));
    assert_eq!(error.source().unwrap().to_string(), "the file was removed while it was written to");
    assert!(matches!(sink.health().commits, Commits::Stopped { .. }));
}

#[tokio::test]
async fn only_its_owner_can_read_it() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let path = directory.path().join("made/on/demand");
    let sink = open(&server, journal(&path)).await.unwrap();
    server.faults().always(Fault::Hung);
    sink.persist(batch("secret", 1)).await.unwrap();
    // By then the object's plan is on disk.
    server.faults().wait_fired(1).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let files = files(&path);
    for end in ["LOCK", ".journal", ".object", ".delivered"] {
        assert!(files.keys().any(|name| name.ends_with(end)), "{files:?}");
    }
    for (name, metadata) in files {
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// The files in the directory, without those that a sink removes or renames meanwhile.
fn files(directory: &Path) -> BTreeMap<String, fs::Metadata> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .filter_map(|entry| {
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                metadata => metadata.unwrap(),
            };
            Some((entry.file_name().into_string().unwrap(), metadata))
        })
        .collect()
}

fn sizes(directory: &Path) -> BTreeMap<String, u64> {
    files(directory).into_iter().map(|(name, metadata)| (name, metadata.len())).collect()
}

#[tokio::test]
async fn a_full_journal_fails_persists_until_it_is_delivered() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let most = 3 * SEGMENT_BYTES;
    let journal = JournalSettings { max_bytes: most, ..journal(directory.path()) };
    let settings =
        Settings { persist_timeout_ms: 3_000, compression: Compression::None, ..settings(journal) };
    let sink =
        S3Sink::builder(bucket_on(&server, "logs")).with_settings(settings).open().await.unwrap();
    server.pause().await;
    let mut ledger = Ledger::default();
    let mut accepted = 0;
    let error = loop {
        let batch = large_batch(&accepted.to_string(), 8 << 20);
        match sink.persist(batch.clone()).await {
            Ok(receipt) => ledger.acknowledged(&batch, &receipt),
            Err(error) => break error,
        }
        accepted += 1;
    };
    assert!((9..=12).contains(&accepted), "{accepted} of 8 MiB in {most} bytes");
    assert_eq!(
        (error.kind(), error.outcome()),
        (SinkErrorKind::Unavailable, Outcome::NotPersisted)
    );
    let message = error.to_string();
    assert!(
        message.starts_with(&format!(
            "no room in the journal within 3000 ms: {most} of {most} bytes are used; "
        )),
        "{message}"
    );
    assert!(message.contains("Connection refused"), "why it does not drain: {message}");
    let HealthState::Blocked { reason } = sink.health().state else {
        panic!("{:?}", sink.health())
    };
    assert!(reason.contains("the journal is full"), "{reason}");
    assert_eq!(sink.health().commits, Commits::Refused { reason });
    let on_disk: u64 = sizes(directory.path())
        .iter()
        .filter(|(name, _)| name.ends_with(".journal"))
        .map(|(_, bytes)| bytes)
        .sum();
    assert_eq!(on_disk, most);
    // Batches that fit in the last segment are still accepted.
    let small = batch("small", 1);
    ledger.acknowledged(&small, &sink.persist(small.clone()).await.unwrap());
    assert_eq!(sink.health().commits, Commits::Accepted);

    server.resume().await;
    sink.flush().await.unwrap();
    ledger.check("logs/", &read_server(&server)).unwrap();
    for n in 0..8 {
        let batch = large_batch(&format!("after {n}"), 8 << 20);
        ledger.acknowledged(&batch, &sink.persist(batch.clone()).await.unwrap());
        // Without optimization delivery is slower than the disk.
        sink.flush().await.unwrap();
    }
    sink.close().await.unwrap();
    assert_eq!(sink.health().state, HealthState::Ok);
    ledger.check("logs/", &read_server(&server)).unwrap();
}

/// The child process, which executes commands line by line. Does nothing when run as a test.
#[test]
fn child() {
    child::run(obey());
}

async fn obey() {
    let mut told = child::listen();
    let directory: PathBuf = child::required("DIRECTORY");
    // `persist` times out within the test.
    let settings = Settings {
        persist_timeout_ms: child::required("PERSIST_TIMEOUT_MS"),
        ..settings(journal(&directory))
    };
    let sink = S3Sink::builder(child::bucket("logs")).with_settings(settings).open().await.unwrap();
    child::say(&format!("open {}", sink.stream()));
    while let Some(line) = told.recv().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["persist", tag] => match sink.persist(batch(tag, 1)).await {
                Ok(receipt) => {
                    child::say(&format!("persisted {}", receipt.place.unwrap().first_sequence))
                }
                Err(error) => {
                    child::say(&format!("failed {:?} {:?} {error}", error.kind(), error.outcome()))
                }
            },
            ["fill", mib] => {
                let mib: u64 = mib.parse().unwrap();
                let persisted = stream::iter(0..mib).map(|n| sink.persist(mebibyte(n))).buffered(8);
                persisted
                    .for_each(|receipt| async move { assert!(receipt.is_ok(), "{receipt:?}") })
                    .await;
                child::say("filled");
            }
            ["flush"] => {
                sink.flush().await.unwrap();
                child::say("flushed");
            }
            ["memory"] => child::say(&format!("memory {}", peak_memory())),
            // As a host does on shutdown.
            ["give", "up", "closing"] => {
                timeout(Duration::from_millis(50), sink.close()).await.unwrap_err();
                child::say("gave up");
            }
            ["close"] => {
                sink.close().await.unwrap();
                child::say("closed");
                return;
            }
            _ => panic!("{line:?}"),
        }
    }
}

/// A batch of 1 MiB that compresses to about half, like logs: `n` and random digits.
fn mebibyte(n: u64) -> Batch {
    let random = SeededRandom::new(n);
    let mut lines = String::with_capacity(1 << 20);
    for i in 0..1024 {
        use std::fmt::Write;
        write!(lines, "{{\"n\":{n},\"i\":{i},\"x\":\"").unwrap();
        let end = (i + 1) * 1024 - 3;
        while lines.len() < end {
            write!(lines, "{:016x}", random.next_u64()).unwrap();
        }
        lines.truncate(end);
        lines.push_str("\"}\n");
    }
    Batch::from_lines(TIME_MS, lines.into()).unwrap()
}

/// The peak memory of this process, in KiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

fn start(
    server: &S3TestServer,
    wrapper: &[String],
    directory: &Path,
    persist_timeout_ms: u64,
) -> ChildProcess {
    let directory = directory.to_str().unwrap().to_owned();
    let timeout = persist_timeout_ms.to_string();
    ChildProcess::start(
        module_path!(),
        server,
        wrapper,
        &[("DIRECTORY", directory), ("PERSIST_TIMEOUT_MS", timeout)],
    )
}

/// The file size of the child is limited, which it sees as a full disk; the limit is lifted later.
#[tokio::test]
async fn a_full_disk_fails_functions_until_there_is_room() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("not tested: there is no prlimit here");
        return;
    }
    let (server, directory) = (S3TestServer::start().await, directory());
    let limited =
        format!("trap '' XFSZ; exec prlimit --fsize={}: \"$0\" \"$@\"", SEGMENT_BYTES / 2);
    let wrapper = ["sh", "-c", &limited].map(str::to_owned);
    let mut child = start(&server, &wrapper, directory.path(), 1_000);
    child.wait_for("open").await;
    for _ in 0..2 {
        child.tell("persist early");
        let failed = child.wait_for("failed").await;
        assert!(
            failed.starts_with("Unavailable NotPersisted no room in the journal within 1000 ms: "),
            "{failed}"
        );
        assert!(
            failed.contains("no segment of the journal can be prepared: File too large"),
            "{failed}"
        );
    }
    let preparing = files(directory.path());
    assert!(!preparing.contains_key("00000001.journal"), "{preparing:?}");

    let pid = child.id().to_string();
    let lifted =
        Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(lifted.success());
    // It retries by itself.
    loop {
        child.tell("persist late");
        let line = child.line().await.unwrap();
        if line == "persisted 0" {
            break;
        }
        assert!(line.starts_with("failed Unavailable NotPersisted"), "{line}");
    }
    child.tell("close");
    child.wait_for("closed").await;
    let stored = check("logs/", &read_server(&server)).unwrap();
    let lines: Vec<_> = stored.iter().map(|record| record.line.clone()).collect();
    assert_eq!(lines, batch("late", 1).records().collect::<Vec<_>>());
}

/// `JOURNAL_LIMITS_BACKLOG_MIB=1024` with `--release` tests the backlog of a long outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute and measures the process's memory: for a quiet machine"]
async fn a_backlog_does_not_take_memory() {
    let mib: usize =
        std::env::var("JOURNAL_LIMITS_BACKLOG_MIB").map_or(200, |mib| mib.parse().unwrap());
    let (server, directory) = (S3TestServer::start().await, directory());
    let mut child = start(&server, &[], directory.path(), 60_000);
    child.tell("persist one");
    child.tell("flush");
    child.tell("memory");
    let idle: u64 = child.wait_for("memory").await.parse().unwrap();

    server.pause().await;
    child.tell(&format!("fill {mib}"));
    child.wait_for("filled").await;
    child.tell("memory");
    let filled: u64 = child.wait_for("memory").await.parse().unwrap();
    child.kill();
    child.wait();

    // The latency of a bucket in another region, so that the maximum number of objects is in
    // flight.
    server.faults().plan(|request| match request.key.ends_with("_audit/probe") {
        true => Fault::None,
        false => Fault::Slow { delay: Duration::from_millis(300) },
    });
    server.resume().await;
    let mut child = start(&server, &[], directory.path(), 60_000);
    child.wait_for("open").await;
    let begun = tokio::time::Instant::now();
    child.tell("flush");
    child.wait_for("flushed").await;
    let took = begun.elapsed();
    child.tell("memory");
    let drained: u64 = child.wait_for("memory").await.parse().unwrap();
    child.tell("close");
    child.wait_for("closed").await;

    println!("{mib} MiB: {idle} KiB idle, {filled} KiB filled, {drained} KiB drained in {took:?}");
    let above_idle = drained.saturating_sub(idle) / 1024;
    assert!(above_idle <= 64, "{above_idle} MiB above idle");
    let stored: usize = server.objects().keys().filter(|key| !key.contains("_audit")).count();
    assert!(stored > mib / 9, "{stored} objects");
}

#[tokio::test]
async fn flush_and_close_wait_for_no_full_object() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let patient = JournalSettings { cut_after_ms: 3_600_000, ..journal(directory.path()) };
    let sink = open(&server, patient).await.unwrap();
    let mut ledger = Ledger::default();
    for round in 0..3 {
        let batch = batch(&round.to_string(), 2);
        let receipt = sink.persist(batch.clone()).await.unwrap();
        assert_eq!(receipt.durability, Durability::Journaled);
        ledger.acknowledged(&batch, &receipt);
        match round {
            0 | 1 => sink.flush().await.unwrap(),
            _ => sink.close().await.unwrap(),
        }
        ledger.check("logs/", &read_server(&server)).unwrap();
    }
    assert_eq!(sink.persist(batch("late", 1)).await.unwrap_err().kind(), SinkErrorKind::Closed);
    // A closed sink can be closed and flushed again, and both return at once.
    sink.close().await.unwrap();
    sink.flush().await.unwrap();
}

/// Also tests that records of an earlier process are delivered under their own stream.
#[tokio::test]
async fn the_next_opening_completes_a_cut_close() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let mut ledger = Ledger::default();
    let mut streams = Vec::new();
    for round in 0..3 {
        let mut child = start(&server, &[], directory.path(), 10_000);
        let stream: UniqueId = child.wait_for("open").await.parse().unwrap();
        server.pause().await;
        for n in 0..3 {
            let tag = format!("{round}-{n}");
            child.tell(&format!("persist {tag}"));
            let first_sequence = child.wait_for("persisted").await.parse().unwrap();
            let place = Some(Place { stream, first_sequence, count: 1 });
            ledger.acknowledged(
                &batch(&tag, 1),
                &Receipt { durability: Durability::Journaled, place },
            );
        }
        child.tell("give up closing");
        child.wait_for("gave up").await;
        child.tell("persist late");
        assert!(child.wait_for("failed").await.starts_with("Closed NotPersisted"));
        child.kill();
        child.wait();
        server.resume().await;
        streams.push(stream);
    }
    open(&server, journal(directory.path())).await.unwrap().close().await.unwrap();
    ledger.check("logs/", &read_server(&server)).unwrap();
    let stored = check("logs/", &read_server(&server)).unwrap();
    assert!(
        streams.iter().all(|stream| stored
            .iter()
            .filter(|record| record.stream == *stream)
            .count()
            == 3)
    );
}

#[tokio::test]
async fn damage_is_located_and_left_unchanged() {
    let (server, directory) = (S3TestServer::start().await, directory());
    let keeping = JournalSettings { retention_ms: 3_600_000, ..journal(directory.path()) };
    let sink = open(&server, keeping.clone()).await.unwrap();
    for n in 0..3 {
        sink.persist(batch(&n.to_string(), 1)).await.unwrap();
    }
    sink.close().await.unwrap();
    let before = sizes(directory.path());
    let segment = fs::File::options()
        .read(true)
        .write(true)
        .open(directory.path().join("00000001.journal"))
        .unwrap();
    // Flips one bit of a record in the second of three groups, each at the begin of a block.
    let (at, mut byte) = (2 * 4096 + 159 + 80 + 3, [0]);
    segment.read_exact_at(&mut byte, at).unwrap();
    segment.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let error = open(&server, keeping.clone()).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Damaged);
    let source = error.source().unwrap().to_string();
    assert!(
        source.starts_with("the journal is damaged in 00000001.journal at byte 8192: "),
        "{source}"
    );
    assert_eq!(sizes(directory.path()), before);
    // After an operator restores the file from a copy, the journal opens.
    segment.write_all_at(&byte, at).unwrap();
    open(&server, keeping).await.unwrap().close().await.unwrap();
    assert_eq!(check("logs/", &read_server(&server)).unwrap().len(), 3);
}
