//! A journal with a backlog: the time to recover it, and the time and memory to drain it.
//!
//! Each step is a separate process, so that its memory and its first read are its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_sink_s3::S3Sink;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::release::{open_undelivered, tokio_runtime, undelivered};
use crate::store::FarStore;

/// The latency of the bucket while the backlog is drained, as in another region.
const FAR: Duration = Duration::from_millis(300);

/// Fills a journal with this many MiB, none of which is delivered.
pub fn fill(directory: &Path, mib: u64) {
    tokio_runtime(2).block_on(async {
        let sink = open_undelivered(directory).await;
        // Each batch holds the records of 64 requests.
        let lines = super::lines(64);
        let batches = (mib << 20) / lines.len() as u64;
        let batch = Batch::from_lines(0, lines.into()).expect("lines");
        let persisted = stream::iter(0..batches).map(|_| sink.persist(batch.clone())).buffered(64);
        persisted.for_each(|receipt| async move { assert!(receipt.is_ok(), "{receipt:?}") }).await;
    });
}

/// Opens the journal. Returns the time in seconds.
pub fn recover(directory: &Path) -> f64 {
    tokio_runtime(2).block_on(async {
        let began = Instant::now();
        let sink = open_undelivered(directory).await;
        let took = began.elapsed().as_secs_f64();
        drop(sink);
        took
    })
}

/// Only reads the journal's files. Returns the time in seconds.
pub fn read(directory: &Path) -> f64 {
    let mut memory = vec![0; 1 << 20];
    let began = Instant::now();
    for path in segments(directory) {
        let mut file = std::fs::File::open(path).expect("a segment");
        while std::io::Read::read(&mut file, &mut memory).expect("a disk that works") > 0 {}
    }
    began.elapsed().as_secs_f64()
}

/// Drops the journal's files from the page cache. Returns false if that fails.
pub fn forget(directory: &Path) -> bool {
    segments(directory).all(|path| {
        let mut input = std::ffi::OsString::from("if=");
        input.push(path);
        let dd = Command::new("dd")
            .arg(input)
            .args(["iflag=nocache", "count=0", "status=none"])
            .status();
        dd.is_ok_and(|status| status.success())
    })
}

fn segments(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    let files =
        std::fs::read_dir(directory).expect("a journal").map(|entry| entry.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"))
}

/// Delivers everything. Returns the time in seconds and the peak memory of this process in MiB.
pub fn drain(directory: &Path) -> (f64, f64) {
    tokio_runtime(2).block_on(async {
        let began = Instant::now();
        let opening = S3Sink::builder(FarStore::bucket(FAR)).with_settings(undelivered(directory));
        let sink = opening.open().await.expect("a journal");
        sink.persist(super::commit::batch()).await.expect("room");
        sink.flush().await.expect("a bucket");
        (began.elapsed().as_secs_f64(), peak_memory())
    })
}

/// The peak memory of this process in MiB. NaN if the system does not report it.
pub fn peak_memory() -> f64 {
    memory("VmHWM:")
}

/// The amount of this process's memory in the line of `/proc/self/status` that begins with `name`,
/// in MiB.
pub(super) fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
