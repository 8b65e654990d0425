//! An optional sink that is away for long is warned of once, and once more when it is back.
//!
//! A separate test binary: `tracing` caches the interest in each callsite for the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::{MemoryFault, MemorySink};
use audit_core::{AuditSink, Batch};
use audit_runtime::Tee;
use tokio::time::advance;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn taken(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(taken).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_of_an_optional_sink_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let (first, optional) = (Arc::new(MemorySink::new()), Arc::new(MemorySink::new()));
    let tee = Tee::new(first).with_optional(optional.clone());
    let persist = async || {
        let batch = Batch::from_lines(0, "{}\n".into()).unwrap();
        tee.persist(batch).await.unwrap();
        advance(Duration::from_secs(1)).await;
    };
    persist().await;
    assert!(log.taken().is_empty());

    optional.script([MemoryFault::FailBefore; 100]);
    for _ in 0..100 {
        persist().await;
    }
    let lines = log.taken();
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.contains("an optional audit sink misses records"), "{line}");

    for _ in 0..10 {
        persist().await;
    }
    let lines = log.taken();
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.contains("an optional audit sink takes records again"), "{line}");
    assert!(line.contains("others=99"), "{line}");
}
