//! Each destination of a route has the records of its route and no others, under equal ids, also
//! while a destination of another route is away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Batch, Durability, HealthState, Outcome, SinkError};
use audit_host::{Destinations, Opened, RoutesFile};
use audit_sink_s3::{Compression, JournalSettings, Settings};
use axum::Router;
use axum::extract::Path as UrlPath;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

/// Records by stream and sequence.
type Records = BTreeMap<(String, u64), Value>;

/// Log streams of several routes, each at a path of its own.
#[derive(Clone)]
struct Receivers {
    url: String,
    received: watch::Sender<BTreeMap<String, Records>>,
    /// The paths at which requests are answered with this status instead of being taken.
    refusing: watch::Sender<BTreeMap<String, StatusCode>>,
}

impl Receivers {
    async fn start() -> Receivers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (received, refusing) = (watch::Sender::default(), watch::Sender::default());
        let receivers = Receivers { url, received, refusing };
        let serving = receivers.clone();
        let take = move |UrlPath(path): UrlPath<String>, body: String| async move {
            serving.take(path, &body)
        };
        let router = Router::new().route("/{path}", post(take));
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        receivers
    }

    fn take(&self, path: String, body: &str) -> StatusCode {
        if let Some(status) = self.refusing.borrow().get(&path) {
            return *status;
        }
        self.received.send_modify(|received| {
            let of_path = received.entry(path).or_default();
            for line in body.lines() {
                let mut record: Value = serde_json::from_str(line).unwrap();
                let stream = record["stream"].as_str().unwrap().to_owned();
                let id = (stream, record["sequence"].as_u64().unwrap());
                let before = of_path.insert(id, record["body"].clone());
                assert!(before.is_none_or(|before| before == record["body"].take()), "{line}");
            }
        });
        StatusCode::OK
    }

    fn refuse(&self, path: &str, status: StatusCode) {
        self.refusing.send_modify(|refusing| {
            refusing.insert(path.to_owned(), status);
        });
    }

    fn of(&self, path: &str) -> Records {
        self.received.borrow().get(path).cloned().unwrap_or_default()
    }

    async fn has(&self, path: &str, count: usize) {
        let mut received = self.received.subscribe();
        let has =
            |all: &BTreeMap<String, Records>| all.get(path).is_some_and(|of| of.len() >= count);
        received.wait_for(has).await.unwrap();
    }

    /// The settings of a log stream at `NAME-ROUTE`.
    fn stream(&self, name: &str, route: &str, more: &str) -> String {
        format!(
            "[[route.log_stream]]\nname = \"{name}\"\nurl = \"{}/{name}-{route}\"\n\
             format = \"ndjson\"\nallow_http = true\nallow_private_addresses = true\n\
             retry_cap_ms = 100\n{more}\n",
            self.url
        )
    }
}

/// The records in a bucket that is a directory.
fn records_at(bucket: &Path) -> Records {
    let mut records = Records::new();
    let mut directories = vec![bucket.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(name) = name.strip_suffix(".ndjson") else { continue };
            let (stream, first) = name.split_once('-').unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            for (sequence, line) in (first.parse().unwrap()..).zip(text.lines()) {
                let record = serde_json::from_str(line).unwrap();
                let twice = records.insert((stream.to_owned(), sequence), record);
                assert!(twice.is_none(), "record {sequence} of {stream} is in two objects");
            }
        }
    }
    records
}

fn route(directory: &TempDir, name: &str, has_bucket: bool) -> String {
    let bucket = format!("bucket = \"file://{}/{name}\"\n", directory.path().display());
    let bucket = if has_bucket { bucket } else { String::new() };
    format!("[[route]]\nname = \"{name}\"\n{bucket}")
}

/// The destinations of a host with these routes.
fn destinations(directory: &TempDir, routes: &str) -> Destinations {
    let file = directory.path().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let routes = RoutesFile::read(&file).unwrap().route;
    let journal = JournalSettings::new(directory.path().join("journal"));
    let journal = Some(JournalSettings { cut_after_ms: 0, ..journal });
    let settings = Settings { journal, compression: Compression::None, ..Settings::default() };
    let own = format!("file://{}/own", directory.path().display());
    let bucket = Some((own, Box::new(settings)));
    let destinations = Destinations { bucket, ..Destinations::default() };
    destinations.with_routes(routes, 600_000, directory.path())
}

async fn persist(
    route: &Arc<dyn AuditSink>,
    name: &str,
    n: usize,
) -> Result<Durability, SinkError> {
    let line = format!("{{\"of\":\"{name}\",\"n\":{n}}}\n");
    let batch = Batch::from_lines(1_700_000_000_000, line.into()).unwrap();
    route.persist(batch).await.map(|receipt| receipt.durability)
}

/// Persists records of several routes at once. Returns what became of each route's.
async fn persist_all(opened: &Opened, count: usize) -> BTreeMap<String, Vec<SinkError>> {
    let routes = opened.routes.sinks();
    let tasks: Vec<_> = (0..count)
        .flat_map(|n| routes.iter().map(move |route| (n, route)))
        .map(|(n, (name, route))| {
            let (name, route) = (name.clone(), Arc::clone(route));
            tokio::spawn(async move {
                let persisted = persist(&route, &name, n).await;
                (name, persisted.err())
            })
        })
        .collect();
    let mut errors: BTreeMap<String, Vec<SinkError>> = BTreeMap::new();
    for task in tasks {
        let (name, error) = task.await.unwrap();
        errors.entry(name).or_default().extend(error);
    }
    errors
}

/// Checks that these are all records of a route, and of no other.
fn check(records: &Records, name: &str, count: usize) {
    assert!(records.values().all(|record| record["of"] == name), "{name}: {records:?}");
    let numbers: BTreeSet<_> = records.values().map(|record| record["n"].as_u64()).collect();
    assert_eq!((records.len(), numbers.len()), (count, count), "{name}: {records:?}");
}

/// Acme's receivers are well, globex's required one is away, and initech's only one rejects.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_fails_only_its_own_route() {
    let (directory, receivers) = (TempDir::new().unwrap(), Receivers::start().await);
    let required = |name: &str, route: &str| receivers.stream(name, route, "required = true");
    let text = [
        route(&directory, "acme", true),
        required("siem", "acme"),
        receivers.stream("copy", "acme", ""),
        route(&directory, "globex", true),
        required("siem", "globex"),
        route(&directory, "initech", false),
        required("siem", "initech"),
        route(&directory, "umbrella", false),
        required("siem", "umbrella"),
        required("second", "umbrella"),
    ];
    let mut destinations = destinations(&directory, &text.concat());
    destinations.routes[1].log_stream[0].persist_timeout_ms = 50;
    receivers.refuse("siem-globex", StatusCode::SERVICE_UNAVAILABLE);
    receivers.refuse("siem-initech", StatusCode::BAD_REQUEST);
    let opened = destinations.open().await.unwrap();
    let shown: Vec<_> = opened.routes.sinks().values().map(ToString::to_string).collect();
    assert_eq!(
        shown[0],
        format!(
            "Tee(S3Route(acme to file://{}/acme), then HttpSink(siem@acme: {}/siem-acme))",
            directory.path().display(),
            receivers.url
        )
    );
    assert_eq!(shown[2], format!("HttpSink(siem@initech: {}/siem-initech)", receivers.url));

    let errors = persist_all(&opened, 20).await;
    assert!(errors["acme"].is_empty() && errors["umbrella"].is_empty(), "{errors:?}");
    // The bucket has or gets globex's records, so the outcome is not certain.
    let outcomes = |name: &str| errors[name].iter().map(SinkError::outcome).collect::<Vec<_>>();
    assert_eq!(outcomes("globex"), [Outcome::Indeterminate; 20]);
    assert_eq!(outcomes("initech"), [Outcome::NotPersisted; 20]);
    let own = opened.sink.as_ref().unwrap();
    assert_eq!(own.health().state, HealthState::Ok, "one route's trouble");
    let HealthState::Retrying { reason } = opened.routes.sinks()["globex"].health().state else {
        panic!()
    };
    assert!(reason.starts_with("HttpSink(siem@globex: "), "{reason}");
    // The required receivers already have what is acknowledged.
    for path in ["siem-acme", "siem-umbrella", "second-umbrella"] {
        check(&receivers.of(path), path.split_once('-').unwrap().1, 20);
    }

    // What was sent to globex is sent until it arrives: the sink does not close before.
    let closing = tokio::time::timeout(Duration::from_millis(100), own.close());
    closing.await.unwrap_err();
    receivers.refusing.send_modify(BTreeMap::clear);
    own.close().await.unwrap();
    for (name, streams) in [("acme", &["siem", "copy"][..]), ("globex", &["siem"])] {
        let records = records_at(&directory.path().join(name));
        check(&records, name, 20);
        for stream in streams {
            assert_eq!(receivers.of(&format!("{stream}-{name}")), records, "{stream} of {name}");
        }
    }
    assert_eq!(receivers.of("siem-umbrella"), receivers.of("second-umbrella"));
    assert!(receivers.of("siem-initech").is_empty());
    assert!(records_at(&directory.path().join("own")).is_empty());
    assert!(
        persist(&opened.routes.sinks()["umbrella"], "umbrella", 20).await.is_err(),
        "it is closed"
    );
    for aside in ["siem@acme", "copy@acme", "siem@globex", "siem@initech", "second@umbrella"] {
        assert!(directory.path().join("dead-letters").join(aside).is_dir(), "{aside}");
    }
}

/// With a journal of its own, a log stream alone may be away.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_stream_alone_may_have_a_journal() {
    let (directory, receivers) = (TempDir::new().unwrap(), Receivers::start().await);
    let own = directory.path().join("acme-journal");
    let journal = format!("[route.log_stream.journal]\ndirectory = \"{}\"", own.display());
    let text = [
        route(&directory, "acme", false),
        receivers.stream("siem", "acme", &journal),
        route(&directory, "globex", false),
        receivers.stream("siem", "globex", "required = true"),
    ];
    let destinations = destinations(&directory, &text.concat());
    receivers.refuse("siem-acme", StatusCode::SERVICE_UNAVAILABLE);
    let opened = destinations.open().await.unwrap();
    for n in 0..5 {
        let acme = persist(&opened.routes.sinks()["acme"], "acme", n).await.unwrap();
        let globex = persist(&opened.routes.sinks()["globex"], "globex", n).await.unwrap();
        assert_eq!((acme, globex), (Durability::Journaled, Durability::Delivered));
    }
    assert!(receivers.of("siem-acme").is_empty());
    let sink = opened.sink.as_ref().unwrap();
    tokio::time::timeout(Duration::from_millis(100), sink.close()).await.unwrap_err();
    receivers.refusing.send_modify(BTreeMap::clear);
    receivers.has("siem-acme", 5).await;
    sink.close().await.unwrap();
    for name in ["acme", "globex"] {
        check(&receivers.of(&format!("siem-{name}")), name, 5);
    }
}

#[tokio::test]
async fn journals_and_buckets_of_routes_are_apart() {
    let (directory, receivers) = (TempDir::new().unwrap(), Receivers::start().await);
    let at = |path: &str| directory.path().join(path).display().to_string();
    let alone = |name: &str, journal: &str| {
        let journal = format!("[route.log_stream.journal]\ndirectory = \"{}\"", at(journal));
        route(&directory, name, false) + &receivers.stream("siem", name, &journal)
    };
    let with_bucket = route(&directory, "acme", true);
    for (routes, expected) in [
        (alone("a", "journal/a"), "the journal of \"siem\" of the route \"a\" is "),
        (
            alone("a", "a") + &alone("b", "a/b"),
            "and the journal of \"siem\" of the route \"a\" is ",
        ),
        (alone("a", "acme/a") + &with_bucket, "/acme, where all readers see it"),
        (alone("a", "own/a"), "/own, where all readers see it"),
        (alone("a", "") + &with_bucket, "\"a\" is "),
    ] {
        let error = destinations(&directory, &routes).open().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    destinations(&directory, &(alone("a", "a") + &alone("b", "b"))).open().await.unwrap();
}
