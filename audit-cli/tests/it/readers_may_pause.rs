//! A reader of the output may pause for longer than requests may take and are retried.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use s3_testserver::{Fault, RequestInfo, S3TestServer, StoredObject};

use crate::support::{Ran, command, environment, url};

/// More than the buffers between the store and the reader hold.
const LINES: usize = 32 << 10;

const KEY: &str = "logs/dt=2023-11-14/hour=00/01HF7YAT000000000000000000-000000000000.ndjson";

/// What the store does with connections meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    KeepsConnections,
    CutsConnections,
    Replaces,
}

fn object(text: &str) -> StoredObject {
    let line = |n| format!("{{\"n\":{n},\"text\":\"{text}{}\"}}\n", "x".repeat(1_000));
    let bytes = (0..LINES).map(line).collect::<String>().into();
    StoredObject { bytes, ..StoredObject::default() }
}

async fn read_with_a_pause(store: Store) -> Ran {
    let server = S3TestServer::start().await;
    server.put_object(KEY, object("a"));
    if store == Store::CutsConnections {
        let mut is_first = true;
        server.faults().plan(move |request: &RequestInfo| {
            let is_ours = request.key == KEY && std::mem::take(&mut is_first);
            if is_ours { Fault::CutInResponse { after_bytes: 8 << 20 } } else { Fault::None }
        });
    }
    let mut cat = command();
    cat.args(["cat", &url(&server), "--retry-for", "1"]).envs(environment(&server));
    if store != Store::CutsConnections {
        cat.env("AWS_TIMEOUT", "1s");
    }
    let mut cat = cat.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(cat.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    // The pause.
    tokio::time::sleep(Duration::from_secs(2)).await;
    if store == Store::Replaces {
        server.put_object(KEY, object("b"));
    }
    let read = move || {
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        let mut output = cat.wait_with_output().unwrap();
        output.stdout = [first.into_bytes(), rest].concat();
        Ran::of(output)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_reader_is_no_fault_of_the_store() {
    for store in [Store::KeepsConnections, Store::CutsConnections] {
        let ran = read_with_a_pause(store).await;
        assert_eq!(ran.code, Some(0), "{store:?}: {}", ran.err);
        assert!(ran.json().iter().enumerate().all(|(n, line)| line["n"] == n), "{store:?}");
        assert_eq!(ran.lines().len(), LINES, "{store:?}");
    }
    let ran = read_with_a_pause(Store::Replaces).await;
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains("was replaced while it was read"), "{}", ran.err);
    assert!(!ran.out.contains("\"b"), "lines of two versions");
}
