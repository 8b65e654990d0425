//! The store behind the protocol: one bucket, a map under one lock.

mod api;
mod gcs;
mod lifecycle;
mod listing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

pub(crate) use self::gcs::TOKEN;
use bytes::Bytes;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use self::lifecycle::lifecycle;
use crate::policy::Policies;

/// An object of the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredObject {
    /// The content.
    pub bytes: Bytes,
    /// The user's metadata. Names have no `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// The content type.
    pub content_type: Option<String>,
    /// The content encoding.
    pub content_encoding: Option<String>,
}

#[derive(Debug)]
struct Entry {
    object: StoredObject,
    e_tag: ETag,
    last_modified: Timestamp,
    version_id: Option<String>,
    /// The number of the write, as GCS shows it.
    generation: u64,
    /// The mode and the end of its retention.
    retention: Option<(RetentionMode, Timestamp)>,
}

/// The mode of an object's retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionMode {
    /// A client with a special permission may remove it.
    Governance,
    /// Nobody may remove it.
    Compliance,
}

impl RetentionMode {
    fn name(self) -> &'static str {
        match self {
            RetentionMode::Governance => ObjectLockMode::GOVERNANCE,
            RetentionMode::Compliance => ObjectLockMode::COMPLIANCE,
        }
    }
}

impl Entry {
    #[expect(
        clippy::disallowed_methods,
        reason = "a store stamps objects with its own clock, not with its client's"
    )]
    fn new(object: StoredObject) -> Self {
        let md5 = u128::from_be_bytes(Md5::checksum(&object.bytes));
        Self {
            object,
            e_tag: ETag::Strong(format!("{md5:032x}")),
            last_modified: Timestamp::from(SystemTime::now()),
            version_id: None,
            generation: 0,
            retention: None,
        }
    }

    fn size(&self) -> i64 {
        length(&self.object.bytes)
    }
}

/// The duration of the default retention unless it is set, in days.
const RETENTION_DAYS: u32 = 1;

const DAY_S: u64 = 24 * 60 * 60;

/// A handle of the bucket, which clones share.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: &'static str,
    policies: Arc<Policies>,
    ignore_if_none_match: AtomicBool,
    ignore_checksums: AtomicBool,
    versioned: AtomicBool,
    versions: AtomicU64,
    generations: AtomicU64,
    clock_offset_s: AtomicI64,
    retention: Mutex<Option<RetentionMode>>,
    retention_days: AtomicU32,
    lifecycle: Mutex<Option<LifecycleRules>>,
    /// Versions hidden by a delete or a later version, by key and version.
    hidden: Mutex<BTreeMap<(String, String), Entry>>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Store {
    pub(crate) fn new(bucket: &'static str, policies: Arc<Policies>) -> Self {
        Self(Arc::new(Inner {
            bucket,
            policies,
            ignore_if_none_match: AtomicBool::new(false),
            ignore_checksums: AtomicBool::new(false),
            versioned: AtomicBool::new(false),
            versions: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            clock_offset_s: AtomicI64::new(0),
            retention: Mutex::default(),
            retention_days: AtomicU32::new(RETENTION_DAYS),
            lifecycle: Mutex::default(),
            hidden: Mutex::default(),
            entries: Mutex::default(),
        }))
    }

    pub(crate) fn ignore_checksums(&self, ignore: bool) {
        self.0.ignore_checksums.store(ignore, Ordering::Relaxed);
    }

    pub(crate) fn set_versioning(&self, versioned: bool) {
        self.0.versioned.store(versioned, Ordering::Relaxed);
    }

    pub(crate) fn set_object_lock(&self, mode: Option<RetentionMode>) {
        *self.0.retention.lock().expect("no panic under this lock") = mode;
    }

    pub(crate) fn set_retention_days(&self, days: u32) {
        self.0.retention_days.store(days, Ordering::Relaxed);
    }

    pub(crate) fn set_lifecycle(&self, document: Option<&str>) {
        *self.0.lifecycle.lock().expect("no panic under this lock") = document.map(lifecycle);
    }

    fn retention(&self) -> Option<RetentionMode> {
        *self.0.retention.lock().expect("no panic under this lock")
    }

    pub(crate) fn set_clock_offset(&self, seconds: i64) {
        self.0.clock_offset_s.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn clock_offset_s(&self) -> i64 {
        self.0.clock_offset_s.load(Ordering::Relaxed)
    }

    /// A time relative to now by the store's clock.
    #[expect(clippy::disallowed_methods, reason = "a store has its own clock")]
    pub(crate) fn in_seconds(&self, seconds: u64) -> Timestamp {
        let offset_s = self.clock_offset_s();
        let offset = Duration::from_secs(offset_s.unsigned_abs());
        let now = SystemTime::now();
        let now = if offset_s < 0 { now - offset } else { now + offset };
        Timestamp::from(now + Duration::from_secs(seconds))
    }

    /// The store's time, for a header.
    pub(crate) fn date(&self) -> http::HeaderValue {
        let shown = self.in_seconds(0);
        let mut text = Vec::new();
        shown
            .format(TimestampFormat::HttpDate, &mut text)
            .expect("writing to memory does not fail");
        http::HeaderValue::from_bytes(&text).expect("a date is a header")
    }

    /// Removes an object or a version, if the client may.
    fn remove(&self, key: &str, version_id: Option<&str>) -> S3Result {
        let mut entries = self.entries();
        let mut hidden = self.0.hidden.lock().expect("no panic under this lock");
        let Some(version_id) = version_id else {
            if let Some(entry) = entries.remove(key)
                && let Some(version_id) = &entry.version_id
            {
                hidden.insert((key.to_owned(), version_id.clone()), entry);
            }
            return Ok(());
        };
        let current =
            entries.get(key).filter(|entry| entry.version_id.as_deref() == Some(version_id));
        let place = (key.to_owned(), version_id.to_owned());
        if current.or_else(|| hidden.get(&place)).is_some_and(|entry| entry.retention.is_some()) {
            return Err(s3_error!(AccessDenied, "the version is protected by Object Lock"));
        }
        if current.is_some() {
            entries.remove(key);
        }
        hidden.remove(&place);
        Ok(())
    }

    pub(crate) fn ignore_if_none_match(&self, ignore: bool) {
        self.0.ignore_if_none_match.store(ignore, Ordering::Relaxed);
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, StoredObject> {
        self.entries().iter().map(|(key, entry)| (key.clone(), entry.object.clone())).collect()
    }

    pub(crate) fn put(&self, key: &str, object: StoredObject) {
        self.write(key.to_owned(), Entry::new(object), |_| true);
    }

    pub(crate) fn delete(&self, key: &str) -> Option<StoredObject> {
        self.entries().remove(key).map(|entry| entry.object)
    }

    /// Writes an entry if the condition holds for the existing one. Returns its generation. This is
    /// one critical section, so exactly one of many racers finds the key free.
    fn write(
        &self,
        key: String,
        mut entry: Entry,
        holds: impl FnOnce(Option<&Entry>) -> bool,
    ) -> Option<u64> {
        let mut entries = self.entries();
        if !holds(entries.get(&key)) {
            return None;
        }
        let generation = 1 + self.0.generations.fetch_add(1, Ordering::Relaxed);
        entry.generation = generation;
        if let Some(before) = entries.insert(key.clone(), entry)
            && let Some(version_id) = &before.version_id
        {
            let mut hidden = self.0.hidden.lock().expect("no panic under this lock");
            hidden.insert((key, version_id.clone()), before);
        }
        Some(generation)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().expect("no panic under this lock")
    }

    fn check_bucket(&self, bucket: &str) -> S3Result {
        if bucket == self.0.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

fn length(bytes: &Bytes) -> i64 {
    i64::try_from(bytes.len()).expect("no buffer is longer than isize::MAX")
}
