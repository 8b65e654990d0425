//! The cost of writing and of verifying evidence.

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use audit_core::{AuditSink, Batch};
use audit_evidence::{CompactRange, KeyKind, ObjectHasher, SignerKey, StreamSigner, VerifierKey};
use audit_sink_s3::bench_internals::{ObjectEncoder, SealedEncoder};
use audit_sink_s3::{Bucket, EvidenceSettings, JournalSettings, S3Sink, Settings};
use bytes::Bytes;
use s3_testserver::{S3TestServer, StoredObject};
use tokio::time::Instant;

use super::commit::{CALLERS, all_commit, batch};
use super::release::{open_undelivered, tokio_runtime, undelivered};
use crate::contest::{Contest, Row, Side, Spread, Target, Unit};
use crate::store::FarStore;

const NAME: &str = "example.com/bench";

fn settings(directory: &Path) -> EvidenceSettings {
    let key_file = Some(directory.join("host.key"));
    EvidenceSettings { key_file, ..EvidenceSettings::new(NAME) }
}

/// The contests with and without evidence, with files below this directory.
pub fn contests(directory: &Path) -> Vec<Contest> {
    // Lines of either size are hashed on another thread while they are compressed, on both sides.
    let encoding = [(6_600, "8 MiB"), (400, "0.5 MiB")].map(|(count, size)| {
        let lines = Bytes::from(super::lines(count));
        let (mut sealed, mut plain) = (SealedEncoder::new(NAME), ObjectEncoder::new());
        let other = lines.clone();
        let ours = Side::call("with evidence", move || {
            black_box(sealed.encode(black_box(&lines), count));
        });
        let without = Side::call("without", move || {
            black_box(plain.encode(black_box(&other), count));
        });
        let stage = format!("encode {size} of lines of 1.2 KB with evidence");
        Contest::new(stage, ours).against(without).target(Target::AtMostTimes(1.15)).every(2)
    });
    let mut contests = Vec::from(encoding);
    contests.push(commits(directory));
    contests
}

fn commits(directory: &Path) -> Contest {
    let runtime = Rc::new(tokio_runtime(2));
    let opening = async {
        let evidence = Some(settings(directory));
        let settings = Settings { evidence, ..undelivered(&directory.join("vouched-for")) };
        let sink = S3Sink::builder(FarStore::silent_bucket()).with_settings(settings).open().await;
        Arc::new(sink.expect("a journal"))
    };
    let with = runtime.block_on(opening);
    let without = runtime.block_on(open_undelivered(&directory.join("not-vouched-for")));
    let side = |name: &str, sink: Arc<S3Sink>| {
        let (runtime, batch) = (Rc::clone(&runtime), batch());
        Side::timed(name, move || {
            let began = Instant::now();
            runtime.block_on(all_commit(&sink, &batch, 16));
            began.elapsed() / (CALLERS * 16) as u32
        })
    };
    Contest::new(format!("durable commits with evidence, {CALLERS} callers"), side("with", with))
        .against(side("without", without))
        .as_rate()
        // Each round waits for the disk, whose syncs vary by more than the cost of evidence.
        .target(Target::AtMostTimes(1.1))
}

/// With this variable, the program acts as `audit` and reports its peak memory at the end.
pub const AS_AUDIT: &str = "AUDIT_BENCH_AS_AUDIT";

/// The time in seconds and the peak memory in MiB.
type Took = (f64, f64);

/// Runs `audit verify` in a separate process, which must find nothing.
fn verify(wrapper: &[&str], arguments: &[&str], environment: &[(&str, String)]) -> Took {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.arg("verify").args(arguments).env(AS_AUDIT, "1").envs(environment.iter().cloned());
    let began = Instant::now();
    let output = command.output().expect("a process");
    let took = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let memory = said.lines().last().and_then(|line| line.parse().ok());
    (took, memory.expect("the memory that it took"))
}

/// Writes a bucket with this many MiB of lines of 1.2 KB to a directory. Returns the host's public
/// key.
async fn write_bucket(directory: &Path, mib: usize) -> VerifierKey {
    std::fs::create_dir_all(directory.join("bucket")).expect("a directory");
    let bucket = format!("file://{}", directory.join("bucket").display());
    let settings = Settings {
        evidence: Some(settings(directory)),
        journal: Some(JournalSettings::new(directory.join("journal"))),
        persist_timeout_ms: 60_000,
        ..Settings::default()
    };
    let sink = S3Sink::builder(Bucket::open(&bucket).expect("a bucket")).with_settings(settings);
    let sink = sink.open().await.expect("a sink");
    let lines = super::lines(800);
    for _ in 0..(mib << 20) / lines.len() {
        let batch = Batch::from_lines(0, lines.clone().into()).expect("lines");
        sink.persist(batch).await.expect("room");
    }
    sink.close().await.expect("a bucket");
    sink.verifier_key().expect("a key").clone()
}

/// The best of several runs, since other load only makes them longer.
fn best(rounds: u32, mut take: impl FnMut() -> Took) -> Took {
    let all: Vec<_> = (0..rounds).map(|_| take()).collect();
    let least = |times: Vec<f64>| times.into_iter().fold(f64::MAX, f64::min);
    let seconds = least(all.iter().map(|(seconds, _)| *seconds).collect());
    (seconds, Spread::of(all.iter().map(|(_, memory)| *memory).collect()).median)
}

/// Verifies a bucket with this many MiB of lines in full, on one core and on all.
pub fn full(directory: &Path, mib: usize, rounds: u32) -> Vec<Row> {
    let runtime = tokio_runtime(2);
    let made = |mib: usize| {
        let place = directory.join(format!("verified-{mib}"));
        let key = runtime.block_on(write_bucket(&place, mib));
        let bucket = place.join("bucket");
        (bucket.to_str().expect("a path of text").to_owned(), key.to_string())
    };
    let ((bucket, key), (small, small_key)) = (made(mib), made(mib / 4));
    let one_core = ["taskset", "-c", "0"];
    let pipe =
        format!("find {bucket}/dt=* -name '*.zst' | sort | xargs zstd -dcq | sha256sum >/dev/null");
    let piped = || {
        let began = Instant::now();
        let mut command = Command::new("taskset");
        let ran = command.args(["-c", "0", "sh", "-c", &pipe]).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success()).then(|| began.elapsed().as_secs_f64())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = best(rounds, || verify(&[], &[&bucket, "--key", &key], &[]));
    let less = best(rounds, || verify(&[], &[&small, "--key", &small_key], &[]));
    let memory = Row::counted(format!("memory to verify {mib} MiB"), all.1, Unit::Mebibytes)
        .beside(&format!("to verify {} MiB", mib / 4), less.1)
        // With four times the records, only the list of objects takes more memory.
        .with_target(Target::AtMostTimes(1.25));
    let Some(first) = piped() else {
        println!("verifying on one core is left out: there is no taskset, zstd or sha256sum");
        return vec![memory];
    };
    let (mut theirs, mut ours) = (first, f64::MAX);
    for _ in 0..rounds {
        ours = ours.min(verify(&one_core, &[&bucket, "--key", &key], &[]).0);
        theirs = theirs.min(piped().unwrap_or(f64::MAX));
    }
    vec![
        Row::counted(format!("verify {mib} MiB in full, one core"), ours, Unit::Seconds)
            .beside("zstd -dc | sha256sum", theirs)
            .with_target(Target::TimesAsFast(0.5)),
        Row::counted(format!("verify {mib} MiB in full, {cores} cores"), all.0, Unit::Seconds)
            .beside("one core", ours)
            .with_target(Target::TimesAsFast(0.8 * cores as f64)),
        memory,
    ]
}

/// Verifies the heads of this many objects on a server in this process.
pub fn heads(objects: u64) -> Row {
    const EACH: u64 = 1_000;
    let runtime = tokio_runtime(2);
    let server = runtime.block_on(S3TestServer::start());
    let host = SignerKey::from_seed(NAME, KeyKind::Ed25519, &[1; 32]).expect("a name");
    for number in 0..objects.div_ceil(EACH) {
        let stream = format!("01KAVX0000000000000000{number:04}");
        let signer = StreamSigner::new(&host, &stream, &[2; 32]).expect("a name");
        let mut before = CompactRange::default();
        for first in 0..EACH.min(objects - number * EACH) {
            let key = format!("dt=2025-11-24/hour=16/{stream}-{first:012}.ndjson");
            let mut hasher = ObjectHasher::new(&key, first, first, [3; 32]);
            hasher.lines(b"{}\n");
            let (head, after) = signer.seal(before, &hasher.finish());
            before = after;
            let metadata = head.to_metadata().into_iter().filter(|(_, value)| !value.is_empty());
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value)).collect();
            let bytes = Bytes::from_static(b"{}\n");
            let object =
                StoredObject { bytes, metadata, content_type: None, content_encoding: None };
            server.put_object(&key, object);
        }
    }
    let (bucket, key) = (format!("s3://{}", server.bucket()), host.verifier().to_string());
    let took = verify(&[], &[&bucket, "--key", &key, "--heads"], &server.environment());
    Row::counted(format!("verify the heads of {objects} objects"), took.0, Unit::Seconds)
        .with_target(Target::Seconds(60.0))
        .with_note(format!("{:.1} MiB; the server has the same cores", took.1))
}
