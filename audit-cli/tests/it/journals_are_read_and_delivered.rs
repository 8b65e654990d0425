//! The journal of a dead host is shown unchanged, and delivered so that the bucket is complete,
//! each record once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use audit_core::{AuditSink, Batch, Receipt};
use audit_sink_http::{Follower, Format, Settings as LogStream, follower};
use audit_sink_s3::{JournalSettings, S3Sink, Settings};
use http::Method;
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::receiver::Receiver;
use crate::support::{DAY, Ran, audit, batch, bucket, command, environment, url};

/// A host that can die. Its sink has its own runtime, whose end interrupts whatever the sink does.
struct Host {
    runtime: ManuallyDrop<Runtime>,
    server: S3TestServer,
    root: tempfile::TempDir,
    sink: S3Sink,
    acknowledged: Vec<(Batch, Receipt)>,
}

impl Host {
    async fn start() -> Host {
        Host::start_with(None).await
    }

    async fn start_with(follower: Option<Follower>) -> Host {
        let (server, root) = (S3TestServer::start().await, tempfile::tempdir().unwrap());
        let journal = JournalSettings {
            cut_after_ms: 0,
            ..crate::support::journal(root.path().join("journal"))
        };
        let settings =
            Settings { journal: Some(journal), put_timeout_ms: 100, ..Settings::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut sink = S3Sink::builder(bucket(&server)).with_settings(settings);
        if let Some(follower) = follower {
            sink = sink.with_follower(follower);
        }
        let sink = runtime.spawn(sink.open()).await.unwrap().unwrap();
        Host { runtime: ManuallyDrop::new(runtime), server, root, sink, acknowledged: Vec::new() }
    }

    async fn persist(&mut self, batches: i64) {
        for _ in 0..batches {
            let n = self.acknowledged.len() as i64;
            let batch = batch(DAY + n * 60_000, &format!("user{n}"), 3);
            let receipt = self.sink.persist(batch.clone()).await.unwrap();
            self.acknowledged.push((batch, receipt));
        }
    }

    fn journal(&self) -> String {
        self.root.path().join("journal").to_str().unwrap().to_owned()
    }

    /// A copy of this host's disk at this moment.
    fn rescued(&self, name: &str) -> String {
        let copy = self.root.path().join(name);
        std::fs::create_dir(&copy).unwrap();
        for (file, bytes) in files_at_one_moment(Path::new(&self.journal())) {
            std::fs::write(copy.join(file), bytes).unwrap();
        }
        copy.to_str().unwrap().to_owned()
    }

    fn expected(&self) -> BTreeMap<(String, u64), Value> {
        let mut expected = BTreeMap::new();
        for (batch, receipt) in &self.acknowledged {
            let place = receipt.place.unwrap();
            for (sequence, record) in (place.first_sequence..).zip(batch.records()) {
                expected.insert(
                    (place.stream.to_string(), sequence),
                    serde_json::from_slice(&record).unwrap(),
                );
            }
        }
        expected
    }

    /// Leaves acknowledged records in four states: delivered and recorded, delivered but not
    /// recorded, in an object's file, and only in segments.
    async fn half_deliver(&mut self) {
        self.persist(20).await;
        self.sink.flush().await.unwrap();
        let puts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&puts);
        // After 20 batches of three records.
        let (first, mut has_hung) = ("-000000000060.", false);
        self.server.faults().plan(move |request: &s3_testserver::RequestInfo| {
            if request.method != Method::PUT {
                return Fault::Refused(ErrorAnswer::SLOW_DOWN);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            // Several objects are in flight at once, so the first may arrive after others.
            if request.key.contains(first) && !has_hung {
                has_hung = true;
                return Fault::StoredThenHung;
            }
            Fault::Refused(ErrorAnswer::SLOW_DOWN)
        });
        let before = self.server.objects().len();
        self.persist(10).await;
        // The first object has arrived unacknowledged, and no later one can arrive.
        let mut requests = self.server.requests().len();
        while self.server.objects().len() == before || puts.load(Ordering::SeqCst) < 2 {
            self.server.wait_requests(requests + 1).await;
            requests = self.server.requests().len();
        }
        self.persist(10).await;
    }

    /// The bucket is reachable again, and nothing more of this host arrives.
    async fn die(self) -> (S3TestServer, tempfile::TempDir) {
        let Host { runtime, server, root, sink, acknowledged: _ } = self;
        ManuallyDrop::into_inner(runtime).shutdown_background();
        drop(sink);
        // No request in flight arrives any more.
        server.pause().await;
        (server, root)
    }
}

fn read_files(directory: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files.insert(entry.file_name().into_string().unwrap(), std::fs::read(entry.path())?);
    }
    Ok(files)
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    read_files(directory).unwrap()
}

/// The files of a directory that a process changes. They are read until two reads agree, since
/// files are removed, renamed and written meanwhile.
fn files_at_one_moment(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut before = None;
    loop {
        match read_files(directory) {
            Ok(now) if before.as_ref() == Some(&now) => return now,
            Ok(now) => before = Some(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => before = None,
            Err(error) => panic!("{}: {error}", directory.display()),
        }
    }
}

async fn journal(server: &S3TestServer, arguments: &[&str]) -> Ran {
    audit(&environment(server), &[&["--json", "journal"], arguments].concat()).await
}

/// Every record in the bucket, by its place. Fails if one is there twice.
async fn in_the_bucket(server: &S3TestServer) -> BTreeMap<(String, u64), Value> {
    let stats = audit(&environment(server), &["stats", &url(server)]).await;
    assert_eq!(stats.code, Some(0), "{stats:?}");
    let cat = audit(&environment(server), &["--json", "cat", &url(server)]).await;
    let mut found = BTreeMap::new();
    for line in cat.json() {
        let place =
            (line["stream"].as_str().unwrap().to_owned(), line["sequence"].as_u64().unwrap());
        assert!(found.insert(place, line["record"].clone()).is_none(), "{line} twice");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_dead_host_are_delivered_once_each() {
    let mut host = Host::start().await;
    host.half_deliver().await;
    let shown = journal(&host.server, &["show", &host.journal()]).await;
    assert_eq!(shown.code, Some(0), "a host has it open: {shown:?}");
    let rescued = host.rescued("rescued");
    let other = host.rescued("removed");
    let expected = host.expected();
    let (server, root) = host.die().await;
    server.faults().plan(|_: &s3_testserver::RequestInfo| Fault::None);
    server.resume().await;
    assert!(in_the_bucket(&server).await.len() < expected.len());

    // Showing a journal changes nothing, and lists missing records.
    let before = files(Path::new(&rescued));
    let shown = journal(&server, &["show", &rescued]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    let state = &shown.json()[0];
    let undelivered = state["undelivered"].as_u64().unwrap();
    assert_eq!(
        (&state["in_use"], &state["streams"][0]["next_sequence"]),
        (&json!(false), &json!(120))
    );
    assert_eq!(undelivered, 120 - state["streams"][0]["delivered_to"].as_u64().unwrap());
    assert!(undelivered >= 60, "{state}");
    assert!(!state["objects"].as_array().unwrap().is_empty(), "{state}");
    let records = journal(&server, &["cat", &rescued]).await;
    assert_eq!(records.lines().len() as u64, undelivered);
    assert_eq!(journal(&server, &["cat", "--all", &rescued]).await.lines().len(), 120);
    let dry = journal(&server, &["deliver", "--dry-run", &rescued, &url(&server)]).await;
    assert_eq!((dry.code, dry.out), (shown.code, shown.out));
    assert!(files(Path::new(&rescued)) == before, "a look changed the journal");

    let delivered = journal(&server, &["deliver", &rescued, &url(&server)]).await;
    assert_eq!(delivered.code, Some(0), "{delivered:?}");
    assert_eq!(delivered.json()[0]["records"], json!(undelivered));
    assert_eq!(in_the_bucket(&server).await, expected);
    let shown = journal(&server, &["show", &rescued]).await;
    assert_eq!((shown.code, &shown.json()[0]["undelivered"]), (Some(0), &json!(0)));
    let puts = server.request_count(&Method::PUT);
    let again = journal(&server, &["deliver", &rescued, &url(&server)]).await;
    assert_eq!(again.json()[0], json!({ "objects": 0, "records": 0, "conflicts": 0 }));
    assert_eq!(server.request_count(&Method::PUT), puts + 1, "the probe alone");

    let late = journal(&server, &["deliver", "--timeout", "0", &rescued, &url(&server)]).await;
    // Within 0 seconds, the command may not notice that everything is delivered.
    assert!(late.code == Some(0) || late.err.contains("all records are delivered"), "{late:?}");

    // A second rescuer with the same disk finds everything delivered.
    let removed = journal(&server, &["deliver", "--remove", &other, &url(&server)]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(in_the_bucket(&server).await, expected);
    let left: Vec<String> = files(Path::new(&other)).into_keys().collect();
    assert_eq!(left, ["LOCK", "begin"]);
    drop(root);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_damage_are_named_and_nothing_is_lost() {
    let mut host = Host::start().await;
    host.half_deliver().await;
    let in_use = journal(&host.server, &["deliver", &host.journal(), &url(&host.server)]).await;
    assert_eq!(in_use.code, Some(3));
    assert!(in_use.err.contains("another process has this journal open"), "{in_use:?}");
    let (rescued, damaged) = (host.rescued("rescued"), host.rescued("damaged"));
    let (server, root) = host.die().await;

    // The bucket is unreachable: the command gives up in time, and can be repeated.
    let away = journal(&server, &["deliver", "--timeout", "1", &rescued, &url(&server)]).await;
    assert_eq!(away.code, Some(3));
    assert!(away.err.contains("still in the journal"), "{away:?}");
    server.faults().plan(|_: &s3_testserver::RequestInfo| Fault::None);
    server.resume().await;

    // Another object has the key of the first undelivered one.
    let shown = journal(&server, &["show", &rescued]).await;
    let key = shown.json()[0]["objects"][0]["key"].as_str().unwrap().to_owned();
    let mut other = server.objects().into_values().next().unwrap();
    other.metadata.insert("sha256".to_owned(), "00".repeat(32));
    server.put_object(&format!("logs/{key}"), other);
    let delivered = journal(&server, &["deliver", &rescued, &url(&server)]).await;
    assert_eq!(
        (delivered.code, &delivered.json()[0]["conflicts"]),
        (Some(1), &json!(1)),
        "{delivered:?}"
    );
    let shown = journal(&server, &["show", &rescued]).await;
    assert_eq!(shown.code, Some(1));
    let objects = shown.json()[0]["objects"].as_array().unwrap().clone();
    let [object] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!((&object["key"], &object["conflict"]), (&json!(key), &json!(true)));
    assert!(Path::new(object["file"].as_str().unwrap()).exists());

    // Both `show` and `deliver` name damage.
    let segment = Path::new(&damaged).join("00000001.journal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 300] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for arguments in
        [&["show", damaged.as_str()][..], &["cat", &damaged], &["deliver", &damaged, &url(&server)]]
    {
        let ran = journal(&server, arguments).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let what = ran.json()[0]["damaged"].as_str().unwrap().to_owned();
        assert!(what.contains("00000001.journal at byte 4096"), "{what}");
    }
    let missing = journal(&server, &["show", root.path().to_str().unwrap()]).await;
    assert_eq!(missing.code, Some(3));
    assert!(missing.err.contains("there is no journal in"), "{missing:?}");
    assert!(!root.path().join("LOCK").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_are_delivered_again() {
    let mut host = Host::start().await;
    host.half_deliver().await;
    let rescued = host.rescued("rescued");
    let expected = host.expected();
    let (server, _root) = host.die().await;
    server.faults().plan(|_: &s3_testserver::RequestInfo| Fault::None);
    server.resume().await;
    // Delivered and undelivered records together are all records.
    let count = async |which: &str| {
        journal(
            &server,
            &[&["cat"], &which.split_whitespace().collect::<Vec<_>>()[..], &[&rescued]].concat(),
        )
        .await
        .lines()
        .len()
    };
    assert_eq!(count("--delivered").await + count("").await, expected.len());
    assert_eq!(count("--all").await, expected.len());

    // One delivered object is missing, and the others were never sent.
    let is_log = |key: &String| !key.contains("_audit");
    let first = server.objects().into_keys().find(is_log).unwrap();
    let deleted = server.delete_object(&first).unwrap();
    let again = journal(&server, &["deliver", "--again", &rescued, &url(&server)]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let said = &again.json()[0]["again"];
    let records: u64 = deleted.metadata["count"].parse().unwrap();
    assert_eq!((&said["objects"], &said["records"]), (&json!(1), &json!(records)));
    assert_eq!((&said["conflicts"], &said["gone"]), (&json!([]), &json!([])));
    assert_eq!(in_the_bucket(&server).await, expected);
    let back = server.objects().remove(&first).unwrap();
    assert_eq!((back.bytes, back.metadata), (deleted.bytes, deleted.metadata));
    assert_eq!((count("--delivered").await, count("").await), (expected.len(), 0));

    // Nothing is missing, so only the probe is put.
    let puts = server.request_count(&Method::PUT);
    let again = journal(&server, &["deliver", "--again", &rescued, &url(&server)]).await;
    assert_eq!(again.json()[0]["again"]["present"], json!(expected.len()));
    assert_eq!(server.request_count(&Method::PUT), puts + 2, "two probes");

    // Credentials that may not list are refused at once.
    server.faults().plan(|request: &s3_testserver::RequestInfo| match request.method {
        Method::GET => Fault::Refused(ErrorAnswer::ACCESS_DENIED),
        _ => Fault::None,
    });
    let denied = journal(&server, &["deliver", "--again", &rescued, &url(&server)]).await;
    assert_eq!(denied.code, Some(3), "{denied:?}");
    assert!(denied.err.contains("cannot be listed"), "{denied:?}");
    server.faults().plan(|_: &s3_testserver::RequestInfo| Fault::None);

    // A foreign object has the key. It is named and left unchanged, and the segments are kept.
    let mut foreign = server.objects().remove(&first).unwrap();
    foreign.bytes = "foreign".into();
    foreign.metadata.clear();
    server.put_object(&first, foreign.clone());
    let again =
        journal(&server, &["deliver", "--again", "--remove", &rescued, &url(&server)]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    let conflict = json!([{ "key": first.strip_prefix("logs/").unwrap(), "records": records }]);
    assert_eq!(again.json()[0]["again"]["conflicts"], conflict);
    assert_eq!(server.objects()[&first].bytes, foreign.bytes);
    assert_eq!(count("--delivered").await, expected.len());
    server.delete_object(&first).unwrap();
    let again =
        journal(&server, &["deliver", "--again", "--remove", &rescued, &url(&server)]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(in_the_bucket(&server).await, expected);
    assert!(!Path::new(&rescued).join("00000001.journal").exists());
}

fn accepted(receiver: &Receiver) -> BTreeMap<(String, u64), Value> {
    let accepted = receiver.accepted.lock().unwrap();
    let place = |record: &Value| {
        let stream = record["stream"].as_str().unwrap().to_owned();
        ((stream, record["sequence"].as_u64().unwrap()), record["body"].clone())
    };
    accepted.iter().flatten().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rescuers_deliver_to_followers_or_say_what_they_miss() {
    let (receiver, url_of_stream) = Receiver::start().await;
    let root = tempfile::tempdir().unwrap();
    let stream = LogStream {
        name: "siem".to_owned(),
        allow_http: true,
        allow_private_addresses: true,
        dead_letters: Some(root.path().join("aside")),
        ..LogStream::new(&url_of_stream, Format::Ndjson)
    };
    let mut host = Host::start_with(Some(follower(stream.clone()).unwrap())).await;
    host.persist(10).await;
    host.sink.flush().await.unwrap();
    receiver.refused.notified().await;
    let (rescued, removed) = (host.rescued("rescued"), host.rescued("removed"));
    let expected = host.expected();
    let (server, _root) = host.die().await;
    server.resume().await;

    // The bucket has everything, the follower nothing.
    let shown = journal(&server, &["show", &rescued]).await;
    assert_eq!((shown.code, &shown.json()[0]["undelivered"]), (Some(1), &json!(0)), "{shown:?}");
    let siem = &shown.json()[0]["followers"][0];
    assert_eq!(
        (&siem["name"], &siem["number"], &siem["state"], &siem["undelivered"]),
        (&json!("siem"), &json!(1), &json!("following"), &json!(30))
    );

    // A rescuer who removes the journal without delivering to the follower is told what it is
    // missing.
    let gone = journal(&server, &["deliver", "--remove", &removed, &url(&server)]).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    let siem = gone.json()[0]["followers"][0].clone();
    let stream_of_records = expected.keys().next().unwrap().0.clone();
    assert_eq!(
        (&siem["state"], &siem["undelivered"], &siem["missing"]),
        (
            &json!("paused"),
            &json!(0),
            &json!([{ "stream": stream_of_records, "from": 0, "to": 29 }])
        )
    );
    assert!(!Path::new(&removed).join("00000001.journal").exists());
    let shown = journal(&server, &["show", &removed]).await;
    assert_eq!((shown.code, &shown.json()[0]["followers"][0]), (Some(1), &siem));

    // With the file of log streams, the follower gets the missing records under their original ids.
    receiver.take(u64::MAX, false);
    let file = root.path().join("streams.toml");
    std::fs::write(
        &file,
        format!(
            "[[log_stream]]\nname = \"siem\"\nurl = \"{url_of_stream}\"\nformat = \"ndjson\"\n\
             allow_http = true\nallow_private_addresses = true\n\
             [[log_stream]]\nname = \"other\"\nurl = \"{url_of_stream}\"\n"
        ),
    )
    .unwrap();
    let streams = ["--log-streams", file.to_str().unwrap()];
    let bucket = url(&server);
    let deliver = [&["deliver"], &streams[..], &[&rescued, &bucket]].concat();
    let delivered = journal(&server, &deliver).await;
    assert_eq!(delivered.code, Some(0), "{delivered:?}");
    assert!(delivered.err.contains("\"other\" does not follow this journal"), "{delivered:?}");
    assert_eq!(accepted(&receiver), expected);
    let shown = journal(&server, &["show", &rescued]).await;
    assert_eq!((shown.code, &shown.json()[0]["followers"][0]["undelivered"]), (Some(0), &json!(0)));
}

#[test]
fn help_names_every_part() {
    let output = command().args(["journal", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for name in ["show", "cat", "deliver"] {
        assert!(help.contains(name), "{help}");
    }
}
