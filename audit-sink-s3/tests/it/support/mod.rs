//! A reader and checker of buckets, independent of the sink.
//!
//! It is written from the layout's documentation and shares no code with the writer.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by tests, each of which uses a part"
)]

pub mod child;
pub mod evidence;
pub mod gated_store;
pub mod store_double;
pub mod stub;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use audit_core::testing::StoredRecord;
use audit_core::{Batch, Receipt};
use audit_sink_s3::JournalSettings;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::TryStreamExt;
use object_store::{Attribute, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use self::store_double::{Double, StoreDouble};

/// An object in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub bytes: Bytes,
    /// `None` if the store keeps none.
    pub metadata: Option<BTreeMap<String, String>>,
}

pub type Objects = BTreeMap<String, Stored>;

/// All objects of an `object_store`, with their metadata.
pub async fn read_store(store: &dyn ObjectStore) -> Objects {
    let mut objects = Objects::new();
    for meta in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let found = store.get(&meta.location).await.unwrap();
        let mut metadata = BTreeMap::new();
        for (name, value) in &found.attributes {
            if let Attribute::Metadata(name) = name {
                metadata.insert(name.to_string(), value.to_string());
            }
        }
        let metadata = Some(metadata);
        let bytes = found.bytes().await.unwrap();
        objects.insert(meta.location.to_string(), Stored { bytes, metadata });
    }
    objects
}

/// All files below a directory, by their path in it.
pub fn read_directory(root: &Path) -> Objects {
    let mut objects = Objects::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let key = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                objects.insert(
                    key,
                    Stored { bytes: std::fs::read(path).unwrap().into(), metadata: None },
                );
            }
        }
    }
    objects
}

/// All objects of the test server, read from its memory.
pub fn read_server(server: &s3_testserver::S3TestServer) -> Objects {
    let objects = server.objects().into_iter();
    objects.map(|(key, o)| (key, Stored { bytes: o.bytes, metadata: Some(o.metadata) })).collect()
}

/// All records in the bucket, after checking that each object matches its key and metadata, and
/// that no record occurs twice.
pub fn check(prefix: &str, objects: &Objects) -> Result<Vec<StoredRecord>, String> {
    Checker::default().check(prefix, objects)
}

/// Caches checked objects, since hashing megabytes repeatedly is slow without optimization.
#[derive(Debug, Default)]
pub struct Checker(Mutex<BTreeMap<String, (Stored, Vec<StoredRecord>)>>);

impl Checker {
    /// As [`check`].
    pub fn check(&self, prefix: &str, objects: &Objects) -> Result<Vec<StoredRecord>, String> {
        let mut known = self.0.lock().unwrap();
        let mut records = Vec::new();
        let mut places = BTreeSet::new();
        for (key, object) in objects {
            let Some(rest) = key.strip_prefix(prefix) else {
                return Err(format!("{key} is outside of {prefix}"));
            };
            if rest.starts_with("_audit/") {
                continue;
            }
            if known.get(key).is_none_or(|(checked, _)| checked != object) {
                let found =
                    check_object(rest, object).map_err(|error| format!("{key}: {error}"))?;
                known.insert(key.clone(), (object.clone(), found));
            }
            for record in &known[key].1 {
                if !places.insert((record.stream, record.sequence)) {
                    return Err(format!(
                        "record {} of {} stands there twice",
                        record.sequence, record.stream
                    ));
                }
                records.push(record.clone());
            }
        }
        Ok(records)
    }
}

/// The lines of an object or a system object.
pub fn lines_of(key: &str, object: &Stored) -> Result<Vec<u8>, String> {
    match key.split_once(".ndjson") {
        Some((_, extension)) => decompress(extension, &object.bytes),
        None => Ok(object.bytes.to_vec()),
    }
}

fn decompress(extension: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    match extension {
        ".zst" => {
            let mut decoder = zstd::Decoder::with_buffer(&mut rest)
                .map_err(|error| error.to_string())?
                .single_frame();
            decoder.read_to_end(&mut lines).map_err(|error| error.to_string())?;
        }
        ".gz" => {
            flate2::bufread::GzDecoder::new(&mut rest)
                .read_to_end(&mut lines)
                .map_err(|error| error.to_string())?;
        }
        "" => {
            rest.read_to_end(&mut lines).map_err(|error| error.to_string())?;
        }
        _ => return Err("an unknown compression".into()),
    }
    if !rest.is_empty() {
        return Err("bytes behind the end".into());
    }
    Ok(lines)
}

fn check_object(key: &str, object: &Stored) -> Result<Vec<StoredRecord>, String> {
    let [day, hour, name] = key.split('/').collect::<Vec<_>>()[..] else {
        return Err("not three parts".into());
    };
    let day = day.strip_prefix("dt=").ok_or("no day")?;
    let hour = hour.strip_prefix("hour=").ok_or("no hour")?;
    if day.len() != 10 || hour.len() != 2 {
        return Err("day or hour of another length".into());
    }
    let (name, extension) = name.split_once(".ndjson").ok_or("no extension")?;
    let (stream, first) = name.split_once('-').ok_or("no sequence number")?;
    if first.len() != 12 {
        return Err("a sequence number without 12 digits".into());
    }
    let stream = stream.parse().map_err(|error| format!("{error}"))?;
    let first: u64 = first.parse().map_err(|error| format!("{error}"))?;

    let lines = decompress(extension, &object.bytes)?;
    let lines = Bytes::from(lines);
    let batch = Batch::from_lines(0, lines.clone()).map_err(|error| error.to_string())?;
    if let Some(metadata) = &object.metadata {
        let count = u64::from(batch.count());
        let sha256 = HEXLOWER.encode(&Sha256::digest(&lines));
        let expected = [
            ("format", "1".to_owned()),
            ("lastsequence", (first + count - 1).to_string()),
            ("count", count.to_string()),
            ("sha256", sha256),
        ];
        let expected: BTreeMap<_, _> =
            expected.map(|(name, value)| (name.to_owned(), value)).into();
        let mut said = metadata.clone();
        if said.get("format").is_some_and(|format| format == "2") {
            said.retain(|name, _| expected.contains_key(name));
            said.insert("format".to_owned(), "1".to_owned());
        }
        if said != expected {
            return Err(format!("the metadata say {metadata:?}, the lines {expected:?}"));
        }
    }
    Ok((first..)
        .zip(batch.records())
        .map(|(sequence, line)| StoredRecord { stream, sequence, line })
        .collect())
}

/// The batch's records at the place in its receipt.
pub fn placed(batch: &Batch, receipt: &Receipt) -> Vec<StoredRecord> {
    let place = receipt.place.unwrap();
    assert_eq!(place.count, batch.count());
    let lines = (place.first_sequence..).zip(batch.records());
    lines.map(|(sequence, line)| StoredRecord { stream: place.stream, sequence, line }).collect()
}

/// The expected contents of the bucket: each acknowledged record once, at the place in its receipt,
/// and each abandoned batch at most once.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Vec<StoredRecord>,
    perhaps: Vec<Batch>,
}

impl Ledger {
    pub fn acknowledged(&mut self, batch: &Batch, receipt: &Receipt) {
        self.acknowledged.extend(placed(batch, receipt));
    }

    /// A batch whose `persist` failed as indeterminate.
    pub fn perhaps(&mut self, batch: Batch) {
        self.perhaps.push(batch);
    }

    /// # Errors
    ///
    /// The first discrepancy.
    pub fn check(&self, prefix: &str, objects: &Objects) -> Result<(), String> {
        let mut stored = check(prefix, objects)?;
        for record in &self.acknowledged {
            let Some(found) = stored.iter().position(|stored| stored == record) else {
                return Err(format!("acknowledged and missing: {record:?}"));
            };
            stored.swap_remove(found);
        }
        for batch in &self.perhaps {
            let lines: Vec<Bytes> = batch.records().collect();
            let mut found: Vec<_> =
                stored.iter().filter(|record| lines.contains(&record.line)).cloned().collect();
            found.sort_by_key(|record| record.sequence);
            if !found.is_empty() && !found.iter().map(|record| &record.line).eq(&lines) {
                return Err(format!("a batch is there in part or twice: {found:?}"));
            }
            stored.retain(|record| !lines.contains(&record.line));
        }
        match stored.first() {
            None => Ok(()),
            Some(record) => Err(format!("nobody handed in, or twice: {record:?}")),
        }
    }
}

/// 2023-11-14T22:13:20Z.
pub const TIME_MS: i64 = 1_700_000_000_000;

/// A batch of `count` records that say `tag` and their number.
pub fn batch(tag: &str, count: u32) -> Batch {
    let lines: String = (0..count).map(|i| format!("{{\"t\":\"{tag}\",\"i\":{i}}}\n")).collect();
    Batch::from_lines(TIME_MS, lines.into()).unwrap()
}

/// A batch of one record of `bytes` bytes, its line feed included.
pub fn large_batch(tag: &str, bytes: usize) -> Batch {
    let head = format!("{{\"t\":\"{tag}\",\"x\":\"");
    let line = format!("{head}{}\"}}\n", "x".repeat(bytes - head.len() - 3));
    Batch::from_lines(TIME_MS, line.into()).unwrap()
}

/// The smallest segment allowed, in bytes. Each opening writes and reads whole segments.
pub const SEGMENT_BYTES: u64 = (32 << 20) + 8192;

/// A journal of small segments, whose records are soon in the bucket.
pub fn journal(directory: impl Into<PathBuf>, cut_after_ms: u64) -> JournalSettings {
    JournalSettings {
        segment_bytes: SEGMENT_BYTES,
        cut_after_ms,
        ..JournalSettings::new(directory)
    }
}

/// Polls until `done`, for conditions without an event. Takes no time if time is paused.
pub async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("waited in vain");
}

/// A bucket on `server`, below `prefix`, with the server's own keys or token.
pub fn bucket_on(server: &s3_testserver::S3TestServer, prefix: &str) -> audit_sink_s3::Bucket {
    if server.is_gcs() {
        let options = [
            ("google_base_url", server.endpoint()),
            ("google_allow_http", "true".to_owned()),
            ("google_bearer_token", server.token().to_owned()),
        ];
        let url = format!("gs://{}/{prefix}", server.bucket());
        return audit_sink_s3::Bucket::open_with(&url, options).unwrap();
    }
    bucket_with_keys(server, prefix, server.access_key(), server.secret_key())
}

pub fn bucket_with_keys(
    server: &s3_testserver::S3TestServer,
    prefix: &str,
    access_key: &str,
    secret_key: &str,
) -> audit_sink_s3::Bucket {
    let url = format!("s3://{}/{prefix}", server.bucket());
    bucket_at(&url, server.endpoint(), access_key.to_owned(), secret_key.to_owned())
}

pub fn bucket_at(
    url: &str,
    endpoint: String,
    access_key: String,
    secret_key: String,
) -> audit_sink_s3::Bucket {
    let options = [
        ("aws_endpoint", endpoint),
        ("aws_allow_http", "true".to_owned()),
        ("aws_region", "us-east-1".to_owned()),
        ("aws_access_key_id", access_key),
        ("aws_secret_access_key", secret_key),
    ];
    audit_sink_s3::Bucket::open_with(url, options).unwrap()
}

/// A bucket in a store double, which several buckets may share.
pub fn bucket_of<D: StoreDouble>(double: &Arc<D>, prefix: &str) -> audit_sink_s3::Bucket {
    audit_sink_s3::Bucket::from_store(Arc::new(Double(Arc::clone(double))), prefix)
}

/// A bucket in a given store, which several buckets may share.
pub fn bucket_in<S: ObjectStore>(store: &Arc<S>, prefix: &str) -> audit_sink_s3::Bucket {
    audit_sink_s3::Bucket::from_store(Arc::clone(store) as Arc<dyn ObjectStore>, prefix)
}
