//! `--outcomes` shows each attempt with its outcome, whichever object and hour contains it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_core::{Batch, UniqueId};
use s3_testserver::S3TestServer;
use serde_json::Value;

use crate::support::{
    DAY, HOUR_MS, audit, bucket, command, environment, object_for_each_batch, url, write,
};

fn log(n: u128, attempt: u32, kind: &str) -> String {
    let execution = UniqueId::from_bits(n);
    format!(
        "{{\"n\":{n},\"$audit\":{{\"execution\":\"{execution}\",\"attempt\":{attempt},\"function\":\"f\",\"kind\":\"{kind}\",\"replay\":false}}}}\n"
    )
}

fn outcome(n: u128, attempt: u32, outcome: &str) -> String {
    let execution = UniqueId::from_bits(n);
    format!(
        "{{\"$audit\":{{\"execution\":\"{execution}\",\"attempt\":{attempt},\"outcome\":\"{outcome}\"}}}}\n"
    )
}

fn batch(time_ms: i64, lines: &[String]) -> Batch {
    Batch::from_lines(time_ms, lines.concat().into()).unwrap()
}

/// Two hosts. Outcomes are in separate objects, one of them in the next hour.
async fn scene() -> S3TestServer {
    let server = S3TestServer::start().await;
    let late = DAY + HOUR_MS - 1;
    let one = vec![
        batch(DAY, &[log(1, 1, "mutation"), log(1, 1, "query")]),
        batch(DAY, &[log(2, 1, "query")]),
        batch(DAY, &[log(1, 2, "mutation")]),
        batch(DAY, &[outcome(1, 1, "conflict"), outcome(1, 2, "committed")]),
        batch(late, &[log(3, 1, "mutation")]),
        batch(late + 2, &[outcome(3, 1, "failed")]),
        batch(late + 3, &[log(4, 1, "query")]),
    ];
    write(bucket(&server), object_for_each_batch(), one).await;
    // This host was killed before it wrote the outcome.
    let other = vec![batch(DAY, &[log(5, 1, "mutation")])];
    write(bucket(&server), object_for_each_batch(), other).await;
    server
}

/// Number, attempt and outcome of each record that is printed.
fn joined(records: &[Value]) -> Vec<(u64, u64, Option<String>)> {
    let of = |record: &Value| {
        let audit = &record["$audit"];
        let outcome = audit["outcome"].as_str().map(ToOwned::to_owned);
        (record["n"].as_u64().unwrap(), audit["attempt"].as_u64().unwrap(), outcome)
    };
    records.iter().map(of).collect()
}

fn expected(all: &[(u64, u64, &str)]) -> Vec<(u64, u64, Option<String>)> {
    let outcome = |outcome: &str| (!outcome.is_empty()).then(|| outcome.to_owned());
    all.iter().map(|(n, attempt, word)| (*n, *attempt, outcome(word))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_shown_with_their_outcomes() {
    let server = scene().await;
    let (environment, url) = (environment(&server), url(&server));
    let ran = audit(&environment, &["cat", "--outcomes", &url]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = [
        (2, 1, ""),
        (1, 1, "conflict"),
        (1, 1, "conflict"),
        (1, 2, "committed"),
        (3, 1, "failed"),
        (4, 1, ""),
        (5, 1, "unknown"),
    ];
    assert_eq!(joined(&ran.json()), expected(&all));
    assert!(ran.err.contains("no outcome was found for 1 attempt"), "{ran:?}");

    // Only printed records are counted, and the outcome of the last one is read.
    let ran = audit(&environment, &["cat", "--outcomes", "-n", "5", &url]).await;
    assert_eq!(joined(&ran.json()), expected(&all[..5]));

    // The outcome of the last attempt is after the range, whose other records are not printed.
    let until = ["cat", "--outcomes", "--until", "2023-11-14T01:00Z", &url];
    let ran = audit(&environment, &until).await;
    assert_eq!(joined(&ran.json()), expected(&[&all[..5], &all[6..]].concat()));

    let unknown = ["cat", "--outcomes", "--where", "/$audit/outcome=unknown", "--json", &url];
    let ran = audit(&environment, &unknown).await;
    let [found] = &ran.json()[..] else { panic!("{ran:?}") };
    assert_eq!((&found["record"]["n"], &found["sequence"]), (&5.into(), &0.into()));

    let ran = audit(&environment, &["cat", &url]).await;
    assert_eq!(ran.lines().len(), 10, "outcomes are records like others otherwise");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_the_last_attempts_with_their_outcomes() {
    let server = scene().await;
    let (environment, url) = (environment(&server), url(&server));
    let ran = audit(&environment, &["tail", "--outcomes", "-n", "3", &url]).await;
    let found = joined(&ran.json());
    assert_eq!(found, expected(&[(3, 1, "failed"), (4, 1, ""), (5, 1, "unknown")]));

    // With a larger count than there are records, all are printed, with or without outcomes.
    for outcomes in [&["--outcomes"][..], &[]] {
        let all = audit(&environment, &[&["cat", &*url], outcomes].concat()).await.lines().len();
        for most in [usize::MAX, usize::MAX / 2 + 1] {
            let most = most.to_string();
            let tail = [&["tail", "-n", &*most, &*url], outcomes].concat();
            let ran = audit(&environment, &tail).await;
            assert_eq!((ran.code, ran.lines().len()), (Some(0), all), "{tail:?}: {ran:?}");
        }
    }
}

/// A record is printed as soon as its outcome arrives.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_attempts_as_their_outcomes_arrive() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use audit_core::{AuditSink, Clock, SystemClock};
    use audit_sink_s3::{Bucket, S3Sink};

    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap().to_owned();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    let sink = S3Sink::builder(bucket).with_settings(object_for_each_batch()).open().await.unwrap();
    let now = SystemClock.now_ms();
    sink.persist(batch(now, &[log(1, 1, "query")])).await.unwrap();
    let mut child = command()
        .args(["tail", "-f", "--outcomes", "--interval-ms", "10", &path])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(next(), log(1, 1, "query"));
    sink.persist(batch(now, &[log(2, 1, "mutation")])).await.unwrap();
    sink.persist(batch(now, &[log(3, 1, "query")])).await.unwrap();
    assert_eq!(next(), log(3, 1, "query"), "the other one is held");
    sink.persist(batch(now, &[outcome(2, 1, "committed")])).await.unwrap();
    let line = next();
    assert!(line.contains("\"n\":2") && line.contains("\"outcome\":\"committed\""), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    sink.close().await.unwrap();
}
