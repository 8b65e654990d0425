//! Tenants share a service and its journal, and nothing else: each one's logs are in its own bucket
//! and at its own log streams, also while the bucket or log stream of another is unreachable, and
//! no request is logged as another tenant's.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use s3_testserver::{ErrorAnswer, Fault, RequestInfo, S3TestServer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Records, Service, change, check_numbers, new_id, records, records_at};
use crate::unreachable_bucket::{environment, records_on};

/// Writes a file of routes: `acme` to a directory, `globex` to the server.
fn write_routes(directory: &Path, store: &S3TestServer) -> String {
    let route =
        |name: &str, bucket: &str| format!("[[route]]\nname = \"{name}\"\nbucket = \"{bucket}\"\n");
    let acme = route("acme", &format!("file://{}/acme", directory.display()));
    let globex = route("globex", &format!("s3://{}/globex?region=us-east-1", store.bucket()));
    let file = directory.join("routes.toml");
    std::fs::write(&file, acme + &globex).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The routes as shown to operators.
pub(crate) async fn routes(service: &Service) -> Value {
    let [_, (status, text)] = service.probes("/healthz?verbose").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["routes"].take()
}

/// Checks that these are the logs of this number of changes by one tenant, and of no other.
fn check(records: &Records, tenant: &str, id: &str, changes: u64) {
    check_numbers(records);
    let document = json!(format!("{tenant}/{id}"));
    let mut revisions = Vec::new();
    for record in records.values() {
        assert_eq!((&record["document"], &record["user"]), (&document, &json!(tenant)), "{record}");
        revisions.push(record["to"].as_u64().unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=changes).collect::<Vec<_>>(), "{tenant}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenants_logs_reach_its_own_bucket_while_another_is_dead() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let endpoint = store.endpoint();
    let environment = environment(&store, &endpoint);
    let routes_file = write_routes(directory.path(), &store);
    let flags = [
        "--routes",
        &routes_file,
        "--trusted-proxies",
        "127.0.0.1",
        "--cut-after-ms",
        "10",
        "--close-timeout-ms",
        "60000",
    ];
    let service = Service::start_with_journal(&directory, &flags, &environment);
    let id = new_id("plan");
    let of = |tenant: &'static str| [("x-tenant", tenant), ("x-user", tenant)];

    // A request without a known tenant is neither served nor logged.
    for (headers, expected) in [
        (&[][..], "no trusted proxy names the tenant of the request in X-Tenant"),
        (&[("x-tenant", "")], "there is no tenant \"\""),
        (&[("x-tenant", "nobody")], "there is no tenant \"nobody\""),
        (&[("x-tenant", "acme"), ("x-tenant", "ACME")], "there is no tenant \"ACME\""),
    ] {
        let (status, answer) = service.update(&id, change("x"), headers).await;
        assert_eq!((status, &answer["message"]), (403, &json!(expected)));
        assert_eq!(service.view(&id, headers).await.0, 403);
    }

    // One bucket refuses. Both tenants are still served, each with a document of its own under the
    // same id.
    store.faults().always(Fault::Refused(ErrorAnswer::SLOW_DOWN));
    for revision in 1..=5 {
        for tenant in ["acme", "globex"] {
            let (status, document) = service.update(&id, change(tenant), &of(tenant)).await;
            assert_eq!((status, &document["revision"]), (200, &json!(revision)), "{document}");
        }
    }
    let told = loop {
        let told = routes(&service).await;
        let is_retrying = told["globex"]["delivery"] == "retrying";
        if told["acme"]["recordsDelivered"] == 5 && is_retrying {
            break told;
        }
    };
    assert_eq!(
        (&told["acme"]["delivery"], &told["acme"]["commits"]),
        (&"ok".into(), &"accepted".into())
    );
    assert_eq!(told["globex"]["recordsDelivered"], 0, "{told}");
    check(&records_at(&directory.path().join("acme")), "acme", &id, 5);
    assert_eq!(service.healthz().await, 200);

    // The process dies, and the next one starts although the bucket denies access.
    let mut service = service;
    service.kill();
    service.wait();
    store.faults().plan(|request: &RequestInfo| {
        assert!(request.key.starts_with("globex/"), "{}", request.key);
        Fault::Refused(ErrorAnswer::ACCESS_DENIED)
    });
    let service = Service::start_with_journal(&directory, &flags, &environment);
    for tenant in ["acme", "globex"] {
        assert_eq!(service.update(&id, change(tenant), &of(tenant)).await.0, 200);
    }
    while routes(&service).await["globex"]["delivery"] != "blocked" {}
    store.faults().none();
    service.stop();
    check(&records_at(&directory.path().join("acme")), "acme", &id, 6);
    check(&records_on(&store), "globex", &id, 6);
    assert_eq!(records(&directory), Vec::<Value>::new(), "the service's own bucket has nothing");
}

/// Nothing of the service's own environment counts for a tenant with variables of its own: the
/// server refuses the requests of another account's host.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_variables_replace_the_services() {
    let directory = TempDir::new().unwrap();
    let [own, store] = [S3TestServer::start().await, S3TestServer::start().await];
    store.set_secret_key("hunter2-acme");
    let endpoint = own.endpoint();
    let mut environment = environment(&own, &endpoint).to_vec();
    environment.push(("AWS_EXPECTED_BUCKET_OWNER", "999999999999"));
    environment.push(("ACME_SECRET", "hunter2-acme"));
    let file = directory.path().join("routes.toml");
    let routes_file = format!(
        "[[route]]\nname = \"acme\"\nbucket = \"s3://{}/acme\"\n[route.env]\n\
         AWS_ENDPOINT = \"{}\"\nAWS_ALLOW_HTTP = \"true\"\nAWS_REGION = \"us-east-1\"\n\
         AWS_ACCESS_KEY_ID = \"{}\"\nAWS_SECRET_ACCESS_KEY = \"env:ACME_SECRET\"\n",
        store.bucket(),
        store.endpoint(),
        store.access_key()
    );
    std::fs::write(&file, routes_file).unwrap();
    let flags = ["--routes", file.to_str().unwrap(), "--trusted-proxies", "127.0.0.1"];
    let service = Service::start_with_journal(&directory, &flags, &environment);
    let (id, acme) = (new_id("plan"), [("x-tenant", "acme"), ("x-user", "acme")]);
    assert_eq!(service.update(&id, change("acme"), &acme).await.0, 200);
    service.stop();
    check(&records_on(&store), "acme", &id, 1);
    assert!(own.requests().is_empty(), "the service's own server");
}

/// A tenant leaves the file after its bucket was unreachable and the process died. If the bucket is
/// back, it gets the rest of the logs. If it is still unreachable, the service starts and stops as
/// if the tenant had never been there.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_left_gets_the_rest_of_its_logs() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let endpoint = store.endpoint();
    let environment = environment(&store, &endpoint);
    let routes_file = write_routes(directory.path(), &store);
    let flags = ["--routes", &routes_file, "--trusted-proxies", "127.0.0.1"];
    let start = || Service::start_with_journal(&directory, &flags, &environment);
    let id = new_id("plan");
    store.faults().always(Fault::Refused(ErrorAnswer::SLOW_DOWN));
    let mut service = start();
    for _ in 0..3 {
        let headers = [("x-tenant", "globex"), ("x-user", "globex")];
        assert_eq!(service.update(&id, change("globex"), &headers).await.0, 200);
    }
    service.kill();
    service.wait();

    let acme = std::fs::read_to_string(&routes_file).unwrap();
    let acme = acme.split("[[route]]").nth(1).unwrap();
    std::fs::write(&routes_file, format!("[[route]]{acme}")).unwrap();
    let names = || std::fs::read_to_string(directory.path().join("journal/routes")).unwrap();
    let is_retired = || names().contains("state r name 00000006 globex");
    for fault in [ErrorAnswer::ACCESS_DENIED, ErrorAnswer::SLOW_DOWN] {
        store.faults().always(Fault::Refused(fault));
        let service = start();
        let (status, _) = service.update(&id, change("x"), &[("x-tenant", "globex")]).await;
        assert_eq!(status, 403);
        service.stop();
        assert!(!is_retired() && records_on(&store).is_empty());
    }
    store.faults().none();
    let service = start();
    while !is_retired() {
        tokio::task::yield_now().await;
    }
    service.stop();
    check(&records_on(&store), "globex", &id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_name_a_tenant() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let endpoint = store.endpoint();
    let routes_file = write_routes(directory.path(), &store);
    let flags = ["--routes", &routes_file];
    let service = Service::start_with_journal(&directory, &flags, &environment(&store, &endpoint));
    let (status, answer) = service.update("plan", change("x"), &[("x-tenant", "acme")]).await;
    assert_eq!(status, 403, "{answer}");
    service.stop();
    assert!(records_at(&directory.path().join("acme")).is_empty() && records_on(&store).is_empty());
}

/// Two tenants have a log stream each. One of them refuses: its tenant is served, and the other log
/// stream has everything.
#[tokio::test(flavor = "multi_thread")]
async fn each_tenants_log_stream_gets_its_own_logs_while_another_refuses() {
    let directory = TempDir::new().unwrap();
    let received: Arc<Mutex<Vec<Value>>> = Arc::default();
    let of_acme = Arc::clone(&received);
    let accept = move |body: String| async move {
        let records = body.lines().map(|line| serde_json::from_str(line).unwrap());
        of_acme.lock().unwrap().extend(records);
        StatusCode::OK
    };
    let refuse = async || StatusCode::SERVICE_UNAVAILABLE;
    let router = Router::new().route("/acme", post(accept)).route("/globex", post(refuse));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });

    let route = |name: &str| {
        let bucket = directory.path().join(name);
        format!(
            "[[route]]\nname = \"{name}\"\nbucket = \"file://{}\"\n[[route.log_stream]]\nname = \
             \"siem\"\nurl = \"{url}/{name}\"\nformat = \"ndjson\"\nallow_http = true\n\
             allow_private_addresses = true\n",
            bucket.display()
        )
    };
    let file = directory.path().join("routes.toml");
    std::fs::write(&file, route("acme") + &route("globex")).unwrap();
    let flags = [
        "--routes",
        file.to_str().unwrap(),
        "--trusted-proxies",
        "127.0.0.1",
        "--cut-after-ms",
        "10",
    ];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    let id = new_id("plan");
    for _ in 0..5 {
        for tenant in ["acme", "globex"] {
            let headers = [("x-tenant", tenant), ("x-user", tenant)];
            assert_eq!(service.update(&id, change(tenant), &headers).await.0, 200);
        }
    }
    let told = loop {
        let told = routes(&service).await;
        let siem = |tenant: &str| told[tenant]["followers"][0].clone();
        let is_retrying = siem("globex")["delivery"] == "retrying";
        if siem("acme")["recordsDelivered"] == 5 && is_retrying {
            break told;
        }
    };
    assert_eq!(told["globex"]["delivery"], "ok", "{told}");
    assert_eq!(told["acme"]["followers"][0]["name"], "siem", "{told}");
    service.stop();
    let received = received.lock().unwrap();
    let is_acmes = |record: &Value| record["body"]["user"] == "acme";
    assert!(received.iter().all(is_acmes), "{received:?}");
    check(&records_at(&directory.path().join("acme")), "acme", &id, 5);
    check(&records_at(&directory.path().join("globex")), "globex", &id, 5);
    assert!(directory.path().join("dead-letters/siem@globex").is_dir());
}
