//! Every connection is served within limits and ends when the host stops, whatever the client does.
//!
//! Limits that must not apply are an hour, so a test that waits for one hangs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use audit_host::{Connections, ServeLimits};
use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{get, post};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(20);
const LONG: ServeLimits = ServeLimits {
    header_timeout: NEVER,
    idle_timeout: NEVER,
    send_timeout: NEVER,
    min_send_rate: 1,
    max_connections: Some(100),
    max_connections_per_address: 100,
    drain_timeout: NEVER,
};

/// The size of a large response, in bytes.
const LARGE: usize = 32 << 20;

struct Host {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<usize>,
    /// A permit for each request to `/wait` that has begun.
    begun: Arc<Semaphore>,
    /// Lets these requests end.
    go: Arc<Notify>,
}

impl Host {
    async fn start(limits: ServeLimits) -> Host {
        Host::with(Connections::new(limits).unwrap()).await
    }

    async fn with(connections: Connections) -> Host {
        let (begun, go) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let wait = {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            async move || {
                begun.add_permits(1);
                go.notified().await;
                "waited"
            }
        };
        let large = {
            let begun = Arc::clone(&begun);
            async move || {
                begun.add_permits(1);
                vec![b'x'; LARGE]
            }
        };
        let upgrade = {
            let begun = Arc::clone(&begun);
            async move |request: Request| {
                tokio::spawn(async move {
                    let upgraded = hyper::upgrade::on(request).await.unwrap();
                    begun.add_permits(1);
                    let mut upgraded = hyper_util::rt::TokioIo::new(upgraded);
                    // Never succeeds, since the client sends nothing.
                    upgraded.read_u8().await.unwrap_err();
                });
                (StatusCode::SWITCHING_PROTOCOLS, [("upgrade", "echo"), ("connection", "upgrade")])
            }
        };
        let router = Router::new()
            .route("/upgrade", get(upgrade))
            .route("/", get(async || "hello"))
            .route("/wait", get(wait))
            .route("/large", get(large))
            .route("/body", post(async |body: Bytes| body));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            connections.serve(listener, router, async { stopped.await.unwrap() }).await
        });
        Host { address, stop, serving, begun, go }
    }

    async fn send(&self, bytes: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        client
    }

    async fn request_begins(&self) {
        self.begun.acquire().await.unwrap().forget();
    }
}

/// Reads one response, up to the end of this body.
async fn response(client: &mut TcpStream, body: &str) {
    let mut read = Vec::new();
    while !read.ends_with(body.as_bytes()) {
        assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "the response came");
    }
}

/// Reads to the end of a connection, however it ends.
async fn rest(mut client: TcpStream) -> String {
    let mut read = Vec::new();
    drop(client.read_to_end(&mut read).await);
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn the_longest_times_are_no_limits() {
    let longest = Duration::MAX;
    let host = Host::start(ServeLimits {
        header_timeout: longest,
        idle_timeout: longest,
        send_timeout: longest,
        drain_timeout: longest,
        ..LONG
    })
    .await;
    let mut client = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    response(&mut client, "hello").await;
    // More than the network buffers: the host waits for its reader.
    client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    host.request_begins().await;
    host.stop.send(()).unwrap();
    assert!(rest(client).await.len() > LARGE / 2);
    assert_eq!(host.serving.await.unwrap(), 0);
}

#[tokio::test]
async fn idle_connections_do_not_delay_shutdown() {
    for sent in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let host = Host::start(LONG).await;
        let half = host.send(sent).await;
        // The connection `half` was accepted before this one.
        let mut other = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        response(&mut other, "hello").await;
        host.stop.send(()).unwrap();
        assert_eq!(host.serving.await.unwrap(), 0, "{sent:?}");
        assert_eq!(rest(half).await, "");
        assert_eq!(rest(other).await, "", "an idle connection is closed");
    }
}

#[tokio::test]
async fn a_partial_second_request_does_not_delay_shutdown() {
    let host = Host::start(LONG).await;
    let mut client = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo").await;
    response(&mut client, "hello").await;
    host.stop.send(()).unwrap();
    assert_eq!(host.serving.await.unwrap(), 0);
    assert_eq!(rest(client).await, "");
}

#[tokio::test]
async fn requests_in_flight_are_answered_after_the_signal() {
    let host = Host::start(LONG).await;
    let client = host.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    host.request_begins().await;
    host.stop.send(()).unwrap();
    while TcpStream::connect(host.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    host.go.notify_one();
    assert!(rest(client).await.ends_with("waited"));
    assert_eq!(host.serving.await.unwrap(), 0);
}

#[tokio::test]
async fn endless_requests_are_aborted_at_the_limit() {
    let host = Host::start(ServeLimits { drain_timeout: SOON, ..LONG }).await;
    let body = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf";
    let (half, endless) =
        (host.send(body).await, host.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await);
    host.request_begins().await;
    // The half-sent request was read before this request was answered.
    response(&mut host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await, "hello").await;
    host.stop.send(()).unwrap();
    assert!((1..=2).contains(&host.serving.await.unwrap()));
    assert_eq!((rest(half).await, rest(endless).await), (String::new(), String::new()));
}

#[tokio::test]
async fn slow_headers_and_idle_connections_are_closed_and_counted() {
    let recorder = DebuggingRecorder::new();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let host = Host::start(ServeLimits { header_timeout: SOON, ..LONG }).await;
    assert_eq!(rest(host.send("GET / HT").await).await, "");
    assert_eq!(rest(host.send("").await).await, "");
    // A client that leaves by itself met no limit.
    drop(host.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await);
    assert_eq!(ended(&recorder), [("header".to_owned(), 2)]);

    let host = Host::start(ServeLimits { idle_timeout: SOON, ..LONG }).await;
    let client = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(rest(client).await.ends_with("hello"));
    let client = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo").await;
    assert!(rest(client).await.ends_with("hello"));
    assert_eq!(ended(&recorder), [("idle".to_owned(), 2)]);
}

/// How many connections were ended since the last call, by reason.
fn ended(recorder: &DebuggingRecorder) -> Vec<(String, u64)> {
    let metrics = recorder.snapshotter().snapshot().into_vec();
    let mut ended = Vec::new();
    for (key, _, _, value) in metrics {
        let (key, DebugValue::Counter(count)) = (key.key(), value) else { continue };
        if key.name() == "audit_connections_refused_total" && count > 0 {
            let reason = key.labels().find(|label| label.key() == "reason").unwrap();
            ended.push((reason.value().to_owned(), count));
        }
    }
    ended
}

#[tokio::test]
async fn connections_are_accepted_after_a_panic() {
    let panics = AtomicUsize::new(3);
    let connections = Connections::new(LONG).unwrap().exempting(move |_| {
        if panics.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            std::panic::resume_unwind(Box::new("told to panic"));
        }
        false
    });
    let host = Host::with(connections).await;
    for _ in 0..3 {
        assert_eq!(rest(host.send("").await).await, "");
    }
    let mut client = host.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    response(&mut client, "hello").await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_until_others_end() {
    let all = ServeLimits { max_connections: Some(1), ..LONG };
    let of_address = ServeLimits { max_connections_per_address: 1, ..LONG };
    for (limits, status) in [(all, "HTTP/1.1 503"), (of_address, "HTTP/1.1 429")] {
        let host = Host::start(limits).await;
        let first = host.send("GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        host.request_begins().await;
        let refused = rest(host.send("").await).await;
        assert!(refused.starts_with(status), "{refused}");
        host.go.notify_one();
        assert!(rest(first).await.ends_with("waited"));
        // A new connection is served as soon as the host has dropped the first one.
        while !rest(host.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await)
            .await
            .ends_with("hello")
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn operators_probes_are_answered_whatever_else_is_open() {
    let probe = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let [root, wait] = ["/", "/wait"].map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    for sent in ["", "GET / HT", &root, &wait] {
        let host = Host::with(Connections::for_operators(LONG).unwrap()).await;
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(host.send(sent).await);
            let answer = rest(host.send(probe).await).await;
            assert!(answer.ends_with("hello"), "{sent:?} × {}: {answer}", open.len());
        }
        // The oldest were ended.
        assert!(!rest(open.swap_remove(0)).await.starts_with("HTTP/1.1 503"), "{sent:?}");
    }
}

#[tokio::test]
async fn upgraded_connections_are_counted_and_aborted() {
    let limits = ServeLimits { max_connections: Some(1), drain_timeout: SOON, ..LONG };
    let host = Host::start(limits).await;
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut upgraded = host.send(upgrade).await;
    response(&mut upgraded, "\r\n\r\n").await;
    host.request_begins().await;
    assert!(rest(host.send("").await).await.starts_with("HTTP/1.1 503"));
    host.stop.send(()).unwrap();
    assert_eq!(host.serving.await.unwrap(), 1);
    assert_eq!(rest(upgraded).await, "");
}
