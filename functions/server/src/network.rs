//! Connections: how many there are, and how long each may take.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::Server;
use super::budget::{Budget, FREE_BYTES, Share};

/// How long a host waits that could not accept a connection, for lack of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the headers of a request may have, in bytes. Hyper answers 431 beyond it.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Accepts connections until `stop` completes, and returns when those that are open have ended.
pub(super) async fn accept(
    server: Server,
    router: Router,
    listener: TcpListener,
    most: usize,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Places { most, open: Mutex::default() });
    let (open, mut ended) = mpsc::channel::<()>(1);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refused("accept");
                tracing::debug!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let limits = server.limits();
        let per_address = match server.proxies().trust(peer.ip()) {
            true => usize::MAX,
            false => limits.max_connections_per_address,
        };
        let place = match places.take(peer.ip(), per_address) {
            Ok(place) => place,
            Err(refusal) => {
                refuse(&stream, refusal);
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let inflow =
            Arc::new(Inflow { budget: Arc::clone(server.budget()), state: Mutex::default() });
        let stream = Watched {
            stream,
            inflow: Arc::clone(&inflow),
            send_timeout: limits.idle_timeout,
            blocked: None,
        };
        let router = router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(Arc::clone(&inflow));
            let mut router = router.clone();
            async move {
                // A router is always ready.
                let response = Service::call(&mut router, request.map(Body::new)).await;
                response.map_err(|never: Infallible| never)
            }
        });
        // Not hyper-util's automatic builder: it waits without a limit for the first byte.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let (mut stopping, open) = (server.stopping(), open.clone());
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
            drop((place, open));
        });
    }
    drop((listener, open));
    // Every connection has a clone.
    ended.recv().await;
}

/// Counted, and not logged: whoever floods a host is not to flood its log.
fn refused(reason: &'static str) {
    metrics::counter!("functions_connections_refused_total", "reason" => reason).increment(1);
}

fn refuse(stream: &TcpStream, refusal: Refusal) {
    let (reason, status) = match refusal {
        Refusal::Full => ("connections", "503 Service Unavailable"),
        Refusal::OfAddress => ("connections_of_address", "429 Too Many Requests"),
    };
    refused(reason);
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
    );
    // It fits into the socket's empty buffer, or the client does without.
    drop(stream.try_write(answer.as_bytes()));
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Full,
    OfAddress,
}

/// The connections that are open, by address.
#[derive(Debug)]
struct Places {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, peer: IpAddr, per_address: usize) -> Result<Place, Refusal> {
        let address = network_of(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.most {
            return Err(Refusal::Full);
        }
        let of_address = open.by_address.entry(address).or_default();
        if *of_address >= per_address {
            return Err(Refusal::OfAddress);
        }
        *of_address += 1;
        open.all += 1;
        metrics::gauge!("functions_connections").set(open.all as f64);
        Ok(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(of_address) = open.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&self.address);
            }
        }
        metrics::gauge!("functions_connections").set(open.all as f64);
    }
}

/// What one client has for an address: with IPv6 that is a /64 at least.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// What a WebSocket has received since its last message was complete. It is counted, since a
/// message may be long and is gathered where nobody else can see it.
#[derive(Debug)]
pub(super) struct Inflow {
    budget: Arc<Budget>,
    state: Mutex<Arriving>,
}

#[derive(Debug, Default)]
struct Arriving {
    is_counted: bool,
    bytes: usize,
    shares: Vec<Share>,
}

impl Inflow {
    /// Counts from here on. The bodies of requests are counted where they are read.
    pub(super) fn count(&self) {
        self.state().is_counted = true;
    }

    /// A message is complete.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        state.bytes = 0;
        state.shares.clear();
    }

    fn received(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.state();
        if !state.is_counted || bytes == 0 {
            return Ok(());
        }
        let beyond = |bytes: usize| bytes.saturating_sub(FREE_BYTES);
        let before = state.bytes;
        state.bytes += bytes;
        // As it grows a buffer may take twice what is in it. By the 64 KiB, so that the shares are
        // few.
        let steps = |bytes: usize| beyond(bytes).div_ceil(FREE_BYTES);
        let more = steps(state.bytes) - steps(before);
        if more > 0 {
            let share = self
                .budget
                .receive(2 * more * FREE_BYTES)
                .map_err(|refused| io::Error::new(io::ErrorKind::OutOfMemory, refused.message()))?;
            state.shares.push(share);
        }
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Arriving> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that ends when its client takes nothing for too long.
struct Watched {
    stream: TcpStream,
    inflow: Arc<Inflow>,
    send_timeout: Duration,
    /// Runs while the client does not take what it is sent.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let until = Instant::now() + self.send_timeout;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(blocked.as_mut().poll(context));
        refused("takes_nothing");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.inflow.received(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where a connection comes from, as requests carry it.
pub(super) fn peer(extensions: &axum::http::Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
}
