//! `tail -f` prints what arrives, once, until it is stopped.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use audit_core::{AuditSink, Clock, SystemClock};
use audit_sink_s3::{Bucket, S3Sink};

use crate::support::{HOUR_MS, batch, command, object_for_each_batch};

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_printed_once_until_ctrl_c() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap().to_owned();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    let sink = S3Sink::builder(bucket).with_settings(object_for_each_batch()).open().await.unwrap();
    let now = SystemClock.now_ms();
    sink.persist(batch(now - 50 * HOUR_MS, "long ago", 2)).await.unwrap();
    sink.persist(batch(now, "before", 3)).await.unwrap();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = command()
            .args(["tail", "-f", "-n", "4", "--interval-ms", "10", &path])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut next = || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line
        };
        let first: Vec<String> = (0..4).map(|_| next()).collect();
        for n in 0..3 {
            let user = format!("new{n}");
            // Also what belongs to the hour before.
            sink.persist(batch(now - n * HOUR_MS / 2, &user, 2)).await.unwrap();
            let lines = [next(), next()];
            assert!(lines.iter().all(|line| line.contains(&user)), "{lines:?} after {first:?}");
        }
        send(signal, &child);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), rest.as_str(), err.as_str()),
            (Some(code), "", "")
        );
    }
    sink.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_for_its_reader_can_be_stopped() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap().to_owned();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    let batches = (0..40).map(|n| batch(n, "ada", 500)).collect();
    crate::support::write(bucket, object_for_each_batch(), batches).await;
    let mut child = command().args(["cat", &path]).stdout(Stdio::piped()).spawn().unwrap();
    // Nobody reads on: the pipe is full soon.
    let mut first = [0; 1];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
