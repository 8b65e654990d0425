//! The output of `ls` and `cat`, for people and for programs, of a store and of a directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use audit_sink_s3::{Bucket, Compression, Settings};
use serde_json::json;

use crate::support::{
    DAY, HOUR_MS, Ran, audit, batch, command, environment, hourly, object_for_each_batch, url,
    write,
};

#[tokio::test(flavor = "multi_thread")]
async fn records_are_printed_verbatim_in_key_order() {
    let (server, _) = hourly(30).await;
    let ran = audit(&environment(&server), &["cat", &url(&server)]).await;
    let expected: Vec<String> = (0..30)
        .flat_map(|hour| {
            let batch = batch(DAY + hour * HOUR_MS, &format!("user{}", hour % 5), 10);
            batch
                .records()
                .map(|record| String::from_utf8(record.to_vec()).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(ran.lines(), expected);
    assert_eq!(ran.err, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_times_and_limits_select() {
    let (server, places) = hourly(30).await;
    let environment = environment(&server);
    let url = url(&server);
    let cat = async |arguments: &[&str]| {
        audit(&environment, &[&["cat", url.as_str()], arguments].concat()).await
    };
    assert_eq!(cat(&["--where", "/user=user3"]).await.lines().len(), 60);
    assert_eq!(cat(&["--where", "/user=user3", "-w", "/i=7"]).await.lines().len(), 6);
    assert_eq!(cat(&["--where", "/user=nobody"]).await.lines().len(), 0);
    let of_time =
        cat(&["--time", "/at", "--since", "2023-11-14T03:00:00Z", "--until", "2023-11-14T05"])
            .await;
    assert_eq!(of_time.lines().len(), 20);
    let all = cat(&[]).await;
    for limit in [0, 1, 25, 299, 300, 1_000] {
        let limited = cat(&["-n", &limit.to_string()]).await;
        assert_eq!(limited.lines(), all.lines()[..limit.min(300)]);
    }
    let placed = cat(&["--json", "--where", "/i=4", "-n", "2"]).await;
    let stream = places[0].stream.to_string();
    let record = |user, at| json!({ "action": "view", "user": user, "i": 4, "at": at });
    assert_eq!(
        placed.json(),
        [
            json!({ "stream": stream, "sequence": 4, "record": record("user0", DAY) }),
            json!({ "stream": stream, "sequence": 14, "record": record("user1", DAY + HOUR_MS) }),
        ]
    );
    let pretty = cat(&["--pretty", "-n", "1"]).await;
    let shown = format!(
        "{stream} #0\n{{\n  \"action\": \"view\",\n  \"user\": \"user0\",\n  \"i\": 0,\n  \"at\": {DAY}\n}}\n"
    );
    assert_eq!(pretty.out, shown);
    let colored = cat(&["--pretty", "-n", "1", "--color", "always"]).await;
    assert!(colored.out.contains("\x1b[32m\"user0\"\x1b[0m"), "{}", colored.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_read_like_stores() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let at = |n: i64| DAY + n * HOUR_MS / 2;
    let compressions = [Compression::Zstd, Compression::Gzip, Compression::None];
    for (stream, compression) in compressions.into_iter().enumerate() {
        let bucket = Bucket::open(&format!("file://{path}")).unwrap();
        let settings = Settings { compression, ..object_for_each_batch() };
        write(bucket, settings, (0..20).map(|n| batch(at(n), &format!("s{stream}"), 3)).collect())
            .await;
    }
    for source in [path.to_owned(), format!("file://{path}")] {
        assert_eq!(audit(&[], &["cat", &source]).await.lines().len(), 180);
        let streams = audit(&[], &["ls", "--json", &source]).await;
        assert_eq!(streams.code, Some(0));
        for line in streams.json() {
            assert_eq!(
                (
                    &line["objects"],
                    &line["first_hour"],
                    &line["last_hour"],
                    &line["last_object_sequence"]
                ),
                (
                    &json!(20),
                    &json!("2023-11-14T00:00:00Z"),
                    &json!("2023-11-14T09:00:00Z"),
                    &json!(57)
                )
            );
        }
        assert_eq!(streams.json().len(), 3);
    }
    // Two objects of each stream. Those of an hour are in the order of their keys.
    let objects =
        audit(&[], &["ls", "--objects", "--json", path, "--since", "2023-11-14T09"]).await;
    let keys: Vec<String> =
        objects.json().iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect();
    assert!(keys.len() == 6 && keys.is_sorted(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_it_without_a_word() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let bucket = Bucket::open(&format!("file://{path}")).unwrap();
    // Far more than the buffer of a pipe.
    write(bucket, object_for_each_batch(), (0..40).map(|n| batch(DAY + n, "ada", 500)).collect())
        .await;
    for arguments in [&["cat", path][..], &["cat", "--json", path], &["cat", "--pretty", path]] {
        let mut child = command()
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(out);
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_the_rest_printed() {
    let (server, _) = hourly(5).await;
    let key = server.objects().into_keys().nth(3).unwrap();
    let mut object = server.delete_object(&key).unwrap();
    object.bytes = object.bytes.slice(..object.bytes.len() - 5);
    server.put_object(&key, object);
    server.put_object("logs/dt=2023-11-14/hour=00/readme.txt", Default::default());
    let Ran { code, out, err } = audit(&environment(&server), &["cat", &url(&server)]).await;
    assert_eq!(code, Some(1));
    assert!(out.lines().count() >= 40, "{out}");
    assert_eq!(err, format!("audit: {key}: the object was cut off\n"));
    let Ran { code, err, .. } = audit(&environment(&server), &["ls", &url(&server)]).await;
    assert_eq!(code, Some(0));
    assert!(err.contains("1 other object") && err.contains("readme.txt"), "{err}");
}
