//! The sink keeps the contract of `AuditSink` on every kind of store, in each compression.
//!
//! In memory this tests the logic, in a directory independence of metadata, and on the test server
//! HTTP with signatures and checksums.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::support;
use crate::support::gated_store::{Gate, GatedStore};
use crate::support::{Checker, Objects, TIME_MS, batch};
use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{AuditSink, Batch, Durability, Receipt, SinkError, async_trait};
use audit_sink_s3::layout::{Compression, ObjectKey};
use audit_sink_s3::{Bucket, OpenErrorKind, S3Route, S3Sink, Settings};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer, StoredObject};

async fn open(bucket: Bucket, compression: Compression) -> S3Sink {
    // One object at a time: while the bucket does not respond, the next one is not sent.
    let settings = Settings {
        compression,
        linger_ms: 2,
        max_in_flight: 1,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 8,
        ..Settings::default()
    };
    S3Sink::builder(bucket).with_settings(settings).open().await.unwrap()
}

/// The sink opened last, and foreign objects under its keys.
#[derive(Default)]
struct Opened {
    sink: Mutex<Option<Arc<S3Sink>>>,
    foreign: Mutex<BTreeSet<String>>,
    checker: Checker,
}

const FOREIGN: &str = "not an object of the sink";

impl Opened {
    fn set(&self, sink: S3Sink) -> Arc<S3Sink> {
        let sink = Arc::new(sink);
        *self.sink.lock().unwrap() = Some(Arc::clone(&sink));
        sink
    }

    fn sink(&self) -> Arc<S3Sink> {
        self.sink.lock().unwrap().clone().unwrap()
    }

    /// The key of the suite's next batch, which follows a batch of two records. Marks the object
    /// with this key as foreign.
    fn foreign_key(&self, compression: Compression) -> String {
        let key = ObjectKey::new(TIME_MS, self.sink().stream(), 2, compression).to_string();
        self.foreign.lock().unwrap().insert(key.clone());
        key
    }

    fn records(&self, prefix: &str, mut objects: Objects) -> Vec<StoredRecord> {
        for key in &*self.foreign.lock().unwrap() {
            let foreign = objects.remove(&format!("{prefix}{key}")).unwrap();
            assert_eq!(foreign.bytes, FOREIGN, "a foreign object is left alone");
        }
        self.checker.check(prefix, &objects).unwrap()
    }
}

/// A store with gated requests, in paused time.
struct Memory {
    store: Arc<GatedStore>,
    compression: Compression,
    /// Whether time is paused: faults last until a deadline.
    is_paused: bool,
    opened: Opened,
}

/// A sink whose bucket recovers when it is closed.
struct Recovering(Arc<S3Sink>, Arc<GatedStore>);

#[async_trait]
impl AuditSink for Recovering {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        self.0.persist(batch).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.0.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.1.set(Gate::Open);
        self.0.close().await
    }
}

impl fmt::Display for Recovering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recovering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Destination for Memory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let sink = open(support::bucket_of(&self.store, "logs"), self.compression).await;
        Arc::new(Recovering(self.opened.set(sink), Arc::clone(&self.store)))
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.opened.records("logs/", support::read_store(&**self.store.inner()).await)
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        match number {
            _ if !self.is_paused => return false,
            // *Not persisted*: another object has its key.
            0 => {
                let key = self.opened.foreign_key(self.compression);
                let path = Path::from(format!("logs/{key}"));
                self.store.inner().put(&path, PutPayload::from(FOREIGN)).await.unwrap();
            }
            // *Not persisted*: it was not sent in time.
            1 => {
                self.store.set(Gate::Closed);
                let (sink, puts) = (self.opened.sink(), self.store.puts());
                tokio::spawn(async move { sink.persist(batch("in flight", 1)).await });
                self.store.arrived(puts + 1).await;
            }
            // *Indeterminate*: it was sent, and is answered too late.
            2 => self.store.set(Gate::Closed),
            3 => self.store.set(Gate::Panics),
            _ => return false,
        }
        true
    }
}

fn memory(compression: Compression, is_paused: bool) -> Memory {
    Memory { store: GatedStore::detached(), compression, is_paused, opened: Opened::default() }
}

struct Directory(tempfile::TempDir, Opened);

impl Directory {
    const BUCKET: &str = "made/on/demand";
}

#[async_trait]
impl Destination for Directory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let url = url::Url::from_directory_path(self.0.path().join(Directory::BUCKET)).unwrap();
        self.1.set(open(Bucket::open(url.as_str()).unwrap(), Compression::Zstd).await)
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        let objects = support::read_directory(self.0.path());
        self.1.records(&format!("{}/", Directory::BUCKET), objects)
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        if number > 0 {
            return false;
        }
        let bucket = self.0.path().join(Directory::BUCKET);
        std::fs::write(bucket.join(self.1.foreign_key(Compression::Zstd)), FOREIGN).unwrap();
        true
    }
}

/// A fault of one request, which the sink retries.
const FAULTS: [Fault; 8] = [
    Fault::Refused(ErrorAnswer::SLOW_DOWN),
    Fault::Refused(ErrorAnswer::ACCESS_DENIED),
    Fault::Refused(ErrorAnswer::CONDITIONAL_REQUEST_CONFLICT),
    Fault::StoredThenError(ErrorAnswer::INTERNAL_ERROR),
    Fault::StoredThenCut,
    Fault::CutInBody,
    Fault::CutInResponse { after_bytes: 50 },
    Fault::Early412,
];

/// Injects the fault of this number into the server's next PUT, if there is one.
fn fail_next_put(server: &S3TestServer, number: u32) -> bool {
    let fault = FAULTS.get(number as usize);
    server.faults().next_puts(fault.copied());
    fault.is_some()
}

struct Server(S3TestServer, Opened);

#[async_trait]
impl Destination for Server {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let bucket = support::bucket_on(&self.0, "audit/logs");
        self.1.set(open(bucket, Compression::Zstd).await)
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.records("audit/logs/", support::read_server(&self.0))
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        if number as usize == FAULTS.len() {
            let key = format!("audit/logs/{}", self.1.foreign_key(Compression::Zstd));
            let bytes = Bytes::from_static(FOREIGN.as_bytes());
            self.0.put_object(&key, StoredObject { bytes, ..StoredObject::default() });
            return true;
        }
        fail_next_put(&self.0, number)
    }
}

/// With a journal, in the first directory that no open sink uses: each takes the disk space of two
/// segments.
struct Journaled(S3TestServer, Checker, tempfile::TempDir);

impl Journaled {
    async fn open_on(&self, bucket: impl Fn() -> Bucket) -> S3Sink {
        for number in 0.. {
            let directory = self.2.path().join(number.to_string());
            let journal = support::journal(directory, 20);
            let settings = Settings {
                journal: Some(journal),
                blocked_retry_cap_ms: 50,
                ..Settings::default()
            };
            match S3Sink::builder(bucket()).with_settings(settings).open().await {
                Ok(sink) => return sink,
                Err(error) => assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error:?}"),
            }
        }
        unreachable!("there are more numbers than open sinks")
    }
}

#[async_trait]
impl Destination for Journaled {
    async fn open(&self) -> Arc<dyn AuditSink> {
        Arc::new(self.open_on(|| support::bucket_on(&self.0, "audit/logs")).await)
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.check("audit/logs/", &support::read_server(&self.0)).unwrap()
    }

    fn durability(&self) -> Durability {
        Durability::Journaled
    }

    async fn fault(&self, number: u32) -> bool {
        fail_next_put(&self.0, number)
    }
}

async fn journals_on(server: S3TestServer) {
    let directory = tempfile::tempdir().unwrap();
    let journaled = Journaled(server, Checker::default(), directory);
    conformance::run(&journaled).await;
    assert_eq!(journaled.0.faults().fired(), FAULTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_conform() {
    journals_on(S3TestServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_conform_on_gcs() {
    journals_on(S3TestServer::start_gcs().await).await;
}

/// A route of a sink whose own bucket is another one.
struct Routed(Journaled);

#[derive(Debug)]
struct RouteAndSink(S3Route, S3Sink);

#[async_trait]
impl AuditSink for RouteAndSink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        self.0.persist(batch).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        self.0.flush().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.0.close().await?;
        self.1.close().await
    }
}

impl fmt::Display for RouteAndSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Destination for Routed {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let sink = self.0.open_on(|| Bucket::open("memory:///").unwrap()).await;
        let bucket = support::bucket_on(&self.0.0, "audit/logs");
        let route = sink.open_route("customer", bucket).await.unwrap();
        Arc::new(RouteAndSink(route, sink))
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.0.stored().await
    }

    fn durability(&self) -> Durability {
        Durability::Journaled
    }

    async fn fault(&self, number: u32) -> bool {
        self.0.fault(number).await
    }
}

async fn routes_on(server: S3TestServer) {
    let directory = tempfile::tempdir().unwrap();
    let routed = Routed(Journaled(server, Checker::default(), directory));
    conformance::run(&routed).await;
    assert_eq!(routed.0.0.faults().fired(), FAULTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_conform() {
    routes_on(S3TestServer::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_conform_on_gcs() {
    routes_on(S3TestServer::start_gcs().await).await;
}

#[tokio::test(start_paused = true)]
async fn memory_with_zstd_conforms() {
    conformance::run(&memory(Compression::Zstd, true)).await;
}

#[tokio::test(start_paused = true)]
async fn memory_with_gzip_conforms() {
    conformance::run(&memory(Compression::Gzip, true)).await;
}

#[tokio::test(start_paused = true)]
async fn memory_without_compression_conforms() {
    conformance::run(&memory(Compression::None, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_threads_conform() {
    conformance::run(&memory(Compression::Zstd, false)).await;
}

#[tokio::test]
async fn directories_conform() {
    conformance::run(&Directory(tempfile::tempdir().unwrap(), Opened::default())).await;
}

async fn on(server: S3TestServer) {
    let server = Server(server, Opened::default());
    conformance::run(&server).await;
    assert_eq!(server.0.faults().fired(), FAULTS);
}

#[tokio::test]
async fn servers_of_s3_conform() {
    on(S3TestServer::start().await).await;
}

#[tokio::test]
async fn servers_of_gcs_conform() {
    on(S3TestServer::start_gcs().await).await;
}
