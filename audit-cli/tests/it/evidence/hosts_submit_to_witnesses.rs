//! Hosts submit their streams' checkpoints to `audit witness`, and `audit verify` finds the
//! cosignatures in the bucket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{AuditSink, HealthState, WitnessHealth};
use audit_evidence::{Policy, VerifierKey};
use audit_sink_s3::{EvidenceSettings, JournalSettings, S3Sink, Settings, WitnessSettings};
use s3_testserver::{Fault, RequestInfo, S3TestServer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;

use super::witness_signs_one_history::{Witness, heads, make_witness_key};
use crate::support::{DAY, Ran, audit, batch, bucket, environment, url};

const HOST: &str = "example.com/api";

/// Longer than any of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A bucket, the directory of its host, and witnesses behind addresses of their own.
struct Scene {
    root: TempDir,
    server: S3TestServer,
    /// Receives each request that puts a system record.
    records: UnboundedReceiver<()>,
    witnesses: Vec<Place>,
}

/// Where a witness is reached, even if it is started again at another port.
struct Place {
    directory: PathBuf,
    key: VerifierKey,
    address: String,
    /// The address of the process, if it runs.
    target: Arc<Mutex<Option<String>>>,
    process: Option<Witness>,
}

impl Place {
    async fn new(root: &Path, name: &str) -> Place {
        let directory = root.join(name);
        std::fs::create_dir(&directory).unwrap();
        let key = make_witness_key(&directory, name).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = Arc::new(Mutex::new(None::<String>));
        let to = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = to.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut witness = TcpStream::connect(to?).await.ok()?;
                    tokio::io::copy_bidirectional(&mut client, &mut witness).await.ok()
                });
            }
        });
        Place { directory, key, address, target, process: None }
    }

    fn start(&mut self, host: &VerifierKey) {
        let witness = Witness::start(&self.directory, host);
        *self.target.lock().unwrap() = Some(witness.address.clone());
        self.process = Some(witness);
    }

    fn kill(&mut self) {
        *self.target.lock().unwrap() = None;
        self.process = None;
    }

    fn settings(&self) -> WitnessSettings {
        WitnessSettings {
            url: format!("http://{}", self.address),
            key: self.key.to_string(),
            allow_private_addresses: true,
        }
    }
}

impl Scene {
    async fn new(names: &[&str]) -> Scene {
        let (root, server) = (tempfile::tempdir().unwrap(), S3TestServer::start().await);
        let (came, records) = tokio::sync::mpsc::unbounded_channel();
        server.faults().plan(move |request: &RequestInfo| {
            if request.method == "PUT" && request.key.contains("_audit/dt=") {
                let _ = came.send(());
            }
            Fault::None
        });
        let mut witnesses = Vec::new();
        for name in names {
            witnesses.push(Place::new(root.path(), name).await);
        }
        Scene { root, server, records, witnesses }
    }

    async fn sink(&self, has_journal: bool, witnesses: Vec<WitnessSettings>) -> S3Sink {
        let key_file = Some(self.root.path().join("host.key"));
        let evidence = EvidenceSettings {
            key_file,
            heartbeat_ms: 1_000,
            idle_heartbeat_ms: 1_000,
            witnesses,
            ..EvidenceSettings::new(HOST)
        };
        let journal = has_journal.then(|| JournalSettings {
            cut_after_ms: 20,
            ..crate::support::journal(self.root.path().join("journal"))
        });
        let settings =
            Settings { linger_ms: 0, evidence: Some(evidence), journal, ..Settings::default() };
        S3Sink::builder(bucket(&self.server)).with_settings(settings).open().await.unwrap()
    }

    /// Waits until `is_so` returns true, and checks it after each system record.
    async fn until(&mut self, mut is_so: impl FnMut(&S3TestServer) -> bool) {
        let waited = async {
            while !is_so(&self.server) {
                self.records.recv().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap();
    }

    /// The policy that all witnesses must have cosigned, as a file.
    fn policy(&self, host: &VerifierKey) -> String {
        let mut text = format!("log {host}\n");
        for (n, witness) in self.witnesses.iter().enumerate() {
            text += &format!("witness w{n} {}\n", witness.key);
        }
        let names: String = (0..self.witnesses.len()).map(|n| format!(" w{n}")).collect();
        text += &format!("group all all{names}\nquorum all\n");
        Policy::parse(text.as_bytes()).unwrap();
        let file = self.root.path().join("policy");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    async fn verify(&self, more: &[&str]) -> Ran {
        let url = url(&self.server);
        audit(&environment(&self.server), &[&["verify", &url, "--json"][..], more].concat()).await
    }
}

fn faults(ran: &Ran) -> Vec<String> {
    let lines = ran.json();
    let faults = lines.iter().filter_map(|line| line["finding"].as_str());
    faults.map(ToOwned::to_owned).collect()
}

fn is_cosigned(server: &S3TestServer) -> bool {
    let mut objects = server.objects().into_values();
    objects.any(|object| String::from_utf8_lossy(&object.bytes).contains("\"cosigned\":["))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_cosigns_each_stream_and_knows_its_end() {
    for has_journal in [false, true] {
        let mut scene = Scene::new(&["one.example", "two.example"]).await;
        let settings: Vec<_> = scene.witnesses.iter().map(Place::settings).collect();
        let sink = scene.sink(has_journal, settings).await;
        let host = sink.verifier_key().unwrap().clone();
        scene.witnesses.iter_mut().for_each(|witness| witness.start(&host));
        sink.persist(batch(DAY, "ada", 2)).await.unwrap();
        let policy = scene.policy(&host);
        scene.until(is_cosigned).await;
        // Two cosignatures of one checkpoint may arrive separately, but count only in the same
        // note.
        let is_all = || sink.health().witnesses.iter().all(|w| w.last_cosigned_ms.is_some());
        scene.until(|_| is_all()).await;
        sink.persist(batch(DAY, "bob", 3)).await.unwrap();
        sink.close().await.unwrap();
        let ran = scene.verify(&["--policy", &policy]).await;
        assert_eq!((ran.code, faults(&ran)), (Some(0), vec![]), "{ran:?}");
        for health in sink.health().witnesses {
            assert_eq!((health.state, health.failures), (HealthState::Ok, 0));
        }

        // Each witness cosigned the end of the stream, although the cosignatures could not be
        // written to the ended stream.
        let seen = scene.root.path().join("seen");
        for witness in &mut scene.witnesses {
            witness.kill();
            let (host, key) = (host.to_string(), &witness.key);
            let with = ["--host", &host, "--state", path(&seen)];
            let ran = heads(&witness.directory, key, &with).await;
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        let is_whole = scene.verify(&["--policy", &policy, "--state", path(&seen)]).await;
        assert_eq!((is_whole.code, faults(&is_whole)), (Some(0), vec![]), "{is_whole:?}");
        let objects = scene.server.objects();
        let is_own = |key: &&String| key.contains("_audit/dt=");
        let last = objects.keys().rfind(is_own).unwrap();
        scene.server.delete_object(last).unwrap();
        let ran = scene.verify(&["--policy", &policy]).await;
        assert!(!faults(&ran).contains(&"truncated".to_owned()), "{ran:?}");
        let ran = scene.verify(&["--policy", &policy, "--state", path(&seen)]).await;
        assert!(faults(&ran).contains(&"truncated".to_owned()), "{ran:?}");
        assert_eq!(ran.code, Some(1), "{ran:?}");

        // A thief of the host's key writes a stream that no witness cosigned.
        let thief = scene.sink(false, Vec::new()).await;
        thief.persist(batch(DAY, "eve", 1)).await.unwrap();
        thief.close().await.unwrap();
        let ran = scene.verify(&["--policy", &policy]).await;
        assert!(faults(&ran).contains(&"unwitnessed".to_owned()), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_was_killed_cosigns_again() {
    let mut scene = Scene::new(&["one.example"]).await;
    let sink = scene.sink(true, vec![scene.witnesses[0].settings()]).await;
    let host = sink.verifier_key().unwrap().clone();
    let health = || sink.health().witnesses.remove(0);
    // The witness is unreachable from the start.
    sink.persist(batch(DAY, "ada", 2)).await.unwrap();
    scene.until(|_| matches!(health().state, HealthState::Retrying { .. })).await;
    for round in 0..2 {
        scene.witnesses[0].start(&host);
        scene.until(|_| health().state == HealthState::Ok).await;
        let WitnessHealth { last_cosigned_ms, failures, .. } = health();
        assert!(last_cosigned_ms.is_some() && failures > 0, "round {round}");
        scene.witnesses[0].kill();
        sink.persist(batch(DAY, "bob", 2)).await.unwrap();
        scene.until(|_| matches!(health().state, HealthState::Retrying { .. })).await;
    }
    // Closing the sink does not wait for the witness.
    sink.close().await.unwrap();
    let ran = scene.verify(&["--policy", &scene.policy(&host)]).await;
    assert_eq!((ran.code, faults(&ran)), (Some(0), vec![]), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cosignatures_of_another_key_are_not_written() {
    let mut scene = Scene::new(&["one.example", "two.example"]).await;
    // The first witness answers at the address where the second one is expected.
    let url = scene.witnesses[0].settings().url;
    let settings = WitnessSettings { url, ..scene.witnesses[1].settings() };
    let sink = scene.sink(false, vec![settings]).await;
    let host = sink.verifier_key().unwrap().clone();
    scene.witnesses[0].start(&host);
    sink.persist(batch(DAY, "ada", 2)).await.unwrap();
    let health = || sink.health().witnesses.remove(0);
    scene.until(|_| matches!(health().state, HealthState::Blocked { .. })).await;
    let HealthState::Blocked { reason } = health().state else { panic!("{:?}", health()) };
    assert!(reason.contains("no valid cosignature"), "{reason}");
    sink.close().await.unwrap();
    assert!(!is_cosigned(&scene.server));
    let ran = scene.verify(&["--policy", &scene.policy(&host)]).await;
    assert_eq!((ran.code, faults(&ran)), (Some(4), vec!["unwitnessed".to_owned()]), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_does_not_know_the_host_says_so() {
    let mut scene = Scene::new(&["one.example"]).await;
    let stranger = audit_evidence::SignerKey::from_seed(
        "example.com/other",
        audit_evidence::KeyKind::Ed25519,
        &[9; 32],
    );
    scene.witnesses[0].start(stranger.unwrap().verifier());
    let settings = scene.witnesses[0].settings();
    settings.try_out().await.unwrap();
    let sink = scene.sink(false, vec![settings.clone()]).await;
    sink.persist(batch(DAY, "ada", 2)).await.unwrap();
    let health = || sink.health().witnesses.remove(0);
    scene.until(|_| matches!(health().state, HealthState::Blocked { .. })).await;
    assert!(health().last_error.unwrap().contains("does not know this host"));
    sink.close().await.unwrap();
    scene.witnesses[0].kill();
    let error = settings.try_out().await.unwrap_err().to_string();
    assert!(error.contains("no witness answers at http://127.0.0.1:"), "{error}");
}
