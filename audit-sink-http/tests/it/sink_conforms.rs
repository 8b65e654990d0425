//! The sink keeps the contract of `AuditSink`, in both modes, with faults of the network and the
//! receiver.

use std::sync::Arc;

use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{AuditSink, Durability, async_trait};
use audit_sink_http::{Format, HttpSink, JournalSettings, OpenErrorKind, Settings};

use crate::receiver::{Fault, Receiver};

const FAULTS: [Fault; 8] = [
    Fault::Answer(500, "\r\n"),
    Fault::Answer(503, "retry-after: 0\r\n"),
    Fault::Answer(429, "\r\n"),
    // Blocked until an operator acts, which has happened by the next request.
    Fault::Answer(403, "\r\n"),
    Fault::Answer(302, "location: /elsewhere\r\n"),
    Fault::Lost,
    Fault::Dropped,
    // A request that ends at its time limit, and is retried.
    Fault::Hangs,
];

/// As for the receiver, except that the suite's largest batch is one record.
fn settings(receiver: &Receiver, format: Format) -> Settings {
    Settings {
        // Reading the largest batch takes a while on a busy machine.
        persist_timeout_ms: 600_000,
        request_timeout_ms: 120_000,
        max_request_bytes: Some(64 << 20),
        max_record_bytes: Some(64 << 20),
        ..receiver.settings(format)
    }
}

struct Direct(Receiver, Format);

#[async_trait]
impl Destination for Direct {
    async fn open(&self) -> Arc<dyn AuditSink> {
        Arc::new(HttpSink::open(settings(&self.0, self.1)).await.unwrap())
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.0.stored()
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }

    async fn fault(&self, number: u32) -> bool {
        let mut faults = FAULTS.to_vec();
        faults.pop();
        // *Not persisted*: it was rejected.
        faults.push(Fault::Answer(400, "\r\n"));
        let fault = faults.get(number as usize).cloned();
        fault.inspect(|fault| self.0.script([fault.clone()])).is_some()
    }
}

struct Journaled(Receiver, tempfile::TempDir);

#[async_trait]
impl Destination for Journaled {
    /// In the first directory that no open sink uses.
    async fn open(&self) -> Arc<dyn AuditSink> {
        for number in 0.. {
            let directory = self.1.path().join(number.to_string());
            let journal = JournalSettings {
                cut_after_ms: 5,
                segment_bytes: 33 << 20,
                ..JournalSettings::new(directory)
            };
            let settings = Settings {
                journal: Some(journal),
                dead_letters: Some(self.1.path().join("dead-letters")),
                request_timeout_ms: 2_000,
                ..settings(&self.0, Format::Ndjson)
            };
            match HttpSink::open(settings).await {
                Ok(sink) => return Arc::new(sink),
                Err(error) => assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error:?}"),
            }
        }
        unreachable!("there are more numbers than open sinks")
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        self.0.stored()
    }

    fn durability(&self) -> Durability {
        Durability::Journaled
    }

    async fn fault(&self, number: u32) -> bool {
        let fault = FAULTS.get(number as usize);
        fault.inspect(|fault| self.0.script([(*fault).clone()])).is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_sinks_conform() {
    conformance::run(&Direct(Receiver::start().await, Format::Webhook)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_conform() {
    conformance::run(&Journaled(Receiver::start().await, tempfile::tempdir().unwrap())).await;
}
