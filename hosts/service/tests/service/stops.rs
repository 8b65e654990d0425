//! A service stops when told to, whatever its clients and its bucket do.
//!
//! Limits that must not trigger are set to an hour: a test that waits for one never ends.

use std::fs::File;

use s3_testserver::S3TestServer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Service, change, new_id, records};
use crate::unreachable_bucket::environment;

const AN_HOUR: &str = "3600000";
const HALF_A_BODY: &str = "PUT /documents/plan HTTP/1.1\r\nHost: a\r\n\
                           Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";

async fn sent(service: &Service, bytes: &str) -> TcpStream {
    let mut client = TcpStream::connect(service.address()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    // Once this is answered, the service has accepted what was sent before.
    assert_eq!(service.healthz().await, 200);
    client
}

#[tokio::test]
async fn idle_connections_do_not_delay_a_stop() {
    let directory = TempDir::new().unwrap();
    let flags = ["--drain-timeout-ms", AN_HOUR, "--header-timeout-ms", AN_HOUR];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    let clients = [sent(&service, "").await, sent(&service, "GET /documents/pl").await];
    service.stop();
    drop(clients);
    assert_eq!(records(&directory).len(), 1, "the sink was closed");
}

#[tokio::test]
async fn a_stop_cuts_unfinished_bodies() {
    let directory = TempDir::new().unwrap();
    let service = Service::start_with_journal(&directory, &["--drain-timeout-ms", "50"], &[]);
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    let mut client = sent(&service, HALF_A_BODY).await;
    service.stop();
    assert_eq!(records(&directory).len(), 1, "the sink was closed");
    let mut response = Vec::new();
    drop(client.read_to_end(&mut response).await);
    assert!(response.is_empty());
}

#[tokio::test]
async fn a_second_signal_ends_a_service_at_once() {
    let directory = TempDir::new().unwrap();
    let flags = ["--drain-timeout-ms", AN_HOUR, "--request-timeout-ms", AN_HOUR];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    let client = sent(&service, HALF_A_BODY).await;
    service.terminate();
    // Once it accepts no more connections, it has received the first signal.
    while TcpStream::connect(service.address()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    service.terminate();
    assert_eq!(service.exit_code(), Some(128 + 15));
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_bucket_does_not_prevent_a_stop() {
    let directory = TempDir::new().unwrap();
    let store = S3TestServer::start().await;
    let (bucket, endpoint) = (format!("s3://{}/logs", store.bucket()), store.endpoint());
    let flags = ["--bucket", &bucket, "--close-timeout-ms", "50", "--cut-after-ms", AN_HOUR];
    let service = Service::start_with_journal(&directory, &flags, &environment(&store, &endpoint));
    store.pause().await;
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    service.terminate();
    assert_eq!(service.exit_code(), Some(3), "not everything was delivered");
}

const RESTART: &str = "the audit sink has stopped: restart this process";

/// Starts a service whose standard error goes to a file, and removes the segments of its journal,
/// after which its syncs fail.
#[cfg(unix)]
async fn without_segments(directory: &TempDir, flags: &[&str]) -> Service {
    let errors = File::create(directory.path().join("errors")).unwrap();
    let service = Service::start_with_errors(directory, flags, &[], errors.into());
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    let mut removed = 0;
    for entry in std::fs::read_dir(directory.path().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "journal") {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0, "a journal in use has segments");
    service
}

#[cfg(unix)]
#[tokio::test]
async fn a_service_whose_journal_has_stopped_ends_with_its_own_code() {
    let directory = TempDir::new().unwrap();
    let service = without_segments(&directory, &["--exit-when-stopped"]).await;
    assert_eq!(service.update(&new_id("plan"), change("two"), &[]).await.0, 503);
    assert_eq!(service.exit_code(), Some(4));
    let errors = std::fs::read_to_string(directory.path().join("errors")).unwrap();
    assert_eq!(errors.matches(RESTART).count(), 1, "{errors}");
    let last = "audit-service: ended so that it can be restarted: ";
    assert!(errors.contains(last) && errors.contains("the file was removed"), "{errors}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_service_whose_journal_has_stopped_stays_if_it_is_not_to_end() {
    let directory = TempDir::new().unwrap();
    let service = without_segments(&directory, &[]).await;
    for _ in 0..3 {
        assert_eq!(service.update(&new_id("plan"), change("two"), &[]).await.0, 503);
    }
    for (path, says) in [("/livez", "restart it: "), ("/readyz", ", restart it: ")] {
        let [(client, _), (operator, body)] = service.probes(path).await;
        assert_eq!((client, operator), (503, 503), "{path}");
        assert!(body.contains(says), "{path}: {body}");
    }
    service.terminate();
    assert_ne!(service.exit_code(), Some(4));
    let errors = std::fs::read_to_string(directory.path().join("errors")).unwrap();
    assert_eq!(errors.matches(RESTART).count(), 1, "{errors}");
}
