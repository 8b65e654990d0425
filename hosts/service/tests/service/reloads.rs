//! The file of routes is read again while the service runs: each record is in the bucket that its
//! route had, no acknowledged record is lost, and an invalid file changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::evidence::system_records;
use crate::process::{Records, Service, change, check_numbers, new_id, records_at};
use crate::tenants::routes;
use crate::unreachable_bucket::{environment, records_on};

/// A service with tenants, and its file of routes.
struct Tenants {
    directory: TempDir,
    file: PathBuf,
}

impl Tenants {
    fn new(routes: &[(&str, &str)]) -> Tenants {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("routes.toml");
        let tenants = Tenants { directory, file };
        tenants.write(routes);
        tenants
    }

    /// Writes the file: each route with its bucket, the URL of one or the name of a directory.
    fn write(&self, routes: &[(&str, &str)]) {
        let route = |(name, bucket): &(&str, &str)| {
            let bucket = match bucket.contains("://") {
                true => (*bucket).to_owned(),
                false => format!("file://{}", self.at(bucket).display()),
            };
            format!("[[route]]\nname = \"{name}\"\nbucket = \"{bucket}\"\n")
        };
        std::fs::write(&self.file, routes.iter().map(route).collect::<String>()).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, flags: &[&str], environment: &[(&str, &str)]) -> Service {
        let own = [
            "--routes",
            self.file.to_str().unwrap(),
            "--trusted-proxies",
            "127.0.0.1",
            "--cut-after-ms",
            "10",
            "--close-timeout-ms",
            "60000",
        ];
        Service::start_with_journal(&self.directory, &[&own, flags].concat(), environment)
    }

    /// Whether the journal knows this route as retired, and by no other number.
    fn is_retired(&self, name: &str) -> bool {
        let names = std::fs::read_to_string(self.at("journal/routes")).unwrap();
        let is =
            |state: char| names.contains(&format!("state {state} name {:08x} {name} ", name.len()));
        is('r') && !is('a')
    }
}

/// Changes a new document of this tenant. Returns the status and the id of the document.
async fn update(service: &Service, tenant: &str) -> (u16, String) {
    let id = new_id("plan");
    let headers = [("x-tenant", tenant), ("x-user", tenant)];
    let (status, _) = service.update(&id, change("x"), &headers).await;
    (status, format!("{tenant}/{id}"))
}

/// The documents in records, and the streams of these.
fn documents(records: &Records) -> (Vec<String>, BTreeSet<&str>) {
    let documents = records.values().map(|it| it["document"].as_str().unwrap().to_owned());
    (documents.collect(), records.keys().map(|(stream, _)| stream.as_str()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_added_changed_and_removed_while_the_service_runs() {
    let tenants = Tenants::new(&[("acme", "acme"), ("globex", "globex")]);
    let service = tenants.start(&[], &[]);
    let mut of_acme = Vec::new();
    let acme = async || {
        let (status, document) = update(&service, "acme").await;
        assert_eq!(status, 200);
        document
    };
    of_acme.push(acme().await);
    let (status, before) = update(&service, "globex").await;
    assert_eq!((status, update(&service, "initech").await.0), (200, 403));
    let nothing = json!({
        "message": "the routes are those of the file", "added": [], "changed": [], "removed": [],
        "delivering": [], "failed": {},
    });
    assert_eq!(service.reload(&[]).await, (200, nothing.clone()));

    // A tenant moves to another bucket, and one is added.
    tenants.write(&[("acme", "acme"), ("globex", "moved"), ("initech", "initech")]);
    // The operator's browser may show a page that sends this.
    let (status, _) = service.reload(&[("origin", "https://example.com")]).await;
    assert_eq!((status, update(&service, "initech").await.0), (403, 403));
    let (status, told) = service.reload(&[]).await;
    assert_eq!((status, &told["added"]), (200, &json!(["initech"])), "{told}");
    assert_eq!((&told["changed"], &told["removed"]), (&json!(["globex"]), &json!([])), "{told}");
    let (status, after) = update(&service, "globex").await;
    let (added_status, added) = update(&service, "initech").await;
    assert_eq!((status, added_status), (200, 200));
    of_acme.push(acme().await);
    let shown = routes(&service).await;
    assert_eq!(
        shown.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["acme", "globex", "initech"]
    );

    let view = async |document: &str| {
        let (tenant, id) = document.split_once('/').unwrap();
        service.view(id, &[("x-tenant", tenant), ("x-user", tenant)]).await.0
    };
    assert_eq!(view(&before).await, 200);

    // The only other tenants leave, and one comes back with a stream of its own.
    tenants.write(&[("acme", "acme")]);
    let (status, told) = service.reload(&[]).await;
    assert_eq!((status, &told["removed"]), (200, &json!(["globex", "initech"])), "{told}");
    assert_eq!(told["delivering"], json!([]), "{told}");
    assert!(tenants.is_retired("globex") && tenants.is_retired("initech"));
    assert_eq!(update(&service, "globex").await.0, 403);
    tenants.write(&[("acme", "acme"), ("globex", "moved")]);
    assert_eq!(service.reload(&[]).await.0, 200);
    let (status, again) = update(&service, "globex").await;
    assert_eq!(status, 200);
    // Its document was cached when the tenant had another route.
    assert_eq!(view(&before).await, 200);
    of_acme.push(acme().await);
    service.stop();

    let mut of_globex = records_at(&tenants.at("globex"));
    of_globex.extend(records_at(&tenants.at("moved")));
    // Without evidence, a stream goes on in another bucket.
    check_numbers(&of_globex);
    for (bucket, expected, streams) in [
        ("acme", of_acme, 1),
        ("globex", vec![before.clone()], 1),
        ("moved", vec![before, after, again], 2),
        ("initech", vec![added], 1),
    ] {
        let records = records_at(&tenants.at(bucket));
        let (documents, found) = documents(&records);
        assert_eq!(found.len(), streams, "{bucket}");
        let [documents, expected] =
            [documents, expected].map(|all| all.into_iter().collect::<BTreeSet<_>>());
        assert_eq!(documents, expected, "{bucket}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing() {
    let tenants = Tenants::new(&[("acme", "acme"), ("globex", "globex")]);
    let service = tenants.start(&[], &[]);
    let own = tenants.at("bucket/tenant");
    let route = |name: &str, rest: &str| format!("[[route]]\nname = \"{name}\"\n{rest}\n");
    let bucket = |path: &Path| format!("bucket = \"file://{}\"", path.display());
    let valid = route("new", &bucket(&tenants.at("new")));
    for (rest, says) in [
        (String::new(), "the file of routes has no [[route]]"),
        (route("a", "bucket = hunter2"), "line 6: it is invalid"),
        (route("a", "bucket = [\"hunter2\"]"), "line 6: a value is invalid"),
        (route("new", &bucket(&tenants.at("a"))), "two routes have the name \"new\""),
        (route("a", &bucket(&tenants.at("new/a"))), "give each a bucket or a prefix of its own"),
        (route("a", &bucket(&own)), "of the host, and whoever reads one would find"),
        (route("a", &bucket(&tenants.at("journal/a"))), "is within the journal"),
        (
            route("a", "bucket = \"s3://a/b\"\nenv = { AWS_SECRET_ACCESS_KEY = \"env:NONE\" }"),
            "the route \"a\" cannot be opened: AWS_SECRET_ACCESS_KEY: the variable NONE is not set",
        ),
        (
            route("a", "bucket = \"s3://a/b\"\nenv = { AWS_SECRET_ACCESS_KEY = \"hunter2\" }"),
            "line 7: a secret is given as env:NAME or file:/path",
        ),
        (
            format!(
                "{}[[route.log_stream]]\nname = \"siem\"\nurl = \"http://127.0.0.1/?hunter2\"\n",
                route("a", &bucket(&tenants.at("a")))
            ),
            "the route \"a\" cannot be opened: ",
        ),
    ] {
        let file = if rest.is_empty() { String::new() } else { valid.clone() + &rest };
        std::fs::write(&tenants.file, file).unwrap();
        let (status, told) = service.reload(&[]).await;
        let message = told["message"].as_str().unwrap();
        assert_eq!(status, 422, "{told}");
        assert!(message.contains(says) && !message.contains("hunter2"), "{message}");
        let shown = routes(&service).await;
        assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["acme", "globex"]);
        assert_eq!(update(&service, "globex").await.0, 200);
        assert_eq!(update(&service, "new").await.0, 403);
    }
    std::fs::remove_file(&tenants.file).unwrap();
    assert_eq!(service.reload(&[]).await.0, 422);
    assert!(!tenants.at("new/_audit").exists(), "no bucket got a request");
    let names = std::fs::read_to_string(tenants.at("journal/routes")).unwrap();
    assert!(!names.contains(" new "), "no route was opened");
    service.stop();
    let records = records_at(&tenants.at("globex"));
    check_numbers(&records);
    assert_eq!(documents(&records).1.len(), 1, "the route was never closed");
    assert_eq!(records.len(), 10);
}

/// The streams of a tenant that moves are closed in the bucket that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moves_has_evidence_in_both_buckets() {
    let tenants = Tenants::new(&[("acme", "acme")]);
    let service = tenants.start(&["--evidence", "example.com/docs"], &[]);
    assert_eq!(update(&service, "acme").await.0, 200);
    tenants.write(&[("acme", "moved")]);
    assert_eq!(service.reload(&[]).await.0, 200);
    let closed = |bucket: &str| system_records(&tenants.at(bucket), "closed").len();
    assert_eq!((closed("acme"), closed("moved")), (1, 0));
    assert_eq!(update(&service, "acme").await.0, 200);
    service.stop();
    assert_eq!((closed("acme"), closed("moved")), (1, 1));
    for bucket in ["acme", "moved"] {
        let opened = system_records(&tenants.at(bucket), "opened");
        let url = format!("file://{}", tenants.at(bucket).display());
        assert!(opened.len() == 1 && opened[0]["bucket"] == url, "{opened:?}");
    }
}

/// The bucket of two tenants is away. One moves, and its undelivered logs go to its new bucket. The
/// other leaves, and its own bucket gets them once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn undelivered_logs_go_to_a_new_bucket_or_to_that_of_a_tenant_that_left() {
    let store = S3TestServer::start().await;
    let endpoint = store.endpoint();
    let url = |prefix: &str| format!("s3://{}/{prefix}", store.bucket());
    let (acme, globex) = (url("acme"), url("globex"));
    let tenants = Tenants::new(&[("acme", &acme), ("globex", &globex)]);
    store.faults().always(Fault::Refused(ErrorAnswer::SLOW_DOWN));
    let service = tenants.start(&[], &environment(&store, &endpoint));
    let mut expected = BTreeMap::new();
    for tenant in ["acme", "globex"] {
        let (status, document) = update(&service, tenant).await;
        assert_eq!(status, 200);
        expected.insert(tenant, document);
    }
    tenants.write(&[("acme", "moved")]);
    let (status, told) = service.reload(&[]).await;
    assert_eq!((status, &told["changed"]), (200, &json!(["acme"])), "{told}");
    assert_eq!((&told["removed"], &told["delivering"]), (&json!(["globex"]), &json!(["globex"])));
    assert_eq!(update(&service, "globex").await.0, 403);
    let shown = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let [_, (_, text)] = service.probes("/healthz?verbose").await;
    let leaving = &shown(&text)["leavingRoutes"];
    assert_eq!(leaving["globex"]["delivery"], "retrying", "{text}");
    assert!(!tenants.is_retired("globex"));
    store.faults().none();
    while !tenants.is_retired("globex") {
        tokio::task::yield_now().await;
    }
    loop {
        let [_, (_, text)] = service.probes("/healthz?verbose").await;
        if shown(&text).get("leavingRoutes").is_none() {
            break;
        }
    }
    service.stop();
    assert_eq!(documents(&records_at(&tenants.at("moved"))).0, [&*expected["acme"]]);
    assert_eq!(documents(&records_on(&store)).0, [&*expected["globex"]]);
}

/// Tenants move, leave and come back under load, and then the process dies during a reload. What
/// reached each bucket is compared with what each tenant's clients were told.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_record_is_lost_or_misplaced_by_reloads_under_load() {
    const TENANTS: [&str; 3] = ["moves", "leaves", "stays"];
    let all = [("moves", "moves-0"), ("leaves", "leaves"), ("stays", "stays")];
    let tenants = Tenants::new(&all);
    let mut service = tenants.start(&[], &[]);
    let done = AtomicBool::new(false);
    // A client of a tenant changes documents and views each: what it was told, by document.
    let client = async |tenant: &'static str| {
        let headers = [("x-tenant", tenant), ("x-user", tenant)];
        let mut acknowledged = BTreeMap::new();
        while !done.load(Ordering::Relaxed) {
            let id = new_id("plan");
            let (status, answer) = service.update(&id, change("x"), &headers).await;
            let is_refused = status == 403 && tenant == "leaves";
            assert!(status == 200 || is_refused, "{tenant}: {status} {answer}");
            if status == 200 {
                let mut views = 0;
                // The second is served from the cache.
                for _ in 0..2 {
                    let (status, answer) = service.view(&id, &headers).await;
                    let is_refused = status == 403 && tenant == "leaves";
                    assert!(status == 200 || is_refused, "{tenant}: {status} {answer}");
                    views += usize::from(status == 200);
                }
                acknowledged.insert(format!("{tenant}/{id}"), 1 + views);
            }
        }
        acknowledged
    };
    let reloads = async {
        for round in 1..=12 {
            let bucket = format!("moves-{}", round % 3);
            match round % 2 {
                0 => tenants.write(&[("moves", &bucket), ("leaves", "leaves"), ("stays", "stays")]),
                _ => tenants.write(&[("moves", &bucket), ("stays", "stays")]),
            }
            // Two at once: the second finds the first's work done.
            let (one, two) = tokio::join!(service.reload(&[]), service.reload(&[]));
            assert_eq!((one.0, two.0), (200, 200), "{one:?} {two:?}");
            let changed = [&one.1["changed"], &two.1["changed"]];
            assert!(changed.contains(&&json!(["moves"])) && changed.contains(&&json!([])));
            std::fs::write(&tenants.file, "[[route]]").unwrap();
            assert_eq!(service.reload(&[]).await.0, 422);
        }
        done.store(true, Ordering::Relaxed);
    };
    let clients =
        futures::future::join_all(TENANTS.iter().flat_map(|tenant| [*tenant; 3]).map(client));
    let (told, ()) = tokio::join!(clients, reloads);
    let acknowledged: BTreeMap<String, usize> = told.into_iter().flatten().collect();
    for tenant in TENANTS {
        assert!(acknowledged.keys().any(|document| document.starts_with(tenant)), "{tenant}");
    }

    // The process dies while a tenant moves.
    tenants.write(&all);
    let reload = service.try_reload(&[]);
    let (_, last) = tokio::join!(reload, async {
        let updates = (0..20).map(async |_| {
            let id = new_id("plan");
            let headers = [("x-tenant", "moves"), ("x-user", "moves")];
            let told = service.try_update(&id, change("x"), &headers).await;
            told.is_ok_and(|(status, _)| status == 200).then(|| format!("moves/{id}"))
        });
        let updates = futures::future::join_all(updates);
        let (last, ()) = tokio::join!(updates, async {
            tokio::task::yield_now().await;
            service.kill();
        });
        last
    });
    service.wait();
    tenants.start(&[], &[]).stop();

    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (tenant, buckets) in [
        ("moves", &["moves-0", "moves-1", "moves-2"][..]),
        ("leaves", &["leaves"]),
        ("stays", &["stays"]),
    ] {
        for bucket in buckets {
            for (id, record) in records_at(&tenants.at(bucket)) {
                let document = record["document"].as_str().unwrap();
                assert!(document.starts_with(&format!("{tenant}/")), "{bucket}: {record}");
                assert_eq!(record["user"], tenant, "{bucket}: {record}");
                if ids.insert(id) {
                    *found.entry(document.to_owned()).or_default() += 1;
                }
            }
        }
    }
    assert!(records_at(&tenants.at("bucket")).is_empty(), "the service's own bucket");
    for (document, count) in &acknowledged {
        assert!(
            found.get(document) >= Some(count),
            "{document}: {count}, {:?}",
            found.get(document)
        );
    }
    for document in last.into_iter().flatten() {
        assert!(found.contains_key(&document), "{document}");
    }
    let stays = records_at(&tenants.at("stays"));
    assert!(documents(&stays).1.len() <= 2, "the route was closed, or opened by two processes");
}
