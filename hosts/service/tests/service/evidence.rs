//! The service signs its logs with a key that it creates at its first start.

use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::process::{Service, change, new_id};

fn files(directory: &TempDir, suffix: &str) -> Vec<std::path::PathBuf> {
    let files = WalkDir::new(directory.path()).into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect()
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
    let is_closed = |path: &&std::path::PathBuf| {
        std::fs::read_to_string(path).unwrap().contains("\"event\":\"closed\"")
    };
    assert_eq!(own.iter().filter(is_closed).count(), 2);
    let objects = files(&directory, ".ndjson.zst").len() + own.len();
    assert_eq!(files(&directory, ".head").len(), objects);
    assert!(files(&directory, ".secret").is_empty());
}

/// Nothing waits for a witness, not even the end of the service.
#[tokio::test]
async fn a_witness_that_is_away_delays_nothing() {
    let directory = TempDir::new().unwrap();
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
