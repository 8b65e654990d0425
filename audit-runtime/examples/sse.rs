//! Server-sent events: a result is computed once and pushed to many subscribers. The logs of all
//! subscribers become durable together before any of them gets it.
//!
//! ```toml
//! [dependencies]
//! audit-runtime = { version = "0.1", features = ["http"] }
//! audit-sink-s3 = "0.1" # here: audit-core with the feature test-util, for MemorySink
//! axum = { version = "0.8", features = ["http1", "tokio"] }
//! futures = "0.3"
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "sync"] }
//! ```
//!
//! `cargo run -p audit-runtime --example sse`

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::testing::MemorySink;
use audit_runtime::http::RequestContextLayer;
use audit_runtime::{AuditError, AuditLog, AuditRuntime, Query, RequestContext, Var, body};
use axum::extract::{ConnectInfo, State};
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Extension, Router};
use futures::stream::{self, Stream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A subscriber's request and channel.
type Subscriber = (RequestContext, mpsc::UnboundedSender<String>);

#[derive(Clone)]
struct Feed {
    runtime: AuditRuntime,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
}

/// The query and its log. The viewer, address and time are variables.
fn price(log: &AuditLog<'_, Query>, share: &str, cents: u32) -> Result<String, AuditError> {
    log.audit(&body!({
        "action": "price.view", "share": share, "cents": cents,
        "ip": Var::IP, "userAgent": Var::USER_AGENT, "at": Var::NOW,
    }))?;
    Ok(format!("{share} at {cents}"))
}

impl Feed {
    /// Pushes a result to all subscribers. If their logs cannot be made durable, none of them gets
    /// it.
    async fn publish(&self, cents: u32) -> Result<(), Box<dyn Error>> {
        let query = self.runtime.query("price:view");
        let result = price(&query.log(), "ACME", cents);
        let sealed = query.seal(result);
        // Later subscribers are not among the released requests.
        let (requests, channels): (Vec<_>, Vec<_>) = self.subscribers().iter().cloned().unzip();
        let Some(result) = sealed.release_all(&requests).await? else { return Ok(()) };
        let shown = result.as_ref().map_or_else(ToString::to_string, Clone::clone);
        for channel in channels {
            // A subscriber that has gone is removed when its stream is dropped.
            let _ = channel.send(shown.clone());
        }
        Ok(())
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /prices`
async fn subscribe(
    State(feed): State<Feed>,
    Extension(request): Extension<RequestContext>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut subscribers = feed.subscribers();
    subscribers.retain(|(_, sender)| !sender.is_closed());
    subscribers.push((request, sender));
    Sse::new(stream::unfold(receiver, |mut receiver| async {
        let shown = receiver.recv().await?;
        Some((Ok(Event::default().data(shown)), receiver))
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sink = Arc::new(MemorySink::new());
    let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
    let feed = Feed { runtime: runtime.clone(), subscribers: Arc::default() };
    let layer = RequestContextLayer::new(runtime, |extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
    });
    let app = Router::new().route("/prices", get(subscribe)).with_state(feed.clone()).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    println!("listening on http://{address}/prices");

    // Three clients. A client is subscribed once it has the header of its response.
    let mut clients = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let mut client = TcpStream::connect(address).await?;
        let request = format!("GET /prices HTTP/1.1\r\nHost: a\r\nUser-Agent: {name}\r\n\r\n");
        client.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(client).lines();
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        clients.push((name, lines));
    }
    for cents in [1_200, 1_250] {
        feed.publish(cents).await?;
        for (name, lines) in &mut clients {
            let shown = loop {
                let line = lines.next_line().await?.ok_or("the stream ended")?;
                if let Some(shown) = line.strip_prefix("data: ") {
                    break shown.to_owned();
                }
            };
            println!("{name} sees {shown}");
        }
        println!("{} logs are durable:", sink.lines().len());
        for line in sink.lines().iter().rev().take(3) {
            println!("  {line}");
        }
    }
    assert_eq!(sink.lines().len(), 6, "each result, for each subscriber");
    server.abort();
    Ok(())
}
