//! One cached result with a log of 1.2 KB for 10,000 subscribers.
//!
//! - `discarded`: into the sink that discards: rendering, metering and calls. Null: a result
//!   without logs. Physical: memcpy of as many lines into new buffers of the size of a batch.
//! - `journaled`: into a journal. Its directory is in memory if possible, so that a sync costs
//!   nothing. Physical: a write of the same bytes to a file there.
#![allow(missing_docs, reason = "made by the macros of criterion")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use audit_benches::bodies::View;
use audit_benches::rivals::RawLog;
use audit_benches::stages::release::{cached, open_undelivered, subscribers, tokio_runtime};
use audit_benches::stages::templates::{Request, compiled};
use audit_runtime::AuditRuntime;
use audit_sink_null::NullSink;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn release(criterion: &mut Criterion) {
    const COUNT: u32 = 10_000;
    let (runtime, requests) = (tokio_runtime(1), subscribers(COUNT));
    let mut line = Vec::new();
    compiled(&View::of_one_kilobyte()).render(&Request::common().values(), &mut line);
    line.push(b'\n');

    let mut group = criterion.benchmark_group("discarded");
    group.sample_size(30).throughput(Throughput::Elements(COUNT.into()));
    let audited = cached(Arc::new(NullSink::new()));
    group.bench_function("release_all", |b| {
        b.iter(|| runtime.block_on(audited.release_all(&requests)).unwrap().is_some())
    });
    let without = AuditRuntime::new(Arc::new(NullSink::new())).query("documents:view").seal(());
    group.bench_function("null", |b| {
        b.iter(|| runtime.block_on(without.release_all(&requests)).unwrap().is_some())
    });
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            for _ in 0..3 {
                let mut out = Vec::with_capacity(4 << 20);
                (0..COUNT / 3).for_each(|_| out.extend_from_slice(black_box(&line)));
                black_box(out);
            }
        });
    });
    group.finish();

    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    let directory = tempfile::tempdir_in(root).unwrap();
    let sink = runtime.block_on(open_undelivered(&directory.path().join("journal")));
    let audited = cached(sink);
    let mut group = criterion.benchmark_group("journaled");
    group.sample_size(30).throughput(Throughput::Elements(COUNT.into()));
    group.bench_function("release_all", |b| {
        b.iter(|| runtime.block_on(audited.release_all(&requests)).unwrap().is_some())
    });
    let mut raw = RawLog::create(&directory.path().join("raw"), 64 << 20);
    let bytes = line.repeat(COUNT as usize / 4);
    group.bench_function("write", |b| b.iter(|| (0..4).for_each(|_| raw.write(&bytes))));
    group.finish();
}

criterion_group!(suite, release);
criterion_main!(suite);
