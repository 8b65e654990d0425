//! Serving connections within limits, and draining them.

mod framing;
mod limits;
mod open;
mod places;
mod pool;
mod refusals;
mod stream;
mod tls;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_journal::shared::panic::{Panicked, catch_in};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower_service::Service;

pub use self::limits::ServeLimits;
use self::limits::too_few_files;
use self::open::{CutOnDrop, Open};
pub(crate) use self::places::client_of;
pub use self::places::{Place, PlaceRefusal, Places};
pub use self::pool::{Held, Holder, Pool};
use self::refusals::{Refusing, refuse, refused};
pub use self::stream::Connection;
use self::stream::Stream;
pub use self::tls::{Tls, TlsError};
use crate::lasting::panicked;

/// The delay after a failure to accept, for example due to a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long aborted connections get to drop their resources.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A year, which is longer than any connection lasts.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The maximum size of a request's header, in bytes. Hyper answers 431 to larger ones.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// The connections of a host, on one or more listeners, within [`ServeLimits`]. Cheap to clone.
///
/// # Metrics
///
/// `audit_connections` is the number of open connections; `audit_connections_refused_total` counts
/// connections refused or ended because of a limit, by `reason`: `connections`,
/// `connections_of_address`, `slow_reader`, `header` (the first request's header took too long),
/// `idle` (no further request came), or `accept` if the operating system refused.
#[derive(Clone)]
pub struct Connections {
    limits: ServeLimits,
    places: Arc<Places>,
    is_exempt: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Whether a new connection beyond the limit ends the oldest one instead of being refused.
    replaces_oldest: bool,
    tls: Option<Tls>,
}

impl Connections {
    /// Creates connections within these limits.
    ///
    /// # Errors
    ///
    /// If the limits allow more connections than the process has file descriptors for.
    pub fn new(limits: ServeLimits) -> io::Result<Connections> {
        use metrics::{describe_counter, describe_gauge};
        describe_gauge!("audit_connections", "Open connections");
        describe_counter!(
            "audit_connections_refused_total",
            "Connections refused or ended because of a limit, by reason"
        );
        let places = Arc::new(Places::new("audit_connections", limits.connections()?));
        let is_exempt = Arc::new(|_| false);
        Ok(Connections { limits, places, is_exempt, replaces_oldest: false, tls: None })
    }

    /// Creates the connections of a listener that only operators can reach: 16 at once, from any
    /// address, besides those of clients. A further one ends the oldest, so that a probe is
    /// answered, and a supervisor does not restart the host, however many connections are idle.
    ///
    /// # Errors
    ///
    /// If the process may not open as many files.
    pub fn for_operators(limits: ServeLimits) -> io::Result<Connections> {
        let connections = Connections::new(limits.for_operators()).map_err(|_| too_few_files())?;
        Ok(Connections { replaces_oldest: true, ..connections })
    }

    /// Exempts addresses from [`max_connections_per_address`], for proxies, which act for many
    /// clients.
    ///
    /// [`max_connections_per_address`]: ServeLimits::max_connections_per_address
    #[must_use]
    pub fn exempting(
        self,
        is_exempt: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Connections {
        Connections { is_exempt: Arc::new(is_exempt), ..self }
    }

    /// Serves only HTTPS. A handshake may take
    /// [`header_timeout`](ServeLimits::header_timeout).
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Connections {
        Connections { tls: Some(tls), ..self }
    }

    /// Serves HTTP/1 on this listener until `stop` completes, then drains: it accepts no more
    /// connections, closes those without a request in flight, and gives the others
    /// [`drain_timeout`](ServeLimits::drain_timeout). The remaining ones are then aborted, and
    /// their requests are dropped. Returns the number of aborted connections.
    ///
    /// The extensions of each request hold the peer's address as `ConnectInfo<SocketAddr>`, and an
    /// `Arc<Connection>`. An upgraded connection, such as a WebSocket's, still counts, and is
    /// aborted like others; until then its new owner can close it in order.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the listener and aborts all connections.
    pub async fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        stop: impl Future<Output = ()>,
    ) -> usize {
        let (stopping, _) = watch::channel(false);
        let open = CutOnDrop(Arc::new(Open::default()));
        let mut stop = pin!(stop);
        let mut refusing = Refusing::default();
        loop {
            let accepting = catch_in(self.accept(&listener, &open.0, &mut refusing));
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = accepting => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(Panicked(panic)) => {
                    // Otherwise the operators' address, say, would no longer be served.
                    panicked("the task that accepts connections", &panic);
                    sleep(ACCEPT_PAUSE).await;
                    None
                }
            };
            let Some((stream, place, connection)) = accepted else { continue };
            let entry = open.0.add(Arc::clone(&connection));
            let limits = self.limits;
            let stream = Stream::new(stream, Arc::clone(&connection), &limits, (place, entry));
            if let Err(error) = stream.set_nodelay() {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let (router, stopping) = (router.clone(), stopping.subscribe());
            match self.tls.clone() {
                None => drop(tokio::spawn(serve(stream, connection, router, limits, stopping))),
                Some(tls) => {
                    tokio::spawn(async move {
                        let handshake = timeout(limits.header_timeout, tls.0.accept(stream));
                        let shaken = tokio::select! {
                            shaken = handshake => shaken,
                            () = connection.until_cut() => return,
                        };
                        match shaken {
                            Ok(Ok(stream)) => {
                                serve(stream, connection, router, limits, stopping).await;
                            }
                            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                            Err(_elapsed) => {
                                refused("header");
                                tracing::debug!("a handshake took too long");
                            }
                        }
                    });
                }
            }
        }
        drop((listener, router));
        stopping.send_replace(true);
        if timeout(self.limits.drain_timeout, open.0.all_ended()).await.is_ok() {
            return 0;
        }
        let cut_off = open.0.cut_off();
        tracing::warn!(
            connections = cut_off,
            "requests were not answered within {:?} of the signal to stop and are aborted",
            self.limits.drain_timeout
        );
        // A request that computes endlessly does not notice. The process ends anyway.
        drop(timeout(ABORT_TIMEOUT, open.0.all_ended()).await);
        cut_off
    }

    /// Accepts the next connection. Returns `None` if it was refused.
    async fn accept(
        &self,
        listener: &TcpListener,
        open: &Open,
        refusing: &mut Refusing,
    ) -> Option<(TcpStream, Place, Arc<Connection>)> {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                refused("accept");
                if refusing.failed(&error) {
                    sleep(ACCEPT_PAUSE).await;
                }
                return None;
            }
        };
        refusing.accepted();
        // Operators' connections end each other.
        let is_exempt = self.replaces_oldest || (self.is_exempt)(peer.ip());
        let most = Some(self.limits.max_connections_per_address);
        let most = most.filter(|most| !is_exempt && *most != usize::MAX);
        let mut taken = self.places.take(peer.ip(), most);
        if taken.is_err() && self.replaces_oldest {
            refused("connections");
            // If the oldest one does not end in time, this one is refused after all.
            drop(timeout(ABORT_TIMEOUT, open.end_oldest()).await);
            taken = self.places.take(peer.ip(), most);
        }
        match taken {
            Ok(place) => Some((stream, place, Arc::new(Connection::new(peer)))),
            Err(refusal) => {
                refuse(&stream, refusal);
                None
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Listens on an address. `purpose` follows it in the error, such as `" for operators"`.
///
/// # Errors
///
/// If the address cannot be bound.
pub async fn listen(address: SocketAddr, purpose: &str) -> Result<TcpListener, String> {
    let failed = |error| format!("cannot listen on {address}{purpose}: {error}");
    TcpListener::bind(address).await.map_err(failed)
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
    router: Router,
    limits: ServeLimits,
    mut stopping: watch::Receiver<bool>,
) {
    let has_begun = Arc::new(AtomicBool::new(false));
    let (begin, peer) = (Arc::clone(&has_begun), connection.peer());
    let mut cut_off = pin!(connection.until_cut());
    let service = service_fn(move |request: Request<Incoming>| {
        begin.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(Arc::clone(&connection));
        respond(router.clone(), request)
    });
    // Not hyper-util's automatic builder, which waits indefinitely for the first byte.
    let mut http = http1::Builder::new();
    // Hyper adds the timeout to the current time, which must not overflow.
    let idle_timeout = limits.idle_timeout.min(LONGEST_TIMEOUT);
    http.timer(TokioTimer::new()).header_read_timeout(idle_timeout);
    http.max_buf_size(MAX_HEADER_BYTES);
    let mut http = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut first = pin!(sleep(limits.header_timeout));
    let (mut waits_for_first, mut is_stopping) = (true, false);
    loop {
        tokio::select! {
            biased;
            served = http.as_mut() => {
                if let Err(error) = served {
                    // Hyper's time limit holds for the first header too.
                    if error.is_timeout() {
                        let is_idle = has_begun.load(Ordering::Relaxed);
                        refused(if is_idle { "idle" } else { "header" });
                    }
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = cut_off.as_mut() => return,
            _ = stopping.wait_for(|stopping| *stopping), if !is_stopping => is_stopping = true,
            () = &mut first, if waits_for_first => {
                waits_for_first = false;
                if !has_begun.load(Ordering::Relaxed) {
                    refused("header");
                }
            }
        }
        // Hyper treats a connection without a first request as one with a request in flight.
        if !has_begun.load(Ordering::Relaxed) {
            return;
        }
        if is_stopping {
            http.as_mut().graceful_shutdown();
        }
    }
}

async fn respond(
    mut router: Router,
    mut request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    if let Err(malformed) = framing::check(&mut request) {
        return Ok(malformed.response());
    }
    // A router is always ready.
    router.call(request).await
}
