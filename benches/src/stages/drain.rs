//! The rate at which a backlog is delivered to a server, compared with the rate at which a plain
//! client stores the same objects, already encoded, and the rate at which all free cores encode
//! them.
//!
//! The server, the baselines and the drain are processes of their own, and share the machine: the
//! cores that are free are those that the server leaves during the drain.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_sink_s3::bench_internals::ObjectEncoder;
use audit_sink_s3::{Bucket, S3Sink};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStore, PutMode, PutPayload};
use s3_testserver::{Fault, S3TestServer};
use tokio::time::Instant;

use super::backlog::peak_memory;
use super::receiver;
use super::release::{open_undelivered, processor_time, tokio_runtime, undelivered};

/// How long the server takes to respond.
pub const RESPONDS_IN: Duration = Duration::from_millis(80);

/// The number of concurrent requests of the plain client.
const AT_ONCE: usize = 16;

/// The bytes of lines in an object, and so in a piece of a backlog.
const OBJECT_BYTES: usize = 8 << 20;

/// The size of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// 1.2 KB.
    Small,
    /// 250 KB: the logs of 208 documents as one.
    Large,
}

impl Logs {
    /// Both sizes.
    pub const ALL: [Logs; 2] = [Logs::Small, Logs::Large];

    /// The size in words, as an argument of a process.
    pub fn as_str(self) -> &'static str {
        match self {
            Logs::Small => "1.2KB",
            Logs::Large => "250KB",
        }
    }

    /// The size that [`as_str`](Self::as_str) returned.
    pub fn parse(text: &str) -> Option<Logs> {
        Logs::ALL.into_iter().find(|logs| logs.as_str() == text)
    }

    /// The `n`th batch, as one line or many. No two have the same content.
    fn batch(self, n: u64) -> Vec<u8> {
        match self {
            Logs::Small => super::lines_from(n * 64, 64),
            Logs::Large => {
                let mut line = b"{\"documents\":[".to_vec();
                for document in super::lines_from(n * 208, 208).split(|byte| *byte == b'\n') {
                    if !document.is_empty() {
                        line.extend_from_slice(document);
                        line.push(b',');
                    }
                }
                line.pop();
                line.extend_from_slice(b"]}\n");
                line
            }
        }
    }

    /// The batches of a backlog of this many MiB, in their order.
    fn batches(self, mib: u64) -> impl Iterator<Item = Vec<u8>> {
        let mut left = mib << 20;
        (0..).map_while(move |n| {
            let batch = (left > 0).then(|| self.batch(n))?;
            left = left.saturating_sub(batch.len() as u64);
            Some(batch)
        })
    }

    /// The lines of a backlog of this many MiB, divided into objects.
    fn objects(self, mib: u64) -> Vec<Vec<u8>> {
        let mut objects = vec![Vec::with_capacity(OBJECT_BYTES)];
        for batch in self.batches(mib) {
            let last = objects.last_mut().expect("not empty");
            if last.len() + batch.len() > OBJECT_BYTES && !last.is_empty() {
                objects.push(Vec::with_capacity(OBJECT_BYTES));
            }
            objects.last_mut().expect("not empty").extend_from_slice(&batch);
        }
        objects
    }
}

/// Serves an empty bucket, and a receiver of log streams, until standard input ends. Prints what
/// [`Served`] parses and, at the end, the processor time of this process in seconds.
pub fn serve() {
    tokio_runtime(2).block_on(async {
        let server = S3TestServer::start().await;
        server.faults().always(Fault::Slow { delay: RESPONDS_IN });
        println!(
            "{} {} {} {} {}",
            server.endpoint(),
            server.bucket(),
            server.access_key(),
            server.secret_key(),
            receiver::serve(RESPONDS_IN).await
        );
        // An error of standard input ends the server as well.
        let _ = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await;
        println!("{}", processor_time().as_secs_f64());
    });
}

/// A server in another process: its endpoint, bucket, access key, secret key and, if it has one,
/// the URL of its receiver.
#[derive(Debug, Clone)]
pub struct Served(Vec<String>);

impl Served {
    /// Parses the line that [`serve`] printed.
    pub fn parse(line: &str) -> Served {
        Served(line.split_whitespace().map(str::to_owned).collect())
    }

    /// The same as arguments of a process.
    pub fn arguments(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    fn parts(&self) -> [&str; 4] {
        self.arguments()[..4].try_into().expect("what the server prints")
    }

    /// The server's bucket with this prefix, as a host opens it.
    pub(super) fn bucket(&self, prefix: &str) -> Bucket {
        let [endpoint, bucket, access_key, secret_key] = self.parts();
        let options = [
            ("aws_endpoint", endpoint),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", access_key),
            ("aws_secret_access_key", secret_key),
        ];
        Bucket::open_with(&format!("s3://{bucket}/{prefix}"), options).expect("a bucket")
    }

    /// The URL of the receiver, or of one that accepts connections and never answers.
    pub(super) fn receiver(&self, is_dead: bool) -> String {
        let url = self.0.get(4).expect("a server with a receiver");
        format!("{url}{}", if is_dead { receiver::SILENT } else { "/" })
    }
}

/// Fills a journal with this many MiB, none of which is delivered or encoded.
pub fn fill(directory: &Path, logs: Logs, mib: u64) {
    tokio_runtime(2).block_on(async {
        let sink = open_undelivered(directory).await;
        let persisted = stream::iter(logs.batches(mib)).map(|lines| {
            let batch = Batch::from_lines(0, lines.into()).expect("lines");
            let sink = Arc::clone(&sink);
            async move { sink.persist(batch).await }
        });
        let persisted = persisted.buffered(64);
        persisted.for_each(|receipt| async move { assert!(receipt.is_ok(), "{receipt:?}") }).await;
    });
    // Some objects were planned meanwhile and never sent. Without their files, they are cut again.
    for file in std::fs::read_dir(directory).expect("a journal") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "object") {
            std::fs::remove_file(path).expect("a file");
        }
    }
}

/// The baselines. Rates are in bytes of lines a second.
#[derive(Debug, Clone, Copy)]
pub struct Baselines {
    /// The rate at which all cores encode.
    pub encode: f64,
    /// The rate at which a plain client stores the encoded objects.
    pub store: f64,
    /// The size of the encoded objects, in bytes.
    pub encoded: f64,
}

/// Measures the baselines for a backlog of this many MiB.
pub fn baselines(served: &Served, logs: Logs, mib: u64) -> Baselines {
    let lines = logs.objects(mib);
    let bytes: usize = lines.iter().map(Vec::len).sum();
    let began = Instant::now();
    let objects = encode(&lines);
    let encode = bytes as f64 / began.elapsed().as_secs_f64();
    let encoded = objects.iter().map(|object| object.content_length() as f64).sum();
    let [endpoint, bucket, access_key, secret_key] = served.parts();
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_checksum_algorithm(object_store::aws::Checksum::SHA256)
        .build()
        .expect("a store");
    let store = &store;
    let took = tokio_runtime(2).block_on(async {
        let began = Instant::now();
        let puts = objects.into_iter().enumerate().map(|(n, object)| async move {
            store.put_opts(&Key::from(format!("plain/{n}")), object, PutMode::Create.into()).await
        });
        let stored =
            stream::iter(puts).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) });
        stored.await.expect("a server");
        began.elapsed()
    });
    Baselines { encode, store: bytes as f64 / took.as_secs_f64(), encoded }
}

/// Encodes these objects on all cores.
fn encode(lines: &[Vec<u8>]) -> Vec<PutPayload> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, objects) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut encoder = ObjectEncoder::new();
                while let Some(lines) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let object = encoder.encode(lines, 1);
                    objects.lock().unwrap_or_else(PoisonError::into_inner).push(object);
                }
            });
        }
    });
    objects.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Delivers everything. Returns the time in seconds without the opening, and the peak memory of
/// this process in MiB.
pub fn drain(served: &Served, directory: &Path) -> (f64, f64) {
    tokio_runtime(2).block_on(async {
        let opening =
            S3Sink::builder(served.bucket("drained")).with_settings(undelivered(directory));
        let sink = opening.open().await.expect("a journal");
        let began = Instant::now();
        sink.flush().await.expect("a bucket");
        (began.elapsed().as_secs_f64(), peak_memory())
    })
}
