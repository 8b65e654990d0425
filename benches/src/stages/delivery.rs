//! From lines to objects, and from callers to groups.

use std::hint::black_box;
use std::path::Path;

use audit_core::Batch;
use audit_journal::bench_internals::{Appender, encode_batch};
use audit_sink_s3::bench_internals::ObjectEncoder;
use bytes::Bytes;

use crate::contest::{Contest, Side, Target};
use crate::rivals::RawLog;

/// The number of lines of 1.2 KB in an object of 8 MiB.
const COUNT: u64 = 6_600;

/// The compression level of objects.
pub const ZSTD_LEVEL: i32 = 3;

/// The contests, with files below this directory.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let lines = Bytes::from(super::lines(COUNT));
    let mut encoder = ObjectEncoder::new();
    let alone = lines.clone();
    let ours = Side::call("object", move || {
        black_box(encoder.encode(black_box(&lines), COUNT));
    });
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("zstd");
    let zstd = Side::call("zstd alone", move || {
        black_box(compressor.compress(black_box(&alone)).expect("zstd"));
    });
    let encoding = Contest::new("encode an object of 8 MiB", ours)
        .against(zstd)
        .target(Target::TimesAsFast(0.9))
        .every(4);

    let batch = Batch::from_lines(0, super::record().into()).expect("a line");
    let copied = batch.clone();
    let encoded = Side::call("header and checksums", move || {
        black_box(encode_batch(black_box(&batch).clone()));
    });
    let checksum = Side::call("checksum alone", move || {
        black_box(crc32c::crc32c(black_box(copied.lines())));
    });

    let group: Vec<_> =
        (0..64).map(|_| Batch::from_lines(0, super::record().into()).expect("a line")).collect();
    let bytes: Vec<u8> = group.iter().flat_map(|batch| batch.lines().to_vec()).collect();
    let mut appender = Appender::create(&directory.join("appender"), 64 << 20).expect("a segment");
    let appended = Side::call("journal", move || appender.append(black_box(&group)));
    let mut raw = RawLog::create(&directory.join("raw-appended"), 64 << 20);
    let written = Side::call("write", move || raw.write(black_box(&bytes)));
    vec![
        encoding,
        Contest::new("encode a batch of 1.2 KB", encoded).against(checksum),
        Contest::new("append 64 batches of 1.2 KB, no sync", appended).against(written),
    ]
}
