//! `audit verify` accepts what a sink writes with evidence, and the other commands read it as if
//! there were no evidence.

use audit_core::AuditSink;
use audit_sink_s3::{Bucket, EvidenceSettings, JournalSettings, S3Sink, Settings};
use s3_testserver::{Fault, RequestInfo, S3TestServer};

use crate::support::{DAY, audit, batch, bucket, environment, url};

/// Writes three objects of two logs each. Returns the public key.
async fn write(bucket: Bucket) -> String {
    let keys = tempfile::tempdir().unwrap();
    let key_file = Some(keys.path().join("host.key"));
    let evidence = Some(EvidenceSettings { key_file, ..EvidenceSettings::new("example.com/api") });
    let settings = Settings { linger_ms: 0, evidence, ..Settings::default() };
    let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
    for user in ["ada", "bob", "eve"] {
        sink.persist(batch(DAY, user, 2)).await.unwrap();
    }
    sink.close().await.unwrap();
    sink.verifier_key().unwrap().to_string()
}

async fn assert_sound(environment: &[(&'static str, String)], url: &str, key: &str) {
    for depth in [&["--heads"][..], &[]] {
        let verify = [&["verify", url, "--key", key][..], depth].concat();
        let verified = audit(environment, &verify).await;
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
    let logs = audit(environment, &["cat", url]).await;
    assert_eq!(logs.lines().len(), 6, "{logs:?}");
    let stats = audit(environment, &["stats", url, "--json"]).await;
    assert_eq!(stats.code, Some(0), "{stats:?}");
    let summary = stats.json().pop().unwrap();
    let counts = ["objects", "logs", "gaps", "damaged", "other_objects"];
    assert_eq!(counts.map(|name| summary[name].as_u64()), [3, 6, 0, 0, 0].map(Some), "{summary}");
}

#[tokio::test]
async fn buckets_of_a_sink_are_sound_until_altered() {
    let server = S3TestServer::start().await;
    let key = write(bucket(&server)).await;
    let (environment, url) = (environment(&server), url(&server));
    assert_sound(&environment, &url, &key).await;
    let is_second =
        |key: &&String| key.contains("dt=2023-11-14/") && key.contains("-000000000003.");
    let objects = server.objects();
    let second = objects.keys().find(is_second).unwrap();
    let mut altered = objects[second].clone();
    altered.metadata.insert("stable".to_owned(), "0".to_owned());
    server.put_object(second, altered);
    let verified = audit(&environment, &["verify", &url, "--key", &key]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
}

/// A host learns its store's time from responses, and says in heartbeats how far its own is off.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_tell_how_far_clocks_are_off() {
    let (server, root) = (S3TestServer::start().await, tempfile::tempdir().unwrap());
    server.set_clock_offset(-600);
    let (came, mut heartbeat) = tokio::sync::mpsc::unbounded_channel();
    server.faults().plan(move |request: &RequestInfo| {
        if request.method == "PUT" && request.key.contains("_audit/dt=") {
            let _ = came.send(());
        }
        Fault::None
    });
    let evidence = EvidenceSettings {
        key_file: Some(root.path().join("host.key")),
        heartbeat_ms: 1_000,
        idle_heartbeat_ms: 1_000,
        ..EvidenceSettings::new("example.com/api")
    };
    let settings = Settings { linger_ms: 0, evidence: Some(evidence), ..Settings::default() };
    let sink = S3Sink::builder(bucket(&server)).with_settings(settings).open().await.unwrap();
    sink.persist(batch(DAY, "ada", 2)).await.unwrap();
    // The opening record, and the heartbeat after it.
    for _ in 0..2 {
        heartbeat.recv().await.unwrap();
    }
    sink.close().await.unwrap();
    let key = sink.verifier_key().unwrap().to_string();
    let verify = ["verify", &url(&server), "--key", &key];
    let said = audit(&environment(&server), &[&verify[..], &["--json"]].concat()).await;
    let summary = said.json().pop().unwrap();
    let offset = summary["hosts"]["example.com/api"]["clock_offset_ms"].as_u64().unwrap();
    assert!((500_000..700_000).contains(&offset), "{summary}");
    let said = audit(&environment(&server), &verify).await;
    assert!(said.out.contains(", clock within 6"), "{said:?}");
}

/// Somebody without the host's key delivers the journal of a killed host.
#[tokio::test]
async fn rescued_journals_are_sound_without_the_hosts_key() {
    let (server, root) = (S3TestServer::start().await, tempfile::tempdir().unwrap());
    let journal = root.path().join("journal");
    let key_file = Some(root.path().join("host.key"));
    let settings = Settings {
        evidence: Some(EvidenceSettings { key_file, ..EvidenceSettings::new("example.com/api") }),
        journal: Some(JournalSettings {
            cut_after_ms: 60_000,
            ..crate::support::journal(&journal)
        }),
        ..Settings::default()
    };
    let bucket = bucket(&server);
    let host = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let write = host.spawn(async move {
        let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
        for user in ["ada", "bob", "eve"] {
            sink.persist(batch(DAY, user, 2)).await.unwrap();
        }
        sink.verifier_key().unwrap().to_string()
    });
    let key = write.await.unwrap();
    // The host dies at an arbitrary point of the delivery.
    host.shutdown_background();
    let (environment, url, journal) =
        (environment(&server), url(&server), journal.to_str().unwrap());
    // The threads of the host may hold the lock for a moment.
    let mut delivered = audit(&environment, &["journal", "deliver", journal, &url]).await;
    for _ in 0..1_000 {
        if delivered.code == Some(0) {
            break;
        }
        delivered = audit(&environment, &["journal", "deliver", journal, &url]).await;
    }
    assert_eq!(delivered.code, Some(0), "{delivered:?}");
    let verified = audit(&environment, &["verify", &url, "--key", &key]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let stats = audit(&environment, &["stats", &url, "--json"]).await.json().pop().unwrap();
    let counts = ["logs", "gaps", "damaged"].map(|name| stats[name].as_u64());
    assert_eq!(counts, [6, 0, 0].map(Some), "the host's own records fill their numbers: {stats}");
    let shown = audit(&environment, &["journal", "cat", journal, "--all"]).await;
    assert_eq!(shown.lines().len(), 6, "the host's own records are no logs: {shown:?}");
    let left = std::fs::read_dir(journal).unwrap();
    let mut left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(left.all(|name| !name.ends_with(".secret")), "nobody can sign for it any more");
}

#[tokio::test]
async fn directories_of_a_sink_are_sound_until_altered() {
    let root = tempfile::tempdir().unwrap();
    let url = format!("file://{}", root.path().display());
    let key = write(Bucket::open(&url).unwrap()).await;
    assert_sound(&[], &url, &key).await;
    let heads = root.path().join("_audit/heads/dt=2023-11-14/hour=00");
    let head = std::fs::read_dir(heads).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(head).unwrap();
    let verified = audit(&[], &["verify", &url, "--key", &key]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
}
