//! What ends the host's process, and what does not.
//!
//! Limits that must not trigger are set to an hour: a test that waits for one never ends.
#![cfg(unix)]

use std::path::Path;
use std::sync::Arc;

use s3_testserver::S3TestServer;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use walkdir::WalkDir;

use crate::process::{FUNCTIONS, Process};

const AN_HOUR: &str = "3600000";
/// Shell command after which standard error is a file of this name in the host's directory.
const KEEP_ERRORS: &str = "exec 2>errors";

fn errors_of(host: &Process) -> String {
    std::fs::read_to_string(host.directory.path().join("errors")).unwrap()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The status and the body of an answer to operators.
async fn asked(http: &reqwest::Client, host: &Process, path: &str) -> (u16, String) {
    let response = http.get(format!("{}{path}", host.operators)).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn files_in(directory: &Path, extension: &str) -> usize {
    let entries = WalkDir::new(directory).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.path().extension().is_some_and(|it| it == extension)).count()
}

/// Removes the segments of a running host's journal, after which its syncs fail.
fn remove_segments(host: &Process) {
    let journal = host.directory.path().join("data/journal");
    let mut removed = 0;
    for entry in std::fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "journal") {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0, "a journal in use has segments");
}

const RESTART: &str = "the audit sink has stopped: restart this process";

#[tokio::test]
async fn a_host_whose_journal_has_stopped_ends_with_its_own_code() {
    let mut host = Process::start_with(KEEP_ERRORS, &["--exit-when-stopped"]);
    let http = client();
    assert_eq!(host.create(&http, "before").await, 200);
    remove_segments(&host);
    assert_eq!(host.create(&http, "after").await, 503);
    assert_eq!(host.child.wait().unwrap().code(), Some(4));
    let errors = errors_of(&host);
    assert_eq!(errors.matches(RESTART).count(), 1, "{errors}");
    let last = "functions-host: ended so that it can be restarted: ";
    assert!(errors.contains(last) && errors.contains("the file was removed"), "{errors}");
}

#[tokio::test]
async fn a_host_whose_journal_has_stopped_stays_if_it_is_not_to_end() {
    let mut host = Process::start_with(KEEP_ERRORS, &[]);
    let http = client();
    assert_eq!(host.create(&http, "before").await, 200);
    remove_segments(&host);
    for _ in 0..3 {
        assert_eq!(host.create(&http, "after").await, 503);
    }
    for (path, says) in [("/livez", "restart it: "), ("/readyz", ", restart it: ")] {
        let (status, body) = asked(&http, &host, path).await;
        assert_eq!((status, body.contains(says)), (503, true), "{path}: {body}");
    }
    host.signal("-TERM");
    assert_ne!(host.child.wait().unwrap().code(), Some(4));
    let errors = errors_of(&host);
    assert_eq!(errors.matches(RESTART).count(), 1, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_journal_is_ready_while_its_bucket_is_away() {
    let store = S3TestServer::start().await;
    let bucket = format!("--bucket=s3://{}/logs", store.bucket());
    let flags = [&*bucket, "--cut-after-ms", "10"];
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let environment = store.environment();
    let mut host = Process::start_of(FUNCTIONS, directory, "true", &flags, &environment);
    let http = client();
    assert_eq!(host.create(&http, "before").await, 200);
    store.pause().await;
    assert_eq!(host.create(&http, "during").await, 200);
    let trouble = loop {
        let (status, body) = asked(&http, &host, "/healthz").await;
        let body: Json = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["message"]), (200, &json!("ok")), "{body}");
        if body["delivery"] != "ok" {
            break body["delivery"].as_str().unwrap().to_owned();
        }
    };
    assert!(trouble.starts_with("retrying: "), "{trouble}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(asked(&http, &host, path).await.0, 200, "{path}");
    }
    let clients = http.get(format!("{}/healthz", host.url)).send().await.unwrap();
    let clients = (clients.status().as_u16(), clients.text().await.unwrap());
    assert_eq!(clients, (200, r#"{"message":"ok"}"#.to_owned()), "clients hear no more");
    let (status, verbose) = asked(&http, &host, "/healthz?verbose").await;
    let verbose: Json = serde_json::from_str(&verbose).unwrap();
    let sink = &verbose["sink"];
    assert_eq!((status, &sink["commits"]), (200, &json!("accepted")), "{verbose}");
    assert_eq!(sink["delivery"], "retrying", "{verbose}");
    assert!(sink["lastError"].is_string() && sink["oldestUndeliveredMs"].is_u64(), "{verbose}");
    let (_, metrics) = asked(&http, &host, "/metrics").await;
    let metric = |name: &str| {
        let of_bucket = |line: &&str| line.starts_with(name) && line.contains("/logs");
        let line = metrics.lines().find(of_bucket).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(metric("audit_blocked{"), 1.0);
    assert!(metric("audit_oldest_undelivered_timestamp_seconds{") > 0.0, "{metrics}");
    assert_eq!(host.create(&http, "still").await, 200);
    store.resume().await;
    host.stop();
}

/// Sends the beginning of a request. Once it returns, the host has accepted it.
async fn begun(http: &reqwest::Client, host: &Process, bytes: &str) -> TcpStream {
    let mut client = TcpStream::connect(host.url.strip_prefix("http://").unwrap()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    assert_eq!(host.create(http, "later").await, 200);
    client
}

const HALF_A_HEAD: &str = "POST /api/mutation HTT";
const HALF_A_BODY: &str = "POST /api/mutation HTTP/1.1\r\nHost: a\r\n\
                           Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";

#[tokio::test]
async fn requests_half_sent_do_not_keep_a_host_that_is_stopped() {
    let http = client();
    for (half, drain_ms) in [("", AN_HOUR), (HALF_A_HEAD, AN_HOUR), (HALF_A_BODY, "50")] {
        let flags = ["--drain-timeout-ms", drain_ms, "--header-timeout-ms", AN_HOUR];
        let flags = [&flags[..], &["--body-timeout-ms", AN_HOUR]].concat();
        let mut host = Process::start_with("true", &flags);
        let mut half_sent = begun(&http, &host, half).await;
        host.stop();
        let mut response = Vec::new();
        // The connection may be reset.
        drop(half_sent.read_to_end(&mut response).await);
        assert!(response.is_empty(), "{half}");
        let bucket = host.directory.path().join("data/bucket");
        assert!(files_in(&bucket, "zst") > 0, "the sink was closed");
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_host_at_once() {
    let flags = ["--drain-timeout-ms", AN_HOUR, "--body-timeout-ms", AN_HOUR];
    let mut host = Process::start_with("true", &flags);
    let half_sent = begun(&client(), &host, HALF_A_BODY).await;
    host.signal("-TERM");
    // Once it accepts no more connections, it has received the first signal.
    while TcpStream::connect(host.url.strip_prefix("http://").unwrap()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    host.signal("-TERM");
    assert_eq!(host.child.wait().unwrap().code(), Some(128 + 15));
    drop(half_sent);
}

/// The engine checks the clock every 10,000 jumps of a function, but not during arithmetic.
const STUCK: &str = "import { queryGeneric } from 'convex/server';
    export const stuck = queryGeneric(async () => {
      const large = 3n ** 200_000n;
      for (let n = 0; n < 5_000; n++) large.toString();
    });";

/// A host replaces seven threads that functions do not release. With the eighth it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_loses_too_many_threads_ends_in_order() {
    let functions = tempfile::tempdir().unwrap();
    std::fs::write(functions.path().join("queries.js"), STUCK).unwrap();
    let path = functions.path().to_str().unwrap();
    let flags = ["--function-timeout-ms", "20"];
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut host = Process::start_of(path, directory, KEEP_ERRORS, &flags, &[]);
    let http = client();
    let calls = (0..8).map(async |number| {
        let body = json!({ "path": "queries:stuck", "args": { "number": number } }).to_string();
        let url = format!("{}/api/query", host.url);
        // On a busy machine, a query may reach its time limit before the loop begins.
        while let Ok(answer) = http.post(&url).body(body.clone()).send().await {
            if answer.text().await.is_ok_and(|text| text.contains("on its thread)")) {
                break;
            }
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(host.child.wait().unwrap().code(), Some(1));
    let errors = errors_of(&host);
    let says = "functions-host: too many functions never released their threads; restart the host";
    assert!(errors.contains(says), "{errors}");
    let lost = "a function kept its thread for too long";
    assert!(errors.matches(lost).count() >= 8, "{errors}");
}

/// Only the header that the operator named tells the client's address.
#[tokio::test]
async fn only_the_configured_header_is_trusted() {
    let trusted = ["--trusted-proxies", "::ffff:127.0.0.0/104"];
    let forwarded = ["--client-address-header", "Forwarded"];
    let both = [trusted, forwarded].concat();
    for (flags, ip) in [
        (&both[..], json!("2001:db8::9")),
        (&trusted[..], json!("6.6.6.6")),
        (&forwarded[..], json!("127.0.0.1")),
    ] {
        let flags = [flags, &["--compression", "none"]].concat();
        let mut host = Process::start_with("true", &flags);
        let args = json!({ "title": "x", "text": "y", "orgId": "org" });
        let call = json!({ "path": "documents:create", "args": args });
        // The request has both the client's header and the proxy's.
        let request = client().post(format!("{}/api/mutation", host.url)).body(call.to_string());
        let request = request
            .header("x-forwarded-for", "6.6.6.6")
            .header("forwarded", "for=6.6.6.7")
            .header("forwarded", "for=\"[2001:db8::9]:4711\";proto=https");
        assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
        host.stop();
        let entries = WalkDir::new(host.directory.path().join("data/bucket")).into_iter();
        let objects = entries.map(|entry| entry.unwrap().into_path());
        let objects = objects.filter(|path| path.extension().is_some_and(|it| it == "ndjson"));
        let text: String = objects.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let records = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        let created = records.filter(|record| record["action"] == "document.created");
        let logged: Vec<_> = created.map(|record| record["source"]["ip"].clone()).collect();
        assert_eq!(logged, [ip], "{flags:?}");
    }
}
