//! Without a bucket, a log stream alone receives every audit log once, under its id, whether or not
//! it is reachable when the log is made.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::{Service, change, new_id};

/// By stream and sequence number: the record, and how often it arrived.
type Received = BTreeMap<(String, u64), (Value, usize)>;

/// A receiver of the format `ndjson`. While it is away, its address refuses connections.
struct Receiver {
    address: SocketAddr,
    received: watch::Sender<Received>,
    serving: JoinHandle<()>,
}

impl Receiver {
    async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, received) = (listener.local_addr().unwrap(), watch::Sender::default());
        let serving = serve(listener, received.clone());
        Receiver { address, received, serving }
    }

    /// Ends the receiver. The socket returned keeps its address, and does not listen.
    async fn leave(&mut self) -> TcpSocket {
        self.serving.abort();
        drop((&mut self.serving).await);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        socket
    }

    fn come_back(&mut self, socket: TcpSocket) {
        self.serving = serve(socket.listen(64).unwrap(), self.received.clone());
    }

    /// Waits until this many different records have arrived.
    async fn has(&self, count: usize) {
        self.received.subscribe().wait_for(|received| received.len() >= count).await.unwrap();
    }

    fn received(&self) -> Received {
        self.received.borrow().clone()
    }

    /// Writes a file with this log stream, and returns the flags of a service without a bucket.
    fn flags(&self, directory: &TempDir) -> [String; 5] {
        let file = directory.path().join("streams.toml");
        let text = format!(
            "[[log_stream]]\nname = \"siem\"\nurl = \"http://{}/\"\nformat = \"ndjson\"\n\
             retry_cap_ms = 100\nallow_private_addresses = true\n",
            self.address
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        ["--bucket=none", "--log-streams", file, "--close-timeout-ms", "60000"].map(str::to_owned)
    }
}

fn serve(listener: TcpListener, received: watch::Sender<Received>) -> JoinHandle<()> {
    let take = move |body: String| async move {
        received.send_modify(|received| {
            for line in body.lines() {
                let record: Value = serde_json::from_str(line).unwrap();
                let stream = record["stream"].as_str().unwrap().to_owned();
                let id = (stream, record["sequence"].as_u64().unwrap());
                let (before, times) = received.entry(id).or_insert_with(|| (record.clone(), 0));
                assert_eq!(*before, record, "a repeated record is the same");
                *times += 1;
            }
        });
    };
    let router = Router::new().route("/", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_log_arrives_under_its_id_across_restarts() {
    let directory = TempDir::new().unwrap();
    let mut receiver = Receiver::start().await;
    let flags = receiver.flags(&directory);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let start = || Service::start_with_journal(&directory, &flags, &[]);
    let id = new_id("plan");
    let update = async |service: &Service| service.update(&id, change("x"), &[]).await.0;

    let mut service = start();
    for _ in 0..5 {
        assert_eq!(update(&service).await, 200);
    }
    receiver.has(5).await;
    assert!(receiver.received().values().all(|(_, times)| *times == 1));
    service.kill();
    service.wait();

    // The receiver is away, and the service starts and serves, and dies.
    let address = receiver.leave().await;
    let mut service = start();
    for _ in 0..5 {
        assert_eq!(update(&service).await, 200);
    }
    let told = loop {
        let [_, (status, text)] = service.probes("/healthz?verbose").await;
        assert_eq!(status, 200, "{text}");
        let told: Value = serde_json::from_str(&text).unwrap();
        if told["sink"]["delivery"] == "retrying" {
            break told;
        }
    };
    assert_eq!(told["sink"]["commits"], "accepted", "{told}");
    service.kill();
    service.wait();

    let service = start();
    assert_eq!(update(&service).await, 200);
    assert_eq!(receiver.received().len(), 5);
    receiver.come_back(address);
    receiver.has(11).await;
    service.stop();

    let received = receiver.received();
    let mut revisions: Vec<_> =
        received.values().map(|(record, _)| record["body"]["to"].as_u64().unwrap()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=11).collect::<Vec<_>>());
    let numbers: Vec<_> = received.keys().map(|(_, sequence)| *sequence).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0], "a stream for each start");
    assert!(!directory.path().join("bucket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_nothing_commits_before_the_receiver_has_its_log() {
    let directory = TempDir::new().unwrap();
    let mut receiver = Receiver::start().await;
    let flags = receiver.flags(&directory);
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.push("--persist-timeout-ms=300");
    let service = Service::start(&directory, &flags, &[]);
    let id = new_id("plan");
    let (status, answer) = service.update(&id, change("x"), &[]).await;
    assert_eq!((status, &answer["revision"]), (200, &json!(1)), "{answer}");
    assert_eq!(receiver.received().len(), 1);

    // A receiver that answers no more, also on open connections.
    drop(service);
    let address = receiver.leave().await;
    let service = Service::start(&directory, &flags, &[]);
    let (status, answer) = service.update(&id, change("x"), &[]).await;
    assert_eq!(status, 503, "{answer}");
    receiver.come_back(address);
    let (status, answer) = service.update(&id, change("x"), &[]).await;
    assert_eq!((status, &answer["revision"]), (200, &json!(2)), "the other one did not commit");
    assert!(!directory.path().join("journal").exists());
}
