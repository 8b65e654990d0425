//! Every view and every change is in the bucket, with its user.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Service, change, new_id, records};

#[tokio::test]
async fn views_and_changes_are_in_the_bucket_before_the_response() {
    let directory = TempDir::new().unwrap();
    let service = Service::start(&directory, &["--trusted-proxies", "127.0.0.0/8"], &[]);
    let id = new_id("plan");
    let from = |ip: &'static str, user: &'static str| {
        [("x-forwarded-for", ip), ("x-user", user), ("user-agent", user)]
    };

    let (status, document) = service.update(&id, change("one"), &from("192.0.2.1", "ada")).await;
    assert_eq!((status, &document["revision"]), (200, &json!(1)));
    assert_eq!(records(&directory).len(), 1, "the log preceded the response");

    // The first view runs the query, the second gets the cached result. Each is logged for its own
    // viewer.
    for (n, (ip, user)) in
        [("192.0.2.2", "bob"), ("2001:db8::3", "eve \"quoted\" \\")].into_iter().enumerate()
    {
        let (status, seen) = service.view(&id, &from(ip, user)).await;
        assert_eq!((status, &seen), (200, &document));
        let records = records(&directory);
        let log = &records[1 + n];
        assert_eq!(records.len(), 2 + n);
        assert_eq!((&log["action"], &log["document"]), (&json!("documents.view"), &json!(id)));
        assert_eq!((&log["user"], &log["client"]["ip"]), (&json!(user), &json!(ip)));
        assert_eq!(log["client"]["userAgent"], user);
    }
    let logged = records(&directory);
    assert_ne!(logged[1]["client"]["requestId"], logged[2]["client"]["requestId"]);
    assert!(logged[1]["at"].as_i64() <= logged[2]["at"].as_i64());

    // Failures are logged too.
    let stale = json!({ "title": "A title", "text": "two", "expected_revision": 7 });
    let (status, answer) = service.update(&id, stale, &from("192.0.2.4", "ada")).await;
    assert_eq!(
        (status, &answer["message"]),
        (409, &json!("the document is at revision 1, not at 7"))
    );
    let long = json!({ "title": "A".repeat(201), "text": "" });
    let (status, answer) = service.update(&id, long, &from("192.0.2.4", "ada")).await;
    assert_eq!(
        (status, &answer["message"]),
        (400, &json!("title of 201 bytes exceeds limit of 200 bytes"))
    );
    let (status, _) = service.view(&new_id("nothing"), &from("192.0.2.4", "ada")).await;
    assert_eq!(status, 404);
    let outcomes: Vec<_> =
        records(&directory)[3..].iter().map(|log| log["outcome"].clone()).collect();
    assert_eq!(
        outcomes,
        [
            "the document is at revision 1, not at 7",
            "title of 201 bytes exceeds limit of 200 bytes",
            "not found"
        ]
    );

    // A change makes the cached result stale.
    let (status, _) = service.update(&id, change("two"), &from("192.0.2.1", "ada")).await;
    assert_eq!(status, 200);
    let (_, seen) = service.view(&id, &from("192.0.2.2", "bob")).await;
    assert_eq!((&seen["revision"], &seen["text"]), (&json!(2), &json!("two")));
    assert_eq!(records(&directory).len(), 8);
    assert_eq!(service.healthz().await, 200);
}

#[tokio::test]
async fn forged_headers_reach_no_log() {
    let directory = TempDir::new().unwrap();
    let service = Service::start(&directory, &[], &[]);
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "mine"),
        ("x-user", "ada"),
    ];
    service.view(&new_id("nothing"), &forged).await;
    let records = records(&directory);
    assert_eq!(records[0]["client"]["ip"], "127.0.0.1");
    assert_ne!(records[0]["client"]["requestId"], "mine");
    assert!(records[0]["user"].is_null());
}

#[tokio::test]
async fn only_the_configured_header_is_trusted() {
    let directory = TempDir::new().unwrap();
    let flags =
        ["--trusted-proxies", "::ffff:127.0.0.0/104", "--client-address-header", "Forwarded"];
    let service = Service::start(&directory, &flags, &[]);
    // The request has both the client's header and the proxy's.
    let headers = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("forwarded", "for=\"[2001:db8::9]:4711\";proto=https"),
        ("x-user", "mallory"),
        ("x-user", "ada"),
        ("x-request-id", "client"),
        ("x-request-id", "proxy"),
    ];
    service.view(&new_id("nothing"), &headers).await;
    let records = records(&directory);
    let client = &records[0]["client"];
    assert_eq!((&client["ip"], &client["requestId"]), (&json!("2001:db8::9"), &json!("proxy")));
    assert_eq!(records[0]["user"], "ada");
}

#[tokio::test]
async fn clients_learn_only_whether_it_is_ready() {
    let directory = TempDir::new().unwrap();
    let service = Service::start_with_journal(&directory, &[], &[]);
    for path in ["/livez", "/readyz", "/healthz", "/healthz?verbose"] {
        let [client, operator] = service.probes(path).await;
        assert_eq!(client, (200, r#"{"message":"ok"}"#.to_owned()), "{path}");
        assert_eq!(operator.0, 200);
    }
    let [_, (_, verbose)] = service.probes("/healthz?verbose").await;
    assert!(verbose.contains("journalBytes"), "{verbose}");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_private_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let service = Service::start_with_journal(&directory, &[], &[]);
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    service.stop();
    let mut files = 0;
    for entry in walkdir::WalkDir::new(directory.path()).min_depth(1) {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        files += usize::from(metadata.is_file());
        let (mode, path) = (metadata.permissions().mode(), entry.path().display());
        assert_eq!(mode & 0o077, 0, "{path} has mode {mode:o}");
    }
    assert!(files > 1, "an object, a segment: {files}");
}

#[tokio::test]
async fn slow_request_bodies_time_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = TempDir::new().unwrap();
    let service = Service::start(&directory, &["--request-timeout-ms", "50"], &[]);
    let mut client = tokio::net::TcpStream::connect(service.address()).await.unwrap();
    let half = "PUT /documents/plan HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Content-Length: 1000\r\n\r\n{\"title\":";
    client.write_all(half.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&response));
    assert!(records(&directory).is_empty());
}

#[tokio::test]
async fn conflicts_are_retried_and_attempts_logged() {
    let shared = TempDir::new().unwrap();
    let url = format!("sqlite://{}/documents.db?mode=rwc", shared.path().display());
    let url = std::env::var("DATABASE_URL").unwrap_or(url);
    // Changes of one service take turns on SQLite, those of two meet conflicts: while one waits for
    // its log the other reads.
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let services = directories.each_ref().map(|directory| {
        let flags = ["--linger-ms", "20", "--provenance", "--database-url", &url];
        Service::start(directory, &flags, &[])
    });
    let records = || directories.iter().flat_map(records).collect::<Vec<_>>();
    let id = new_id("contended");
    let mut committed = 0;
    for _ in 0..10 {
        let updates = (0..4).map(|n| services[n % 2].update(&id, change("x"), &[]));
        let answers = join_all(updates).await;
        committed += answers.iter().filter(|(status, _)| *status == 200).count();
        assert!(answers.iter().all(|(status, _)| [200, 503].contains(status)), "{answers:?}");
        if records().iter().any(|log| log["$audit"]["attempt"] != 1) {
            break;
        }
    }
    let (_, document) = services[0].view(&id, &[]).await;
    assert_eq!(document["revision"], committed, "each acknowledged change is there once");

    let records = records();
    let attempts: BTreeSet<_> = records
        .iter()
        .map(|log| (log["$audit"]["execution"].to_string(), log["$audit"]["attempt"].to_string()))
        .collect();
    assert_eq!(attempts.len(), records.len(), "each attempt has its own log");
    assert!(records.iter().any(|log| log["$audit"]["attempt"] != 1), "there was a conflict");
    for revision in 1..=committed {
        assert!(records.iter().any(|log| log["to"] == revision), "revision {revision} has a log");
    }
}

#[tokio::test]
async fn changes_and_records_find_each_other() {
    let directory = TempDir::new().unwrap();
    let service = Service::start(&directory, &["--outcomes"], &[]);
    let id = new_id("plan");
    for revision in 1..=3 {
        assert_eq!(service.update(&id, change("x"), &[]).await.0, 200);
        let receipt = service.receipt(&format!("document={id}&revision={revision}")).await.unwrap();
        assert_eq!((&receipt["document"], &receipt["revision"]), (&json!(id), &json!(revision)));
        let (stream, sequence) = (receipt["stream"].as_str().unwrap(), &receipt["sequence"]);
        let by_record = service.receipt(&format!("stream={stream}&sequence={sequence}")).await;
        assert_eq!(by_record.as_ref(), Some(&receipt));
        let execution = receipt["execution"].as_str().unwrap();
        assert_eq!(service.receipt(&format!("execution={execution}")).await, Some(receipt));
    }
    let stale = json!({ "title": "", "text": "", "expected_revision": 9 });
    assert_eq!(service.update(&id, stale, &[]).await.0, 409);
    for nothing in
        [format!("document={id}&revision=4"), "execution=x".into(), "stream=x&sequence=0".into()]
    {
        assert_eq!(service.receipt(&nothing).await, None, "{nothing}");
    }
    service.stop();
    let records = records(&directory);
    let outcomes: Vec<_> = records
        .iter()
        .filter(|record| record["$audit"]["outcome"].is_string())
        .map(|record| record["$audit"]["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["committed", "committed", "committed", "failed"]);
    assert_eq!(records.len(), 8, "a log and an outcome per attempt");
}

#[tokio::test]
async fn two_services_on_one_database_show_each_others_changes() {
    let shared = TempDir::new().unwrap();
    let url = format!("sqlite://{}/documents.db?mode=rwc", shared.path().display());
    let url = std::env::var("DATABASE_URL").unwrap_or(url);
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let services = directories.each_ref().map(|directory| {
        let flags = ["--database-url", &url];
        Service::start(directory, &flags, &[])
    });
    let id = new_id("shared");
    for revision in 1..=6 {
        let [writer, other] = [revision % 2, (revision + 1) % 2].map(|n| &services[n]);
        assert_eq!(writer.update(&id, change("x"), &[]).await.0, 200);
        for service in [writer, other, other] {
            assert_eq!(service.view(&id, &[]).await.1["revision"], revision);
        }
    }
    // Each release is logged, hits like misses.
    for directory in &directories {
        let records = records(directory);
        let views = records.iter().filter(|log| log["action"] == "documents.view");
        assert_eq!(views.count(), 9);
    }
}

#[tokio::test]
async fn without_a_bucket_nothing_is_logged() {
    let directory = TempDir::new().unwrap();
    let service = Service::start(&directory, &["--bucket", "none"], &[]);
    let id = new_id("plan");
    assert_eq!(service.update(&id, change("one"), &[]).await.0, 200);
    assert_eq!(service.view(&id, &[]).await.0, 200);
    assert_eq!(service.healthz().await, 200);
    assert!(!directory.path().join("bucket").exists());
}

#[tokio::test]
async fn a_data_directory_of_any_name_holds_everything() {
    let directory = tempfile::Builder::new().prefix("100% #1?x=a%20b ").tempdir().unwrap();
    let service = Service::start(&directory, &[], &[]);
    let id = new_id("plan");
    assert_eq!(service.update(&id, change("one"), &[]).await.0, 200);
    assert_eq!(service.view(&id, &[]).await.0, 200);
    assert_eq!(records(&directory).len(), 2);
    // Tests may run on a database of their environment.
    let has_own = std::env::var_os("DATABASE_URL").is_none();
    assert_eq!(directory.path().join("documents.db").is_file(), has_own);
}
