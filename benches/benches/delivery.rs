//! From lines to the bucket.
//!
//! - `encode`: lines into an object of 8 MiB. Physical: zstd alone at the same level, the hash
//!   alone, and memcpy.
//! - `end_to_end`: a thousand logs of 1.2 KB from the call of `persist` until they are in a bucket
//!   in memory. Null: the sink that discards. Physical: zstd of the same bytes, written and synced
//!   twice, as the journal and the plan of the object are.
#![allow(missing_docs, reason = "made by the macros of criterion")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::PathBuf;

use audit_benches::rivals::RawLog;
use audit_benches::stages::delivery::ZSTD_LEVEL;
use audit_benches::stages::release::{tokio_runtime, undelivered};
use audit_core::{AuditSink, Batch};
use audit_sink_null::NullSink;
use audit_sink_s3::bench_internals::ObjectEncoder;
use audit_sink_s3::{Bucket, S3Sink};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

fn encode(criterion: &mut Criterion) {
    const COUNT: u64 = 6_600;
    let lines = Bytes::from(audit_benches::stages::lines(COUNT));
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(20).throughput(Throughput::Bytes(lines.len() as u64));
    let mut encoder = ObjectEncoder::new();
    group.bench_function("object", |b| b.iter(|| encoder.encode(black_box(&lines), COUNT)));
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).unwrap();
    group.bench_function("zstd", |b| b.iter(|| compressor.compress(black_box(&lines)).unwrap()));
    group.bench_function("sha256", |b| b.iter(|| Sha256::digest(black_box(&lines))));
    group.bench_function("memcpy", |b| b.iter(|| black_box(&lines).to_vec()));
    group.finish();
}

fn end_to_end(criterion: &mut Criterion) {
    const COUNT: u64 = 1_000;
    let root = std::env::var_os("AUDIT_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let directory = tempfile::tempdir_in(root).unwrap();
    let runtime = tokio_runtime(2);
    let batch = Batch::from_lines(0, audit_benches::stages::lines(COUNT).into()).unwrap();
    let opening = S3Sink::builder(Bucket::open("memory:///").unwrap());
    let opening = opening.with_settings(undelivered(&directory.path().join("journal")));
    let sink = runtime.block_on(opening.open()).unwrap();

    let mut group = criterion.benchmark_group("end_to_end");
    group.sample_size(20).throughput(Throughput::Elements(COUNT));
    let bring = |sink: &dyn AuditSink| {
        runtime.block_on(async {
            sink.persist(batch.clone()).await.unwrap();
            sink.flush().await.unwrap();
        });
    };
    group.bench_function("journal", |b| b.iter(|| bring(&sink)));
    group.bench_function("null", |b| b.iter(|| bring(&NullSink::new())));
    let mut raw = RawLog::create(&directory.path().join("raw"), 64 << 20);
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).unwrap();
    group.bench_function("write_zstd_write", |b| {
        b.iter(|| {
            raw.append(batch.lines());
            raw.append(&compressor.compress(batch.lines()).unwrap());
        });
    });
    group.finish();
}

criterion_group!(suite, encode, end_to_end);
criterion_main!(suite);
