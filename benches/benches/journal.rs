//! The path into the journal, step by step.
//!
//! - `batch`: the caller's work for a batch. Null: cloning the batch. Physical: the checksum
//!   of its bytes, and memcpy.
//! - `append`: a group of 64 batches, without a sync. Physical: a write of the same bytes.
//! - `commit`: one durable commit by one caller. Physical: write and `fdatasync` of the same bytes.
//!   Rival: SQLite.
//! - `commits`: durable commits by 64 callers. Rival: SQLite, one insert per commit.
//!
//! The files are below the directory that `AUDIT_BENCH_DIR` names, or the build's own: it should be
//! on the disk to measure.
#![allow(missing_docs, reason = "made by the macros of criterion")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::PathBuf;

use audit_benches::rivals::{RawLog, SqliteLog};
use audit_benches::stages::commit::{CALLERS, all_commit, batch};
use audit_benches::stages::release::{open_undelivered, tokio_runtime};
use audit_core::AuditSink;
use audit_journal::bench_internals::{Appender, encode_batch};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn directory() -> tempfile::TempDir {
    let root = std::env::var_os("AUDIT_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    tempfile::tempdir_in(root).unwrap()
}

fn steps(criterion: &mut Criterion) {
    let batch = batch();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(1));
    group.bench_function("journal", |b| b.iter(|| encode_batch(black_box(&batch).clone())));
    group.bench_function("null", |b| b.iter(|| black_box(&batch).clone()));
    group.bench_function("checksum", |b| b.iter(|| crc32c::crc32c(black_box(batch.lines()))));
    group.bench_function("memcpy", |b| b.iter(|| black_box(batch.lines()).to_vec()));
    group.finish();

    let directory = directory();
    let batches = vec![batch.clone(); 64];
    let bytes = batch.lines().repeat(batches.len());
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(batches.len() as u64));
    let mut appender = Appender::create(&directory.path().join("appender"), 64 << 20).unwrap();
    group.bench_function("journal", |b| b.iter(|| appender.append(black_box(&batches))));
    let mut raw = RawLog::create(&directory.path().join("raw"), 64 << 20);
    group.bench_function("write", |b| b.iter(|| raw.write(black_box(&bytes))));
    group.finish();
}

fn commits(criterion: &mut Criterion) {
    let (runtime, directory, batch) = (tokio_runtime(2), directory(), batch());
    let record = audit_benches::stages::record();
    let sink = runtime.block_on(open_undelivered(&directory.path().join("journal")));
    let mut raw = RawLog::create(&directory.path().join("raw"), 64 << 20);
    let sqlite = SqliteLog::create(&directory.path().join("sqlite")).unwrap();

    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("journal", |b| {
        b.iter(|| runtime.block_on(sink.persist(batch.clone())).unwrap())
    });
    group.bench_function("write_fdatasync", |b| b.iter(|| raw.append(batch.lines())));
    group.bench_function("sqlite", |b| b.iter(|| sqlite.append(&record)));
    group.finish();

    const EACH: usize = 16;
    let mut group = criterion.benchmark_group("commits");
    group.throughput(Throughput::Elements((CALLERS * EACH) as u64));
    group.bench_function("journal", |b| {
        b.iter(|| runtime.block_on(all_commit(&sink, &batch, EACH)))
    });
    group.throughput(Throughput::Elements(16));
    group.bench_function("sqlite", |b| b.iter(|| (0..16).for_each(|_| sqlite.append(&record))));
    group.finish();
}

criterion_group!(suite, steps, commits);
criterion_main!(suite);
