//! What a durable commit costs: the journal beside a raw write and `fdatasync` of the same bytes, in one run.
//!
//! The two take turns, so that a disk whose speed drifts drifts for both; medians and quartiles are printed. The files are below
//! the directory that `AUDIT_BENCH_DIR` names, or the build's own directory: it should be on the disk that is asked about.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_sink_s3::{Bucket, JournalSettings, S3Sink, Settings};
use tokio::time::Instant;

const RECORD_BYTES: usize = 1_200;
const ROUNDS: usize = 2_000;
const CALLERS: usize = 64;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let root = std::env::var("AUDIT_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let directory = tempfile::tempdir_in(root).unwrap();
    // Nothing is delivered while this runs: what is asked is the commit.
    let day_ms = 24 * 60 * 60 * 1_000;
    let journal =
        JournalSettings { cut_after_ms: day_ms, ..JournalSettings::new(directory.path().join("journal")) };
    let settings = Settings { journal: Some(journal), ..Settings::default() };
    let bucket = Bucket::open("memory:///").unwrap();
    let sink = Arc::new(S3Sink::builder(bucket).with_settings(settings).open().await.unwrap());

    one_caller(&sink, directory.path()).await;
    many_callers(&sink).await;
}

fn batch() -> Batch {
    let line = format!("{{\"body\":\"{}\"}}\n", "x".repeat(RECORD_BYTES - 12));
    Batch::from_lines(1_700_000_000_000, line.into()).unwrap()
}

async fn one_caller(sink: &S3Sink, directory: &Path) {
    let batch = batch();
    let file = Arc::new(zeroed(&directory.join("raw"), ROUNDS as u64 * 8_192));
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let began = Instant::now();
        sink.persist(batch.clone()).await.unwrap();
        ours.push(began.elapsed());

        // As the simplest durable log would: the same bytes, one after the other.
        let offset = (round * batch.lines().len()) as u64;
        let began = Instant::now();
        file.write_all_at(batch.lines(), offset).unwrap();
        file.sync_data().unwrap();
        raw.push(began.elapsed());
    }
    let (ours, raw) = (Quartiles::of(ours), Quartiles::of(raw));
    println!("one caller, {RECORD_BYTES} bytes, {ROUNDS} rounds");
    println!("  journal             {ours}");
    println!("  write + fdatasync   {raw}");
    println!("  ratio of medians    {:.2}", ours.median.as_secs_f64() / raw.median.as_secs_f64());
}

async fn many_callers(sink: &Arc<S3Sink>) {
    const EACH: usize = 200;
    let began = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (sink, batch) = (Arc::clone(sink), batch());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    sink.persist(batch.clone()).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let per_second = (CALLERS * EACH) as f64 / began.elapsed().as_secs_f64();
    println!("{CALLERS} callers, {RECORD_BYTES} bytes: {per_second:.0} commits a second");
}

fn zeroed(path: &Path, bytes: u64) -> File {
    let file = File::create_new(path).unwrap();
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        file.write_all_at(&zeros, at).unwrap();
        at += zeros.len() as u64;
    }
    file.sync_all().unwrap();
    file
}

/// How long something took in the middle half of the rounds.
struct Quartiles {
    lower: Duration,
    median: Duration,
    upper: Duration,
}

impl Quartiles {
    fn of(mut times: Vec<Duration>) -> Quartiles {
        times.sort();
        let at = |quarter: usize| times[times.len() * quarter / 4];
        Quartiles { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl std::fmt::Display for Quartiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quartiles { lower, median, upper } = self;
        write!(f, "median {median:.1?}, middle half {lower:.1?} to {upper:.1?}")
    }
}
