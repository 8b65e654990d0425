//! The journal of a dead host with routes: each route's records are delivered to its own bucket and
//! its own log streams, and a bucket that cannot be opened is named and does not affect the others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use audit_core::AuditSink;
use audit_sink_http::{Format, Settings as LogStream, follower_of_route};
use audit_sink_s3::{Bucket, Compression, EvidenceSettings, JournalSettings, S3Sink, Settings};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::support::{DAY, Ran, audit, batch};

const CUSTOMERS: [&str; 3] = ["acme", "globex", "initech"];

/// A journal that is left with three records of each customer and of the host, on a runtime that
/// ended. Neither a bucket nor the log stream of the first two customers has any record.
fn leave(root: &Path, stream: Option<&str>) {
    let follower = |route: &str, url: &str| {
        let settings = LogStream {
            name: "siem".to_owned(),
            allow_http: true,
            allow_private_addresses: true,
            dead_letters: Some(root.join("aside")),
            ..LogStream::new(url, Format::Ndjson)
        };
        follower_of_route(route, settings).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = |name: &str| format!("file://{}/{name}", root.display());
    runtime.block_on(async {
        let journal = JournalSettings {
            cut_after_ms: 24 * 60 * 60 * 1_000,
            ..crate::support::journal(root.join("journal"))
        };
        let settings = Settings { journal: Some(journal), ..Settings::default() };
        let sink = S3Sink::open(&url("own"), settings).await.unwrap();
        sink.persist(batch(DAY, "own", 3)).await.unwrap();
        for name in CUSTOMERS {
            let stream = stream.filter(|_| name != CUSTOMERS[2]);
            let followers = stream.map(|url| follower(name, url)).into_iter().collect();
            let bucket = Bucket::open(&url(name)).unwrap();
            let route = sink.open_followed_route(name, bucket, followers).await.unwrap();
            route.persist(batch(DAY, name, 3)).await.unwrap();
        }
    });
    runtime.shutdown_background();
}

/// Like [`leave`], for a host that signs: each customer has two records in its bucket, and the
/// first two customers have two more in the journal alone. Returns the host's public key.
fn leave_signed(root: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = |name: &str| format!("file://{}/{name}", root.display());
    let key = runtime.block_on(async {
        let journal = JournalSettings {
            cut_after_ms: 24 * 60 * 60 * 1_000,
            ..crate::support::journal(root.join("journal"))
        };
        let key_file = Some(root.join("host.key"));
        let settings = Settings {
            journal: Some(journal),
            compression: Compression::None,
            evidence: Some(EvidenceSettings { key_file, ..EvidenceSettings::new("example.com") }),
            ..Settings::default()
        };
        let sink = S3Sink::open(&url("own"), settings).await.unwrap();
        for name in CUSTOMERS {
            let bucket = Bucket::open(&url(name)).unwrap();
            let route = sink.open_route(name, bucket).await.unwrap();
            route.persist(batch(DAY, name, 2)).await.unwrap();
            route.flush().await.unwrap();
            if name != CUSTOMERS[2] {
                route.persist(batch(DAY, name, 2)).await.unwrap();
            }
        }
        sink.verifier_key().unwrap().to_string()
    });
    runtime.shutdown_background();
    key
}

/// The users in each record of a bucket.
async fn users(root: &Path, bucket: &str) -> Vec<String> {
    let bucket = root.join(bucket);
    let cat = audit(&[], &["--json", "cat", bucket.to_str().unwrap()]).await;
    let user = |line: &Value| line["record"]["user"].as_str().unwrap().to_owned();
    cat.json().iter().map(user).collect()
}

async fn deliver(journal: &str, own: &str, flags: &[&str]) -> Ran {
    let arguments = ["--json", "journal", "deliver", journal, own];
    loop {
        let ran = audit(&[], &[&arguments, flags].concat()).await;
        // The threads of the runtime that ended may still hold the journal.
        if !ran.err.contains("another process has this journal open") {
            return ran;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_routes_records_are_delivered_to_its_own_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let of_thread = root.clone();
    tokio::task::spawn_blocking(move || leave(&of_thread, None)).await.unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (journal, own) = (at("journal"), at("own"));
    let deliver = async |flags: &[&str]| deliver(&journal, &own, flags).await;

    // A file has taken the place of one customer's bucket.
    fs::remove_dir_all(root.join("initech")).unwrap();
    fs::write(root.join("initech"), "in the way").unwrap();
    let ran = deliver(&["--remove"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = ran.json().remove(0);
    assert_eq!((&said["records"], &said["objects"]), (&json!(3), &json!(1)));
    let routes = said["routes"].as_array().unwrap().iter();
    let routes: BTreeMap<_, _> =
        routes.map(|route| (route["route"].as_str().unwrap(), route)).collect();
    for name in ["acme", "globex"] {
        let route = routes[name];
        assert_eq!((&route["records"], &route["undelivered"]), (&json!(3), &json!(0)), "{said}");
        assert_eq!(route["bucket"], json!(format!("file://{}", at(name))));
    }
    assert_eq!(routes["initech"]["undelivered"], json!(3), "{said}");
    assert!(routes["initech"]["error"].as_str().unwrap().contains("initech"), "{said}");
    for name in ["own", "acme", "globex"] {
        assert_eq!(users(&root, name).await, [name; 3]);
    }

    // The remaining records are shown, printed, and delivered to the bucket that a file names.
    let show = audit(&[], &["--json", "journal", "show", &journal]).await;
    assert_eq!((show.code, &show.json()[0]["undelivered"]), (Some(1), &json!(3)), "{show:?}");
    let cat = audit(&[], &["journal", "cat", &journal]).await;
    assert_eq!(cat.lines().len(), 3);
    fs::create_dir(root.join("elsewhere")).unwrap();
    let file = root.join("routes.toml");
    let table = |name: &str, bucket: &str| {
        format!("[[route]]\nname = \"{name}\"\nbucket = \"file://{}\"\n", at(bucket))
    };
    fs::write(&file, table("initech", "elsewhere") + &table("hooli", "hooli")).unwrap();
    let flags = ["--remove", "--again", "--routes", file.to_str().unwrap()];
    let ran = deliver(&flags).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("the journal has no route \"hooli\""), "{ran:?}");
    assert_eq!(users(&root, "elsewhere").await, ["initech"; 3]);
    for name in ["own", "acme", "globex"] {
        assert_eq!(users(&root, name).await, [name; 3]);
    }
    let left = fs::read_dir(root.join("journal")).unwrap();
    let mut left: Vec<_> =
        left.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, ["LOCK", "begin", "routes"]);
    let ran = deliver(&flags).await;
    assert_eq!((ran.code, &ran.json()[0]["routes"]), (Some(0), &Value::Null), "{ran:?}");
}

/// The objects of two customers were deleted. They come back as they were, and nobody else gets
/// anything.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_of_routes_are_delivered_again() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let of_thread = root.clone();
    tokio::task::spawn_blocking(move || leave(&of_thread, None)).await.unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let deliver = async |flags: &[&str]| deliver(&at("journal"), &at("own"), flags).await;
    assert_eq!(deliver(&[]).await.code, Some(0));
    let delivered = CUSTOMERS.map(|name| objects(&root.join(name)));
    assert!(delivered.iter().all(|objects| objects.len() == 1), "{delivered:?}");

    for name in ["acme", "globex"] {
        fs::remove_dir_all(root.join(name)).unwrap();
    }
    // A file has taken the place of one of the buckets.
    fs::write(root.join("globex"), "in the way").unwrap();
    let ran = deliver(&["--again", "--remove"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = ran.json().remove(0);
    let told = said["again_routes"].as_array().unwrap();
    let counts = |route: &Value| ["objects", "records", "present"].map(|name| route[name].as_u64());
    assert_eq!(told.len(), 3, "{said}");
    assert_eq!((&told[0]["route"], counts(&told[0])), (&json!("acme"), [1, 3, 0].map(Some)));
    assert!(told[1]["error"].as_str().unwrap().contains("globex"), "{said}");
    assert_eq!((&told[2]["route"], counts(&told[2])), (&json!("initech"), [0, 0, 3].map(Some)));

    // The records that could not be delivered are still in the journal.
    fs::remove_file(root.join("globex")).unwrap();
    let ran = deliver(&["--again", "--remove"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(counts(&ran.json()[0]["again_routes"][1]), [1, 3, 0].map(Some), "{ran:?}");
    assert_eq!(CUSTOMERS.map(|name| objects(&root.join(name))), delivered);
    assert!(deliver(&["--again"]).await.json()[0].get("again_routes").is_none());
}

/// The objects with records in a bucket, by their paths.
fn objects(bucket: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut objects = BTreeMap::new();
    let mut directories = vec![bucket.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(bucket).unwrap().to_str().unwrap().to_owned();
                objects.insert(name, fs::read(path).unwrap());
            }
        }
    }
    objects.retain(|name, _| name.starts_with("dt="));
    objects
}

/// A host with evidence dies, and its key is lost. The journal has the keys of the streams.
#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_of_each_route_is_completed_without_the_hosts_key() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let of_thread = root.clone();
    let key = tokio::task::spawn_blocking(move || leave_signed(&of_thread)).await.unwrap();
    fs::remove_file(root.join("host.key")).unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let verify = async |name: &str| audit(&[], &["verify", &at(name), "--key", &key]).await;
    let ran = deliver(&at("journal"), &at("own"), &["--remove"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in CUSTOMERS {
        let records = if name == CUSTOMERS[2] { 2 } else { 4 };
        assert_eq!(users(&root, name).await, vec![name; records]);
        let ran = verify(name).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("0 tampered, 0 unproven, 0 late, 0 expired"), "{ran:?}");
        assert!(ran.out.contains("1 stream, "), "{ran:?}");
    }
    let left = fs::read_dir(root.join("journal")).unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.ends_with(".secret")).count(), 0);

    // Alters one byte of one customer's records.
    let first_in = |directory: &Path, begin: &str| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let entries = entries.filter(|e| e.file_name().to_str().unwrap().starts_with(begin));
        entries.map(|entry| entry.path()).min().unwrap()
    };
    let object = first_in(&first_in(&first_in(&root.join("acme"), "dt="), "hour="), "");
    let text = fs::read_to_string(&object).unwrap();
    fs::write(&object, text.replacen("acme", "Acme", 1)).unwrap();
    for name in CUSTOMERS {
        let ran = verify(name).await;
        let lines = ran.out.lines();
        let tampered: Vec<_> = lines.filter(|line| line.starts_with("tampered: ")).collect();
        if name == "acme" {
            let key = object.strip_prefix(root.join("acme")).unwrap().to_str().unwrap();
            assert_eq!((ran.code, tampered.len()), (Some(1), 1), "{ran:?}");
            assert!(tampered[0].contains(key), "{ran:?}");
        } else {
            assert_eq!((ran.code, tampered.len()), (Some(0), 0), "{ran:?}");
        }
    }
}

/// The log streams of two routes lack all records. One gets them from the journal. The records of
/// the other have left the journal, so it gets them from its route's bucket.
#[tokio::test(flavor = "multi_thread")]
async fn each_routes_log_stream_gets_what_it_lacks_and_nothing_else() {
    let (receiver, url) = Receiver::start().await;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (of_thread, stream) = (root.clone(), url.clone());
    tokio::task::spawn_blocking(move || leave(&of_thread, Some(&stream))).await.unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (journal, own, file) = (at("journal"), at("own"), at("routes.toml"));
    let route = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nbucket = \"file://{}\"\n[[route.log_stream]]\nname = \
             \"siem\"\nurl = \"{url}\"\nformat = \"ndjson\"\nallow_http = true\n\
             allow_private_addresses = true\n",
            at(name)
        )
    };
    let take = || -> Vec<String> {
        let accepted = std::mem::take(&mut *receiver.accepted.lock().unwrap());
        let records = accepted.into_iter().flatten();
        records.map(|record| record["body"]["user"].as_str().unwrap().to_owned()).collect()
    };
    let shown = async || {
        let show = audit(&[], &["--json", "journal", "show", &journal]).await;
        let state = show.json().remove(0);
        let followers = state["followers"].as_array().unwrap().iter().map(|follower| {
            let missing = follower["missing"].as_array().unwrap().len();
            (follower["route"].as_u64().unwrap(), follower["undelivered"].clone(), missing)
        });
        (show.code, followers.collect::<Vec<_>>())
    };

    receiver.take(u64::MAX, false);
    fs::write(&file, route("acme") + &route("initech")).unwrap();
    let ran = deliver(&journal, &own, &["--remove", "--routes", &file]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let says = "the log stream \"siem\" does not follow the route \"initech\"";
    assert!(ran.err.contains(says), "{ran:?}");
    assert_eq!(take(), ["acme"; 3]);
    for name in ["own", "acme", "globex", "initech"] {
        assert_eq!(users(&root, name).await, [name; 3]);
    }
    assert_eq!(shown().await, (Some(1), vec![(1, json!(0), 0), (2, json!(0), 1)]));

    // Without its route, the log stream is unknown.
    let replay = async |more: &[&str]| {
        let (bucket, route) = (at("globex"), ["--missing", &*journal, "--routes", &*file]);
        audit(&[], &[&["--json", "replay", &bucket], &route[..], more].concat()).await
    };
    fs::write(&file, route("globex")).unwrap();
    for (more, says) in [
        (&[][..], "--log-streams"),
        (&["--route", "acme"], "has no route"),
        (&["--route", "globex", "--name", "other"], "has no log stream"),
    ] {
        let ran = replay(more).await;
        assert!(ran.code > Some(1) && ran.err.contains(says), "{more:?}: {ran:?}");
    }
    let ran = replay(&["--route", "globex"]).await;
    assert_eq!((ran.code, &ran.json()[0]["records"]), (Some(0), &json!(3)), "{ran:?}");
    assert_eq!(take(), ["globex"; 3]);
    assert_eq!(shown().await, (Some(0), vec![(1, json!(0), 0), (2, json!(0), 0)]));
    let ran = replay(&["--route", "globex"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
}

/// In the file of routes, one customer has a log stream that its functions waited for, and another
/// has log streams alone now: its records in the journal were accepted for the bucket there.
#[tokio::test(flavor = "multi_thread")]
async fn log_streams_that_functions_wait_for_follow_no_journal() {
    let (receiver, url) = Receiver::start().await;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let of_thread = root.clone();
    tokio::task::spawn_blocking(move || leave(&of_thread, None)).await.unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let file = at("routes.toml");
    let stream = format!(
        "[[route.log_stream]]\nname = \"siem\"\nurl = \"{url}\"\nrequired = true\nallow_http = \
         true\nallow_private_addresses = true\n"
    );
    let bucket = format!("bucket = \"file://{}\"\n", at("elsewhere"));
    let routes = [("acme", &*bucket), ("globex", ""), ("hooli", "")]
        .map(|(name, bucket)| format!("[[route]]\nname = \"{name}\"\n{bucket}{stream}"));
    fs::write(&file, routes.concat()).unwrap();
    let flags = ["--remove", "--again", "--routes", &file];
    let ran = deliver(&at("journal"), &at("own"), &flags).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    for (place, name) in [("elsewhere", "acme"), ("globex", "globex"), ("initech", "initech")] {
        assert_eq!(users(&root, place).await, [name; 3]);
    }
    assert!(receiver.accepted.lock().unwrap().is_empty());
}
