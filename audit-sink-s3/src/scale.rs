//! How objects, latency and cost grow with hosts and logs: the real code that cuts, names, encodes
//! and sends objects, in simulated time.
//!
//! ```text
//! cargo test --release -p audit-sink-s3 --lib scale -- --ignored --nocapture
//! ```
//!
//! prints the tables of the project's `docs/SCALE.md`. Hosts share nothing but the bucket, so one
//! host is simulated at each rate, and a fleet is a multiple of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{AuditSink, Batch, Clock, UniqueId, async_trait};
use audit_journal::simulation::scale::{Journal, Parts};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult, PutOptions, PutPayload, PutResult, Result};
use tokio::time::{Instant, sleep, sleep_until};

use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::health::HealthBoard;
use crate::store_double::{Double, StoreDouble};
use crate::{Bucket, Compression, JournalSettings, ObjectKey, ObjectMetadata, S3Sink, Settings};

/// The latency of a small PUT to a bucket in the same region.
const PUT: Duration = Duration::from_millis(80);

/// The prices of S3 Standard, in dollars per 1,000 PUTs and per GB and month.
const PUT_PRICE: f64 = 0.005;
const STORAGE_PRICE: f64 = 0.023;

/// The size of a typical log, in bytes.
const LOG_BYTES: usize = 1_200;

/// A store that stores objects after a delay, and records when each arrived.
#[derive(Debug, Default)]
struct Counted {
    objects: Mutex<Vec<Object>>,
    probed: Mutex<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Object {
    key: ObjectKey,
    records: u64,
    bytes: u64,
    arrived: Instant,
}

#[async_trait]
impl StoreDouble for Counted {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let Ok(key) = location.as_ref().parse::<ObjectKey>() else {
            // The probe, whose second put is refused.
            let mut probed = self.probed.lock().unwrap();
            if std::mem::replace(&mut *probed, true) {
                let path = location.to_string();
                return Err(Error::AlreadyExists { path, source: "probed before".into() });
            }
            return Ok(PutResult { e_tag: None, version: None, extensions: Default::default() });
        };
        sleep(PUT).await;
        let metadata = ObjectMetadata::from_attributes(&options.attributes).unwrap();
        let bytes = payload.content_length() as u64;
        let object = Object { key, records: metadata.count, bytes, arrived: Instant::now() };
        self.objects.lock().unwrap().push(object);
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn get(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        Err(Error::NotFound { path: location.to_string(), source: "nothing is read".into() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Journal,
    Direct,
}

/// The result for one host at one rate.
#[derive(Debug)]
struct Host {
    objects_an_hour: f64,
    object_bytes: f64,
    bytes_an_hour: f64,
    /// The latency from the call to the bucket, in milliseconds: median and 99th percentile.
    in_bucket_ms: (f64, f64),
}

/// A line whose ids and numbers are random.
fn line(n: u64) -> String {
    use audit_core::Random;
    let random = SeededRandom::new(n);
    let id = || random.next_u64();
    let mut line = format!(
        "{{\"action\":\"documents.view\",\"actor\":{{\"ip\":\"10.{}.{}.{}\",\"requestId\":\"{:016x}{:010x}\",\"subject\":\"{:016x}\"}},\
         \"document\":{{\"id\":\"{:016x}\",\"title\":\"Report {} of {}\"}}",
        id() % 256,
        id() % 256,
        id() % 256,
        id(),
        id() >> 24,
        id(),
        id(),
        id() % 977,
        id() % 53
    );
    let mut property = 0;
    while line.len() < LOG_BYTES - 60 {
        line += &format!(
            ",\"property_{property:03}\":\"the value {} of this property\"",
            id() % 100_000
        );
        property += 1;
    }
    line + "}\n"
}

/// Simulates a host that logs evenly, `a_second` times a second, for `time`.
async fn host(mode: Mode, a_second: f64, time: Duration) -> Host {
    let store = Arc::new(Counted::default());
    let bucket = Bucket::from_store(Arc::new(Double(Arc::clone(&store))), "");
    let clock = Arc::new(ManualClock::at(1_767_225_600_000));
    let (began, count) = (Instant::now(), (a_second * time.as_secs_f64()).ceil() as u64);
    let due = |n: u64| began + Duration::from_secs_f64(n as f64 / a_second);
    let lines: Vec<_> = (0..count.min(2_000)).map(|n| bytes::Bytes::from(line(n))).collect();
    let batch = |n: u64| {
        let time_ms = clock.now_ms() + i64::try_from((due(n) - began).as_millis()).unwrap();
        Batch::from_lines(time_ms, lines[usize::try_from(n).unwrap() % lines.len()].clone())
            .unwrap()
    };
    match mode {
        Mode::Direct => {
            let sink = S3Sink::builder(bucket).with_random(Arc::new(SeededRandom::new(7)));
            let sink = Arc::new(
                sink.with_clock(Arc::clone(&clock) as Arc<dyn Clock>).open().await.unwrap(),
            );
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..count {
                sleep_until(due(n)).await;
                let (sink, batch) = (Arc::clone(&sink), batch(n));
                calls.spawn(async move { sink.persist(batch).await.unwrap() });
                while calls.try_join_next().is_some() {}
            }
            while calls.join_next().await.is_some() {}
            sink.close().await.unwrap();
        }
        Mode::Journal => {
            let settings = Settings::default();
            let health = HealthBoard::new(String::new());
            let random: Arc<dyn audit_core::Random> = Arc::new(SeededRandom::new(7));
            let max_object_bytes = settings.max_object_bytes;
            let board = Arc::clone(&health);
            let destination = Arc::new(BucketDestination::new(
                Put::new(bucket, board, Arc::clone(&random), settings),
                None,
                random,
            ));
            let stream = UniqueId::generate(&*clock, &SeededRandom::new(9));
            let journal = JournalSettings {
                retention_ms: 0,
                segment_bytes: 4 << 20,
                ..JournalSettings::new("")
            };
            let parts = Parts { stream, max_object_bytes, journal, destination, health };
            let mut journal = Journal::start(parts);
            for n in 0..count {
                sleep_until(due(n)).await;
                journal.commit(batch(n));
                tokio::task::yield_now().await;
            }
            journal.end().await;
        }
    }
    let objects = store.objects.lock().unwrap().clone();
    assert_eq!(
        objects.iter().map(|object| object.records).sum::<u64>(),
        count,
        "each is there once"
    );
    let mut latencies: Vec<f64> = objects
        .iter()
        .flat_map(|object| {
            let first = object.key.first_sequence();
            (first..first + object.records).map(|n| (object.arrived - due(n)).as_secs_f64() * 1e3)
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let hours = (count as f64 / a_second) / 3_600.0;
    let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
    Host {
        objects_an_hour: objects.len() as f64 / hours,
        object_bytes: bytes as f64 / objects.len() as f64,
        bytes_an_hour: bytes as f64 / hours,
        in_bucket_ms: (at(0.5), at(0.99)),
    }
}

/// The duration of the simulation of a rate: long enough for many cuts by time and by size, but
/// within memory.
fn time(a_second: f64) -> Duration {
    Duration::from_secs_f64((40_000.0 / a_second).clamp(20.0, 4.0 * 3_600.0))
}

#[tokio::test(start_paused = true)]
#[ignore = "prints tables, for docs/SCALE.md"]
async fn hosts_and_logs() {
    const DAY: f64 = 86_400.0;
    const MONTH_HOURS: f64 = 730.0;
    let mut known: BTreeMap<(bool, u64), Host> = BTreeMap::new();
    println!(
        "| logs a day | hosts | mode | objects a day | object | in the bucket after, half / 99% | PUTs a month | new storage a month |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for exponent in 3..=9 {
        for hosts in [1.0, 10.0, 100.0, 1_000.0] {
            for mode in [Mode::Journal, Mode::Direct] {
                let a_second = 10f64.powi(exponent) / DAY / hosts;
                if a_second * DAY < 24.0 {
                    continue;
                }
                let id = (mode == Mode::Direct, (a_second * 1e6) as u64);
                if let Entry::Vacant(unknown) = known.entry(id) {
                    unknown.insert(host(mode, a_second, time(a_second)).await);
                }
                let host = &known[&id];
                let objects = host.objects_an_hour * hosts;
                let (half, most) = host.in_bucket_ms;
                println!(
                    "| 10^{exponent} | {hosts} | {mode:?} | {:.0} | {:.1} KB | {:.2} s / {:.2} s | ${:.2} | {:.2} GB, ${:.2} |",
                    objects * 24.0,
                    host.object_bytes / 1e3,
                    half / 1e3,
                    most / 1e3,
                    objects * MONTH_HOURS / 1_000.0 * PUT_PRICE,
                    host.bytes_an_hour * hosts * MONTH_HOURS / 1e9,
                    host.bytes_an_hour * hosts * MONTH_HOURS / 1e9 * STORAGE_PRICE,
                );
            }
        }
    }
}

/// The assumptions of `docs/SCALE.md`.
#[tokio::test(start_paused = true)]
async fn slow_hosts_cut_by_time_and_fast_ones_by_size() {
    // A log every two cut intervals: one object per log.
    let slow = host(Mode::Journal, 0.1, Duration::from_secs(1_000)).await;
    assert!((slow.objects_an_hour - 360.0).abs() < 10.0, "{slow:?}");
    assert!((5_000.0..5_200.0).contains(&slow.in_bucket_ms.0), "{slow:?}");
    // Always busy: one object every 5 s, of which a log waits half on average.
    let busy = host(Mode::Journal, 20.0, Duration::from_secs(100)).await;
    assert!((700.0..=760.0).contains(&busy.objects_an_hour), "{busy:?}");
    assert!(busy.in_bucket_ms.1 < 5_200.0, "{busy:?}");
    // Direct: at most one object every 50 ms; a caller waits for that and one or two PUTs.
    let direct = host(Mode::Direct, 200.0, Duration::from_secs(10)).await;
    assert!((60_000.0..=72_000.0).contains(&direct.objects_an_hour), "{direct:?}");
    assert!(direct.in_bucket_ms.1 < 300.0, "{direct:?}");
    // Keys are Hive partitions of the hour.
    let key =
        ObjectKey::new(1_767_225_600_000, UniqueId::from_bits(1), 0, Compression::Zstd).to_string();
    assert!(key.starts_with("dt=2026-01-01/hour=00/"), "{key}");
}
