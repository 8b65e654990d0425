//! The store behind the protocol: one bucket, a map under one lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{
    Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders, s3_error,
};

use crate::policy::Policies;
use crate::requests::decode;

/// An object as it lies in the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredObject {
    /// The content.
    pub bytes: Bytes,
    /// The user's metadata, names without `x-amz-meta-`.
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
    /// How it is kept, and until when.
    retention: Option<(RetentionMode, Timestamp)>,
}

/// How an object is kept from being removed before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionMode {
    /// Who has a special permission may remove it.
    Governance,
    /// Nobody may.
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
            retention: None,
        }
    }

    fn size(&self) -> i64 {
        length(&self.object.bytes)
    }
}

/// How long the default retention keeps an object, unless it is set: a day.
const RETENTION_DAYS: u32 = 1;

const DAY_S: u64 = 24 * 60 * 60;

/// A handle on the bucket; clones share it.
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
    clock_offset_s: AtomicI64,
    retention: Mutex<Option<RetentionMode>>,
    retention_days: AtomicU32,
    lifecycle: Mutex<Option<LifecycleRules>>,
    /// Hidden by a delete or a later version, by key and version.
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

    /// A time from now by its clock.
    #[expect(clippy::disallowed_methods, reason = "a store has its own clock")]
    fn in_seconds(&self, seconds: u64) -> Timestamp {
        let offset_s = self.clock_offset_s();
        let offset = Duration::from_secs(offset_s.unsigned_abs());
        let now = SystemTime::now();
        let now = if offset_s < 0 { now - offset } else { now + offset };
        Timestamp::from(now + Duration::from_secs(seconds))
    }

    /// The time by its clock, for a header.
    pub(crate) fn date(&self) -> http::HeaderValue {
        let shown = self.in_seconds(0);
        let mut text = Vec::new();
        shown
            .format(TimestampFormat::HttpDate, &mut text)
            .expect("writing to memory does not fail");
        http::HeaderValue::from_bytes(&text).expect("a date is a header")
    }

    /// Removes what a client may remove.
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
        self.entries().insert(key.to_owned(), Entry::new(object));
    }

    pub(crate) fn delete(&self, key: &str) -> Option<StoredObject> {
        self.entries().remove(key).map(|entry| entry.object)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().expect("no panic under this lock")
    }

    fn check_bucket(&self, bucket: &str) -> S3Result {
        if bucket == self.0.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }
}

/// What the responses to GET and HEAD say of an object.
macro_rules! described {
    ($output:ident, $entry:expr) => {
        $output {
            content_type: $entry.object.content_type.clone(),
            content_encoding: $entry.object.content_encoding.clone(),
            metadata: Some($entry.object.metadata.clone().into_iter().collect()),
            e_tag: Some($entry.e_tag.clone()),
            last_modified: Some($entry.last_modified.clone()),
            version_id: $entry.version_id.clone(),
            object_lock_mode: $entry
                .retention
                .as_ref()
                .map(|(mode, _)| ObjectLockMode::from_static(mode.name())),
            object_lock_retain_until_date: $entry
                .retention
                .as_ref()
                .map(|(_, until)| until.clone()),
            ..Default::default()
        }
    };
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { mut input, trailing_headers, .. } = request;
        self.check_bucket(&input.bucket)?;
        refuse_unsupported(&input)?;
        let bytes = match input.body.take() {
            // Reading to the end is also what checks the payload's hash against the signature.
            Some(body) => Body::from(body)
                .collect()
                .await
                .map_err(|error| S3Error::with_source(S3ErrorCode::BadDigest, error))?
                .to_bytes(),
            None => Bytes::new(),
        };
        if !self.0.ignore_checksums.load(Ordering::Relaxed) {
            check_checksums(&mut input, &bytes, trailing_headers)?;
        }
        let mut entry = Entry::new(StoredObject {
            bytes,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            content_type: input.content_type,
            content_encoding: input.content_encoding,
        });
        if self.0.versioned.load(Ordering::Relaxed) {
            entry.version_id =
                Some(format!("v{}", self.0.versions.fetch_add(1, Ordering::Relaxed)));
            let (mode, days) = (self.retention(), self.0.retention_days.load(Ordering::Relaxed));
            entry.retention = mode.map(|mode| (mode, self.in_seconds(u64::from(days) * DAY_S)));
        }
        let output = PutObjectOutput {
            e_tag: Some(entry.e_tag.clone()),
            version_id: entry.version_id.clone(),
            ..Default::default()
        };

        // From here to the insertion is one critical section: exactly one of many racers sees no
        // object.
        let mut entries = self.entries();
        let existing = entries.get(&input.key).map(|entry| &entry.e_tag);
        let if_none_match =
            input.if_none_match.filter(|_| !self.0.ignore_if_none_match.load(Ordering::Relaxed));
        let holds = !if_none_match.is_some_and(|condition| matches(&condition, existing))
            && input.if_match.is_none_or(|condition| matches(&condition, existing));
        if !holds {
            return Err(s3_error!(
                PreconditionFailed,
                "at least one of the preconditions did not hold"
            ));
        }
        if let Some(before) = entries.insert(input.key.clone(), entry)
            && let Some(version_id) = &before.version_id
        {
            let mut hidden = self.0.hidden.lock().expect("no panic under this lock");
            hidden.insert((input.key, version_id.clone()), before);
        }
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(NotImplemented, "conditional reads are not supported"));
        }
        let entries = self.entries();
        let entry = entries.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let (bytes, content_range) = match input.range {
            None => (entry.object.bytes.clone(), None),
            Some(range) => {
                let range = range.check(entry.object.bytes.len() as u64)?;
                let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, entry.size());
                // It lies within the length of a buffer in memory.
                (entry.object.bytes.slice(range.start as usize..range.end as usize), Some(shown))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(length(&bytes)),
            content_range,
            body: Some(Body::from(bytes).into()),
            ..described!(GetObjectOutput, entry)
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.range.is_some() || input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "conditions and ranges on HEAD are not supported"
            ));
        }
        let entries = self.entries();
        let entry = entries.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(entry.size()),
            ..described!(HeadObjectOutput, entry)
        }))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let is_versioned = self.0.versioned.load(Ordering::Relaxed);
        let enabled = BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
        let status = is_versioned.then_some(enabled);
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let mode = self.retention().ok_or_else(|| {
            s3_error!(ObjectLockConfigurationNotFoundError, "the bucket has no Object Lock")
        })?;
        let days = self.0.retention_days.load(Ordering::Relaxed);
        let default_retention = Some(DefaultRetention {
            days: i32::try_from(days).ok(),
            mode: Some(ObjectLockRetentionMode::from_static(mode.name())),
            years: None,
        });
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(ObjectLockConfiguration {
                object_lock_enabled: Some(ObjectLockEnabled::from_static(
                    ObjectLockEnabled::ENABLED,
                )),
                rule: Some(ObjectLockRule { default_retention }),
            }),
        }))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let rules = self.0.lifecycle.lock().expect("no panic under this lock").clone();
        let rules = rules.ok_or_else(|| {
            s3_error!(NoSuchLifecycleConfiguration, "the bucket has no lifecycle configuration")
        })?;
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules: Some(rules),
            ..Default::default()
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        self.remove(&request.input.key, request.input.version_id.as_deref())?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ObjectIdentifier { key, version_id, .. } in request.input.delete.objects {
            let allowed = self.0.policies.allow_delete(self.0.bucket, &key, version_id.is_some());
            let removed = if allowed {
                self.remove(&key, version_id.as_deref())
            } else {
                Err(s3_error!(AccessDenied))
            };
            match removed {
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                Err(error) => {
                    let code = Some(error.code().as_str().to_owned());
                    let message = error.message().map(ToOwned::to_owned).or_else(|| code.clone());
                    errors.push(Error { code, key: Some(key), message, version_id });
                }
            }
        }
        let errors = Some(errors).filter(|errors| !errors.is_empty());
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        /// The largest page, and the one that a client gets that asks for none.
        const PAGE: usize = 1000;

        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.encoding_type.is_some() {
            return Err(s3_error!(NotImplemented, "encoding of listed keys is not supported"));
        }
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let max_keys =
            input.max_keys.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).min(PAGE);
        // The token is the last name of the page before, encoded: a name may hold what XML cannot.
        let token = input.continuation_token.as_deref().map(decode);
        let after = token.as_deref().max(input.start_after.as_deref());

        let entries = self.entries();
        let mut contents = Vec::new();
        let mut common_prefixes: Vec<CommonPrefix> = Vec::new();
        let mut last = None;
        let mut is_truncated = false;
        let range = (Bound::Included(prefix), Bound::Unbounded);
        for (key, entry) in
            entries.range::<str, _>(range).take_while(|(key, _)| key.starts_with(prefix))
        {
            let folder = input.delimiter.as_deref().and_then(|delimiter| {
                let end = prefix.len() + key[prefix.len()..].find(delimiter)? + delimiter.len();
                Some(&key[..end])
            });
            let name = folder.unwrap_or(key);
            if after.is_some_and(|after| name <= after) || last == Some(name) {
                continue;
            }
            if contents.len() + common_prefixes.len() == max_keys {
                is_truncated = true;
                break;
            }
            last = Some(name);
            match folder {
                Some(folder) => {
                    common_prefixes.push(CommonPrefix { prefix: Some(folder.to_owned()) })
                }
                None => contents.push(Object {
                    key: Some(key.clone()),
                    size: Some(entry.size()),
                    e_tag: Some(entry.e_tag.clone()),
                    last_modified: Some(entry.last_modified.clone()),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(contents.len() + common_prefixes.len()).ok(),
            max_keys: i32::try_from(max_keys).ok(),
            is_truncated: Some(is_truncated),
            next_continuation_token: last
                .filter(|_| is_truncated)
                .map(|last| utf8_percent_encode(last, NON_ALPHANUMERIC).to_string()),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            ..Default::default()
        }))
    }
}

/// Reads a lifecycle configuration in the form that the `aws` command takes. It is shown, and
/// nothing is done by it.
///
/// # Panics
///
/// When it is none, or says something that is not understood here.
fn lifecycle(text: &str) -> LifecycleRules {
    let document: serde_json::Value = serde_json::from_str(text).expect("a lifecycle is JSON");
    let days = |value: &serde_json::Value| value.as_i64().and_then(|days| i32::try_from(days).ok());
    let owned = |value: &serde_json::Value| value.as_str().map(ToOwned::to_owned);
    let rule = |rule: &serde_json::Value| {
        let known =
            ["ID", "Status", "Filter", "Transitions", "Expiration", "NoncurrentVersionExpiration"];
        let members = rule.as_object().expect("a rule is an object");
        assert!(members.keys().all(|name| known.contains(&name.as_str())), "{rule}");
        let transition = |transition: &serde_json::Value| Transition {
            date: None,
            days: days(&transition["Days"]),
            storage_class: owned(&transition["StorageClass"]).map(TransitionStorageClass::from),
        };
        let of = |name: &str| Some(&rule[name]).filter(|value| !value.is_null());
        LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: of("Expiration").map(|expiration| LifecycleExpiration {
                days: days(&expiration["Days"]),
                ..Default::default()
            }),
            filter: of("Filter").map(|filter| LifecycleRuleFilter {
                prefix: owned(&filter["Prefix"]),
                ..Default::default()
            }),
            id: owned(&rule["ID"]),
            noncurrent_version_expiration: of("NoncurrentVersionExpiration").map(|expiration| {
                NoncurrentVersionExpiration {
                    newer_noncurrent_versions: None,
                    noncurrent_days: days(&expiration["NoncurrentDays"]),
                }
            }),
            noncurrent_version_transitions: None,
            prefix: None,
            status: ExpirationStatus::from(owned(&rule["Status"]).expect("a rule has a status")),
            transitions: of("Transitions")
                .map(|all| all.as_array().into_iter().flatten().map(transition).collect()),
        }
    };
    document["Rules"].as_array().expect("a lifecycle has rules").iter().map(rule).collect()
}

fn length(bytes: &Bytes) -> i64 {
    i64::try_from(bytes.len()).expect("no buffer is longer than isize::MAX")
}

fn matches(condition: &ETagCondition, existing: Option<&ETag>) -> bool {
    existing.is_some_and(|e_tag| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.strong_cmp(e_tag),
    })
}

/// Refuses what this store would have to keep or check and does not: to ignore it would let a test
/// pass that a real store fails.
fn refuse_unsupported(input: &PutObjectInput) -> S3Result {
    if input.object_lock_mode.is_some()
        || input.object_lock_retain_until_date.is_some()
        || input.object_lock_legal_hold_status.is_some()
    {
        return Err(s3_error!(
            InvalidRequest,
            "the bucket is missing an Object Lock configuration"
        ));
    }
    if input.content_md5.is_some()
        || input.cache_control.is_some()
        || input.content_disposition.is_some()
        || input.content_language.is_some()
        || input.expires.is_some()
        || input.tagging.is_some()
    {
        return Err(s3_error!(
            NotImplemented,
            "the test server does not support one of the request's headers"
        ));
    }
    Ok(())
}

/// Compares the body with the checksums in the headers, or in the trailers of a chunked upload.
fn check_checksums(
    input: &mut PutObjectInput,
    bytes: &[u8],
    trailers: Option<TrailingHeaders>,
) -> S3Result {
    let trailers = trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
    let claim = |header: &mut Option<String>, name: &str| {
        header.take().or_else(|| Some(trailers.get(name)?.to_str().ok()?.to_owned()))
    };
    let claimed = Checksum {
        checksum_crc32: claim(&mut input.checksum_crc32, "x-amz-checksum-crc32"),
        checksum_crc32c: claim(&mut input.checksum_crc32c, "x-amz-checksum-crc32c"),
        checksum_crc64nvme: claim(&mut input.checksum_crc64nvme, "x-amz-checksum-crc64nvme"),
        checksum_sha1: claim(&mut input.checksum_sha1, "x-amz-checksum-sha1"),
        checksum_sha256: claim(&mut input.checksum_sha256, "x-amz-checksum-sha256"),
        checksum_type: None,
    };
    let mut hasher = ChecksumHasher {
        crc32: claimed.checksum_crc32.as_ref().map(|_| Default::default()),
        crc32c: claimed.checksum_crc32c.as_ref().map(|_| Default::default()),
        crc64nvme: claimed.checksum_crc64nvme.as_ref().map(|_| Default::default()),
        sha1: claimed.checksum_sha1.as_ref().map(|_| Default::default()),
        sha256: claimed.checksum_sha256.as_ref().map(|_| Default::default()),
    };
    hasher.update(bytes);
    if hasher.finalize() != claimed {
        return Err(s3_error!(BadDigest, "the body does not match its checksum"));
    }
    Ok(())
}
