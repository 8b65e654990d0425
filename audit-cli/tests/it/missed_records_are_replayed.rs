//! `audit replay` sends records from the bucket that a log stream is missing, or that somebody
//! wants again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use audit_core::AuditSink;
use audit_sink_http::{Format, Settings as LogStream, follower};
use audit_sink_s3::{JournalSettings, S3Sink, Settings};
use s3_testserver::S3TestServer;
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::support::{DAY, Ran, audit, batch, bucket, command, environment, url};

/// The records of each request, by the number of its first record. Repeated requests must be equal.
fn requests(receiver: &Receiver) -> BTreeMap<u64, Vec<Value>> {
    let mut requests: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for records in &*receiver.accepted.lock().unwrap() {
        let first = records[0]["sequence"].as_u64().unwrap();
        let before = requests.insert(first, records.clone());
        assert!(before.is_none_or(|before| before == *records), "another request at {first}");
    }
    requests
}

fn records(receiver: &Receiver) -> Vec<(u64, Value)> {
    let records = requests(receiver).into_values().flatten();
    records.map(|record| (record["sequence"].as_u64().unwrap(), record["body"].clone())).collect()
}

/// A host with a bucket, a journal and a log stream that accepts nothing.
struct Host {
    server: S3TestServer,
    root: tempfile::TempDir,
    receiver: Arc<Receiver>,
    url: String,
}

impl Host {
    async fn start() -> Host {
        let (receiver, url) = Receiver::start().await;
        Host {
            server: S3TestServer::start().await,
            root: tempfile::tempdir().unwrap(),
            receiver,
            url,
        }
    }

    fn journal(&self) -> PathBuf {
        self.root.path().join("journal")
    }

    async fn open(&self) -> S3Sink {
        let journal =
            JournalSettings { cut_after_ms: 0, ..crate::support::journal(self.journal()) };
        let stream = LogStream {
            name: "siem".to_owned(),
            allow_http: true,
            allow_private_addresses: true,
            cut_after_ms: 0,
            dead_letters: Some(self.root.path().join("aside")),
            ..LogStream::new(&self.url, Format::Ndjson)
        };
        let settings = Settings { journal: Some(journal), ..Settings::default() };
        let sink = S3Sink::builder(bucket(&self.server)).with_settings(settings);
        sink.with_follower(follower(stream).unwrap()).open().await.unwrap()
    }

    /// A journal whose segments were removed before the log stream had 60 records of a stream.
    async fn with_missing_records() -> (Host, String) {
        let host = Host::start().await;
        let sink = host.open().await;
        let mut stream = None;
        for n in 0..20 {
            let receipt = sink.persist(batch(DAY + n, &format!("user{n}"), 3)).await.unwrap();
            stream = receipt.place.map(|place| place.stream.to_string());
        }
        sink.close().await.unwrap();
        let journal = host.journal();
        let removed = [
            "--json",
            "journal",
            "deliver",
            "--remove",
            journal.to_str().unwrap(),
            &url(&host.server),
        ];
        let removed = audit(&environment(&host.server), &removed).await;
        assert_eq!(removed.code, Some(1), "{removed:?}");
        (host, stream.unwrap())
    }

    fn streams(&self) -> PathBuf {
        let file = self.root.path().join("streams.toml");
        let text = format!(
            "[[log_stream]]\nname = \"siem\"\nurl = \"{}\"\nformat = \"ndjson\"\nallow_http = true\n\
             allow_private_addresses = true\nmax_object_bytes = 300\n",
            self.url
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (streams, url) = (self.streams(), url(&self.server));
        let first = ["--json", "replay", &url, "--log-streams", streams.to_str().unwrap()];
        first.iter().chain(more).map(ToString::to_string).collect()
    }

    async fn replay(&self, more: &[&str]) -> Ran {
        let arguments = self.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        audit(&environment(&self.server), &arguments).await
    }

    /// The journal's state of its follower.
    async fn shown(&self) -> (Option<i32>, Value) {
        let journal = self.journal();
        let ran = audit(&[], &["--json", "journal", "show", journal.to_str().unwrap()]).await;
        (ran.code, ran.json()[0]["followers"][0].clone())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_records_are_replayed_across_a_kill() {
    let (host, stream) = Host::with_missing_records().await;
    let (code, shown) = host.shown().await;
    let missing = json!([{ "stream": stream, "from": 0, "to": 59 }]);
    assert_eq!((code, &shown["missing"]), (Some(1), &missing), "{shown}");

    // The command is killed while some requests have been answered and others have not.
    host.receiver.take(7, true);
    let journal = host.journal();
    let mut killed = command();
    killed.args(host.arguments(&["--missing", text(&journal)])).envs(environment(&host.server));
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    host.receiver.hung.notified().await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (code, shown) = host.shown().await;
    let left: u64 = shown["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| range["to"].as_u64().unwrap() + 1 - range["from"].as_u64().unwrap())
        .sum();
    let arrived = records(&host.receiver).len() as u64;
    assert_eq!(code, Some(1));
    assert!(left >= 60 - arrived, "{left} are missing, and {arrived} have arrived");

    // Another run sends the rest, in the requests that the first one would have made.
    host.receiver.take(u64::MAX, false);
    let replayed = host.replay(&["--missing", text(&journal)]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(replayed.json()[0]["records"], json!(left));
    let records = records(&host.receiver);
    assert_eq!(records.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
    assert!(records.iter().all(|(n, body)| body["user"] == format!("user{}", n / 3)));
    let (code, shown) = host.shown().await;
    assert_eq!(
        (code, &shown["missing"], &shown["state"]),
        (Some(0), &json!([]), &json!("following")),
        "{shown}"
    );
    let requests = host.receiver.accepted.lock().unwrap().len();
    let again = host.replay(&["--missing", text(&journal)]).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), ""), "{again:?}");
    assert_eq!(host.receiver.accepted.lock().unwrap().len(), requests, "nothing is missing");

    // The next opening agrees that nothing is missing.
    let sink = host.open().await;
    assert_eq!(sink.health().followers[0].missing_records, 0);
    sink.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_shows_that_records_were_replayed() {
    let (host, stream) = Host::with_missing_records().await;
    let sink = host.open().await;
    assert_eq!(sink.health().followers[0].missing_records, 60);
    let journal = host.journal();
    let late = host.replay(&["--missing", text(&journal), "--timeout", "1"]).await;
    assert_eq!(late.code, Some(3), "{late:?}");
    assert!(late.err.contains("run it again to continue"), "{late:?}");

    host.receiver.take(u64::MAX, false);
    // Records that the bucket lacks are named, and remain missing.
    let objects = host.server.objects();
    let is_log = |key: &&String| !key.contains("_audit");
    let key = objects.keys().find(is_log).unwrap();
    let deleted = host.server.delete_object(key).unwrap();
    let replayed = host.replay(&["--missing", text(&journal)]).await;
    assert_eq!(replayed.code, Some(1), "{replayed:?}");
    let left = replayed.json()[0]["left"].clone();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    let (code, shown) = host.shown().await;
    assert_eq!((code, &shown["missing"]), (Some(1), &left), "{shown}");
    host.server.put_object(key, deleted);
    assert_eq!(host.replay(&["--missing", text(&journal)]).await.code, Some(0));
    assert_eq!(host.shown().await.1["missing"], json!([]));

    // The host's health follows with the next record that the log stream gets.
    let receipt = sink.persist(batch(DAY, "last", 1)).await.unwrap();
    assert_ne!(receipt.place.unwrap().stream.to_string(), stream);
    sink.close().await.unwrap();
    assert_eq!(sink.health().followers[0].missing_records, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_of_a_stream_is_replayed() {
    let (host, stream) = Host::with_missing_records().await;
    host.receiver.take(u64::MAX, false);
    let aside = host.root.path().join("aside");
    let (from, progress) = (format!("{stream}:50"), host.root.path().join("progress"));
    let options = ["--from", &from, "--progress", text(&progress), "--dead-letters", text(&aside)];
    let some = host.replay(&[&options[..], &["--to", "54"]].concat()).await;
    assert_eq!((some.code, &some.json()[0]["records"]), (Some(0), &json!(5)), "{some:?}");
    let rest = host.replay(&options).await;
    assert_eq!((rest.code, &rest.json()[0]["records"]), (Some(0), &json!(5)), "{rest:?}");
    let numbers: Vec<u64> = records(&host.receiver).iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers, (50..60).collect::<Vec<_>>());
    let beyond = host.replay(&["--from", &format!("{stream}:60"), options[4], options[5]]).await;
    assert_eq!(beyond.code, Some(1), "{beyond:?}");
    // With `--from`, the journal's list of missing records is unchanged.
    assert_eq!(host.shown().await.1["missing"][0]["to"], json!(59));

    for (options, says) in [
        (&["--from", &from][..], "--dead-letters"),
        (&["--from", "somewhere"], "by its stream, a colon and its number"),
        (&[], "--missing"),
        (&["--missing", text(host.root.path())], "there is no journal in"),
    ] {
        let ran = host.replay(options).await;
        assert!(ran.code > Some(1) && ran.err.contains(says), "{options:?}: {ran:?}");
    }

    // A log stream of another name is refused, instead of counted as complete.
    let (other, journal) = (host.root.path().join("other.toml"), host.journal());
    std::fs::write(&other, "[[log_stream]]\nname = \"other\"\nurl = \"https://a.example\"\n")
        .unwrap();
    let bucket = url(&host.server);
    let replay = ["replay", &bucket, "--log-streams", text(&other), "--missing", text(&journal)];
    let ran = audit(&environment(&host.server), &replay).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{ran:?}");
    assert!(ran.err.contains("\"other\" does not follow this journal"), "{ran:?}");
}
