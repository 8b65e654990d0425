//! Connections with limits, and their end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service;

/// How long a listener waits after it failed to accept, for example for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections that were cut off get to drop what they hold.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The limits on a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// From accepting a connection to the end of its first request's header. 10 seconds: a header
    /// is one packet or a few.
    pub header_timeout: Duration,
    /// From one response to the end of the next request's header. 75 seconds: longer than load
    /// balancers keep an idle connection (60 seconds by default on AWS), so that they never send a
    /// request into one that is about to be closed.
    pub idle_timeout: Duration,
    /// The most connections at once; others wait in the operating system's queue. 512: half of the
    /// 1,024 descriptors that a process usually has, which leaves the other half to the database,
    /// the journal and the bucket.
    pub max_connections: usize,
    /// How long requests in flight have to be answered once the host is told to stop. 10 seconds:
    /// together with 15 seconds for the sink it fits into the 30 that Kubernetes allows by default.
    pub drain_timeout: Duration,
}

impl Default for ServeLimits {
    fn default() -> ServeLimits {
        ServeLimits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_connections: 512,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves HTTP/1 on this listener until `stop` completes, then drains: accepts no more, closes
/// connections that have no request in flight, and gives the others
/// [`drain_timeout`](ServeLimits::drain_timeout). What is left then is cut off, with its requests
/// dropped where they wait. Returns the number of connections that were cut off.
///
/// The peer's address is in each request's extensions, as [`ConnectInfo<SocketAddr>`]. This
/// function no longer controls an upgraded connection, such as a WebSocket's: whoever took it over
/// ends it.
///
/// # Cancellation
///
/// Dropping the future drops the listener and all connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    stop: impl Future<Output = ()>,
) -> usize {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let (stopping, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &permits) => {
                let Some((stream, peer, permit)) = accepted else { continue };
                let connection =
                    connection(stream, peer, router.clone(), limits, stopping.subscribe());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
    drop((listener, router));
    stopping.send_replace(true);
    let drained = timeout(limits.drain_timeout, all_ended(&mut connections)).await;
    if drained.is_ok() {
        return 0;
    }
    let cut_off = connections.len();
    tracing::warn!(
        connections = cut_off,
        "requests were not answered within {:?} of being told to stop, and are cut off",
        limits.drain_timeout
    );
    connections.abort_all();
    // A request that computes without end does not notice; the process ends nevertheless.
    drop(timeout(ABORT_TIMEOUT, all_ended(&mut connections)).await);
    cut_off
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.expect("never closed");
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ServeLimits,
    mut stopping: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
    let has_begun = Arc::new(AtomicBool::new(false));
    let begin = Arc::clone(&has_begun);
    let service = service_fn(move |request: Request<Incoming>| {
        begin.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        respond(router.clone(), request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
    let mut http = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut first = pin!(sleep(limits.header_timeout));
    let (mut waits_for_first, mut is_stopping) = (true, false);
    loop {
        tokio::select! {
            biased;
            served = http.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            _ = stopping.wait_for(|stopping| *stopping), if !is_stopping => is_stopping = true,
            () = &mut first, if waits_for_first => waits_for_first = false,
        }
        // hyper takes a connection without a first request for one with a request in flight.
        if !has_begun.load(Ordering::Relaxed) {
            return;
        }
        if is_stopping {
            http.as_mut().graceful_shutdown();
        }
    }
}

async fn respond(mut router: Router, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    // A router is always ready.
    router.call(request).await
}
