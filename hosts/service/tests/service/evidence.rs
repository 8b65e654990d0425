//! The service signs its logs with a key that it creates at its first start.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::process::{Service, change, new_id};

fn files(directory: &TempDir, suffix: &str) -> Vec<PathBuf> {
    files_in(directory.path(), suffix)
}

fn files_in(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let files = WalkDir::new(directory).into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect()
}

/// The system records of this kind in a bucket, in the order of their streams.
pub(crate) fn system_records(bucket: &Path, event: &str) -> Vec<Value> {
    let mut files = files_in(bucket, ".system");
    files.sort_unstable_by_key(|path| path.file_name().unwrap().to_owned());
    let records = files.iter().map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["$audit"].take()
    });
    records.filter(|record| record["event"] == event).collect()
}

#[tokio::test]
async fn the_first_start_creates_the_key() {
    let directory = TempDir::new().unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let flags = ["--evidence", "example.com/docs"];
        let service = Service::start_with_journal(&directory, &flags, &[]);
        assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
        let [_, (_, verbose)] = service.probes("/healthz?verbose").await;
        let verbose: Value = serde_json::from_str(&verbose).unwrap();
        keys.push(verbose["sink"]["verifierKey"].as_str().unwrap().to_owned());
        service.stop();
    }
    assert!(keys[0].starts_with("example.com/docs+") && keys[0] == keys[1], "{keys:?}");
    assert_eq!(files(&directory, "/evidence.key").len(), 1);
    // Each stream was closed, and each object signed.
    let own = files(&directory, ".system");
    let is_closed =
        |path: &&PathBuf| std::fs::read_to_string(path).unwrap().contains("\"event\":\"closed\"");
    assert_eq!(own.iter().filter(is_closed).count(), 2);
    let objects = files(&directory, ".ndjson.zst").len() + own.len();
    assert_eq!(files(&directory, ".head").len(), objects);
    assert!(files(&directory, ".secret").is_empty());
}

/// Nothing waits for a witness, not even the end of the service.
#[tokio::test]
async fn a_witness_that_is_away_delays_nothing() {
    let directory = TempDir::new().unwrap();
    // A port that is in use, but on which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let away = socket.local_addr().unwrap();
    let key = "witness.example+553fe6a9+BIqHX/8es4RRV3rNWv7kBUVlaN18ieCQhjoFV7x69J8X";
    let witnesses = format!("http://{away} {key} private");
    let flags = ["--evidence", "example.com/docs", "--witnesses", &witnesses];
    let service = Service::start_with_journal(&directory, &flags, &[]);
    assert_eq!(service.update(&new_id("plan"), change("one"), &[]).await.0, 200);
    loop {
        let [_, (status, verbose)] = service.probes("/healthz?verbose").await;
        assert_eq!(status, 200);
        let verbose: Value = serde_json::from_str(&verbose).unwrap();
        let witness = &verbose["sink"]["witnesses"][0];
        assert_eq!(witness["name"], "witness.example");
        assert_eq!(witness["lastCosignedMs"], Value::Null);
        if witness["failures"].as_u64() > Some(0) {
            assert_eq!(witness["submission"], "retrying");
            assert_eq!(verbose["sink"]["delivery"], "ok");
            break;
        }
    }
    service.stop();
}

/// Each tenant's bucket is signed separately, and a host that was killed closes the streams that it
/// had opened at its next start.
#[tokio::test]
async fn the_logs_of_each_tenant_are_signed_in_its_own_bucket() {
    let directory = TempDir::new().unwrap();
    let tenants = ["acme", "globex", "idle"];
    let bucket = |name: &str| directory.path().join(name);
    let route = |name: &str| {
        format!("[[route]]\nname = \"{name}\"\nbucket = \"file://{}\"\n", bucket(name).display())
    };
    let file = directory.path().join("routes.toml");
    std::fs::write(&file, tenants.map(route).concat()).unwrap();
    let flags = [
        "--evidence",
        "example.com/docs",
        "--routes",
        file.to_str().unwrap(),
        "--trusted-proxies",
        "127.0.0.1",
    ];
    let mut key = String::new();
    for is_killed in [true, false] {
        let mut service = Service::start_with_journal(&directory, &flags, &[]);
        let [_, (_, verbose)] = service.probes("/healthz?verbose").await;
        let verbose: Value = serde_json::from_str(&verbose).unwrap();
        verbose["sink"]["verifierKey"].as_str().unwrap().clone_into(&mut key);
        for tenant in &tenants[..2] {
            let headers = [("x-tenant", *tenant)];
            assert_eq!(service.update("plan", change("one"), &headers).await.0, 200);
        }
        if is_killed {
            service.kill();
            service.wait();
        } else {
            service.stop();
        }
    }
    for tenant in &tenants[..2] {
        let opened = system_records(&bucket(tenant), "opened");
        assert_eq!(opened.len(), 2, "{opened:?}");
        for record in &opened {
            assert_eq!(record["key"], key);
            assert_eq!(record["bucket"], format!("file://{}", bucket(tenant).display()));
        }
        assert_eq!(system_records(&bucket(tenant), "closed").len(), 2);
        let objects = files_in(&bucket(tenant), ".ndjson.zst").len();
        let signed = files_in(&bucket(tenant), ".head").len();
        assert_eq!(signed, objects + files_in(&bucket(tenant), ".system").len());
    }
    for name in ["idle", "bucket"] {
        assert!(files_in(&bucket(name), ".system").is_empty(), "nothing was logged in {name}");
    }
    assert!(files(&directory, ".secret").is_empty());
}
