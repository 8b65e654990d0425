//! With evidence, an auditor finds nothing wrong in the bucket, at the end or at any moment before:
//! the host may die at any moment.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support;
use crate::support::evidence::{Acknowledged, Checked, tampered, verify, verify_again};
use crate::support::store_double::StoreDouble;
use crate::support::{
    Objects, TIME_MS, batch, bucket_on, check, read_directory, read_server, read_store,
};
use audit_core::testing::SeededRandom;
use audit_core::{AuditSink, Clock, Random, async_trait};
use audit_evidence::{Alarm, Fault, SystemRecord, VerifierKey};
use audit_journal::simulation::each_seed;
use audit_sink_s3::{Bucket, EvidenceSettings, OpenErrorKind, S3Sink, Settings};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, PutOptions, PutPayload, PutResult,
    Result,
};
use s3_testserver::S3TestServer;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Wall time that follows tokio's time, which tests pause.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now_ms(&self) -> i64 {
        TIME_MS + i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

fn evidence(keys: &FilePath) -> EvidenceSettings {
    EvidenceSettings { key_file: Some(keys.join("host.key")), ..EvidenceSettings::new("test/api") }
}

async fn open(bucket: Bucket, keys: &FilePath) -> S3Sink {
    let settings = Settings { linger_ms: 1, evidence: Some(evidence(keys)), ..Settings::default() };
    S3Sink::builder(bucket).with_settings(settings).open().await.unwrap()
}

/// Persists some batches concurrently. Returns the acknowledged records.
async fn write(sink: &Arc<S3Sink>) -> Acknowledged {
    let mut persists = JoinSet::new();
    for n in 0..40u32 {
        let sink = Arc::clone(sink);
        persists
            .spawn(async move { sink.persist(batch(&n.to_string(), 1 + n % 5)).await.unwrap() });
        if n % 8 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let places = persists.join_all().await.into_iter().map(|receipt| receipt.place.unwrap());
    let records = |place: audit_core::Place| {
        let end = place.first_sequence + u64::from(place.count);
        (place.stream.to_string(), place.first_sequence..end)
    };
    places.map(records).collect()
}

/// Asserts that a closed stream has all its records, an opening and a closing record.
fn assert_whole(prefix: &str, objects: &Objects, host: &VerifierKey, acknowledged: &Acknowledged) {
    let report = verify(prefix, objects, host, acknowledged, u64::MAX);
    assert_eq!(report.findings, []);
    let [stream] = &report.streams[..] else { panic!("one stream") };
    assert!(matches!(stream.opened, Some(SystemRecord::Opened { .. })));
    assert_eq!(stream.closed, Some(stream.size));
    assert_eq!(stream.records, stream.size);
    let logs = check(prefix, objects).unwrap().len() as u64;
    assert_eq!((logs, stream.size), (120, 120 + 2), "and two system records");
}

#[tokio::test]
async fn a_bucket_verifies() {
    let (server, keys) = (S3TestServer::start().await, tempfile::tempdir().unwrap());
    let sink = Arc::new(open(bucket_on(&server, "some/prefix"), keys.path()).await);
    let acknowledged = write(&sink).await;
    sink.close().await.unwrap();
    let host = sink.verifier_key().unwrap();
    assert_whole("some/prefix/", &read_server(&server), host, &acknowledged);
    // Query engines see the same as without evidence.
    let keys: Vec<String> = server.objects().into_keys().collect();
    let is_data = |key: &&String| key.starts_with("some/prefix/dt=");
    let patterns = [".ndjson", ".ndjson.gz", ".ndjson.zst"];
    for key in &keys {
        let matches = patterns.iter().any(|pattern| key.ends_with(pattern));
        assert_eq!(matches, is_data(&key), "{key}");
    }
}

#[tokio::test]
async fn a_directory_verifies() {
    let (root, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", root.path().display());
    let sink = Arc::new(open(Bucket::open(&url).unwrap(), keys.path()).await);
    let acknowledged = write(&sink).await;
    sink.close().await.unwrap();
    let objects = read_directory(root.path());
    assert_whole("", &objects, sink.verifier_key().unwrap(), &acknowledged);
    for key in objects.keys().filter(|key| key.ends_with(".ndjson.zst")) {
        assert!(key.starts_with("dt="), "no pattern for objects matches {key}");
    }
}

/// Streams of one journal follow each other: each is closed and named by the next, and its secret
/// is deleted.
#[tokio::test]
async fn journaled_streams_verify_and_follow() {
    let (server, root) = (S3TestServer::start().await, tempfile::tempdir().unwrap());
    let directory = root.path().join("journal");
    let secrets = || {
        let names = std::fs::read_dir(&directory).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".secret")).collect::<Vec<_>>()
    };
    let (mut acknowledged, mut host) = (Acknowledged::new(), None);
    for _ in 0..3 {
        let settings = Settings {
            max_object_bytes: 300,
            evidence: Some(evidence(root.path())),
            journal: Some(support::journal(&directory, 5)),
            ..Settings::default()
        };
        let bucket = bucket_on(&server, "logs");
        let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
        let sink = Arc::new(sink);
        acknowledged.extend(write(&sink).await);
        let [secret] = &secrets()[..] else { panic!("{:?}", secrets()) };
        assert_eq!(*secret, format!("{}.secret", sink.stream()));
        sink.close().await.unwrap();
        assert_eq!(secrets(), [""; 0]);
        host = sink.verifier_key().cloned();
    }
    let objects = read_server(&server);
    let report = verify("logs/", &objects, &host.unwrap(), &acknowledged, u64::MAX);
    assert_eq!(report.findings, []);
    let mut before = None;
    for stream in &report.streams {
        assert_eq!(stream.closed, Some(stream.size));
        assert_eq!(stream.records, stream.size);
        let previous = stream.previous.iter();
        let mut named = previous.map(|end| (&end.stream, end.size, Some(end.root)));
        assert_eq!(named.next_back(), before, "the previous stream");
        before = Some((&stream.stream, stream.size, stream.root));
    }
    assert_eq!((report.streams.len(), check("logs/", &objects).unwrap().len()), (3, 360));
}

#[tokio::test]
async fn a_sink_that_logs_nothing_writes_nothing() {
    let keys = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let sink = open(support::bucket_in(&store, "logs"), keys.path()).await;
    sink.close().await.unwrap();
    let objects = read_store(&*store).await;
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["logs/_audit/probe"]);
}

#[tokio::test]
async fn evidence_without_a_name_or_a_key_is_refused() {
    let keys = tempfile::tempdir().unwrap();
    let refused = async |evidence: EvidenceSettings| {
        let settings = Settings { evidence: Some(evidence), ..Settings::default() };
        let error = S3Sink::open("memory:///", settings).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        error.to_string()
    };
    for name in ["", "two words", "a+b", "Zoë"] {
        let error = refused(EvidenceSettings { name: name.into(), ..evidence(keys.path()) }).await;
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
    let error = refused(EvidenceSettings::new("api")).await;
    assert!(error.contains(EvidenceSettings::KEY_VARIABLE), "{error}");
}

/// A store that responds late, never or with errors, and sometimes has a foreign object at the key.
#[derive(Debug)]
struct ChaoticStore {
    inner: Arc<InMemory>,
    random: SeededRandom,
    tried: Mutex<BTreeSet<Path>>,
    /// Keys taken by foreign objects.
    foreign: Arc<Mutex<BTreeSet<String>>>,
    /// Notified after each change.
    changed: tokio::sync::mpsc::UnboundedSender<()>,
}

impl ChaoticStore {
    fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }
}

#[async_trait]
impl StoreDouble for ChaoticStore {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let is_probe = location.as_ref().ends_with("probe");
        sleep(Duration::from_millis(self.below(300))).await;
        let failed = || Err(Error::Generic { store: "ChaoticStore", source: "failed".into() });
        if !is_probe && self.below(4) == 0 {
            return failed();
        }
        let is_first = self.tried.lock().unwrap().insert(location.clone());
        if !is_probe && is_first && self.below(20) == 0 {
            self.foreign.lock().unwrap().insert(location.to_string());
            let foreign = "{\"foreign\":true}\n".into();
            self.inner.put_opts(location, foreign, PutOptions::default()).await?;
        }
        let put = self.inner.put_opts(location, payload, options).await;
        let _ = self.changed.send(());
        sleep(Duration::from_millis(self.below(100))).await;
        if !is_probe && self.below(5) == 0 { failed() } else { put }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
}

/// A host that writes to a misbehaving bucket for two minutes, changing streams every minute. After
/// each change to the bucket an auditor verifies it, as if the host had died then.
async fn live(seed: u64) -> (Vec<Fault>, usize) {
    let keys = tempfile::tempdir().unwrap();
    let inner = Arc::new(InMemory::new());
    let (changed, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let store = Arc::new(ChaoticStore {
        inner: Arc::clone(&inner),
        random: SeededRandom::new(seed),
        tried: Mutex::default(),
        foreign: Arc::default(),
        changed,
    });
    let clock = Arc::new(TokioClock(Instant::now()));
    let settings = Settings {
        max_object_bytes: 200,
        max_in_flight: 4,
        retry_cap_ms: 500,
        evidence: Some(EvidenceSettings {
            heartbeat_ms: 10_000,
            idle_heartbeat_ms: 20_000,
            max_stream_ms: 60_000,
            ..evidence(keys.path())
        }),
        ..Settings::default()
    };
    let sink = S3Sink::builder(support::bucket_of(&store, ""))
        .with_settings(settings)
        .with_clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .with_random(Arc::new(SeededRandom::new(seed ^ 0x5eed)))
        .open()
        .await
        .unwrap();
    let sink = Arc::new(sink);
    let host = sink.verifier_key().unwrap().clone();
    let acknowledged = Arc::new(Mutex::new(Acknowledged::new()));
    let auditor = {
        let (inner, host, clock) = (Arc::clone(&inner), host.clone(), Arc::clone(&clock));
        let acknowledged = Arc::clone(&acknowledged);
        let foreign = Arc::clone(&store.foreign);
        tokio::spawn(async move {
            let (mut looks, mut checked) = (0, Checked::new());
            while changes.recv().await.is_some() {
                // Everything acknowledged by now is in the bucket.
                let acknowledged = acknowledged.lock().unwrap().clone();
                let objects = read_store(&*inner).await;
                let now = u64::try_from(clock.now_ms()).unwrap();
                let report = verify_again(&mut checked, "", &objects, &host, &acknowledged, now);
                // A foreign object counts as tampering until the host declares the conflict.
                let foreign = foreign.lock().unwrap().clone();
                let found = tampered(&report, &foreign);
                assert_eq!(found, [""; 0], "seed {seed}, look {looks}");
                // If it is removed before that, no record of the host is missing.
                let mut cleaned = objects;
                cleaned.retain(|key, _| !foreign.contains(key));
                let report = verify_again(&mut checked, "", &cleaned, &host, &acknowledged, now);
                let found = tampered(&report, &foreign);
                assert_eq!(found, [""; 0], "seed {seed}, look {looks}, cleaned");
                looks += 1;
            }
            looks
        })
    };
    let mut persists = JoinSet::new();
    for n in 0..60 {
        let (sink, acknowledged) = (Arc::clone(&sink), Arc::clone(&acknowledged));
        persists.spawn(async move {
            // Batches that met a conflict are not acknowledged.
            let Ok(receipt) = sink.persist(batch(&n.to_string(), 1 + n % 3)).await else { return };
            let place = receipt.place.unwrap();
            let end = place.first_sequence + u64::from(place.count);
            let records = place.first_sequence..end;
            acknowledged.lock().unwrap().push((place.stream.to_string(), records));
        });
        // Bursts, and pauses long enough for a heartbeat.
        let pause = if n % 20 == 19 { 25_000 } else { store.below(3_000) };
        sleep(Duration::from_millis(pause)).await;
    }
    persists.join_all().await;
    sink.close().await.unwrap();
    let acknowledged = acknowledged.lock().unwrap().clone();
    let report = verify("", &read_store(&*inner).await, &host, &acknowledged, u64::MAX);
    assert!(report.streams.len() >= 2, "seed {seed}: the stream never changed");
    for stream in &report.streams {
        assert_eq!(stream.closed, Some(stream.size), "seed {seed}: {stream:?}");
    }
    let voids = report.findings.len();
    assert_eq!(
        voids as u64,
        store.foreign.lock().unwrap().len() as u64,
        "seed {seed}: each is said once"
    );
    drop((sink, store));
    let faults = report.findings.into_iter().map(|finding| finding.fault).collect();
    (faults, auditor.await.unwrap())
}

/// The direct mode. More seeds: `AUDIT_SIMULATION_SEEDS=20000 cargo test --release -p audit-sink-s3
/// --test it a_kill_never`.
#[test]
fn a_kill_never_looks_like_tampering() {
    let conflicts = each_seed("-p audit-sink-s3 --test it a_kill_never", 6, |seed| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let (faults, looks) = runtime.block_on(live(seed));
        let is_void = |fault: &&Fault| {
            fault.alarm() == Alarm::Unproven && matches!(fault, Fault::SetAside { .. })
        };
        match faults.iter().find(|fault| !is_void(fault)) {
            Some(fault) => Err(format!("{fault:?}")),
            None if looks <= 30 => Err(format!("{looks} looks")),
            None => Ok(faults.len()),
        }
    });
    assert!(conflicts.into_iter().sum::<usize>() > 0, "none met a conflict");
}
