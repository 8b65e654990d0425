//! Routes share only a journal: each record reaches its own bucket, and an unreachable bucket
//! affects only its route.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support;
use crate::support::evidence::{Acknowledged, verify};
use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{batch, bucket_of, placed, read_store};
use audit_core::testing::StoredRecord;
use audit_core::{AuditSink, BufferPool, Commits, HealthState, UniqueId, async_trait};
use audit_journal::health::HealthBoard;
use audit_journal::{
    Delivery, Destination, Encoded, Encoding, Follower, FollowerState, JournalReader, Link,
    OrphanedJournal, Plan, Records, Unsealed,
};
use audit_sink_s3::{Bucket, EvidenceSettings, OpenErrorKind, S3Sink, Settings, rescue};
use bytes::Bytes;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::watch;
use tokio::time::timeout;

async fn records(store: &Arc<GatedStore>) -> Vec<audit_core::testing::StoredRecord> {
    support::check("logs/", &read_store(&**store.inner()).await).unwrap()
}

fn settings(journal: &Path) -> Settings {
    let journal = support::journal(journal, 10);
    Settings { journal: Some(journal), retry_cap_ms: 50, ..Settings::default() }
}

async fn open(journal: &Path, own: &Arc<GatedStore>) -> S3Sink {
    let open = S3Sink::builder(bucket_of(own, "logs")).with_settings(settings(journal));
    open.open().await.unwrap()
}

/// Opens the journal once the threads of its dropped runtime have released it.
async fn orphan(journal: &Path) -> OrphanedJournal {
    loop {
        match OrphanedJournal::open(journal).await {
            Ok(orphan) => return orphan,
            Err(error) => assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A bucket is unreachable, the process dies, and the next process delivers to the bucket.
#[test]
fn each_record_reaches_its_own_bucket_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path();
    let [own, near, away] = [(); 3].map(|()| GatedStore::new());
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let (mut of_own, mut of_near, mut of_away) = first.block_on(async {
        let sink = open(journal, &own).await;
        let near_route = sink.open_route("near", bucket_of(&near, "logs")).await.unwrap();
        let away_route = sink.open_route("away", bucket_of(&away, "logs")).await.unwrap();
        away.set(Gate::Closed);
        let (mut of_own, mut of_near, mut of_away) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..10 {
            let [a, b, c] = ["own", "near", "away"].map(|of| batch(&format!("{of}-{n}"), 3));
            of_own.extend(placed(&a, &sink.persist(a.clone()).await.unwrap()));
            of_near.extend(placed(&b, &near_route.persist(b.clone()).await.unwrap()));
            of_away.extend(placed(&c, &away_route.persist(c.clone()).await.unwrap()));
        }
        sink.flush().await.unwrap();
        near_route.flush().await.unwrap();
        assert_eq!(near_route.health().state, HealthState::Ok);
        assert_eq!(away_route.health().commits, Commits::Accepted);
        assert_eq!(records(&own).await, of_own);
        assert_eq!(records(&near).await, of_near);
        assert_eq!(records(&away).await, []);
        let state = JournalReader::open(journal).unwrap().state().clone();
        let undelivered = |name: &str| {
            let route = state.routes.iter().find(|route| route.name == name).unwrap();
            state.undelivered_of(route.number)
        };
        assert_eq!((undelivered("near"), undelivered("away"), state.undelivered()), (0, 30, 30));
        (of_own, of_near, of_away)
    });
    drop(first);

    runtime().block_on(async {
        // A rescuer who names no bucket for a route leaves its records in the journal.
        let (to_own, rescuer) = (bucket_of(&own, "logs"), settings(journal));
        let orphaned = orphan(journal).await.remove_delivered(true);
        let delivering = rescue::deliver(orphaned, to_own.clone(), Vec::new(), Vec::new(), rescuer);
        delivering.await.unwrap().finished().await.unwrap();
        let orphaned = orphan(journal).await;
        assert_eq!(orphaned.state().undelivered(), 30);
        let other = rescue::route("other", to_own.clone(), &settings(journal)).await.unwrap();
        let refused =
            rescue::deliver(orphaned, to_own.clone(), vec![other], Vec::new(), settings(journal));
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.ends_with("has no route \"other\""), "{refused}");

        away.set(Gate::Open);
        let orphaned = orphan(journal).await;
        let route =
            rescue::route("away", bucket_of(&away, "logs"), &settings(journal)).await.unwrap();
        let health = Arc::clone(&route.health);
        let delivering =
            rescue::deliver(orphaned, to_own, vec![route], Vec::new(), settings(journal));
        delivering.await.unwrap().finished().await.unwrap();
        assert_eq!(records(&away).await, of_away);
        assert_eq!(health.health(0).records_delivered, 30);
        assert_eq!(orphan(journal).await.state().undelivered(), 0);

        let sink = open(journal, &own).await;
        let away_route = sink.open_route("away", bucket_of(&away, "logs")).await.unwrap();
        let more = batch("more", 2);
        of_away.extend(placed(&more, &away_route.persist(more.clone()).await.unwrap()));
        away_route.retire().await.unwrap();
        let own_batch = batch("own", 1);
        of_own.extend(placed(&own_batch, &sink.persist(own_batch.clone()).await.unwrap()));
        sink.close().await.unwrap();
        let sorted = |mut records: Vec<audit_core::testing::StoredRecord>| {
            records.sort_by_key(|record| (record.stream, record.sequence));
            records
        };
        assert_eq!(sorted(records(&away).await), sorted(std::mem::take(&mut of_away)));
        assert_eq!(sorted(records(&own).await), sorted(std::mem::take(&mut of_own)));
        assert_eq!(sorted(records(&near).await), sorted(std::mem::take(&mut of_near)));
        let state = JournalReader::open(journal).unwrap().state().clone();
        let retired: Vec<_> = state.routes.iter().filter(|route| route.is_retired).collect();
        assert_eq!((retired.len(), retired[0].name.as_str()), (1, "away"));
        assert_eq!(state.undelivered(), 0);
    });
}

/// A route that was closed while its bucket was unreachable is opened with another bucket.
#[tokio::test]
async fn undelivered_records_follow_a_route_to_another_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let [own, before, after] = [(); 3].map(|()| GatedStore::new());
    let sink = open(directory.path(), &own).await;
    let route = sink.open_route("moves", bucket_of(&before, "logs")).await.unwrap();
    before.set(Gate::Closed);
    let first = batch("first", 2);
    let mut expected = placed(&first, &route.persist(first.clone()).await.unwrap());
    assert!(timeout(Duration::from_millis(20), route.close()).await.is_err());
    let closed = route.persist(batch("late", 1)).await.unwrap_err();
    assert_eq!(closed.kind(), audit_core::SinkErrorKind::Closed);
    let route = sink.open_route("moves", bucket_of(&after, "logs")).await.unwrap();
    let second = batch("second", 2);
    expected.extend(placed(&second, &route.persist(second.clone()).await.unwrap()));
    route.flush().await.unwrap();
    assert_eq!(records(&after).await, expected);
    assert_eq!(records(&before).await, []);
    sink.close().await.unwrap();
}

/// A name is opened again while its route is being retired, at each point of that. Nothing that is
/// acknowledged then stays in the journal.
#[tokio::test]
async fn a_route_that_is_opened_again_is_not_retired() {
    let directory = tempfile::tempdir().unwrap();
    let [own, store] = [(); 2].map(|()| GatedStore::new());
    let sink = open(directory.path(), &own).await;
    let open = || sink.open_route("acme", bucket_of(&store, "logs"));
    let (mut expected, mut kept) = (Vec::new(), 0);
    for turns in 0..100 {
        let before = open().await.unwrap();
        let retire = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            before.retire().await
        };
        let (opened, retired) = tokio::join!(open(), retire);
        let route = match opened {
            Ok(route) => route,
            Err(error) => {
                assert!(error.to_string().contains("is open already"), "{error}");
                retired.unwrap();
                continue;
            }
        };
        kept += u32::from(retired.is_err());
        let lines = batch(&format!("of-{turns}"), 2);
        expected.extend(placed(&lines, &route.persist(lines.clone()).await.unwrap()));
        timeout(Duration::from_secs(60), route.retire()).await.unwrap().unwrap();
    }
    assert!(kept > 0, "a route was opened again while it was being retired");
    sink.close().await.unwrap();
    expected.sort_by_key(|record| (record.stream, record.sequence));
    assert_eq!(records(&store).await, expected);
}

#[tokio::test]
async fn unsupported_features_of_routes_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let memory = || Bucket::open("memory:///").unwrap();
    let refusal = |sink: S3Sink, name: &'static str| async move {
        let error = sink.open_route(name, memory()).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        (error.to_string(), sink)
    };
    let direct = S3Sink::open("memory:///", Settings::default()).await.unwrap();
    let (error, _) = refusal(direct, "a").await;
    assert_eq!(
        error,
        "route \"a\" cannot be opened: routes share a journal, and the settings have none"
    );
    let sink = S3Sink::builder(memory()).with_settings(settings(&directory.path().join("plain")));
    let sink = sink.open().await.unwrap();
    let (error, sink) = refusal(sink, "No Name").await;
    assert!(error.starts_with("\"No Name\" is not a name of a route: "), "{error}");
    let _open = sink.open_route("twice", memory()).await.unwrap();
    let (error, sink) = refusal(sink, "twice").await;
    assert_eq!(error, "route \"twice\" is open already");
    sink.close().await.unwrap();
    let (error, _) = refusal(sink, "late").await;
    assert_eq!(error, "route \"late\" cannot be opened: the journal is closed");
}

fn files(journal: &Path) -> Vec<String> {
    let files = std::fs::read_dir(journal).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.collect()
}

fn with_evidence(root: &Path) -> Settings {
    let key_file = Some(root.join("host.key"));
    let evidence = EvidenceSettings { key_file, ..EvidenceSettings::new("test/api") };
    Settings { evidence: Some(evidence), ..settings(&root.join("journal")) }
}

fn acknowledged(batch: &audit_core::Batch, receipt: &audit_core::Receipt) -> Acknowledged {
    let records = placed(batch, receipt).into_iter();
    records.map(|at| (at.stream.to_string(), at.sequence..at.sequence + 1)).collect()
}

/// Two openings of two routes with records and one without.
#[tokio::test]
async fn each_route_has_evidence_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let [own, acme, globex, idle] = [(); 4].map(|()| GatedStore::new());
    let stores = BTreeMap::from([("acme", &acme), ("globex", &globex), ("idle", &idle)]);
    let mut acks: BTreeMap<&str, Acknowledged> = BTreeMap::new();
    let mut host = None;
    for opening in 0..2 {
        let sink = S3Sink::builder(bucket_of(&own, "logs")).with_settings(with_evidence(root));
        let sink = sink.open().await.unwrap();
        let mut routes = BTreeMap::new();
        for (name, store) in &stores {
            let route = sink.open_route(name, bucket_of(store, "logs")).await.unwrap();
            routes.insert(*name, route);
        }
        let idle_files = files(&root.join("journal"));
        for n in 1..4 {
            for name in ["acme", "globex"] {
                let batch = batch(&format!("{name} {opening}"), n);
                let receipt = routes[name].persist(batch.clone()).await.unwrap();
                acks.entry(name).or_default().extend(acknowledged(&batch, &receipt));
            }
        }
        let streams = ["acme", "globex"].map(|name| format!("{}.secret", routes[name].stream()));
        let mut secrets = files(&root.join("journal"));
        secrets.retain(|name| name.ends_with(".secret") && !idle_files.contains(name));
        secrets.sort_unstable();
        let mut expected = streams.to_vec();
        expected.sort_unstable();
        assert_eq!(secrets, expected, "a route without records has no key");
        // One route is closed by itself, the other with the sink.
        routes["acme"].close().await.unwrap();
        assert!(!files(&root.join("journal")).contains(&streams[0]));
        sink.close().await.unwrap();
        assert!(!files(&root.join("journal")).iter().any(|name| name.ends_with(".secret")));
        host = sink.verifier_key().cloned();
    }
    let host = host.unwrap();
    for name in ["acme", "globex"] {
        let objects = read_store(&**stores[name].inner()).await;
        let report = verify("logs/", &objects, &host, &acks[name], u64::MAX);
        assert_eq!(report.findings, [], "{name}");
        let [first, second] = &report.streams[..] else { panic!("two streams of {name}") };
        for stream in [first, second] {
            assert_eq!((stream.closed, stream.size), (Some(8), 8), "six records and two more");
        }
        let named: Vec<_> = second.previous.iter().map(|end| (&end.stream, end.root)).collect();
        assert_eq!(named, [(&first.stream, first.root.unwrap())], "{name}");
        assert!(first.previous.is_empty(), "{name}");
        let records = support::check("logs/", &objects).unwrap();
        let begin = format!("{{\"t\":\"{name} ");
        assert!(records.iter().all(|record| record.line.starts_with(begin.as_bytes())));
    }
    for store in [&idle, &own] {
        let objects = read_store(&**store.inner()).await;
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["logs/_audit/probe"]);
    }
}

/// A route is retired while others go on: nothing of it is left, its key least of all.
#[tokio::test]
async fn a_retired_route_leaves_no_key_and_a_closed_stream() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let [own, acme] = [(); 2].map(|()| GatedStore::new());
    let sink = S3Sink::builder(bucket_of(&own, "logs")).with_settings(with_evidence(root));
    let sink = sink.open().await.unwrap();
    let route = sink.open_route("acme", bucket_of(&acme, "logs")).await.unwrap();
    let batch = batch("a", 3);
    let receipt = route.persist(batch.clone()).await.unwrap();
    assert_eq!(receipt.place.unwrap().first_sequence, 1, "the first record opens the stream");
    route.retire().await.unwrap();
    let secret = format!("{}.secret", route.stream());
    assert!(!files(&root.join("journal")).contains(&secret));
    let objects = read_store(&**acme.inner()).await;
    let acks = acknowledged(&batch, &receipt);
    let report = verify("logs/", &objects, sink.verifier_key().unwrap(), &acks, u64::MAX);
    assert_eq!((&report.findings[..], report.streams[0].closed), (&[][..], Some(5)));
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_journal_opens_again_beside_its_old_handles() {
    let directory = tempfile::tempdir().unwrap();
    let [own, other] = [(); 2].map(|()| GatedStore::new());
    let sink = open(directory.path(), &own).await;
    let route = sink.open_route("other", bucket_of(&other, "logs")).await.unwrap();
    route.persist(batch("a", 1)).await.unwrap();
    sink.close().await.unwrap();

    let again = open(directory.path(), &own).await;
    route.persist(batch("b", 1)).await.unwrap_err();
    route.retire().await.unwrap_err();
    sink.open_route("third", bucket_of(&other, "logs")).await.unwrap_err();
    again.close().await.unwrap();
    assert_eq!(records(&other).await.len(), 1);
}

/// The customers that left are retired at the next start, unless their buckets lack records.
#[test]
fn routes_that_are_not_opened_again_are_retired_once_they_are_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path();
    let stores = [(); 4].map(|()| GatedStore::new());
    let [own, stays, left, lacks] = &stores;
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        let sink = open(journal, own).await;
        for (name, store) in [("stays", stays), ("left", left), ("lacks", lacks)] {
            let route = sink.open_route(name, bucket_of(store, "logs")).await.unwrap();
            if name == "lacks" {
                store.set(Gate::Closed);
            }
            route.persist(batch(name, 1)).await.unwrap();
            if name != "lacks" {
                route.close().await.unwrap();
            }
        }
    });
    drop(first);
    runtime().block_on(async {
        drop(orphan(journal).await);
        let sink = open(journal, own).await;
        let _stays = sink.open_route("stays", bucket_of(stays, "logs")).await.unwrap();
        for _ in 0..2 {
            let left = sink.retire_unopened_routes().await.unwrap();
            let left: Vec<_> =
                left.iter().map(|route| (&*route.name, &*route.destination)).collect();
            assert_eq!(left, [("lacks", &*bucket_of(lacks, "logs").to_string())]);
        }
        let routes = JournalReader::open(journal).unwrap().state().routes.clone();
        let retired = routes.iter().filter(|route| route.is_retired);
        assert_eq!(retired.map(|route| route.name.as_str()).collect::<Vec<_>>(), ["left"]);
        sink.close().await.unwrap();
    });
}

/// A log stream in memory.
#[derive(Debug, Default)]
struct Stream {
    /// The records by stream and number.
    records: watch::Sender<BTreeMap<(UniqueId, u64), Bytes>>,
    /// Whether it does not respond.
    is_away: watch::Sender<bool>,
}

impl Stream {
    fn follower(self: &Arc<Self>, name: &str) -> Follower {
        Follower {
            name: name.to_owned(),
            destination: Arc::<Stream>::clone(self),
            health: HealthBoard::new(name.to_owned()),
            max_object_bytes: 100,
            cut_after_ms: 0,
            max_in_flight: 2,
            max_kept_bytes: None,
        }
    }

    /// Waits until it has all of these records, and checks that it has no others.
    async fn has(&self, expected: &[StoredRecord]) {
        let mut records = self.records.subscribe();
        let records = records.wait_for(|records| records.len() >= expected.len()).await.unwrap();
        let line = |record: &StoredRecord| ((record.stream, record.sequence), record.line.clone());
        assert_eq!(*records, expected.iter().map(line).collect());
    }
}

#[async_trait]
impl Destination for Stream {
    fn encoding(&self) -> Encoding {
        Encoding::new(*b"line")
    }

    fn accepts(&self, encoding: Encoding) -> bool {
        encoding == self.encoding()
    }

    fn encode(&self, _: &Plan, _: Option<&Link>, records: Records<'_>, _: &BufferPool) -> Unsealed {
        let pieces = vec![Bytes::copy_from_slice(records.lines)];
        Unsealed { pieces, sha256: [0; 32], seal: None }
    }

    async fn send(&self, plan: &Plan, object: Encoded) -> Delivery {
        let bytes = object.pieces.concat();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let _ = self.is_away.subscribe().wait_for(|is_away| !is_away).await;
        self.records.send_modify(|records| {
            for (sequence, line) in (plan.first_sequence..).zip(lines) {
                records.insert((plan.stream, sequence), Bytes::copy_from_slice(line));
            }
        });
        Delivery::Delivered
    }

    fn backoff_after_panic(&self, _: u32) -> Duration {
        Duration::from_millis(1)
    }
}

/// Two routes and the sink itself have a follower each, two of them under one name. One bucket is
/// unreachable, and its route's follower has everything nevertheless.
#[tokio::test]
async fn each_follower_has_the_records_of_its_route_under_the_buckets_ids() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path();
    let [own, near, away] = [(); 3].map(|()| GatedStore::new());
    let [of_own, of_near, of_away] = [(); 3].map(|()| Arc::new(Stream::default()));
    let opening = S3Sink::builder(bucket_of(&own, "logs")).with_settings(settings(journal));
    let sink = opening.with_follower(of_own.follower("siem")).open().await.unwrap();
    let open = async |name: &str, store, followers| {
        sink.open_followed_route(name, bucket_of(store, "logs"), followers).await
    };
    let twice = vec![of_near.follower("a"), of_near.follower("a")];
    let error = open("near", &near, twice).await.unwrap_err().to_string();
    assert_eq!(error, "route \"near\": two followers have the name \"a\"");
    let error = open("near", &near, vec![of_near.follower("A")]).await.unwrap_err().to_string();
    assert!(error.starts_with("route \"near\": a follower's name must have "), "{error}");

    let near_route = open("near", &near, vec![of_near.follower("siem")]).await.unwrap();
    let away_route = open("away", &away, vec![of_away.follower("siem")]).await.unwrap();
    away.set(Gate::Closed);
    let mut expected = [(); 3].map(|()| Vec::new());
    for n in 0..10 {
        let sinks: [&dyn AuditSink; 3] = [&sink, &near_route, &away_route];
        for (of, sink) in sinks.into_iter().enumerate() {
            let batch = batch(&format!("{of}-{n}"), 3);
            let receipt = sink.persist(batch.clone()).await.unwrap();
            expected[of].extend(placed(&batch, &receipt));
        }
    }
    for (stream, expected) in [&of_own, &of_near, &of_away].into_iter().zip(&expected) {
        stream.has(expected).await;
    }
    near_route.flush().await.unwrap();
    assert_eq!((records(&near).await, records(&away).await), (expected[1].clone(), Vec::new()));
    let names = |sink: &dyn AuditSink| {
        let followers = sink.health().followers.into_iter();
        followers.map(|follower| follower.name).collect::<Vec<_>>()
    };
    assert_eq!((names(&near_route), names(&sink)), (vec!["siem".into()], vec!["siem".into()]));

    // A route that is opened without its follower retires it, and no other.
    near_route.close().await.unwrap();
    let near_route = open("near", &near, vec![of_near.follower("new")]).await.unwrap();
    let more = batch("more", 2);
    expected[1].extend(placed(&more, &near_route.persist(more.clone()).await.unwrap()));
    of_near.has(&expected[1]).await;
    let followers = JournalReader::open(journal).unwrap().state().followers.clone();
    let shown = followers.iter().map(|known| (known.route, known.name.as_str(), known.state));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            (0, "siem", FollowerState::Following),
            (1, "siem", FollowerState::Retired),
            (2, "siem", FollowerState::Following),
            (1, "new", FollowerState::Following),
        ]
    );
    assert!(followers.iter().all(|known| known.missing.is_empty()), "{followers:?}");
    away.set(Gate::Open);
    sink.close().await.unwrap();
    assert_eq!(records(&away).await, expected[2]);
}

/// The gauges of all destinations, by label and name. A debugging recorder resets gauges when they
/// are read.
#[derive(Default)]
struct Gauges(Mutex<BTreeMap<(String, String), Arc<AtomicU64>>>);

impl Gauges {
    fn of(&self, bucket: &str) -> BTreeMap<String, f64> {
        let all = self.0.lock().unwrap();
        let of_bucket = all.iter().filter(|((label, _), _)| label == bucket);
        let value = |gauge: &Arc<AtomicU64>| f64::from_bits(gauge.load(Ordering::Acquire));
        of_bucket.map(|((_, name), gauge)| (name.clone(), value(gauge))).collect()
    }

    fn get(&self, bucket: &str, name: &str) -> f64 {
        self.of(bucket)[name]
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let label = key.labels().find(|label| label.key() == "bucket").unwrap();
        let place = (label.value().to_owned(), key.name().to_owned());
        Gauge::from_arc(Arc::clone(self.0.lock().unwrap().entry(place).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Nobody asks for the health of a route or a follower before its metrics are right. They are so
/// after commits, deliveries, a crash, and when a follower is retired.
#[test]
fn metrics_of_routes_and_followers_show_what_health_says() {
    const BYTES: &str = "audit_journal_bytes";
    const LIMIT: &str = "audit_journal_limit_bytes";
    const LAG: &str = "audit_follower_lag_bytes";
    const KEPT: &str = "audit_follower_limit_bytes";
    const OLDEST: &str = "audit_oldest_undelivered_timestamp_seconds";
    let seconds = support::TIME_MS as f64 / 1_000.0;
    let gauges = Gauges::default();
    let _recorder = metrics::set_default_local_recorder(&gauges);
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path();
    let [own, near, away] = [(); 3].map(|()| GatedStore::new());
    let [of_near, of_away] = [(); 2].map(|()| Arc::new(Stream::default()));
    let follower = |stream: &Arc<Stream>, label: &str| Follower {
        health: HealthBoard::new(label.to_owned()),
        ..stream.follower("siem")
    };
    let max_bytes = settings(journal).journal.unwrap().max_bytes as f64;
    let url = |prefix: &str| bucket_of(&own, prefix).to_string();
    let (url_of_own, url_of_near, url_of_away) = (url("own"), url("near"), url("away"));
    // All on one thread, which has the recorder.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = async || {
        let sink = S3Sink::builder(bucket_of(&own, "own")).with_settings(settings(journal));
        sink.open().await.unwrap()
    };
    let first = runtime();
    first.block_on(async {
        let sink = open().await;
        let (siem, bucket) = (follower(&of_near, "siem@near"), bucket_of(&near, "near"));
        let near_route = sink.open_followed_route("near", bucket, vec![siem]).await.unwrap();
        assert_eq!(gauges.get(&url_of_near, LIMIT), max_bytes / 2.0);
        let (siem, bucket) = (follower(&of_away, "siem@away"), bucket_of(&away, "away"));
        let away_route = sink.open_followed_route("away", bucket, vec![siem]).await.unwrap();
        assert_eq!(gauges.get(&url_of_own, LIMIT), max_bytes);
        for url in [&url_of_near, &url_of_away] {
            let (bytes, limit) = (gauges.get(url, BYTES), gauges.get(url, LIMIT));
            assert_eq!((bytes, limit), (0.0, max_bytes / 4.0));
        }
        assert_eq!(gauges.get("siem@away", KEPT), max_bytes / 2.0);
        away.set(Gate::Closed);
        of_away.is_away.send_replace(true);
        let (mut of_near_records, mut bytes) = (Vec::new(), 0.0);
        for n in 0..3 {
            let batch = batch(&format!("near-{n}"), 3);
            let receipt = near_route.persist(batch.clone()).await.unwrap();
            of_near_records.extend(placed(&batch, &receipt));
            away_route.persist(batch).await.unwrap();
            assert!(gauges.get(&url_of_away, BYTES) > bytes, "{n}");
            bytes = gauges.get(&url_of_away, BYTES);
        }
        near_route.flush().await.unwrap();
        of_near.has(&of_near_records).await;
        support::until(|| gauges.get(&url_of_near, BYTES) == 0.0).await;
        support::until(|| gauges.get("siem@near", LAG) == 0.0).await;
        support::until(|| gauges.get(&url_of_away, OLDEST) == seconds).await;
        support::until(|| gauges.get("siem@away", LAG) > 0.0).await;
        for (route, url, label) in
            [(&near_route, &url_of_near, "siem@near"), (&away_route, &url_of_away, "siem@away")]
        {
            support::until(|| {
                let (route_gauges, siem) = (gauges.of(url), gauges.of(label));
                let health = route.health();
                let told = &health.followers[0];
                let oldest = |ms: Option<i64>| ms.map_or(0.0, |ms| ms as f64 / 1_000.0);
                let blocked = f64::from(u8::from(health.state != HealthState::Ok));
                route_gauges[BYTES] == health.journal_bytes.unwrap() as f64
                    && route_gauges[OLDEST] == oldest(health.oldest_undelivered_ms)
                    && route_gauges["audit_blocked"] == blocked
                    && siem[LAG] == told.lag_bytes as f64
                    && siem[OLDEST] == oldest(told.oldest_undelivered_ms)
                    && siem["audit_follower_paused"] == f64::from(u8::from(told.is_paused))
                    && siem["audit_follower_missing_records"] == told.missing_records as f64
            })
            .await;
        }
        assert!(gauges.get(&url_of_away, BYTES) > 0.0);
        assert_eq!(gauges.get("siem@away", OLDEST), seconds);
    });
    drop(first);
    gauges.0.lock().unwrap().clear();
    runtime().block_on(async {
        drop(orphan(journal).await);
        let sink = open().await;
        // A route that is not open yet has a metric under its number.
        support::until(|| gauges.get("route 2", OLDEST) == seconds).await;
        let (siem, bucket) = (follower(&of_away, "siem@away"), bucket_of(&away, "away"));
        let away_route = sink.open_followed_route("away", bucket, vec![siem]).await.unwrap();
        assert!(gauges.get(&url_of_away, BYTES) > 0.0, "what the last process left");
        support::until(|| gauges.get("route 2", OLDEST) == 0.0).await;
        support::until(|| gauges.get(&url_of_away, OLDEST) == seconds).await;
        support::until(|| gauges.get("siem@away", OLDEST) == seconds).await;

        // It is closed, and opened again with another bucket and without its follower, which is
        // retired.
        let closing = timeout(Duration::from_millis(1), away_route.close()).await;
        closing.unwrap_err();
        let moved = sink.open_route("away", bucket_of(&near, "moved")).await.unwrap();
        let siem = gauges.of("siem@away");
        assert_eq!((siem[LAG], siem[OLDEST], siem[KEPT]), (0.0, 0.0, 0.0));
        assert_eq!(siem["audit_follower_missing_records"], 9.0);
        assert_eq!(gauges.get(&url_of_away, BYTES), 0.0);
        support::until(|| gauges.get(&url_of_away, OLDEST) == 0.0).await;
        moved.flush().await.unwrap();
        let moved = moved.bucket().to_string();
        support::until(|| gauges.get(&moved, BYTES) == 0.0).await;
        sink.close().await.unwrap();
    });
}
