//! `tail -f` prints each new record once, until it is stopped.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use audit_core::{AuditSink, Clock, SystemClock};
use audit_sink_s3::{Bucket, S3Sink};
use s3_testserver::{RequestInfo, S3TestServer};

use crate::support::{
    HOUR_MS, batch, bucket, command, environment, hourly, object_for_each_batch, url,
};

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn arrivals_are_printed_once_until_ctrl_c() {
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
            // Some belong to the hour before.
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

/// Persists objects under near and distant hours while `tail -f` runs, and expects each record
/// once.
async fn arrives_under_any_hour(
    place: &str,
    environment: &[(&'static str, String)],
    bucket: Bucket,
) {
    let now = SystemClock.now_ms();
    let sink = S3Sink::builder(bucket).with_settings(object_for_each_batch()).open().await.unwrap();
    // An earlier object, in an hour that is not listed each time.
    sink.persist(batch(now - 30 * HOUR_MS, "before", 1)).await.unwrap();
    sink.persist(batch(now, "now", 1)).await.unwrap();
    let mut child = command()
        .args(["tail", "-f", "-n", "2", "--interval-ms", "10", "--lists-per-minute", "100000"])
        .arg(place)
        .envs(environment.iter().cloned())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut next = move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    let first = [next(), next()];
    assert!(first[0].contains("before") && first[1].contains("now"), "{first:?}");
    // Three hours and a day late, a backlog of one hour, a day and a year in the future, and years
    // ago.
    let hours = [-3, -26, -40, -40, -40, 1, 2, 30, 9_000, -40_000, 0, -3];
    for (n, hours) in hours.into_iter().enumerate() {
        let user = format!("late{n}");
        sink.persist(batch(now + hours * HOUR_MS + n as i64, &user, 2)).await.unwrap();
        let lines = [next(), next()];
        assert!(lines.iter().all(|line| line.contains(&format!("\"{user}\""))), "{lines:?}");
    }
    // Objects that arrive together are printed completely, in any order of the hours.
    let expected: BTreeSet<String> = (0..20).map(|n| format!("\"backlog{n}\"")).collect();
    for n in 0..20 {
        let time = now - (50 + n % 7) * HOUR_MS;
        sink.persist(batch(time, &format!("backlog{n}"), 1)).await.unwrap();
    }
    let found: BTreeSet<String> = (0..20)
        .map(|_| next().split("\"user\":").nth(1).unwrap().split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(found, expected);
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    sink.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn arrivals_in_a_directory_are_printed_once_under_any_hour() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    arrives_under_any_hour(path, &[], bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arrivals_in_a_store_are_printed_once_under_any_hour() {
    let server = S3TestServer::start().await;
    arrives_under_any_hour(&url(&server), &environment(&server), bucket(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_over_all_days_keeps_to_its_share_of_listings() {
    // Ten days, long ago.
    let (server, _) = hourly(240).await;
    let mut child = command()
        .args(["tail", "-f", "-n", "0", "--interval-ms", "10", "--lists-per-minute", "60000"])
        .arg(url(&server))
        .envs(environment(&server))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let before = server.requests().len();
    server.wait_requests(before + 900).await;
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let requests = server.requests().split_off(before);
    // Objects of the second in which the command began count as new, and are read.
    let requests = requests.into_iter().filter(RequestInfo::is_list);
    let (mut walked, mut recent, mut tops) = (BTreeMap::<String, usize>::new(), 0, 0);
    for prefix in requests.map(|request| request.prefix.unwrap()) {
        match prefix.as_str() {
            "logs/" => tops += 1,
            day if day.starts_with("logs/dt=2023-") && !day.contains("hour=") => {
                *walked.entry(day.to_owned()).or_default() += 1
            }
            _ => recent += 1,
        }
    }
    // A poll makes four listings, at most every 10 ms, for which 60,000 a minute allow ten.
    let walk: usize = walked.values().sum();
    assert!(recent >= 60, "{recent}, {walk}, {tops}");
    assert!(2 * (walk + tops) <= 3 * recent + 40, "{walk} and {tops} of {recent}");
    // Each day is listed as often as any other.
    let (least, most) = (walked.values().min().unwrap(), walked.values().max().unwrap());
    assert!(walked.len() == 10 && most - least <= 1, "{walked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_for_its_reader_can_be_stopped() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap().to_owned();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    let batches = (0..40).map(|n| batch(n, "ada", 500)).collect();
    crate::support::write(bucket, object_for_each_batch(), batches).await;
    let mut child = command().args(["cat", &path]).stdout(Stdio::piped()).spawn().unwrap();
    // Nobody reads the rest, so the pipe is soon full.
    let mut first = [0; 1];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
