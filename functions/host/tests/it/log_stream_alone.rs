//! Without a bucket, a log stream alone receives every audit log once, under its id, whether or not
//! it is reachable when the log is made.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::Process;

/// By stream and sequence number: the event, and how often it arrived.
type Received = BTreeMap<(String, u64), (Value, usize)>;

/// A receiver of the format `webhook`. While it is away, its address refuses connections.
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

    /// Waits until this many documents have been logged as created.
    async fn has(&self, count: usize) {
        let mut received = self.received.subscribe();
        received.wait_for(|received| created(received).len() >= count).await.unwrap();
    }

    fn received(&self) -> Received {
        self.received.borrow().clone()
    }
}

/// The documents logged as created. Crons of the demonstration log too.
fn created(received: &Received) -> BTreeSet<String> {
    let created = received.values().map(|(event, _)| &event["body"]);
    let created = created.filter(|body| body["action"] == "document.created");
    created.map(|body| body["document"].to_string()).collect()
}

fn serve(listener: TcpListener, received: watch::Sender<Received>) -> JoinHandle<()> {
    let take = move |body: String| async move {
        received.send_modify(|received| {
            for event in serde_json::from_str::<Vec<Value>>(&body).unwrap() {
                assert_eq!(event["convex"]["deployment_type"], "dev");
                let Value::Object(id) = &event["record"] else { panic!("{event}") };
                let id = (id["stream"].to_string(), id["sequence"].as_u64().unwrap());
                let (before, times) = received.entry(id).or_insert_with(|| (event.clone(), 0));
                assert_eq!(*before, event, "a repeated event is the same");
                *times += 1;
            }
        });
    };
    let router = Router::new().route("/", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_log_arrives_under_its_id_across_restarts() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut receiver = Receiver::start().await;
    let url = format!("http://{}/", receiver.address);
    let flags = ["--dev-log-stream", &url, "--close-timeout-ms", "120000"];
    let start = || Process::start_in(Arc::clone(&directory), "umask 000", &flags);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();

    let host = start();
    for text in ["0", "1", "2", "3", "4"] {
        assert_eq!(host.create(&http, text).await, 200);
    }
    receiver.has(5).await;
    assert!(receiver.received().values().all(|(_, times)| *times == 1));
    // Kills the process.
    drop(host);

    // The receiver is away, and the host starts and serves, and dies.
    let address = receiver.leave().await;
    let host = start();
    for text in ["5", "6", "7", "8", "9"] {
        assert_eq!(host.create(&http, text).await, 200);
    }
    let told = loop {
        let told = http.get(format!("{}/healthz?verbose", host.operators)).send().await.unwrap();
        let told: Value = told.json().await.unwrap();
        if told["sink"]["delivery"] == "retrying" {
            break told;
        }
    };
    assert_eq!(told["sink"]["commits"], "accepted", "{told}");
    drop(host);

    let mut host = start();
    assert_eq!(host.create(&http, "10").await, 200);
    assert_eq!(created(&receiver.received()).len(), 5);
    receiver.come_back(address);
    receiver.has(11).await;
    host.stop();

    let received = receiver.received();
    assert_eq!(created(&received).len(), 11, "{received:?}");
    let events = received.values().filter(|(it, _)| it["body"]["action"] == "document.created");
    assert_eq!(events.count(), 11, "each document is logged once: {received:?}");
    let mut next = BTreeMap::<&str, u64>::new();
    for (stream, sequence) in received.keys() {
        let next = next.entry(stream).or_default();
        assert_eq!(sequence, next, "stream {stream} has no gap");
        *next += 1;
    }
    assert_eq!(next.len(), 3, "a stream for each start");
    let data = directory.path().join("data");
    assert!(data.join("journal").exists() && !data.join("bucket").exists());
}
