//! Buckets with the same options of the client share its connections, and nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_sink_s3::Bucket;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// A store without objects. It answers no request to the bucket `silent`.
struct Server {
    endpoint: String,
    /// The buckets that each connection had requests to.
    connections: Arc<Mutex<Vec<BTreeSet<String>>>>,
    /// The buckets of all requests, each with the account and the key that a request named.
    requests: Arc<Mutex<BTreeSet<[String; 3]>>>,
    open: watch::Receiver<usize>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (count, open) = watch::channel(0);
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server =
            Server { endpoint, connections: Arc::default(), requests: Arc::default(), open };
        let (connections, requests) =
            (Arc::clone(&server.connections), Arc::clone(&server.requests));
        tokio::spawn(async move {
            let count = Arc::new(count);
            while let Ok((stream, _)) = listener.accept().await {
                let n = {
                    let mut connections = connections.lock().unwrap();
                    connections.push(BTreeSet::new());
                    connections.len() - 1
                };
                let (connections, requests) = (Arc::clone(&connections), Arc::clone(&requests));
                let count = Arc::clone(&count);
                count.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.into_split();
                    let mut lines = BufReader::new(reader).lines();
                    let mut request = <[String; 3]>::default();
                    while let Ok(Some(line)) = lines.next_line().await {
                        if let Some(path) = line.strip_prefix("HEAD /") {
                            path.split('/').next().unwrap().clone_into(&mut request[0]);
                        } else if let Some(owner) =
                            line.strip_prefix("x-amz-expected-bucket-owner: ")
                        {
                            owner.clone_into(&mut request[1]);
                        } else if let Some((_, key)) = line.split_once("Credential=") {
                            key.split('/').next().unwrap().clone_into(&mut request[2]);
                        } else if line.is_empty() {
                            let request = std::mem::take(&mut request);
                            connections.lock().unwrap()[n].insert(request[0].clone());
                            let is_silent = request[0] == "silent";
                            requests.lock().unwrap().insert(request);
                            let response = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                            if !is_silent && writer.write_all(response.as_bytes()).await.is_err() {
                                break;
                            }
                        }
                    }
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        server
    }

    fn bucket(&self, name: &str, options: &[(&str, &str)]) -> Bucket {
        let common = [
            ("aws_endpoint", &*self.endpoint),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", name),
            ("aws_secret_access_key", "secret"),
            // Idle connections would end by themselves.
            ("pool_idle_timeout", "1h"),
        ];
        let all = common.iter().chain(options).copied();
        Bucket::open_with_only(&format!("s3://{name}/logs"), all).unwrap()
    }

    fn has_shared_connection(&self) -> bool {
        self.connections.lock().unwrap().iter().any(|buckets| buckets.len() > 1)
    }
}

async fn ask(bucket: &Bucket) {
    let response = bucket.store().head(&Path::from("logs/a")).await;
    assert!(matches!(response, Err(object_store::Error::NotFound { .. })), "{response:?}");
}

/// Sends requests to one bucket and the other. A connection is free a moment after its response, so
/// only several requests show whether buckets share connections.
async fn share_connections(server: &Server, one: &Bucket, other: &Bucket) -> bool {
    for _ in 0..200 {
        ask(one).await;
        ask(other).await;
        if server.has_shared_connection() {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn equal_options_share_connections_until_the_last_bucket_is_dropped() {
    let server = Server::start().await;
    let one = server.bucket("one", &[]);
    let owner = "123456789012";
    let other = server.bucket("other", &[("aws_expected_bucket_owner", owner)]);
    assert!(share_connections(&server, &one, &other).await);
    let own = [["one", "", "one"], ["other", owner, "other"]];
    let own: BTreeSet<_> = own.map(|request| request.map(str::to_owned)).into();
    assert_eq!(*server.requests.lock().unwrap(), own, "each with its own account and key");

    drop(one);
    ask(&other).await;
    drop(other);
    let mut open = server.open.clone();
    let ended = timeout(Duration::from_secs(30), open.wait_for(|open| *open == 0)).await;
    assert!(ended.is_ok(), "connections stay open without a bucket");
}

#[tokio::test]
async fn different_options_share_no_connection() {
    let server = Server::start().await;
    let one = server.bucket("one", &[]);
    for option in [("timeout", "299s"), ("user_agent", "other"), ("http1_only", "false")] {
        let other = server.bucket("other", &[option]);
        assert!(!share_connections(&server, &one, &other).await, "{option:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_hangs_holds_up_no_other() {
    let server = Server::start().await;
    let options = [("pool_max_idle_per_host", "1")];
    let (silent, one) = (server.bucket("silent", &options), server.bucket("one", &options));
    let path = Path::from("logs/a");
    let store = silent.store();
    let hanging = futures::future::join_all((0..64).map(|_| store.head(&path)));
    let others = async {
        let mut open = server.open.clone();
        open.wait_for(|open| *open == 64).await.unwrap();
        for _ in 0..10 {
            ask(&one).await;
        }
    };
    let answered = timeout(Duration::from_secs(30), async {
        tokio::select! {
            _ = hanging => false,
            () = others => true,
        }
    });
    assert_eq!(answered.await, Ok(true));
}

/// A runtime that is not driven sends nothing: its connections are of no use to others.
#[test]
fn no_connection_of_another_runtime_is_used() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (idle, driven) = (runtime(), runtime());
    let server = driven.block_on(Server::start());
    std::thread::scope(|scope| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let driving = scope.spawn(|| driven.block_on(stopped));
        let kept = idle.block_on(async {
            let bucket = server.bucket("one", &[]);
            for _ in 0..10 {
                ask(&bucket).await;
            }
            bucket
        });
        stop.send(()).unwrap();
        driving.join().unwrap().unwrap();
        driven.block_on(async {
            let other = server.bucket("other", &[]);
            for _ in 0..10 {
                let answered = timeout(Duration::from_secs(30), ask(&other)).await;
                assert!(answered.is_ok(), "the request waits for a runtime that is not driven");
            }
        });
        drop(kept);
    });
}
