//! Panics at any step of a delivery: each caller still gets its receipt, and the object is stored
//! once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use audit_core::testing::SeededRandom;
use audit_core::{
    Clock, Durability, HealthState, Place, Random, SystemClock, UniqueId, async_trait,
};
use audit_evidence::ObjectHead;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult,
    Result,
};

use super::group::MAX_ENCODE_INLINE_BYTES;
use super::*;
use crate::bucket::put::Put;
use crate::evidence::Evidence;
use crate::executor::{BlockingThreads, Executor, Work};
use crate::store_double::{Double, StoreDouble};
use crate::{Bucket, Compression, EvidenceSettings, ObjectKey};

/// Counts the steps of a delivery, and panics at some of them.
#[derive(Debug, Default)]
struct Steps {
    taken: AtomicUsize,
    panics_at: Mutex<Vec<usize>>,
}

impl Steps {
    fn step(&self) {
        let step = self.taken.fetch_add(1, Ordering::Relaxed);
        if self.panics_at.lock().unwrap().contains(&step) {
            // `resume_unwind` prints no message.
            std::panic::resume_unwind(Box::new("told to panic"));
        }
    }
}

/// A dependency of a delivery that counts its calls as steps.
#[derive(Debug, Clone)]
struct Stepping<T>(Arc<Steps>, T);

#[async_trait]
impl Executor for Stepping<BlockingThreads> {
    async fn execute(&self, work: Work) {
        self.0.step();
        self.1.execute(work).await;
        self.0.step();
    }
}

impl Random for Stepping<Arc<SeededRandom>> {
    fn next_u64(&self) -> u64 {
        self.0.step();
        self.1.next_u64()
    }
}

impl metrics::CounterFn for Stepping<()> {
    fn increment(&self, _: u64) {
        self.0.step();
    }

    fn absolute(&self, _: u64) {
        self.0.step();
    }
}

impl metrics::GaugeFn for Stepping<()> {
    fn increment(&self, _: f64) {
        self.0.step();
    }

    fn decrement(&self, _: f64) {
        self.0.step();
    }

    fn set(&self, _: f64) {
        self.0.step();
    }
}

impl metrics::Recorder for Stepping<()> {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(self.clone()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(self.clone()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl tracing::Subscriber for Stepping<()> {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("audit_sink_s3")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.step();
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A store that loses the response to the first put.
#[derive(Debug)]
struct LossyStore {
    steps: Arc<Steps>,
    inner: Arc<InMemory>,
    puts: AtomicUsize,
}

#[async_trait]
impl StoreDouble for LossyStore {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.steps.step();
        let put = self.inner.put_opts(location, payload, options).await;
        self.steps.step();
        match self.puts.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Error::Generic { store: "LossyStore", source: "the answer is lost".into() }),
            _ => put,
        }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.steps.step();
        let found = self.inner.get_opts(location, options).await;
        self.steps.step();
        found
    }
}

/// A writer to a store in memory, with dependencies that count their steps.
fn start(
    steps: &Arc<Steps>,
    evidence: Option<Arc<Evidence>>,
) -> (Direct, Arc<HealthBoard>, Arc<InMemory>) {
    let settings = Settings {
        compression: Compression::None,
        persist_timeout_ms: 24 * 60 * 60 * 1_000,
        ..Settings::default()
    };
    let inner = Arc::new(InMemory::new());
    let (counted, store) = (Arc::clone(steps), Arc::clone(&inner));
    let store = LossyStore { steps: counted, inner: store, puts: AtomicUsize::new(0) };
    let recorder = Stepping(Arc::clone(steps), ());
    let health = metrics::with_local_recorder(&recorder, || HealthBoard::new(String::new()));
    let random = Arc::new(Stepping(Arc::clone(steps), Arc::new(SeededRandom::new(1))));
    let bucket = Bucket::from_store(Arc::new(Double(Arc::new(store))), "");
    let put = Put::new(bucket, Arc::clone(&health), random, settings.clone());
    let executor = Arc::new(Stepping(Arc::clone(steps), BlockingThreads));
    let parts = Parts {
        stream: stream(),
        evidence,
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(2)),
        put,
        executor,
        settings,
    };
    (Direct::start(parts), health, inner)
}

fn stream() -> UniqueId {
    UniqueId::from_bits(1)
}

/// Two batches of one object, large enough for another thread to encode.
fn batches() -> [Batch; 2] {
    let line = |n| format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(MAX_ENCODE_INLINE_BYTES));
    [1, 2].map(|n| Batch::from_lines(0, line(n).into()).unwrap())
}

/// Delivers two batches, with panics at these steps. Returns the number of steps.
async fn deliver(panics_at: Vec<usize>, evidence: Option<&Arc<Evidence>>) -> usize {
    let what = format!("panics at {panics_at:?}");
    let panics = panics_at.len();
    let steps = Arc::new(Steps { panics_at: Mutex::new(panics_at), ..Steps::default() });
    let (writer, health, store) = start(&steps, evidence.cloned());
    // With evidence, the stream's opening record has the number 0.
    let first = u64::from(evidence.is_some());
    // `tracing` caches whether anybody listens to a log statement. Without a global subscriber, a
    // test on another thread that reaches it first would turn it off for all threads.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let _log = tracing::subscriber::set_default(Stepping(Arc::clone(&steps), ()));
    let batches = batches();
    let [one, two] = batches.each_ref().map(|batch| writer.persist(batch.clone()));
    let (one, two) = tokio::join!(one, two);
    for (first_sequence, receipt) in [(first, one), (first + 1, two)] {
        let receipt = receipt.unwrap_or_else(|error| panic!("{what}: {error}"));
        let place = Place { stream: stream(), first_sequence, count: 1 };
        assert_eq!((receipt.durability, receipt.place), (Durability::Delivered, Some(place)));
    }
    writer.close().await.unwrap();
    let key = ObjectKey::new(0, stream(), first, Compression::None).to_string();
    let stored = store.get(&Path::from(&*key)).await.unwrap();
    let attributes = stored.attributes.clone();
    let lines = batches.each_ref().map(|batch| batch.lines().clone()).concat();
    assert!(stored.bytes().await.unwrap() == lines, "{what}: other bytes");
    if let Some(evidence) = evidence {
        let get = |name: &str| {
            let name = object_store::Attribute::Metadata(name.to_owned().into());
            attributes.get(&name).map(|value| &**value)
        };
        let head = ObjectHead::from_metadata(&stream().to_string(), get).unwrap();
        assert_eq!(head.verify(evidence.verifier()), Ok(()), "{what}");
        let lines = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
        assert!(head.tree(&key, lines).is_ok(), "{what}: sealed otherwise");
    }
    let health = health.health(0);
    assert_eq!((health.pending_batches, health.conflicts), (0, 0), "{what}");
    assert_eq!(health.state, HealthState::Ok, "{what}");
    assert_eq!(health.panics == 0, panics == 0, "{what}");
    steps.taken.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_retried_after_any_panic() {
    let steps = deliver(Vec::new(), None).await;
    // The executor, two puts, the comparison, the backoff, counters, the log.
    assert!(steps >= 14, "{steps} steps");
    for step in 0..steps {
        deliver(vec![step], None).await;
        // The handling of a panic panics too: the report, the backoff, the retry.
        for other in step + 1..step + 12 {
            deliver(vec![step, other], None).await;
        }
        deliver((step..step + 12).collect(), None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sealed_deliveries_are_retried_after_any_panic() {
    let root = tempfile::tempdir().unwrap();
    let key_file = Some(root.path().join("key"));
    let settings = EvidenceSettings { key_file, ..EvidenceSettings::new("api") };
    let bucket = Bucket::open("memory:///").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(3));
    let evidence = Evidence::open(settings, &bucket, &clock, &random).await.unwrap();
    let evidence = Some(&Arc::new(evidence));
    let steps = deliver(Vec::new(), evidence).await;
    for step in 0..steps {
        deliver(vec![step], evidence).await;
        deliver((step..step + 12).collect(), evidence).await;
    }
}

struct PanickyWaker;

impl Wake for PanickyWaker {
    fn wake(self: Arc<PanickyWaker>) {
        std::panic::resume_unwind(Box::new("told to panic"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_caller_affects_no_other() {
    let (writer, _, _) = start(&Arc::new(Steps::default()), None);
    let [first, second] = batches().map(|batch| writer.persist(batch));
    let mut first = pin!(first);
    let waker = Waker::from(Arc::new(PanickyWaker));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(second.await.unwrap().place.unwrap().first_sequence, 1);
    assert_eq!(first.await.unwrap().place.unwrap().first_sequence, 0);
    writer.close().await.unwrap();
}
