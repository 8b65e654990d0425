//! A note is printed if conditions or times select nothing because a member is missing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_core::Batch;
use audit_sink_s3::Bucket;

use crate::support::{DAY, Ran, audit, object_for_each_batch, write};

async fn directory(lines: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let batch = Batch::from_lines(DAY, lines.into()).unwrap();
    write(bucket, object_for_each_batch(), vec![batch]).await;
    root
}

async fn cat(root: &tempfile::TempDir, more: &[&str]) -> Ran {
    audit(&[], &[&["cat", root.path().to_str().unwrap()], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_no_record_has_is_named() {
    let lines = vec![r#"{"user":"bob","n":null,"deep":{"a":[1]}}"#; 12_000];
    let root = directory(&lines).await;
    for (conditions, printed, notes) in [
        (&["/user=bob"][..], 12_000, ""),
        (&["/user=eve"], 0, ""),
        (&["/n=null"], 12_000, ""),
        (&["/usre=bob"], 0, "--where /usre=bob: 0 of 12,000 records; none has /usre"),
        (&["/deep/a/0=1"], 12_000, ""),
        (&["/deep/a/1=1"], 0, "--where /deep/a/1=1: 0 of 12,000 records; none has /deep/a/1"),
        (&["/user=eve", "/N=1"], 0, "--where /N=1: 0 of 12,000 records; none has /N"),
        (&["/a~1b=\u{1b}"], 0, "--where /a~1b=\\u{1b}: 0 of 12,000 records; none has /a~1b"),
    ] {
        let wheres: Vec<&str> = conditions.iter().flat_map(|one| ["--where", *one]).collect();
        let ran = cat(&root, &wheres).await;
        assert_eq!((ran.code, ran.out.lines().count()), (Some(0), printed), "{conditions:?}");
        let expected = if notes.is_empty() { String::new() } else { format!("audit: {notes}\n") };
        assert_eq!(ran.err, expected);
        let strict = cat(&root, &[&["--strict"], &wheres[..]].concat()).await;
        assert_eq!(strict.code, Some(i32::from(!notes.is_empty())), "{conditions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_compared_exactly() {
    let numbers = [
        "9007199254740992",
        "9007199254740993",
        "9007199254740993.0",
        "7",
        "7.0",
        "70e-1",
        "0",
        "-0",
        "0.0",
        "123456789012345678901234567890",
        "123456789012345678901234567891",
        "1e400",
        "10e399",
        "0.1",
        "0.10000000000000000001",
    ];
    let lines: Vec<String> = numbers.iter().map(|number| format!("{{\"n\":{number}}}")).collect();
    let root = directory(&lines.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (wanted, found) in [
        ("9007199254740993", &numbers[1..3]),
        ("9007199254740992", &numbers[..1]),
        ("7", &numbers[3..6]),
        ("7.00", &numbers[3..6]),
        ("0", &numbers[6..9]),
        ("-0", &numbers[6..9]),
        ("123456789012345678901234567891", &numbers[10..11]),
        ("1e400", &numbers[11..13]),
        ("0.1", &numbers[13..14]),
    ] {
        let ran = cat(&root, &["--where", &format!("/n={wanted}")]).await;
        let expected: Vec<String> = found.iter().map(|n| format!("{{\"n\":{n}}}")).collect();
        assert_eq!(ran.lines(), expected, "{wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_time_are_counted_by_what_they_lack() {
    let root = directory(&[
        r#"{"at":1700000000000}"#,
        r#"{"at":"2023-11-14T22:13:20Z"}"#,
        r#"{"at":"2023-11-14 22:13:20Z"}"#,
        r#"{"at":"2023-11-14 22:13:20"}"#,
        r#"{"at":1800000000000}"#,
        r#"{"at":1700000000}"#,
        r#"{"at":1700000000.25}"#,
        r#"{"at":1700000000000000}"#,
        r#"{"at":1700000000000000000}"#,
        r#"{"at":"1700000000000"}"#,
        r#"{"at":true}"#,
        r#"{"at":null}"#,
        r#"{"time":1}"#,
    ])
    .await;
    let range = ["--since", "2023-11-14", "--until", "2023-11-15", "--time", "/at"];
    let ran = cat(&root, &range).await;
    assert_eq!(ran.lines().len(), 4, "{ran:?}");
    let note = "audit: --time /at: 8 records left out: nothing at /at in 2, \
                a value that is not a time in 2, seconds instead of milliseconds in 2, \
                microseconds instead of milliseconds in 1, nanoseconds instead of milliseconds in 1\n";
    assert_eq!(ran.err, note);
    let strict = cat(&root, &[&range[..], &["--strict"]].concat()).await;
    assert_eq!((strict.code, strict.out), (Some(1), ran.out));
    // Without a range, nothing is left out. A record that is only outside the range causes no note.
    assert_eq!(cat(&root, &["--time", "/at", "--strict"]).await.lines().len(), 13);
    let root = directory(&[r#"{"at":1700000000000}"#, r#"{"at":1800000000000}"#]).await;
    let ran = cat(&root, &[&range[..], &["--strict"]].concat()).await;
    assert_eq!((ran.lines().len(), ran.err.as_str()), (1, ""));
}
