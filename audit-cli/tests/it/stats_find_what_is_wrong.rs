//! Missing, duplicated, copied and damaged records are found and named.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use audit_core::UniqueId;
use audit_sink_s3::Bucket;
use audit_sink_s3::layout::ObjectKey;
use s3_testserver::S3TestServer;
use serde_json::{Value, json};

use crate::support::{
    DAY, HOUR_MS, Ran, audit, batch, bucket, environment, hourly, object_for_each_batch, url, write,
};

async fn stats(server: &S3TestServer, more: &[&str]) -> Ran {
    audit(&environment(server), &[&["stats", "--json", &url(server)], more].concat()).await
}

fn parts(ran: &Ran) -> (Vec<Value>, Value) {
    let mut lines = ran.json();
    let summary = lines.pop().unwrap();
    (lines, summary)
}

fn key(server: &S3TestServer, n: usize) -> String {
    server.objects().into_keys().filter(|key| key.contains("dt=")).nth(n).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_buckets_have_no_faults() {
    let (server, _) = hourly(30).await;
    let ran = stats(&server, &["--time", "/at"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (findings, summary) = parts(&ran);
    assert_eq!(findings, [] as [Value; 0]);
    let bytes: u64 = (0..30)
        .map(|hour| batch(DAY + hour * HOUR_MS, "user0", 10).lines().len() as u64 - 10)
        .sum();
    let expected = [
        ("objects", json!(30)),
        ("logs", json!(300)),
        ("streams", json!(1)),
        ("bytes", json!(bytes)),
        ("metered_bytes", json!(300 * 5_000)),
        ("gaps", json!(0)),
        ("duplicates", json!(0)),
        ("damaged", json!(0)),
    ];
    for (name, value) in expected {
        assert_eq!(summary[name], value, "{name}");
    }
    assert_eq!(summary["days"][0]["day"], "2023-11-14");
    assert_eq!(
        (&summary["days"][0]["logs"], &summary["days"][1]["logs"]),
        (&json!(240), &json!(60))
    );
    assert_eq!(summary["lag"]["from"], "first record");
    // The object was written long after the times of its records.
    assert!(summary["lag"]["p50_ms"].as_i64().unwrap() > 365 * 24 * HOUR_MS);
    let text = audit(&environment(&server), &["stats", &url(&server)]).await;
    assert!(
        text.lines().last().unwrap().contains("no gaps, no duplicates, nothing damaged"),
        "{text:?}"
    );
    let heads = stats(&server, &["--heads"]).await;
    let (_, heads) = parts(&heads);
    assert_eq!((&heads["logs"], &heads["metered_bytes"]), (&json!(300), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_are_gaps() {
    let (server, places) = hourly(30).await;
    let stream = places[0].stream.to_string();
    for n in [0, 12, 13] {
        let key = key(&server, n);
        // One after the other: the first is already gone when the next are counted.
        server.delete_object(&key).unwrap();
    }
    for more in [&[][..], &["--heads"]] {
        let ran = stats(&server, more).await;
        assert_eq!(ran.code, Some(1));
        let (findings, summary) = parts(&ran);
        let gap = |first: u64, last: u64| json!({ "finding": "gap", "stream": stream, "first_sequence": first, "last_sequence": last });
        assert_eq!(findings, [gap(0, 9), gap(130, 139), gap(150, 159)]);
        assert_eq!((&summary["gaps"], &summary["missing_records"]), (&json!(3), &json!(30)));
    }
    // Records before the selected time are not reported as missing.
    let (findings, _) = parts(&stats(&server, &["--since", "2023-11-15"]).await);
    assert_eq!(findings, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_under_other_keys_are_found() {
    let (server, places) = hourly(10).await;
    let stream = places[0].stream;
    let original = key(&server, 4);
    let object = server.objects()[&original].clone();
    let original = original.strip_prefix("logs/").unwrap().to_owned();
    let parsed: ObjectKey = original.parse().unwrap();
    let put = |time_ms: i64, stream: UniqueId, first: u64| {
        let copy = ObjectKey::new(time_ms, stream, first, parsed.compression()).to_string();
        server.put_object(&format!("logs/{copy}"), object.clone());
        copy
    };

    // Under another hour: the same records of the same stream.
    let copy = put(DAY + 7 * HOUR_MS, stream, 40);
    for more in [&[][..], &["--heads"]] {
        let ran = stats(&server, more).await;
        assert_eq!(ran.code, Some(1));
        let (findings, _) = parts(&ran);
        let expected = json!({
            "finding": "duplicate", "stream": stream.to_string(), "first_sequence": 40, "last_sequence": 49,
            "key": copy, "also": original,
        });
        assert_eq!(findings, [expected]);
    }
    server.delete_object(&format!("logs/{copy}"));

    // Under other numbers, which the metadata contradict.
    let copy = put(DAY + 4 * HOUR_MS, stream, 45);
    let (findings, summary) = parts(&stats(&server, &[]).await);
    assert_eq!(
        (&summary["damaged"], &summary["duplicates"]),
        (&json!(1), &json!(2)),
        "{findings:?}"
    );
    assert!(
        findings.iter().any(|finding| finding["key"] == json!(format!("logs/{copy}"))),
        "{findings:?}"
    );
    server.delete_object(&format!("logs/{copy}"));

    // Under another stream, as if another host had logged the same: this is reported, but not an
    // error.
    let copy = put(DAY + 4 * HOUR_MS, UniqueId::from_bits(stream.to_bits() + 1), 0);
    let ran = stats(&server, &["--since", "2023-11-14T04"]).await;
    let (findings, _) = parts(&ran);
    let expected = json!({ "finding": "same_lines", "key": copy, "also": original });
    assert_eq!(findings.last(), Some(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_and_changed_objects_are_found_in_a_directory_too() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let open = || Bucket::open(&format!("file://{path}")).unwrap();
    let places =
        write(open(), object_for_each_batch(), (0..6).map(|n| batch(DAY + n, "ada", 7)).collect())
            .await;
    write(open(), object_for_each_batch(), (0..6).map(|n| batch(DAY + n, "eve", 3)).collect())
        .await;
    let file = |n: u64| {
        let key = ObjectKey::new(DAY, places[0].stream, 7 * n, Default::default()).to_string();
        root.path().join(key)
    };
    std::fs::remove_file(file(2)).unwrap();
    let mut changed = std::fs::read(file(4)).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(file(4), changed).unwrap();
    let ran = audit(&[], &["stats", "--json", path]).await;
    assert_eq!(ran.code, Some(1));
    let (findings, summary) = parts(&ran);
    assert_eq!((&summary["damaged"], &summary["gaps"]), (&json!(1), &json!(2)), "{findings:?}");
    let gaps: Vec<_> = findings
        .iter()
        .filter(|found| found["finding"] == "gap")
        .map(|gap| gap["first_sequence"].as_u64())
        .collect();
    // Unreadable records count as missing, so the altered object also leaves a gap.
    assert_eq!(gaps, [Some(14), Some(28)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_never_arrived_are_a_gap() {
    let server = S3TestServer::start().await;
    let batches = (0..3).map(|n| batch(DAY + n, "ada", 5)).collect();
    let places = write(bucket(&server), object_for_each_batch(), batches).await;
    let far = ObjectKey::new(DAY, places[0].stream, 1_000, Default::default());
    let third = server.objects()[&key(&server, 2)].clone();
    server.put_object(&format!("logs/{far}"), third);
    let (findings, _) = parts(&stats(&server, &[]).await);
    assert!(
        findings.iter().any(|found| found["finding"] == "gap" && found["last_sequence"] == 999),
        "{findings:?}"
    );
}
