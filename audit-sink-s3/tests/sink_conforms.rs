//! The sink keeps the contract of `AuditSink` on every kind of store, in each compression.
//!
//! In memory it proves the logic, in a directory that nothing depends on metadata, on the test
//! server that it does so through HTTP with signatures and checksums.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{AuditSink, Durability, async_trait};
use audit_sink_s3::{Bucket, Compression, JournalSettings, S3Sink, Settings};
use object_store::memory::InMemory;
use s3_testserver::S3TestServer;
use support::Checker;

fn settings(compression: Compression) -> Settings {
    Settings { compression, linger_ms: 2, ..Settings::default() }
}

async fn open(bucket: Bucket, compression: Compression) -> Arc<dyn AuditSink> {
    Arc::new(S3Sink::builder(bucket).with_settings(settings(compression)).open().await.unwrap())
}

struct Memory(Arc<InMemory>, Compression, Checker);

#[async_trait]
impl Destination for Memory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        open(support::bucket_in(&self.0, "logs"), self.1).await
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.2.check("logs/", &support::read_store(&*self.0).await).unwrap()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }
}

fn memory(compression: Compression) -> Memory {
    Memory(Arc::default(), compression, Checker::default())
}

struct Directory(tempfile::TempDir, Checker);

#[async_trait]
impl Destination for Directory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let url = url::Url::from_directory_path(self.0.path().join("made/on/demand")).unwrap();
        Arc::new(S3Sink::open(url.as_str(), settings(Compression::Zstd)).await.unwrap())
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.check("made/on/demand/", &support::read_directory(self.0.path())).unwrap()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }
}

struct Server(S3TestServer, Checker);

#[async_trait]
impl Destination for Server {
    async fn open(&self) -> Arc<dyn AuditSink> {
        open(support::bucket_on(&self.0, "audit/logs"), Compression::Zstd).await
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.check("audit/logs/", &support::read_server(&self.0)).unwrap()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }
}

/// With a journal for each opening, in front of the server.
struct Journaled(S3TestServer, Checker, tempfile::TempDir, AtomicU32);

#[async_trait]
impl Destination for Journaled {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let directory = self.2.path().join(self.3.fetch_add(1, Ordering::Relaxed).to_string());
        let journal = JournalSettings { cut_after_ms: 20, ..JournalSettings::new(directory) };
        let settings = Settings { journal: Some(journal), ..Settings::default() };
        let bucket = support::bucket_on(&self.0, "audit/logs");
        Arc::new(S3Sink::builder(bucket).with_settings(settings).open().await.unwrap())
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.1.check("audit/logs/", &support::read_server(&self.0)).unwrap()
    }

    fn durability(&self) -> Durability {
        Durability::Journaled
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let server = S3TestServer::start().await;
    conformance::run(&Journaled(server, Checker::default(), directory, AtomicU32::new(0))).await;
}

#[tokio::test]
async fn in_memory_with_zstd() {
    conformance::run(&memory(Compression::Zstd)).await;
}

#[tokio::test]
async fn in_memory_with_gzip() {
    conformance::run(&memory(Compression::Gzip)).await;
}

#[tokio::test]
async fn in_memory_without_compression() {
    conformance::run(&memory(Compression::None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_on_several_threads() {
    conformance::run(&memory(Compression::Zstd)).await;
}

#[tokio::test]
async fn in_a_directory() {
    conformance::run(&Directory(tempfile::tempdir().unwrap(), Checker::default())).await;
}

#[tokio::test]
async fn on_a_server() {
    conformance::run(&Server(S3TestServer::start().await, Checker::default())).await;
}
