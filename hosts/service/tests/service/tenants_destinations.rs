//! A tenant's requests wait for the destinations that must have its logs, a log stream alone
//! included, and for no other tenant's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::post;
use futures::future::{join, join_all};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Records, Service, change, check_numbers, new_id, records_at};

/// Receivers of log streams, each at the path of its tenant.
#[derive(Clone, Default)]
struct Receivers {
    received: Arc<Mutex<BTreeMap<String, Records>>>,
    /// The tenants whose requests are answered with 503.
    away: Arc<Mutex<BTreeSet<String>>>,
    /// The requests whose records were kept. The response to every third one is lost.
    kept: Arc<AtomicUsize>,
}

impl Receivers {
    /// Returns the receivers and their URL.
    async fn start() -> (Receivers, String) {
        let receivers = Receivers::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = receivers.clone();
        let take = move |Path(tenant): Path<String>, body: String| async move {
            serving.take(tenant, &body)
        };
        let router = Router::new().route("/{tenant}", post(take));
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        (receivers, url)
    }

    fn take(&self, tenant: String, body: &str) -> StatusCode {
        if self.away.lock().unwrap().contains(&tenant) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let mut received = self.received.lock().unwrap();
        let records = received.entry(tenant).or_default();
        for line in body.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let stream = record["stream"].as_str().unwrap().to_owned();
            let id = (stream, record["sequence"].as_u64().unwrap());
            let before = records.insert(id, record["body"].clone());
            assert!(before.is_none_or(|before| before == record["body"]), "{line}");
        }
        match self.kept.fetch_add(1, Relaxed) % 3 {
            2 => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::OK,
        }
    }

    fn of(&self, tenant: &str) -> Records {
        self.received.lock().unwrap().get(tenant).cloned().unwrap_or_default()
    }
}

/// A tenant with a log stream that its requests wait for, and a bucket if there is a URL.
fn route(name: &str, bucket: Option<&str>, receivers: &str) -> String {
    let bucket = bucket.map(|bucket| format!("bucket = \"{bucket}\"\n")).unwrap_or_default();
    format!(
        "[[route]]\nname = \"{name}\"\n{bucket}[[route.log_stream]]\nname = \"siem\"\n\
         url = \"{receivers}/{name}\"\nformat = \"ndjson\"\nrequired = true\nallow_http = true\n\
         allow_private_addresses = true\nretry_cap_ms = 100\n"
    )
}

/// Checks that these records are those of this number of a tenant's changes.
fn check(records: &Records, tenant: &str, changes: usize) {
    check_numbers(records);
    assert_eq!(records.len(), changes, "{tenant}: {records:?}");
    assert!(records.values().all(|record| record["user"] == tenant), "{tenant}: {records:?}");
}

/// Acme and globex have a bucket and a log stream that must have the logs, initech a log stream
/// alone. Globex's is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_fails_only_its_own_tenant() {
    let directory = TempDir::new().unwrap();
    let (receivers, url) = Receivers::start().await;
    let at = |name: &str| directory.path().join(name);
    let bucket = |name: &str| format!("file://{}", at(name).display());
    let file = at("routes.toml");
    let routes = [
        route("acme", Some(&bucket("acme")), &url),
        route("globex", Some(&bucket("globex")), &url),
        route("initech", None, &url),
    ];
    std::fs::write(&file, routes.concat()).unwrap();
    let flags = [
        "--routes",
        file.to_str().unwrap(),
        "--trusted-proxies",
        "127.0.0.1",
        "--persist-timeout-ms",
        "2000",
        "--close-timeout-ms",
        "60000",
    ];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    let id = new_id("plan");
    let update = async |tenant: &str| {
        let headers = [("x-tenant", tenant), ("x-user", tenant)];
        let (status, answer) = service.update(&id, change(tenant), &headers).await;
        (status, answer["revision"].clone())
    };
    receivers.away.lock().unwrap().insert("globex".to_owned());
    for revision in 1..=3 {
        for tenant in ["acme", "initech"] {
            assert_eq!(update(tenant).await, (200, json!(revision)), "{tenant}");
            let received = receivers.of(tenant);
            assert_eq!(
                received.len(),
                revision,
                "{tenant} was answered before its receiver had it"
            );
        }
        if revision == 1 {
            assert_eq!(update("globex").await.0, 503);
        }
    }
    let [_, (status, told)] = service.probes("/healthz?verbose").await;
    let told: Value = serde_json::from_str(&told).unwrap();
    let delivery = |name: &str| told["routes"][name]["delivery"].clone();
    let expected = ["ok", "retrying", "ok"].map(Value::from);
    assert_eq!((status, ["acme", "globex", "initech"].map(delivery)), (200, expected), "{told}");

    // The log of the change that failed is sent until it arrives; the change is made once.
    receivers.away.lock().unwrap().clear();
    assert_eq!(update("globex").await, (200, json!(1)));
    service.stop();
    for (tenant, changes) in [("acme", 3), ("globex", 2)] {
        let records = records_at(&at(tenant));
        check(&records, tenant, changes);
        assert_eq!(receivers.of(tenant), records, "{tenant}: the same ids in both");
    }
    check(&receivers.of("initech"), "initech", 3);
    assert!(records_at(&at("bucket")).is_empty(), "the service's own bucket has nothing");
}

/// A tenant's bucket leaves the settings while the journal has logs for it, and a log stream alone
/// takes its place; then the bucket returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_left_the_settings_gets_the_rest_of_its_logs() {
    let directory = TempDir::new().unwrap();
    let (receivers, url) = Receivers::start().await;
    let at = |name: &str| directory.path().join(name);
    let bucket = format!("file://{}", at("acme").display());
    let file = at("routes.toml");
    let flags = ["--routes", file.to_str().unwrap(), "--trusted-proxies", "127.0.0.1"];
    let start = |routes: &str, more: &[&str]| {
        std::fs::write(&file, routes).unwrap();
        Service::start_with_journal(&directory, &[&flags, more].concat(), &[])
    };
    let id = new_id("plan");
    let update = async |service: &Service| {
        let headers = [("x-tenant", "acme"), ("x-user", "acme")];
        assert_eq!(service.update(&id, change("acme"), &headers).await.0, 200);
    };
    let names = || std::fs::read_to_string(at("journal").join("routes")).unwrap();
    let only_bucket = format!("[[route]]\nname = \"acme\"\nbucket = \"{bucket}\"\n");
    let mut service = start(&only_bucket, &["--cut-after-ms", "600000"]);
    for _ in 0..3 {
        update(&service).await;
    }
    service.kill();
    service.wait();
    assert!(records_at(&at("acme")).is_empty());

    let service = start(&route("acme", None, &url), &[]);
    update(&service).await;
    while !names().contains("state r name 00000004 acme") {
        tokio::task::yield_now().await;
    }
    update(&service).await;
    service.stop();
    check(&records_at(&at("acme")), "acme", 3);
    check(&receivers.of("acme"), "acme", 2);

    let service = start(&only_bucket, &[]);
    update(&service).await;
    service.stop();
    check(&records_at(&at("acme")), "acme", 4);
    check(&receivers.of("acme"), "acme", 2);
    assert!(names().contains("state a name 00000004 acme"), "a new route: {}", names());
}

/// The service is killed under load, round after round. What was answered is in both destinations,
/// and what the log stream has is what the bucket has under the same id.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_takes_no_answered_log_from_either_destination() {
    let directory = TempDir::new().unwrap();
    let (receivers, url) = Receivers::start().await;
    let at = |name: &str| directory.path().join(name);
    let bucket = format!("file://{}", at("acme").display());
    let file = at("routes.toml");
    std::fs::write(&file, route("acme", Some(&bucket), &url)).unwrap();
    let flags = ["--routes", file.to_str().unwrap(), "--trusted-proxies", "127.0.0.1"];
    let start = || Service::start_with_journal(&directory, &flags, &[]);
    let ids: Vec<_> = (0..4).map(|_| new_id("plan")).collect();
    let headers = [("x-tenant", "acme"), ("x-user", "acme")];
    let mut answered = BTreeSet::new();
    for round in 0..3 {
        let mut service = start();
        let (answers, mut answer) = tokio::sync::mpsc::unbounded_channel();
        let of_clients = &service;
        let clients = join_all(ids.iter().map(|id| {
            let answers = answers.clone();
            async move {
                let mut done = Vec::new();
                let update = || of_clients.try_update(id, change("x"), &headers);
                while let Ok((200, document)) = update().await {
                    done.push((format!("acme/{id}"), document["revision"].as_u64().unwrap()));
                    if answers.send(()).is_err() {
                        break;
                    }
                }
                done
            }
        }));
        let killer = async {
            for _ in 0..20 + 7 * round {
                answer.recv().await;
            }
            of_clients.kill();
        };
        let (done, ()) = join(clients, killer).await;
        answered.extend(done.into_iter().flatten());
        service.wait();
    }
    start().stop();
    let (records, received) = (records_at(&at("acme")), receivers.of("acme"));
    check(&records, "acme", records.len());
    let changed: BTreeSet<_> = received
        .values()
        .map(|log| (log["document"].as_str().unwrap().to_owned(), log["to"].as_u64().unwrap()))
        .collect();
    assert!(answered.len() >= 3 * 20 && answered.is_subset(&changed), "{answered:?}");
    for (id, record) in &received {
        assert_eq!(records.get(id), Some(record), "{id:?}");
    }
}
