//! Panics at any step of a delivery, with and without a journal: the records arrive or are set
//! aside, and health counts the panics.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};

use audit_core::testing::SeededRandom;
use audit_core::{
    AuditSink, Clock, HealthState, Mirror, Outcome, Place, Random, SinkErrorKind, SystemClock,
    UniqueId,
};
use audit_sink_http::{Format, HttpSink, JournalSettings, LogStream, SecretSource, Settings};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use tokio::runtime::Builder;

use crate::receiver::{Fault, Receiver, batch};

/// Counts the steps of a delivery, and panics at some of them.
#[derive(Debug)]
struct Steps {
    /// The thread of the runtime: others belong to the journal, which has tests of its own.
    thread: ThreadId,
    /// The number of steps since the sink was opened.
    taken: AtomicUsize,
    panics_at: Mutex<Vec<usize>>,
    panics: AtomicUsize,
}

impl Steps {
    fn step(&self) {
        if thread::current().id() != self.thread || thread::panicking() {
            return;
        }
        let step = self.taken.fetch_add(1, Ordering::Relaxed);
        if self.panics_at.lock().unwrap().contains(&step) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            // `resume_unwind` prints no message.
            std::panic::resume_unwind(Box::new("told to panic"));
        }
    }
}

/// A dependency of a delivery that counts its calls as steps.
#[derive(Debug, Clone)]
struct Stepping<T>(Arc<Steps>, T);

impl Random for Stepping<Arc<SeededRandom>> {
    fn next_u64(&self) -> u64 {
        self.0.step();
        self.1.next_u64()
    }
}

impl Clock for Stepping<SystemClock> {
    fn now_ms(&self) -> i64 {
        self.0.step();
        self.1.now_ms()
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
        metadata.target().starts_with("audit_sink_http")
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

fn stream() -> UniqueId {
    UniqueId::from_bits(1)
}

/// Delivers four records, of which the receiver rejects one, with panics at these steps. Returns
/// the number of steps.
async fn deliver(has_journal: bool, panics_at: Vec<usize>) -> usize {
    let what = format!("journal: {has_journal}, panics at {panics_at:?}");
    let (taken, panics) = Default::default();
    let thread = thread::current().id();
    let steps = Arc::new(Steps { thread, taken, panics_at: Mutex::default(), panics });
    let stepping = Stepping(Arc::clone(&steps), ());
    let (receiver, directory) = (Receiver::start().await, tempfile::tempdir().unwrap());
    receiver.script([Fault::Answer(503, "")]);
    receiver.poison(Some("poison"));
    let (aside, key) = (directory.path().join("aside"), directory.path().join("key"));
    std::fs::write(&key, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    let settings = Settings {
        journal: has_journal.then(|| JournalSettings {
            cut_after_ms: 0,
            ..JournalSettings::new(directory.path().join("journal"))
        }),
        dead_letters: Some(aside.clone()),
        secrets: vec![SecretSource::File(key)],
        ..receiver.settings(Format::Ndjson)
    };
    let sink = {
        let _metrics = metrics::set_default_local_recorder(&stepping);
        let clock = Arc::new(Stepping(Arc::clone(&steps), SystemClock));
        let random = Arc::new(SeededRandom::new(1));
        let random = Arc::new(Stepping(Arc::clone(&steps), random));
        HttpSink::open_with(settings, clock, random).await.unwrap()
    };
    let _log = tracing::subscriber::set_default(stepping);
    let lines = ["{\"n\":0}", "{\"n\":1}", "{\"n\":\"poison\"}", "{\"n\":3}"];
    steps.taken.store(0, Ordering::Relaxed);
    *steps.panics_at.lock().unwrap() = panics_at;
    let persisted = if has_journal {
        sink.persist(batch(7, &lines)).await.map(drop)
    } else {
        let place = Place { stream: stream(), first_sequence: 0, count: 4 };
        sink.persist_at(batch(7, &lines), place).await
    };
    persisted.unwrap_or_else(|error| panic!("{what}: {error}"));
    sink.close().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let taken = steps.taken.load(Ordering::Relaxed);
    steps.panics_at.lock().unwrap().clear();

    let told: Vec<_> = receiver.told().into_iter().map(|(n, _, line, _)| (n, line)).collect();
    let expected = [0, 1, 3].map(|n| (n, lines[n as usize].to_owned()));
    assert_eq!(told, expected, "{what}");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 1, "{what}: set aside");
    let health = sink.health();
    assert_eq!(health.state, HealthState::Ok, "{what}");
    assert_eq!((health.pending_batches, health.pending_bytes), (0, 0), "{what}");
    let panics = steps.panics.load(Ordering::Relaxed);
    assert_eq!(health.panics == 0, panics == 0, "{what}");
    taken
}

/// Runs the test on one thread. The threads of a journal need real time.
fn on_one_thread(start_paused: bool, test: impl Future<Output = ()>) {
    // Keeps the HTTP client, which takes longer to create than a delivery.
    let settings = Settings::new("http://127.0.0.1:9", Format::Ndjson);
    let settings = Settings { allow_private_addresses: true, ..settings };
    let _keeps_client = LogStream::open(settings).unwrap();
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(start_paused).build().unwrap().block_on(test);
}

#[test]
fn deliveries_without_a_journal_are_retried_after_any_panic() {
    on_one_thread(true, async {
        let steps = deliver(false, Vec::new()).await;
        // Signatures, the backoff, counters, the log.
        assert!(steps >= 14, "{steps} steps");
        for step in 0..steps {
            deliver(false, vec![step]).await;
            // The handling of a panic panics too.
            deliver(false, (step..step + 3).collect()).await;
        }
    });
}

#[test]
fn deliveries_with_a_journal_are_retried_after_any_panic() {
    on_one_thread(false, async {
        let steps = deliver(true, Vec::new()).await;
        assert!(steps >= 14, "{steps} steps");
        for step in 0..steps {
            deliver(true, vec![step]).await;
        }
    });
}

struct PanickyWaker;

impl Wake for PanickyWaker {
    fn wake(self: Arc<PanickyWaker>) {
        std::panic::resume_unwind(Box::new("told to panic"));
    }
}

#[tokio::test]
async fn a_panicking_caller_affects_no_other() {
    let receiver = Receiver::start().await;
    receiver.script([Fault::Hangs, Fault::Hangs]);
    let sink = HttpSink::open(receiver.settings(Format::Ndjson)).await.unwrap();
    let waker = Waker::from(Arc::new(PanickyWaker));
    let mut context = Context::from_waker(&waker);
    let mut first = pin!(sink.persist(batch(1, &["{}"])));
    assert!(first.as_mut().poll(&mut context).is_pending());
    let mut flushing = pin!(sink.flush());
    assert!(flushing.as_mut().poll(&mut context).is_pending());
    let second = sink.persist(batch(1, &["{}"]));
    let (second, flushed, ()) = tokio::join!(second, sink.flush(), async {
        receiver.arrived(2).await;
        receiver.release();
    });
    second.unwrap();
    flushed.unwrap();
    first.await.unwrap();
    flushing.await.unwrap();
    sink.close().await.unwrap();
    assert_eq!((receiver.stored().len(), sink.health().state), (2, HealthState::Ok));
}

#[tokio::test]
async fn a_delivery_that_vanishes_is_no_success() {
    let receiver = Receiver::start().await;
    receiver.script([Fault::Hangs]);
    let sink = Arc::new(HttpSink::open(receiver.settings(Format::Ndjson)).await.unwrap());
    let others = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let caller = Arc::clone(&sink);
    let persisted = others.spawn(async move { caller.persist(batch(1, &["{}"])).await });
    receiver.arrived(1).await;
    others.shutdown_background();
    assert!(persisted.await.unwrap_err().is_cancelled());
    let stopped = sink.stopped().await;
    assert!(stopped.contains("the delivery of an audit batch"), "{stopped}");
    for error in [sink.flush().await.unwrap_err(), sink.close().await.unwrap_err()] {
        assert_eq!(error.outcome(), Outcome::Indeterminate, "{error}");
        assert_eq!(error.kind(), SinkErrorKind::Closed, "{error}");
    }
    assert!(matches!(sink.health().state, HealthState::Blocked { .. }), "{:?}", sink.health());
}
