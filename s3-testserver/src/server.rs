//! The server: a port that opens and closes, and the test's view of the stored objects.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use http::Method;
use s3s::service::S3ServiceBuilder;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::{self, BUCKET, Backend, OWNER};
use crate::policy::Policies;
use crate::requests::RequestLog;
use crate::store::{Store, TOKEN};
use crate::sts::{ACCESS_KEY, Keys, SECRET_KEY, Sts};
use crate::{Faults, RequestInfo, RetentionMode, Session, StoredObject};

/// The length of the accept queue: more connections than any test opens at once.
const BACKLOG: u32 = 1024;

/// An S3 server with one bucket on a loopback port. Dropping it closes the port and cuts open
/// connections.
#[derive(Debug)]
pub struct S3TestServer {
    backend: Arc<Backend>,
    store: Store,
    address: SocketAddr,
    /// Bound to the port but never listening. While the server is paused, clients are refused and
    /// no other process can get the port.
    _reservation: TcpSocket,
    running: Mutex<Option<Running>>,
}

/// The task that accepts connections. It cuts all connections and ends when `stop` is used or
/// dropped.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl S3TestServer {
    /// Starts a server with an empty bucket, as tasks of the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled, and when no loopback port can be
    /// opened.
    pub async fn start() -> Self {
        Self::start_with(true).await
    }

    /// Starts a server that speaks the XML API of Google Cloud Storage instead. Methods that
    /// configure an S3 bucket have no effect on it, except
    /// [`ignore_if_none_match`](Self::ignore_if_none_match).
    ///
    /// # Panics
    ///
    /// Those of [`start`](Self::start).
    pub async fn start_gcs() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(is_s3: bool) -> Self {
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = reservation.local_addr().expect("a bound socket has an address");

        let policies = Arc::new(Policies::default());
        let store = Store::new(BUCKET, Arc::clone(&policies));
        let sts = Arc::new(Sts::default());
        let mut s3 = S3ServiceBuilder::new(store.clone());
        s3.set_auth(Keys(Arc::clone(&sts)));
        let backend = Backend {
            s3: is_s3.then(|| s3.build()),
            faults: Faults::new(),
            requests: RequestLog::new(),
            policies,
            store: store.clone(),
            sts,
        };

        let server = Self {
            backend: Arc::new(backend),
            store,
            address,
            _reservation: reservation,
            running: Mutex::new(None),
        };
        server.resume().await;
        server
    }

    /// `http://127.0.0.1:PORT`, for path-style requests. The port stays the same for the server's
    /// life.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether it speaks the protocol of GCS rather than that of S3.
    pub fn is_gcs(&self) -> bool {
        self.backend.s3.is_none()
    }

    /// The token that requests to a server of GCS must carry.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// The name of its only bucket.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The account that owns the bucket.
    pub fn owner(&self) -> &'static str {
        OWNER
    }

    /// The access key that requests must be signed with.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret key that requests must be signed with.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// Requests to the bucket must be signed with this secret key instead of the usual one.
    pub fn set_secret_key(&self, secret_key: &str) {
        self.backend.sts.set_secret_key(secret_key);
    }

    /// The environment variables with which clients reach it.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }

    /// The fault plan.
    pub fn faults(&self) -> &Faults {
        &self.backend.faults
    }

    /// Every request since the start in the order of arrival, including refused and hung ones.
    pub fn requests(&self) -> Vec<RequestInfo> {
        self.backend.requests.all()
    }

    /// The number of requests with this method.
    pub fn request_count(&self, method: &Method) -> usize {
        self.requests().iter().filter(|request| request.method == *method).count()
    }

    /// Waits until at least `count` requests have arrived since the start.
    pub async fn wait_requests(&self, count: usize) {
        self.backend.requests.wait(count).await;
    }

    /// The objects in the bucket, by key. This reads the store directly: without HTTP, faults or an
    /// entry in [`requests`](Self::requests), and also while paused.
    pub fn objects(&self) -> BTreeMap<String, StoredObject> {
        self.store.objects()
    }

    /// Writes or overwrites an object behind the client's back.
    pub fn put_object(&self, key: &str, object: StoredObject) {
        self.store.put(key, object);
    }

    /// Deletes and returns an object behind the client's back.
    pub fn delete_object(&self, key: &str) -> Option<StoredObject> {
        self.store.delete(key)
    }

    /// Whether to ignore `If-None-Match` on PUT, or the condition of GCS, as some stores do: such a
    /// PUT then overwrites. Off at the start.
    pub fn ignore_if_none_match(&self, ignore: bool) {
        self.store.ignore_if_none_match(ignore);
    }

    /// Whether to ignore the checksums that come with a PUT. The hash that is part of the signature
    /// is still checked. Off at the start.
    pub fn ignore_checksums(&self, ignore: bool) {
        self.store.ignore_checksums(ignore);
    }

    /// Whether objects that are written from now on have versions. A DELETE then hides the object,
    /// and a DELETE of a version removes that version. Off at the start.
    pub fn set_versioning(&self, versioned: bool) {
        self.store.set_versioning(versioned);
    }

    /// The default retention of objects that are written from now on. None at the start. As on AWS,
    /// it requires versioning.
    pub fn set_object_lock(&self, mode: Option<RetentionMode>) {
        self.store.set_object_lock(mode);
    }

    /// The duration of the default retention for objects that are written from now on, in days. 1
    /// at the start.
    pub fn set_retention_days(&self, days: u32) {
        self.store.set_retention_days(days);
    }

    /// The lifecycle configuration that the bucket returns, in the form of the `aws` command. None
    /// at the start. The server does not act on it.
    ///
    /// # Panics
    ///
    /// If the document is not a lifecycle configuration, or contains something that this server
    /// does not know.
    pub fn set_lifecycle(&self, document: Option<&str>) {
        self.store.set_lifecycle(document);
    }

    /// The policies of the bucket and of the credentials, in IAM's language. `None`, as at the
    /// start, allows everything.
    ///
    /// # Panics
    ///
    /// If a document is not a policy, or contains something that this server does not evaluate.
    pub fn set_policies(&self, documents: Option<&[&str]>) {
        self.backend.policies.set(documents);
    }

    /// The role that STS gives to the server's keys, and the external id that it requires. From now
    /// on the bucket refuses the keys themselves, as those of another account. STS is at
    /// [`endpoint`](Self::endpoint), with `POST /`. No role at the start.
    pub fn set_role(&self, arn: &str, external_id: Option<&str>) {
        self.backend.sts.set_role(arn, external_id);
    }

    /// From now on, the bucket refuses all sessions that STS has given so far as expired.
    pub fn expire_sessions(&self) {
        self.backend.sts.expire();
    }

    /// The sessions that STS has given, in order.
    pub fn sessions(&self) -> Vec<Session> {
        self.backend.sts.sessions()
    }

    /// How far the server's clock is ahead of the host's, in seconds. Beyond 15 minutes requests
    /// are refused. 0 at the start.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.store.set_clock_offset(seconds);
    }

    /// Closes the port and cuts every open connection, keeping the data. Does nothing if already
    /// paused.
    ///
    /// On return, new connections are refused, and no request of an earlier connection can still
    /// change the store. A request in flight has taken effect completely or not at all.
    pub async fn pause(&self) {
        let running = self.running.lock().expect("no panic under this lock").take();
        if let Some(Running { stop, task }) = running {
            drop(stop);
            task.await.expect("the accepting task does not panic");
        }
    }

    /// Reopens the same port after [`pause`](Self::pause). Does nothing if it is open.
    ///
    /// # Panics
    ///
    /// If the port cannot be opened.
    pub async fn resume(&self) {
        let mut running = self.running.lock().expect("no panic under this lock");
        if running.is_none() {
            let listener =
                bind(self.address).listen(BACKLOG).expect("the port is reserved for this server");
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(accept(listener, self.backend.clone(), stopped));
            *running = Some(Running { stop, task });
        }
    }

    /// Stops the server. Returns once the port is closed and every connection is cut.
    pub async fn stop(self) {
        self.pause().await;
    }
}

/// Binds without listening. Two sockets of one server share its port: the reservation, and one that
/// listens.
fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket can be opened");
    socket.set_reuseaddr(true).expect("a fresh socket takes this option");
    #[cfg(unix)]
    socket.set_reuseport(true).expect("a fresh socket takes this option");
    socket.bind(address).expect("a loopback port can be bound");
    socket
}

/// Accepts until `stopped` resolves, then closes the port and waits until every connection is gone.
async fn accept(listener: TcpListener, backend: Arc<Backend>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                // An error only concerns a connection that its client has abandoned.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection::serve(backend.clone(), stream));
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}
