//! A client's connection: its bytes, and the conditions that end it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::{ServeLimits, refused};

type Received = Box<dyn Fn(usize) -> io::Result<()> + Send + Sync>;

/// A client's connection. The extensions of each of its requests hold it as `Arc<Connection>`.
pub struct Connection {
    peer: SocketAddr,
    cut: watch::Sender<bool>,
    received: OnceLock<Received>,
}

impl Connection {
    /// Creates a connection to this peer that is not served yet.
    pub fn new(peer: SocketAddr) -> Connection {
        Connection { peer, cut: watch::Sender::new(false), received: OnceLock::new() }
    }

    /// The peer's address, which is the client's or a proxy's.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Aborts the connection: a request in flight is dropped, and an upgraded connection fails at
    /// its next read or write.
    pub fn cut_off(&self) {
        self.cut.send_replace(true);
    }

    /// Whether the connection was aborted.
    pub fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Sets a function that is called with the number of bytes of each read. If it fails, the
    /// connection ends. Intended for protocols after an upgrade. Only the first call has an effect.
    pub fn on_received(&self, received: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static) {
        drop(self.received.set(Box::new(received)));
    }

    /// Completes when the connection is aborted.
    pub(super) fn until_cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            // An error means that the connection is gone.
            drop(cut.wait_for(|cut| *cut).await);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client's byte stream. It fails once the connection is aborted and when the client receives too
/// slowly. `H` is dropped with it, even after an upgrade.
pub(super) struct Stream<S, H> {
    stream: S,
    connection: Arc<Connection>,
    pace: Pace,
    // A future wakes only one task, but a reader and a writer may wait.
    cut_for_reader: Signal,
    cut_for_writer: Signal,
    _held: H,
}

impl<S, H> Stream<S, H> {
    pub(super) fn new(
        stream: S,
        connection: Arc<Connection>,
        limits: &ServeLimits,
        held: H,
    ) -> Stream<S, H> {
        let (cut_for_reader, cut_for_writer) =
            (Box::pin(connection.until_cut()), Box::pin(connection.until_cut()));
        let pace = Pace::new(limits);
        Stream { stream, connection, pace, cut_for_reader, cut_for_writer, _held: held }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the host ended the connection")
}

/// Tracks whether a client receives fast enough. A client may fall behind while it has credit:
/// waiting for it uses up credit, and each byte that it receives adds some.
struct Pace {
    most: Duration,
    rate: f64,
    credit: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    fn new(limits: &ServeLimits) -> Pace {
        let most = limits.send_timeout;
        Pace { most, rate: f64::from(limits.min_send_rate.max(1)), credit: most, waiting: None }
    }

    fn wrote(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.credit = self.credit.saturating_sub(since.elapsed());
        }
        if self.credit < self.most {
            let earned = Duration::from_secs_f64(bytes as f64 / self.rate);
            self.credit = self.credit.saturating_add(earned).min(self.most);
        }
    }

    /// Ready once the client's credit is used up.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (_, late) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(self.credit))));
        late.as_mut().poll(context)
    }
}

impl<H> Stream<TcpStream, H> {
    /// Disables Nagle's algorithm.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }
}

impl<S: Unpin, H: Unpin> Stream<S, H> {
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.pace.wrote(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.cut_for_writer.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(cut_off()));
                }
                ready!(self.pace.poll_late(context));
                refused("slow_reader");
                self.connection.cut_off();
                let message = "the client receives too slowly";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.connection.is_cut() { Err(cut_off()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Stream<S, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                read?;
                let bytes = buffer.filled().len() - before;
                Poll::Ready(
                    self.connection.received.get().map_or(Ok(()), |received| received(bytes)),
                )
            }
            Poll::Pending => {
                ready!(self.cut_for_reader.as_mut().poll(context));
                Poll::Ready(Err(cut_off()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Stream<S, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
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
        self.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::advance;

    use super::*;

    const LIMITS: ServeLimits = ServeLimits {
        header_timeout: Duration::MAX,
        idle_timeout: Duration::MAX,
        send_timeout: Duration::from_secs(30),
        min_send_rate: 10,
        max_connections: None,
        max_connections_per_address: 1,
        drain_timeout: Duration::MAX,
    };

    /// A client, and a host that sends it 10,000 bytes through a network that buffers ten.
    fn sending() -> (DuplexStream, Arc<Connection>, JoinHandle<io::Result<()>>) {
        let (client, host) = duplex(10);
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into()));
        let mut stream = Stream::new(host, Arc::clone(&connection), &LIMITS, ());
        let sending = tokio::spawn(async move { stream.write_all(&[0; 10_000]).await });
        (client, connection, sending)
    }

    async fn takes(client: &mut DuplexStream, bytes: usize) {
        client.read_exact(&mut vec![0; bytes]).await.unwrap();
        // Lets the host write again.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_occasional_byte_is_too_slow() {
        let (mut client, _, sending) = sending();
        takes(&mut client, 1).await;
        for _ in 0..2 {
            advance(Duration::from_millis(14_900)).await;
            assert!(!sending.is_finished());
            // At 10 bytes a second, each received byte adds a tenth of a second of credit.
            takes(&mut client, 1).await;
        }
        advance(Duration::from_millis(390)).await;
        tokio::task::yield_now().await;
        assert!(!sending.is_finished());
        advance(Duration::from_millis(20)).await;
        let error = sending.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_at_the_minimum_rate_gets_all() {
        let (mut client, _, sending) = sending();
        // The client catches up after a time without network.
        advance(Duration::from_secs(29)).await;
        takes(&mut client, 290).await;
        for _ in 0..971 {
            advance(Duration::from_secs(1)).await;
            takes(&mut client, 10).await;
        }
        sending.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_aborted_connection_ends_reader_and_writer() {
        let (_client, connection, sending) = sending();
        let (_other, host) = duplex(10);
        let mut reading = Stream::new(host, Arc::clone(&connection), &LIMITS, ());
        let reading = tokio::spawn(async move { reading.read_u8().await });
        tokio::task::yield_now().await;
        connection.cut_off();
        for error in [sending.await.unwrap().unwrap_err(), reading.await.unwrap().unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
